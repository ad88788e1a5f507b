"""The pictures of chapter 11: paths of learning and forgetting, what forgetting goes with, and what comes back."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

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
            style = {"color": colour_of(label, ranks), "linestyle": "--" if "rate" in label else "-", "linewidth": 1.3}
            ax.plot(x, y, marker="o", markersize=2.5, label=label, **style)
            ax.plot(x[-1], y[-1], "s", color=style["color"], markersize=5)
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

    `dots` is {task: {label: [(count, size, forgotten), one a seed]}}; the first task's dots are filled. A square is
    full fine-tuning at another rate.
    """
    fig, axes = plots.canvas(2, width=10.5, height=4.2, sharey=True)
    for filled, (task, methods) in zip((True, False), dots.items(), strict=False):
        for label, found in methods.items():
            colour, values, marker = colour_of(label, ranks), np.array(found), "s" if "rate" in label else "o"
            for ax, column in zip(axes, (0, 1), strict=True):
                face = colour if filled else "none"
                ax.scatter(values[:, column], values[:, 2], s=26, marker=marker, facecolors=face, edgecolors=[colour])
            if filled:
                axes[1].scatter([], [], color=[colour], s=26, marker=marker, label=label)
        axes[1].scatter([], [], s=26, edgecolors=plots.GREY, facecolors=plots.GREY if filled else "none", label=task)
    for ax in axes:
        ax.set_axisbelow(True)  # the grid behind the dots
    axes[0].set(xlabel="intruders a matrix (of ten)", ylabel="forgotten (nats a character)")
    axes[1].set(xlabel="size of the update, ‖ΔW‖ over all matrices", xscale="log")
    axes[1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 4, 6)))
    axes[1].xaxis.set_major_formatter("{x:g}")
    axes[1].xaxis.set_minor_locator(NullLocator())
    axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def shrink(treated: dict, null: dict, tasks: Sequence[str], labels: Sequence[str], seeds: Sequence[int]):
    """A panel for each task: for each method, what comes back under each treatment, and under the null.

    `treated` and `null` are {(task, label, seed): {treatment: (share back, share lost)}}.
    """
    fig, axes = plots.canvas(len(tasks), width=10.5, height=4.6, sharey=True)
    for ax, task in zip(axes, tasks, strict=True):
        for i, (words, (colour, marker)) in enumerate(MARKS.items()):
            _points(ax, treated, task, labels, seeds, words, i, color=colour, marker=marker, label=words)
        hollow = {"color": plots.RED, "marker": "o", "markerfacecolor": "white", "label": "top intruder, random ΔW"}
        _points(ax, null, task, labels, seeds, "top intruder", len(MARKS), **hollow)
        ax.axhline(0, color=plots.GREY, linewidth=1)
        for between in np.arange(len(labels) - 1) + 0.5:
            ax.axvline(between, color=plots.GREY, linewidth=0.8, linestyle=":")
        ax.grid(axis="x", visible=False)
        ax.set(xticks=range(len(labels)), title=task)
        ax.set_xticklabels(labels)
    axes[0].set_ylabel("% of the forgetting that comes back")
    axes[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def _points(ax, found, task, labels, seeds, words, place, **style) -> None:
    values = [stats.interval([100 * found[task, k, s][words][0] for s in seeds]) for k in labels]
    x = np.arange(len(labels)) + 0.12 * (place - len(MARKS) / 2)
    halves = [0 if math.isnan(h) else h for _, h in values]
    ax.errorbar(x, [m for m, _ in values], yerr=halves, linestyle="none", markersize=6, capsize=2, **style)
