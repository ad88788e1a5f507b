"""The pictures of chapter 03: what arrives of an update in each number format, and what an adapter costs in time."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats

FORMATS = {"bfloat16": plots.RED, "float16": plots.ORANGE, "float32": plots.BLUE}
MODELS = {"merged": plots.BLUE, "unmerged": plots.ORANGE, "bottleneck": plots.RED}


def arrived(ratios: Sequence[float], curves: Mapping[str, Sequence], own: float) -> Figure:
    """`curves` is {format: (errors, projections, errors by the grid)}, each over `ratios`; `own` the trained ratio."""
    fig, (left, right) = plots.canvas(2, width=10.5, height=4.2)
    for name, (errors, projections, rule) in curves.items():
        colour = FORMATS[name]
        left.plot(ratios, errors, "o", markersize=3.5, color=colour)
        left.plot(ratios, rule, color=colour, linewidth=1)
        plots.label_end(left, ratios, rule, name, colour)
        right.plot(ratios, projections, "o-", markersize=3.5, linewidth=1, color=colour, label=name)
    for ax in (left, right):
        ax.axvline(own, color=plots.GREY, linestyle="--", linewidth=1.2)
        ax.set(xscale="log", xlabel="size of the update, |ΔW| / |W0|")
    left.axhline(1, color=plots.GREY, linewidth=1)
    left.set(yscale="log", ylabel="relative error of what arrives", xlim=(ratios[0], ratios[-1] * 8))
    right.set(ylabel="projection on the update (1: all of it)", ylim=(-0.05, 1.15))
    right.axhline(1, color=plots.GREY, linewidth=1)
    right.legend(loc="lower right")
    return fig


def latency(ratio: Mapping[str, Mapping[int, list[float]]], batches: Sequence[int]) -> Figure:
    """`ratio` is {model: {batch: [time over the base's, one a session]}}; "a copy" is the noise of the clock."""
    fig, (ax,) = plots.canvas(width=7.5)
    copies = [stats.interval(ratio["a copy"][b]) for b in batches]
    band = [(m - h, m + h) for m, h in copies]
    ax.fill_between(batches, *zip(*band, strict=True), color="#DDDDDD", label="a copy of the base")
    ends = {name: stats.interval(ratio[name][batches[-1]])[0] for name in MODELS}
    for name, colour in MODELS.items():
        means, halves = zip(*(stats.interval(ratio[name][b]) for b in batches), strict=True)
        plots.band(ax, batches, means, halves, colour)
    ax.set(
        xscale="log", xlabel="batch size", ylabel="time of a forward pass, over the base's", xlim=(0.9, batches[-1] * 3)
    )
    for name, nudge in plots.apart(ax, ends).items():
        plots.label_end(ax, np.array(batches), np.array([ends[name]]), name, MODELS[name], nudge)
    ax.set_xticks(batches, batches)
    ax.minorticks_off()
    ax.axhline(1, color=plots.BLACK, linewidth=1)
    ax.legend(fontsize=8)
    return fig
