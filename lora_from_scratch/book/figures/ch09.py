"""The pictures of chapter 09: size and direction of changes, and losses by the number of parameters."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats
from lora_from_scratch.lab.sweep import Tuned


def directions(clouds: Mapping[str, np.ndarray], nulls: Mapping[str, np.ndarray], which: Sequence[int]) -> Figure:
    """A panel for each method: (ΔM, ΔD) of the matrices `which`, (checkpoints, matrices, 2), over its null in grey."""
    fig, axes = plots.canvas(len(clouds), width=11, height=3.9)
    for ax, (label, cloud) in zip(axes, clouds.items(), strict=True):
        null = nulls[label][:, which].reshape(-1, 2)
        ax.scatter(null[:, 1], null[:, 0], s=12, color="#BBBBBB", label="random updates")
        for i, at in enumerate(cloud[:, which]):
            share = f"{(i + 1) / len(cloud):.0%} of training"
            ax.scatter(at[:, 1], at[:, 0], s=16, color=plots.rank_colour(i, list(range(len(cloud)))), label=share)
        ax.set(xlabel="ΔD, change of direction", title=label)
    axes[0].set_ylabel("ΔM, change of magnitude")
    axes[0].legend(fontsize=8)
    return fig


def ranks(tuned: Mapping[str, Tuned], lora: Sequence[int], dora: Sequence[int]) -> Figure:
    """Loss against the number of trained parameters, both methods."""
    fig, (ax,) = plots.canvas(width=7.5)
    for name, own, colour, dy in (("LoRA", lora, plots.BLUE, 12), ("DoRA", dora, plots.RED, -14)):
        arms = [tuned[f"{name} rank {r}"] for r in own]
        counts = [t.values("trained")[0] for t in arms]
        means, halves = zip(*(stats.interval(t.values("task_loss")) for t in arms), strict=True)
        plots.band(ax, counts, means, halves, colour)
        for i, (r, x, y) in enumerate(zip(own, counts, means, strict=True)):
            ax.annotate(f"{name} {r}" if i == 0 else f"{r}", (x, y), xytext=(4, dy), textcoords="offset points",
                        color=colour, fontsize=9)  # fmt: skip
    full = stats.interval(tuned["full"].values("task_loss"))[0]
    plots.reference(ax, full, "full fine-tuning, all weights", plots.BLACK)
    ax.set(xscale="log", xlabel="trained parameters", ylabel="loss on rot13 (nats a character)")
    return fig
