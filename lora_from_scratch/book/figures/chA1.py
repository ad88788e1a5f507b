"""The pictures of appendix A1: what one large weight does to its block, and what an error does to a loss."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lora_from_scratch.book import plots, stats
from lora_from_scratch.book.figures.ch04 import COLOURS

MORE = {"NF4 + double": plots.SKY, "NF3": plots.GREY}


def outlier(strengths: Sequence[float], errors: Mapping[str, Sequence[float]], contained: Mapping) -> Figure:
    """Left, the error of the neighbours of one weight by its size; right, of all others, by block size.

    `errors` is {code: one error a strength}; `contained` is {block size: (error without, with the large weight)}.
    """
    fig, (left, right) = plots.canvas(2, width=10.5, height=4.2)
    for name, values in errors.items():
        style, face = ("--", "white") if name == "FP4 (E2M1)" else ("-", COLOURS[name])
        left.plot(strengths, values, style, color=COLOURS[name], marker="o", markersize=5, markerfacecolor=face,
                  label=name)  # fmt: skip
    left.axhline(1, color=plots.GREY, linestyle=":", linewidth=1.2)
    left.annotate("nothing is left", (3, 1), xytext=(0, 3), textcoords="offset points", color=plots.GREY, fontsize=9)
    left.set(xscale="log", ylim=(0, 1.12), xlabel="size of one weight, in standard deviations")
    left.set_xticks([3, 10, 30, 100], ["3", "10", "30", "100"])
    left.set_ylabel("relative error of its 63 neighbours")
    left.legend(loc="center left", bbox_to_anchor=(0, 0.6))
    left.set_title("One large weight in a block of 64")
    sizes = list(contained)
    for which, name, style in ((1, "with one weight of 30 in 4,096", "-"), (0, "without", "--")):
        values = [pair[which] for pair in contained.values()]
        right.plot(sizes, values, style, color=plots.BLUE, marker="o", markersize=5, label=name)
    right.set(xscale="log", ylim=(0, None), xlabel="block size", ylabel="relative error of the other weights")
    right.set_xticks(sizes[::2], [str(b) for b in sizes[::2]])
    right.legend()
    right.set_title("NF4: small blocks contain the damage")
    for ax in (left, right):
        ax.xaxis.set_minor_locator(NullLocator())
    return fig


def loss(errors: Mapping[str, Sequence[float]], rises: Mapping[str, Sequence[float]]) -> Figure:
    """The rise of the loss against the error of the weights, a point a code, with the rule of the square through NF4.

    Both are {code: one value a base}. The band is the rule through the ends of NF4's interval.
    """
    fig, (ax,) = plots.canvas(width=8, height=4.6)
    x = np.linspace(0, 1.12 * max(np.mean(e) for e in errors.values()), 60)
    mean, half = stats.interval(rises["NF4"])
    half, anchor = np.nan_to_num(half), (x / np.mean(errors["NF4"])) ** 2
    ax.plot(x, mean * anchor, color=plots.BLACK, linestyle="--", linewidth=1.2)
    ax.fill_between(x, (mean - half) * anchor, (mean + half) * anchor, color=plots.GREY, alpha=0.2, linewidth=0)
    ax.annotate("error squared,\nthrough NF4", (x[40], mean * anchor[40]), xytext=(-8, 6), textcoords="offset points",
                ha="right", fontsize=9)  # fmt: skip
    nudge = {"k-means": (-8, 6, "right"), "NF4": (0, -16, "center"), "FP4 (E2M1)": (9, -10, "left"),
             "int4": (-2, 17, "right")}  # fmt: skip
    for name in errors:
        middle, half = stats.interval(rises[name])
        colour, at = (COLOURS | MORE)[name], np.mean(errors[name])
        plots.band(ax, [at], [middle], [half], colour, linestyle="none")
        right, up, side = nudge.get(name, (-9, 4, "right"))
        ax.annotate(name, (at, middle), (right, up), textcoords="offset points", color=colour, ha=side, fontsize=9)
    ax.axhline(0, color=plots.GREY, linewidth=0.8)
    ax.set(xlabel="relative error of the weights", ylabel="rise of the loss, nats a character")
    ax.set_title("What the error of the weights does to the loss")
    return fig


def factors(rises: Mapping[float, Mapping[str, Sequence[float]]]) -> Figure:
    """The rise of the loss against the factor of the outliers, a line a code, named at its end."""
    fig, (ax,) = plots.canvas(width=8, height=4.4)
    at, ends = list(rises), {}
    for name in next(iter(rises.values())):
        means, halves = zip(*(stats.interval(found[name]) for found in rises.values()), strict=True)
        plots.band(ax, at, means, np.nan_to_num(halves), COLOURS[name])
        ends[name] = means[-1]
    ax.set(xscale="log", xlabel="factor of the outliers", ylabel="rise of the loss, nats a character")
    if min(min(values) for found in rises.values() for values in found.values()) > 0:  # at smoke it may fall
        ax.set_yscale("log")
    ax.set_xticks(at, [str(k) for k in at])
    ax.xaxis.set_minor_locator(NullLocator())
    nudges = plots.apart(ax, {name: abs(y) for name, y in ends.items()}, gap=13)
    for name, y in ends.items():
        plots.label_end(ax, at, [y], name, COLOURS[name], dy=nudges[name])
    ax.set_title("Outliers that change nothing in the model, and what rounding then costs")
    return fig
