"""The pictures of chapter 11: paths of learning and forgetting, what forgetting goes with, and what comes back."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats

MARKS = {  # treatment: (colour, marker)
    "top intruder": (plots.RED, "o"),
    "all intruders": (plots.ORANGE, "s"),
    "neighbour": (plots.SKY, "^"),
    "all of ΔW, as far": (plots.BLACK, "D"),
    "the rest of ΔW, as far": (plots.PURPLE, "v"),
}


def colour_of(label: str, ranks: Sequence[int]) -> object:
    """Black for full fine-tuning, orange for another alpha, else a colour that darkens with the rank."""
    if label.startswith("full"):
        return plots.BLACK
    if "alpha" in label:
        return plots.ORANGE
    return plots.rank_colour(int(label.split(",")[0].removeprefix("rank ")), list(ranks))


def paths(seen: dict, targets: dict[str, float], letters: float, ranks: Sequence[int]) -> Figure:
    """A panel for each task: loss on English against loss on the task, the mean over seeds.

    `seen` is {task: {label: watched results, one a seed}}; `letters` the loss on English by letter frequencies alone.
    """
    fig, axes = plots.canvas(len(seen), width=10.5, height=4.6, sharey=True)
    for ax, (task, methods) in zip(axes, seen.items(), strict=True):
        for label, found in methods.items():
            x, y = (np.mean([r[name] for r in found], axis=0) for name in ("task_loss", "text_loss"))
            ax.plot(x, y, color=colour_of(label, ranks), marker="o", markersize=2.5, linewidth=1.3, label=label)
            ax.plot(x[-1], y[-1], "s", color=colour_of(label, ranks), markersize=5)
        ax.axvline(targets[task], color=plots.GREY, linestyle="--", linewidth=1)
        ax.axhline(letters, color=plots.GREY, linestyle=":", linewidth=1.3)
        ax.set(xlabel=f"loss on {task} (learning goes to the left)", title=task)
    axes[-1].annotate("English by letter frequencies alone", (0.98, letters), xytext=(0, 3), ha="right", fontsize=8,
                      xycoords=("axes fraction", "data"), textcoords="offset points", color=plots.GREY)  # fmt: skip
    axes[0].set_ylabel("loss on English (forgetting goes up)")
    axes[0].legend(fontsize=8)
    return fig


def follows(dots: dict, ranks: Sequence[int]) -> Figure:
    """What was forgotten against the count of intruders and against the size of the update, a dot a run.

    `dots` is {task: {label: [(count, size, forgotten), one a seed]}}; the first task's dots are filled.
    """
    fig, axes = plots.canvas(2, width=10.5, height=4.2, sharey=True)
    for filled, (task, methods) in zip((True, False), dots.items(), strict=False):
        for label, found in methods.items():
            colour, values = colour_of(label, ranks), np.array(found)
            for ax, column in zip(axes, (0, 1), strict=True):
                face = colour if filled else "none"
                ax.scatter(values[:, column], values[:, 2], s=26, facecolors=face, edgecolors=[colour])
            if filled and "×" not in label:
                axes[0].scatter([], [], color=[colour], s=26, label=label)
        axes[0].scatter([], [], s=26, edgecolors=plots.GREY, facecolors=plots.GREY if filled else "none", label=task)
    axes[0].set(xlabel="intruders a matrix (of ten)", ylabel="forgotten (nats a character)")
    axes[1].set(xlabel="size of the update, ‖ΔW‖ over all matrices", xscale="log")
    axes[0].legend(fontsize=8)
    return fig


def shrink(treated: dict, null: dict, tasks: Sequence[str], labels: Sequence[str], seeds: Sequence[int], factor: float):
    """A panel for each task: for each method, what comes back under each treatment, and under the null.

    `treated` and `null` are {(task, label, seed): {treatment: {factor: (share back, share lost)}}}.
    """
    fig, axes = plots.canvas(len(tasks), width=10.5, height=4.6, sharey=True)
    for ax, task in zip(axes, tasks, strict=True):
        for i, (words, (colour, marker)) in enumerate(MARKS.items()):
            _points(ax, treated, task, labels, seeds, words, factor, i, color=colour, marker=marker, label=words)
        hollow = {"color": plots.RED, "marker": "o", "markerfacecolor": "white", "label": "top intruder, random ΔW"}
        _points(ax, null, task, labels, seeds, "top intruder", factor, len(MARKS), **hollow)
        ax.axhline(0, color=plots.GREY, linewidth=1)
        ax.set(xticks=range(len(labels)), title=task)
        ax.set_xticklabels(labels)
    axes[0].set_ylabel("% of the forgetting that comes back")
    axes[0].legend(fontsize=8)
    return fig


def _points(ax, found, task, labels, seeds, words, factor, place, **style) -> None:
    values = [stats.interval([100 * found[task, k, s][words][factor][0] for s in seeds]) for k in labels]
    x = np.arange(len(labels)) + 0.12 * (place - len(MARKS) / 2)
    halves = [0 if math.isnan(h) else h for _, h in values]
    ax.errorbar(x, [m for m, _ in values], yerr=halves, linestyle="none", markersize=6, capsize=2, **style)
