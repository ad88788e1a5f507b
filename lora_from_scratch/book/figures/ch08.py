"""The pictures of chapter 08: two parts by width, a map of ratio and rate, the lead in training."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats

NAMES = ("B on A's start", "A's movement")


def widths(found: Mapping[tuple[str, int], Sequence], every: Sequence[int], rank: int) -> Figure:
    """The two parts over the width; `found` is {(rates, width): [(first, second), one a seed]}."""
    names = list(dict.fromkeys(name for name, _ in found))
    fig, axes = plots.canvas(len(names), width=10, height=4.0, sharey=True)
    x = np.array(every, dtype=float)
    titles = ("One rate for A and B", "B's rate n / r times as high")
    for ax, name, title in zip(axes, names, titles, strict=True):
        ends = {}
        for i, colour in enumerate((plots.ORANGE, plots.BLUE)):
            means, halves = zip(*(stats.interval([pair[i] for pair in found[name, n]]) for n in every), strict=True)
            plots.band(ax, x * (0.97, 1.03)[i], means, halves, colour)  # so that bars do not lie on each other
            ends[NAMES[i]] = (means[-1], colour)
        ax.set(xscale="log", yscale="log", xlabel="width n", xlim=(x[0] / 1.4, x[-1] * 8), ylim=(0.03, 2), title=title)
        ax.set_xticks(every, every)
        ax.set_yticks([0.05, 0.1, 0.2, 0.5, 1], ["0.05", "0.1", "0.2", "0.5", "1"])
        ax.minorticks_off()
        for label, nudge in plots.apart(ax, {k: v[0] for k, v in ends.items()}).items():
            plots.label_end(ax, x * 1.1, [ends[label][0]], label, ends[label][1], dy=nudge)
    axes[0].plot(x, np.sqrt(rank / x), color=plots.GREY, linestyle="--", linewidth=1)
    axes[0].annotate("√(r/n)", (x[0], math.sqrt(rank / x[0])), xytext=(10, 6), textcoords="offset points",
                     color=plots.GREY, fontsize=9)  # fmt: skip
    axes[0].set_ylabel("size, relative to the whole")
    return fig


def map_of(tried: Mapping[int, Mapping[float, float]], grid: Sequence[float], alpha: float) -> Figure:
    """Losses by ratio and rate, the best of each row framed; `tried` is {ratio: {rate: loss}}."""
    ratios = list(tried)
    cells = np.array([[tried[q].get(rate, math.nan) for rate in grid] for q in ratios])
    top = float(np.nanmin(cells)) + 0.5  # beyond, all is one colour
    fig, (ax,) = plots.canvas(width=8, height=0.6 * len(ratios) + 2)
    image = ax.imshow(np.minimum(cells, top), cmap="viridis_r", aspect="auto", origin="lower", vmax=top)
    bar = fig.colorbar(image, ax=ax, extend="max")
    bar.set_label("loss on rot13 (nats a character)")
    for i, row in enumerate(cells):
        for j, loss in enumerate(row):
            dark = (min(loss, top) - np.nanmin(cells)) > 0.25
            colour = "white" if dark else "black"
            frame = {"fill": False, "ec": colour} if j == int(np.nanargmin(row)) else None
            ax.text(j, i, f"{loss:.3f}", ha="center", va="center", fontsize=9, color=colour, bbox=frame)
    ax.grid(False)
    ax.set_xticks(range(len(grid)), [f"{rate:.2g}" for rate in grid])
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
