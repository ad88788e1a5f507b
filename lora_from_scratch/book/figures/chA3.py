"""The pictures of appendix A3: what is resident, and what a budget costs."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats


def trace(held: Sequence[int], budget: int, whole: int) -> Figure:
    """Bytes of state on the device after each move, beside the budget and the whole state."""
    fig, (ax,) = plots.canvas(height=3.0)
    ax.step(range(len(held)), np.array(held) / 1024, where="post", color=plots.BLUE, linewidth=1.0)
    plots.reference(ax, budget / 1024, "the budget")
    plots.reference(ax, whole / 1024, "all of the state")
    ax.set(xlabel="moves of a parameter's pages, over 5 steps", ylabel="resident (KiB)", ylim=(0, 1.15 * whole / 1024))
    return fig


def cost(shares: Sequence[float], moved: Sequence[float], milliseconds: Sequence[Sequence[float]]) -> Figure:
    """The share of pages brought in, and the time of a step, over the share that is resident."""
    fig, (left, right) = plots.canvas(2, width=10, height=3.8)
    percent = 100 * np.array(shares)
    left.plot(percent, 100 * np.array(moved), color=plots.BLUE, marker="o", label="the least recently used goes first")
    left.plot(percent, 100 - percent, color=plots.GREY, linestyle="--", label="the most recently used goes first")
    left.set(xlabel="resident (% of the state)", ylabel="% of all pages brought in, each step", ylim=(-5, 110))
    left.legend(loc="lower left", fontsize=8)
    means, halves = zip(*map(stats.interval, milliseconds), strict=True)
    plots.band(right, percent, means, halves, plots.BLUE)
    right.set(xlabel="resident (% of the state)", ylabel="ms a step", ylim=(0, None))
    return fig
