"""The pictures of chapter 07: the first step by rank, losses by rank, best rates by rank."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats
from lora_from_scratch.lab.sweep import Tuned

COLOURS = {"LoRA": plots.BLUE, "rsLoRA": plots.ORANGE}
POWERS = {"LoRA": 1.0, "rsLoRA": 0.5}  # s goes like the rank to minus this
NAMES = {"LoRA": "alpha / r", "rsLoRA": "alpha / √r"}


def first(ranks: Sequence[int], found: Mapping[int, np.ndarray]) -> Figure:
    """The first gradient, one descent step, one Adam step over the rank; `found` is {seed: (ranks, 3 or more)}."""
    fig, axes = plots.canvas(3, width=12.5, height=4.0)
    relative = np.array([values / values[0] for values in found.values()])  # (seeds, ranks, 3 or more)
    x = np.array(ranks, dtype=float)
    panels = (("The first gradient of B", 1), ("A descent step: the outputs", 2), ("An Adam step: the outputs", 1))
    for column, (ax, (title, power_of_s)) in enumerate(zip(axes, panels, strict=True)):
        for start, (name, colour) in zip((0, 3), COLOURS.items(), strict=True):
            scale = x ** (power_of_s * POWERS[name])
            for growth in (0.5, 1.0) if column else (0.5,):  # the sum grows like √r, or like r
                ax.plot(x, x**growth / scale, color=colour, linewidth=1.1, linestyle=(start, (2, 4)))
            means, halves = zip(*(stats.interval(values) for values in relative[:, :, column].T.tolist()), strict=True)
            y = np.array(means) / scale
            plots.band(ax, x, y, np.array(halves) / scale, colour)
            plots.label_end(ax, x, y, NAMES[name], colour)
        ax.set(xscale="log", yscale="log", xlabel="rank", xlim=(0.8, ranks[-1] * 9), title=title)
        shown = sorted({*ranks[:-2:2], ranks[-1]})
        ax.set_xticks(shown, shown)
        low, high = ax.get_ylim()
        ticks = [t for t in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10) if low <= t <= high]
        ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
        ax.minorticks_off()
    axes[0].set_ylabel("relative to rank 1")
    return fig


def ranks(tuned: Mapping[str, Tuned], at: Mapping, rates: Mapping[str, float], every: Sequence[int], pair) -> Figure:
    """Losses by rank at own rates, and at the shared ones for the two ranks of `pair`.

    `at` is {(name, rank, which rate): [loss, one a seed]}.
    """
    fig, (ax,) = plots.canvas(width=8, height=4.6)
    own = {name: [stats.interval(tuned[f"{name} rank {r}"].values("task_loss")) for r in every] for name in COLOURS}
    for name, colour in COLOURS.items():
        means, halves = zip(*own[name], strict=True)
        place = np.array(every) * (1.03 if name == "LoRA" else 0.97)
        plots.band(ax, place, means, halves, colour, label=f"{NAMES[name]}, own rate")
        for which, marker in zip(rates, ("s", "^"), strict=True):
            means, halves = zip(*(stats.interval(at[name, r, which]) for r in pair), strict=True)
            place = np.array(pair) * (1.1 if name == "LoRA" else 0.9)
            options = {"linestyle": "none", "marker": marker, "markerfacecolor": "white", "capsize": 2}
            ax.errorbar(place, means, yerr=np.nan_to_num(halves), color=colour,
                        label=f"{NAMES[name]}, {which} ({rates[which]:.4f})", **options)  # fmt: skip
    top = max(mean for of in own.values() for mean, _ in of) + 0.1
    ax.set(xscale="log", xlabel="rank", ylabel="loss on rot13 (nats a character)", ylim=(None, top))
    for (name, r, which), values in at.items():
        if (mean := stats.interval(values)[0]) > top:
            ax.annotate(f"{NAMES[name]}, {which}: {mean:.2f}", (r, top), xytext=(-14, -10), ha="right", fontsize=8,
                        textcoords="offset points", color=COLOURS[name])  # fmt: skip
    ax.set_xticks(every, every)
    ax.minorticks_off()
    ax.legend(fontsize=8, loc="lower left")
    return fig


def rates(
    tuned: Mapping[str, Tuned], bottoms: Mapping[str, Sequence[float]], every: Sequence[int], best: Mapping
) -> Figure:
    """The best rates by rank: by a parabola (`bottoms`), and with bars to the neighbours of the best on the grid.

    `best` is {(name or "rank 1", seed): rate}, the parabola's on other bases at the lowest and the highest rank.
    """
    fig, (ax,) = plots.canvas(width=7, height=3.8)
    for name, colour in COLOURS.items():
        on_grid, below, above = [], [], []
        for r in every:
            method = tuned[f"{name} rank {r}"]
            tried, rate = sorted(method.tried) or [method.run.lr], method.run.lr
            on_grid.append(rate)
            below.append(rate - max((t for t in tried if t < rate), default=rate))
            above.append(min((t for t in tried if t > rate), default=rate) - rate)
        place = np.array(every) * (1.04 if name == "LoRA" else 0.96)
        ax.errorbar(
            place, on_grid, yerr=[below, above], color=colour, marker="o", markersize=4, capsize=3, linestyle="none"
        )
        ax.plot(every, bottoms[name], color=colour)
        others = [rate for (of, _), rate in best.items() if of == name]
        ax.plot([every[-1]] * len(others), others, color=colour, marker="x", linestyle="none")
        plots.label_end(ax, np.array(every), np.array(bottoms[name]), NAMES[name], colour)
    others = [rate for (of, _), rate in best.items() if of == "rank 1"]
    ax.plot([every[0]] * len(others), others, color=plots.BLACK, marker="x", linestyle="none")
    ax.set(xscale="log", yscale="log", xlabel="rank", ylabel="best learning rate", xlim=(0.8, every[-1] * 4))
    ax.set_xticks(every, every)
    ends = [10 ** (k / 2) for k in range(math.floor(2 * math.log10(min(ax.get_ylim()))) + 1, 0)]
    shown = [rate for rate in ends if ax.get_ylim()[0] <= rate <= ax.get_ylim()[1]]
    ax.set_yticks(shown, [f"{rate:.2g}" for rate in shown])
    ax.minorticks_off()
    return fig
