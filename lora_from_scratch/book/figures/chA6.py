"""The pictures and tables of appendix A6: merges of two adapters on a real model."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats

WAYS = {
    "base": (plots.GREY, "s"),
    "records alone": (plots.GREY, "<"),
    "documents alone": (plots.GREY, ">"),
    "in turn": (plots.PURPLE, "D"),
    "together, rank 16": (plots.BLACK, "v"),
    "sum, w = 1": (plots.SKY, "o"),
    "sum": (plots.BLUE, "o"),
    "sum, cut to rank 8": (plots.BLUE, "x"),
    "TIES": (plots.ORANGE, "o"),
    "DARE": (plots.GREEN, "o"),
    "factors added": (plots.RED, "x"),
}


def plane(measured: Mapping, seeds: Sequence[int]) -> Figure:
    """The loss on records across, on documents upwards, a point a model; `measured` is {seed: {label: marks}}."""
    fig, (ax,) = plots.canvas(width=8.5, height=4.8)
    mean = lambda label, task: float(np.mean([measured[s][label][task] for s in seeds]))  # noqa: E731
    for label, (colour, marker) in WAYS.items():
        ax.plot(mean(label, "records"), mean(label, "documents"), marker, color=colour, label=label, linestyle="none")
    ax.axvline(mean("records alone", "records"), color=plots.GREY, linewidth=0.8)
    ax.axhline(mean("documents alone", "documents"), color=plots.GREY, linewidth=0.8)
    ax.set(xscale="log", xlabel="loss on records (log)", ylabel="loss on documents", title="Both tasks, each model")
    ax.set_xticks([0.2, 0.5, 1, 2], labels=["0.2", "0.5", "1", "2"])
    ax.minorticks_off()
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return fig


def weights(chosen: Mapping) -> Figure:
    """The mean loss by the weight of a merge; `chosen` is {way: {weight: loss}}."""
    fig, (ax,) = plots.canvas(width=7.5, height=4)
    for way, tried in chosen.items():
        dashed = "--" if WAYS[way][1] == "x" else "-"
        ax.plot(list(tried), list(tried.values()), dashed, marker="o", markersize=4, color=WAYS[way][0], label=way)
    ax.set(xscale="log", xlabel="weight w", ylabel="mean loss on both tasks", title="Five ways to merge, by weight")
    ax.set_xticks([0.25, 0.5, 1], labels=["1/4", "1/2", "1"])
    ax.minorticks_off()
    ax.legend(fontsize=8, handlelength=3.5, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return fig


def table_of_weights(chosen: Mapping, best: Mapping) -> str:
    """The loss of every way at every weight, and the best weight, starred where it lies at an edge."""
    tried = list(next(iter(chosen.values())))
    edge = lambda w: f"{w:g}*" if w in (tried[0], tried[-1]) else f"{w:g}"  # noqa: E731
    rows = [[way, *(f"{loss:.2f}" for loss in of.values()), edge(best[way])] for way, of in chosen.items()]
    return stats.table(["way", *(f"w = {w:g}" for w in tried), "best w"], rows)


def table_of_marks(measured: Mapping, seeds: Sequence[int], best: Mapping) -> str:
    """One row a model: its weight, both losses, their mean, and of records the shares of exact answers and fields."""
    rows = []
    for label in measured[seeds[0]]:
        found = [measured[s][label] for s in seeds]
        columns = [[one[n] for one in found] for n in ("records", "documents")]
        columns += [[sum(pair) / 2 for pair in zip(*columns, strict=True)]]
        columns += [[one[n] for one in found] for n in ("exact", "fields")]
        rows.append([label, best.get(label, ""), *(stats.shown(values, 2) for values in columns)])
    return stats.table(["model", "w", "records", "documents", "mean of both", "exact", "fields"], rows)
