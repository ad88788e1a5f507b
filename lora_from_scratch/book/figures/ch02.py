"""The pictures of chapter 02: what a placement is worth, and LoRA's share of a matrix by rank."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.analysis.counting import Transformer, lora_parameters
from lora_from_scratch.book import plots, stats
from lora_from_scratch.lab.sweep import Tuned

COLOURS = {"all linear": plots.BLACK, "attention": plots.RED, "MLP": plots.BLUE, "q and v": plots.ORANGE}


def placement(tuned: Mapping[str, Mapping[str, Tuned]], against: str) -> Figure:
    """A panel for each task, on one scale: each placement above the one called `against` at its budget, paired."""
    fig, axes = plots.canvas(len(tuned), width=10.5, height=3.2, sharex=True)
    for ax, (task, arms) in zip(axes, tuned.items(), strict=True):
        labels = [label for label in arms if label.split(", ")[0] != against]
        for i, label in enumerate(reversed(labels)):
            place, budget = label.split(", ")
            pair = (arms[name].values("task_loss") for name in (label, f"{against}, {budget}"))
            mean, half = stats.paired(*pair)
            ax.errorbar(mean, i, xerr=np.nan_to_num(half), color=COLOURS[place], marker="o", capsize=3)
        ax.axvline(0, color=COLOURS[against], linewidth=1.2)
        ax.set_yticks(range(len(labels)), list(reversed(labels)))
        ax.set(xlabel=f"loss above the {against} at that budget (nats a character)", title=task)
        ax.set(ylim=(-0.6, len(labels) - 0.4))
    return fig


def shares(models: Mapping[str, Transformer], targets: Sequence[str]) -> Figure:
    """The trained parameters in percent of the adapted matrices, over the rank."""
    fig, (ax,) = plots.canvas(width=7.5, height=4.2)
    ranks = [2**k for k in range(11)]
    ends = {}
    for name, sizes in models.items():
        whole = sum(d_out * d_in for d_out, d_in in sizes.shapes(targets))
        ends[name] = [100 * lora_parameters(sizes.shapes(targets), r) / whole for r in ranks]
    colours = dict(zip(ends, (plots.BLUE, plots.SKY, plots.GREEN, plots.RED), strict=False))
    for name, values in ends.items():
        ax.plot(ranks, values, color=colours[name], marker="o", markersize=3)
    plots.reference(ax, 100, "as many as the matrices themselves", plots.BLACK)
    ax.set(xscale="log", yscale="log", xlabel="rank", ylabel="% of the adapted matrices", xlim=(0.9, ranks[-1] * 8))
    ax.set_xticks(ranks[::2], ranks[::2])
    ax.set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    ax.minorticks_off()
    for name, nudge in plots.apart(ax, {name: values[-1] for name, values in ends.items()}).items():
        plots.label_end(ax, np.array(ranks), np.array(ends[name]), name, colours[name], nudge)
    return fig
