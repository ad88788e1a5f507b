"""The pictures of chapter 04: levels under a density, how the bins are used, and what a block size costs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lora_from_scratch.book import plots

COLOURS = {
    "NF4": plots.BLUE,
    "FP4 (E2M1)": plots.ORANGE,
    "FP4 (E3M0)": plots.PURPLE,
    "int4": plots.RED,
    "k-means": plots.GREEN,
}


def levels(scaled: np.ndarray, codebook: Mapping[str, np.ndarray]) -> Figure:
    """The density of weights scaled by their block's absmax, and below it a row of ticks for each code."""
    fig, (ax,) = plots.canvas(height=4.4)
    ax.hist(scaled, bins=101, range=(-1, 1), density=True, color=plots.SKY, alpha=0.6)
    top = ax.get_ylim()[1]
    for row, (name, ticks) in enumerate(codebook.items()):
        height = -top * (0.12 + 0.14 * row)
        ax.plot(ticks, np.full(len(ticks), height), "|", color=COLOURS[name], markersize=13, markeredgewidth=2)
        ax.annotate(name, (-0.01, height), xycoords=("axes fraction", "data"), color=COLOURS[name], ha="right",
                    va="center")  # fmt: skip
    ax.annotate("density of\nthe weights", (-0.01, top / 2), xycoords=("axes fraction", "data"), ha="right",
                color=plots.BLUE, va="center", fontsize=9)  # fmt: skip
    ax.set(xlim=(-1.05, 1.05), ylim=(-top * 0.8, top), xlabel="weight / absmax of its block")
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_title("Where the weights are, and where each code has its levels")
    return fig


def bins(shares: Mapping[object, np.ndarray], chosen: Sequence[object]) -> Figure:
    """How often each index is used, a line for each of the `chosen` settings, named at its peak."""
    fig, (ax,) = plots.canvas(width=7.5, height=4.2)
    styles = [(plots.GREY, "s"), (plots.SKY, "^"), (plots.BLUE, "o"), (plots.RED, "D")]
    for name, (colour, marker) in zip(chosen, styles, strict=False):
        ax.plot(range(16), 100 * shares[name], color=colour, marker=marker, markersize=4, label=str(name))
    ax.axhline(100 / 16, color=plots.BLACK, linestyle="--", linewidth=1.2, label="equal use")
    ax.set(xlabel="index, and its level", ylabel="share of the values, %", ylim=(0, None))
    ax.set_xticks([0, 7, 15], ["0 (-1)", "7 (zero)", "15 (1)"])
    ax.legend(fontsize=9)
    ax.set_title("How often NF4's sixteen indices are used")
    return fig


def blocks(sizes: Sequence[int], errors: Mapping[str, Sequence[float]], stored: Mapping[tuple, tuple]) -> Figure:
    """Left, the error of each code by block size; right, NF4's error by the bits that it takes.

    `stored` is {(block size, double quantized): (bits a weight, relative error)}.
    """
    fig, (left, right) = plots.canvas(2, width=10.5, height=4.4)
    for name, values in errors.items():
        left.plot(sizes, values, color=COLOURS[name], marker="o", markersize=4)
    nudges = plots.apart(left, {name: values[-1] for name, values in errors.items()}, gap=13)
    for name, values in errors.items():
        plots.label_end(left, sizes, values, name, COLOURS[name], dy=nudges[name])
    left.set(xscale="log", xlim=(13, 5200), xlabel="block size", ylabel="relative error")
    left.set_xticks(sizes[::2], [str(b) for b in sizes[::2]])
    left.xaxis.set_minor_locator(NullLocator())
    left.set_title("Error of four codes, by block size")
    for doubled, style, name in ((False, "--", "float32 absmax"), (True, "-", "double quantized")):
        bits, off = zip(*(stored[b, doubled] for b in sizes), strict=True)
        face = plots.BLUE if doubled else "white"
        right.plot(bits, off, style, color=plots.BLUE, marker="o", markersize=5, markerfacecolor=face, label=name)
    for b, doubled in ((16, True), (64, True), (256, True), (16, False), (64, False), (256, False)):
        side = ("right", (-7, -4)) if doubled else ("left", (6, 3))
        right.annotate(str(b), stored[b, doubled], side[1], textcoords="offset points", color=plots.BLUE,
                       fontsize=11, ha=side[0])  # fmt: skip
    right.legend()
    right.set(xlabel="bits a weight, constants included", ylabel="relative error of NF4", xlim=(3.7, 6.2))
    right.set_title("NF4: what the constants buy")
    return fig
