"""The pictures of chapter 08: two parts by width, a map of ratio and rate, the lead in training."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats

NAMES = ("B on A's start", "A's movement")


def widths(found: Mapping[tuple[str, int], Sequence], every: Sequence[int], rank: int) -> Figure:
    """The two parts over the width, and the size of A x; `found` is {(rates, width): [(first, second, …, A x)]}."""
    names = list(dict.fromkeys(name for name, _ in found))
    fig, axes = plots.canvas(len(names) + 1, width=13, height=4.0, sharey=True)
    x = np.array(every, dtype=float)
    titles = ("One rate for A and B", "B's rate n / r times as high", "The largest A x")
    panels = [{(name, i): NAMES[i] for i in (0, 1)} for name in names] + [{(name, -1): name for name in names}]
    for ax, panel, title in zip(axes, panels, titles, strict=True):
        ends = {}
        for j, ((name, i), label) in enumerate(panel.items()):
            colour = (plots.ORANGE, plots.BLUE)[j] if i >= 0 else (plots.RED, plots.GREEN)[j]
            means, halves = zip(*(stats.interval([toy[i] for toy in found[name, n]]) for n in every), strict=True)
            plots.band(ax, x * (0.97, 1.03)[j], means, halves, colour)  # so that bars do not lie on each other
            ends[label] = (means[-1], colour)
        ax.set(xscale="log", yscale="log", xlabel="width n", xlim=(x[0] / 1.4, x[-1] * 14), ylim=(0.03, 30))
        ax.set_title(title)
        ax.set_xticks(every, every)
        ax.set_yticks([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20], ["0.05", "0.1", "0.2", "0.5", "1", "2", "5", "10", "20"])
        ax.minorticks_off()
        for label, nudge in plots.apart(ax, {k: v[0] for k, v in ends.items()}).items():
            plots.label_end(ax, x * 1.1, [ends[label][0]], label, ends[label][1], dy=nudge)
    for ax, text, power in ((axes[0], "√(r/n)", -0.5), (axes[-1], "√(n/r)", 0.5)):
        ax.plot(x, (x / rank) ** power, color=plots.GREY, linestyle="--", linewidth=1)
        ax.annotate(text, (x[0], (x[0] / rank) ** power), xytext=(0, 13 + 10 * power), textcoords="offset points",
                    color=plots.GREY, fontsize=9)  # fmt: skip
    axes[0].set_ylabel("size, relative to the whole")
    axes[-1].set_ylabel("root mean square of A x")
    return fig


def map_of(tried: Mapping[int, Mapping[float, float]], alpha: float) -> Figure:
    """Losses by ratio and rate, the best of each row framed; `tried` is {ratio: {rate: loss}}."""
    ratios = list(tried)
    places = {f"{rate:.2g}": rate for row in tried.values() for rate in row}
    labels = sorted(places, key=places.get)
    by_label = [{f"{rate:.2g}": loss for rate, loss in tried[q].items()} for q in ratios]
    cells = np.array([[row.get(label, math.nan) for label in labels] for row in by_label])
    top = float(np.nanmin(cells)) + 0.5  # beyond, all is one colour
    fig, (ax,) = plots.canvas(width=9.5, height=0.6 * len(ratios) + 2)
    image = ax.imshow(np.minimum(cells, top), cmap="viridis_r", aspect="auto", origin="lower", vmax=top)
    bar = fig.colorbar(image, ax=ax, extend="max")
    bar.set_label("loss on rot13 (nats a character)")
    for i, row in enumerate(cells):
        for j, loss in enumerate(row):
            if math.isnan(loss):
                continue
            dark = (min(loss, top) - np.nanmin(cells)) > 0.25
            colour = "white" if dark else "black"
            frame = {"fill": False, "ec": colour} if j == int(np.nanargmin(row)) else None
            ax.text(j, i, f"{loss:.3f}", ha="center", va="center", fontsize=9, color=colour, bbox=frame)
    ax.grid(False)
    ax.set_xticks(range(len(labels)), labels)
    ax.set_yticks(range(len(ratios)), [f"{q}  (alpha {alpha * q:g})" for q in ratios])
    ax.set(xlabel="learning rate of A", ylabel="ratio  (as LoRA's alpha)")
    ax.set_title("A ratio is an alpha, and each has a rate of its own")
    return fig


def speed(curves: Mapping[str, Sequence[np.ndarray]], span: int, steps: int) -> Figure:
    """Ratio 16's training loss minus ratio 1's, seed by seed; each curve's entry t is the mean up to step t + span."""
    fig, (ax,) = plots.canvas(width=7.5, height=3.8)
    leads = [plus - one for plus, one in zip(curves["ratio 16"], curves["ratio 1"], strict=True)]
    at = np.arange(len(leads[0])) + span
    for lead in leads:
        ax.plot(at, lead, color=plots.SKY, linewidth=0.9)
    ax.plot(at, np.mean(leads, axis=0), color=plots.BLUE)
    plots.reference(ax, 0.0, "as ratio 1")
    ax.set(xlabel="step", ylabel="ratio 16 minus ratio 1 (nats)", xlim=(0, steps))
    ax.set_title(f"Training loss, averaged over {span} steps")
    return fig
