"""The pictures and tables of chapter 18: what a merge does to two tasks at once, and what its weight does."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats

WAYS = {
    "base": (plots.GREY, "s"),
    "in turn": (plots.PURPLE, "D"),
    "together, rank 8": (plots.BLACK, "^"),
    "together, rank 16": (plots.BLACK, "v"),
    "sum, w = 1": (plots.SKY, "o"),
    "sum": (plots.BLUE, "o"),
    "sum, cut to rank 8": (plots.BLUE, "x"),
    "TIES": (plots.ORANGE, "o"),
    "DARE": (plots.GREEN, "o"),
    "factors added": (plots.RED, "x"),
}


def planes(measured: Mapping, pairs: Mapping[str, tuple[str, str]], seeds: Sequence[int]) -> Figure:
    """A panel for each pair: the loss on its first task across, on its second upwards, a point for each model.

    `measured` is {(pair, seed): {label: {task: loss}}}.
    """
    fig, axes = plots.canvas(len(pairs), width=12, height=5)
    for ax, (name, tasks) in zip(axes, pairs.items(), strict=True):
        mean = lambda label, task, name=name: float(np.mean([measured[name, s][label][task] for s in seeds]))  # noqa: E731
        for label, (colour, marker) in WAYS.items():
            x, y = (mean(label, task) for task in tasks)
            ax.plot(x, y, marker, color=colour, markersize=7, label=label, linestyle="none")
        ax.axvline(mean(f"{tasks[0]} alone", tasks[0]), color=plots.GREY, linewidth=0.8)
        ax.axhline(mean(f"{tasks[1]} alone", tasks[1]), color=plots.GREY, linewidth=0.8)
        ax.set(xlabel=f"loss on {tasks[0]}", ylabel=f"loss on {tasks[1]}", title=f"the {name} pair")
    axes[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return fig


def weights(chosen: Mapping, names: Sequence[str]) -> Figure:
    """The mean loss by the weight of a merge; `chosen` is {(pair, way): {weight: loss}}."""
    fig, axes = plots.canvas(len(names), width=12, height=4)
    for ax, name in zip(axes, names, strict=True):
        for (pair, way), tried in chosen.items():
            if pair == name:
                ax.plot(list(tried), list(tried.values()), marker="o", markersize=4, color=WAYS[way][0],
                        linestyle="--" if WAYS[way][1] == "x" else "-", label=way)  # fmt: skip
        ax.set(xscale="log", xlabel="weight w", ylabel="mean loss on both tasks", title=f"the {name} pair")
        ax.set_xticks([0.125, 0.25, 0.5, 1], labels=["1/8", "1/4", "1/2", "1"])
        ax.minorticks_off()
    axes[0].legend(fontsize=8, handlelength=3.5)
    return fig


def table_of_weights(chosen: Mapping, best: Mapping) -> str:
    """The loss of every way at every weight, and the best weight, starred where it lies at an edge."""
    weights = list(next(iter(chosen.values())))
    rows = []
    for key, tried in chosen.items():
        edge = "*" if best[key] in (weights[0], weights[-1]) else ""
        rows.append([*key, *(f"{loss:.2f}" for loss in tried.values()), f"{best[key]:g}{edge}"])
    return stats.table(["pair", "way", *(f"w = {w:g}" for w in weights), "best w"], rows)


def table_of_losses(measured: Mapping, name: str, tasks: tuple[str, str], seeds: Sequence[int], best: Mapping) -> str:
    """One row a model: its weight, the losses on both tasks, their mean, and on English, over seeds."""
    rows, apart = [], ("twin", "w of its own", "twin, w = 1")  # measured on one task each
    for label in [label for label in measured[name, seeds[0]] if label not in apart]:
        found = [measured[name, s][label] for s in seeds]
        means = [sum(losses[task] for task in tasks) / 2 for losses in found]
        columns = [*([losses[task] for losses in found] for task in tasks), means, [one["text"] for one in found]]
        rows.append([label, best.get((name, label), ""), *(stats.shown(values, 2) for values in columns)])
    return stats.table([f"{name} pair", "w", *tasks, "mean of both", "English"], rows)
