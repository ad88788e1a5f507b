"""The pictures of chapter 00: spectra, what survives a cut, and one rank reached in two ways."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from lora_from_scratch.book import plots, stats

COLOURS = (plots.BLUE, plots.SKY, plots.ORANGE, plots.GREEN)


def spectrum(curves: Mapping[str, Sequence[Tensor]]) -> Figure:
    """A panel for each layer: the singular values of its change and of the control, over their largest."""
    fig, axes = plots.canvas(len(curves), width=9.5, height=3.8, sharey=True)
    for ax, (layer, pair) in zip(axes, curves.items(), strict=True):
        for values, text, colour in zip(pair, ("the change", "random signs"), (plots.BLUE, plots.RED), strict=True):
            x, y = np.arange(1, len(values) + 1), (values / values[0]).numpy()
            ax.plot(x, y, color=colour)
            at = int(len(x) * 0.3)
            ax.annotate(text, (at, y[at]), xytext=(6, 6), textcoords="offset points", color=colour)
        ax.set(title=layer.removeprefix("model.layers."), xlabel="which singular value")
    axes[0].set_ylabel("size, relative to the largest")
    return fig


def cut(kept: Mapping[str, Sequence[Sequence[float]]], ranks: Sequence[int]) -> Figure:
    """The share of the gain over the rank; `kept` is {task: [one list over the ranks a seed]}."""
    fig, (ax,) = plots.canvas(width=7.5, height=4.6)
    tasks = [name for name in kept if name != "pretraining"]
    for i, (name, colour) in enumerate(zip(tasks, COLOURS, strict=False)):
        means, halves = zip(*(stats.interval(column) for column in zip(*kept[name], strict=True)), strict=True)
        beside = [r * 1.04 ** (i - 1.5) for r in ranks]  # so that no task's bars lie on another's
        plots.band(ax, beside, means, halves, colour, label=f"fine-tuning on {name}")
    means, halves = zip(*(stats.interval(column) for column in zip(*kept["pretraining"], strict=True)), strict=True)
    plots.band(ax, ranks, means, halves, plots.RED, linestyle=":", label="pretraining (not a clean control)")
    plots.reference(ax, 0.9, "90 %")
    ax.set(xscale="log", xlabel="rank that the change is cut to", ylabel="share of the gain that is left")
    ax.set_ylim(max(-0.6, ax.get_ylim()[0]), None)
    ax.set_xticks(ranks, ranks)
    ax.minorticks_off()
    ax.legend(loc="lower right", fontsize=8)
    return fig


def two_ways(found: Mapping[str, tuple], ranks: Sequence[int]) -> Figure:
    """A panel for each task: (shares by cut, one list a seed; {rank: shares by training}; (rank, those of entries))."""
    fig, axes = plots.canvas(len(found), width=10, height=4, sharey=True)
    for ax, (task, (kept, trained, (count, entries))) in zip(axes, found.items(), strict=True):
        for columns, x, colour, label in (
            (list(zip(*kept, strict=True)), ranks, plots.BLUE, "cut afterwards"),
            (list(trained.values()), list(trained), plots.ORANGE, "trained at that rank (LoRA)"),
        ):
            means, halves = zip(*map(stats.interval, columns), strict=True)
            plots.band(ax, x, means, halves, colour, label=label)
        mean, half = stats.interval(entries)
        plots.band(
            ax, [count * 1.1], [mean], [half], plots.GREEN, linestyle="", label="as many single entries, trained"
        )
        plots.reference(ax, 1, "full fine-tuning")
        ax.set(xscale="log", xlabel="rank", title=task)
        ax.set_xticks(ranks, ranks)
        ax.minorticks_off()
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(min(0, low), max(1.12, high))  # of both panels
    axes[0].set_ylabel("share of full fine-tuning's gain")
    axes[0].legend(loc="lower right", fontsize=9)
    return fig
