"""The pictures and sums of chapter 16: success along runs, the dial from often to never, shares of a gain."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book import plots
from lora_from_scratch.lab.rewarded import ANSWERS, GROUPS
from lora_from_scratch.lab.sweep import Tuned

LOOKS = {
    "full": (plots.BLACK, "-"),
    "rank 1": (plots.BLUE, "-"),
    "rank 4": (plots.SKY, "--"),
    "13 numbers": (plots.RED, "-"),
    "112 numbers": (plots.ORANGE, "--"),
}
SMOOTH = 5


def lead(first: Sequence[float], other: Sequence[float], start: Sequence[float], full: Sequence[float]) -> list[float]:
    """first - other as a share of full - start, base by base. Infinite where full gained nothing."""
    return [(a - b) / (f - s) if f != s else float("inf") for a, b, s, f in zip(first, other, start, full, strict=True)]


def share(first: Sequence[float], start: Sequence[float], full: Sequence[float]) -> list[float]:
    """The gain first - start as a share of full's, base by base."""
    return lead(first, start, start, full)


def each(values: Sequence[float]) -> str:
    """The values, base by base, for a line of print."""
    return ", ".join(f"{value:.3f}" for value in values)


def of_luck(lucky: Sequence[bool], learnt: Sequence[bool], expected: Sequence[float]) -> str:
    """How many runs had luck, and were to by the lucky answers each may expect; how many learnt, and with luck."""
    hoped = sum(1 - math.exp(-k) for k in expected)
    both = sum(a and b for a, b in zip(lucky, learnt, strict=True))
    return (
        f"of {len(lucky)} runs {sum(lucky)} had a lucky answer, {hoped:.1f} were to; "
        f"{sum(learnt)} learnt, {both} of them with one"
    )


def smoothed(values: Sequence[float], width: int = SMOOTH) -> np.ndarray:
    """Each value's mean with the up to width - 1 before it."""
    return np.array([np.mean(values[max(0, i - width + 1) : i + 1]) for i in range(len(values))])


def curves(tuned: Mapping[str, Mapping[str, Tuned]], base: Mapping[str, Sequence[float]]) -> Figure:
    """A panel for each reward: the chance of success over the episodes so far."""
    fig, axes = plots.canvas(len(tuned), width=11, height=4.4, sharey=True)
    for ax, (reward, methods) in zip(axes, tuned.items(), strict=True):
        lines = {name: smoothed(np.mean(method.values("curve"), axis=0)) for name, method in methods.items()}
        x = np.arange(len(next(iter(lines.values())))) * GROUPS * ANSWERS
        for name, y in lines.items():
            colour, dashes = LOOKS[name]
            ax.plot(x, y, color=colour, linestyle=dashes)
        level = float(np.mean(base[reward]))
        ax.axhline(level, color=plots.GREY, linestyle="--", linewidth=1.2)
        ax.annotate("the base", (0.99, level), xycoords=("axes fraction", "data"), xytext=(0, -3), ha="right", va="top",
                    textcoords="offset points", color=plots.GREY, fontsize=9)  # fmt: skip
        ax.set(title=f"the {reward}", xlabel="episodes", ylim=(-0.03, 1.12), xlim=(0, x[-1] * 1.3 + 1))
        nudges = plots.apart(ax, {name: y[-1] for name, y in lines.items()})
        for name, y in lines.items():
            plots.label_end(ax, x, y, name, LOOKS[name][0], nudges[name])
    axes[0].set_ylabel("chance of success")
    return fig


def dial(points: Mapping[str, tuple[Sequence[float], Sequence[float]]], count: int, shown: Sequence[float]) -> Figure:
    """Success at the end over the lucky answers that the base would give in `count` episodes; `shown` at the last."""
    fig, (ax,) = plots.canvas(width=8, height=4.2)
    for name, (chances, ends) in points.items():
        x = [max(count * p, 1e-12) for p in chances]
        ax.plot(x, ends, "o", color=plots.BLUE, markersize=6)
        above = np.mean(ends) < 0.5
        ax.annotate(name, (float(np.exp(np.mean(np.log(x)))), 1.1 if not above else 0.09), ha="center", fontsize=10)
    ax.plot(x, shown, "o", color=plots.RED, markerfacecolor="white", markersize=7)
    ax.annotate("shown it", (max(x), float(np.mean(shown))), xytext=(9, 0), textcoords="offset points", va="center",
                color=plots.RED, fontsize=9)  # fmt: skip
    ax.axvline(1, color=plots.GREY, linestyle="--", linewidth=1)
    ax.set(xscale="log", ylim=(-0.05, 1.2), xlabel="lucky answers expected of the base in a run")
    ax.set_ylabel("success at the end")
    return fig
