"""The pictures of chapter 09: size and direction of changes, losses by the number of parameters, and differences."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats
from lora_from_scratch.lab.sweep import Tuned


def directions(clouds: Mapping[str, np.ndarray], nulls: Mapping[str, np.ndarray], which: Sequence[int]) -> Figure:
    """A panel for each method: (ΔM, ΔD) of the matrices `which`, (checkpoints, matrices, 2), over its null in grey."""
    fig, axes = plots.canvas(len(clouds), width=11, height=4.2, sharex=True, sharey=True)
    for ax, (label, cloud) in zip(axes, clouds.items(), strict=True):
        null = nulls[label][:, which].reshape(-1, 2)
        ax.scatter(null[:, 1], null[:, 0], s=12, color="#BBBBBB", label="random updates")
        for i, at in enumerate(cloud[:, which]):
            share = f"{(i + 1) / len(cloud):.0%} of training"
            ax.scatter(at[:, 1], at[:, 0], s=16, color=plots.rank_colour(i, list(range(len(cloud)))), label=share)
        ax.set(xlabel="ΔD, mean of 1 - cos over the rows", title=label)
    axes[0].set(xlim=(0, None), ylim=(0, None))  # shared, so last
    axes[0].set_ylabel("ΔM, mean change of a row's length")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    return fig


def ranks(
    tuned: Mapping[str, Tuned], lora: Sequence[int], of_rank: Mapping[int, list], of_size: Mapping[int, list]
) -> Figure:
    """Loss against the number of trained parameters, both methods; DoRA minus LoRA at equal rank and at equal size."""
    fig, (ax, right) = plots.canvas(2, width=11, gridspec_kw={"width_ratios": (3, 2)})
    for name, own, colour, at, side in (
        ("LoRA", lora, plots.BLUE, (4, 12), "left"),
        ("DoRA", list(of_rank), plots.RED, (-4, -16), "right"),
    ):
        arms = [tuned[f"{name} rank {r}"] for r in own]
        counts = [t.values("trained")[0] for t in arms]
        means, halves = zip(*(stats.interval(t.values("task_loss")) for t in arms), strict=True)
        plots.band(ax, counts, means, halves, colour)
        for i, (r, x, y) in enumerate(zip(own, counts, means, strict=True)):
            ax.annotate(f"{name} {r}" if i == 0 else f"{r}", (x, y), xytext=at, textcoords="offset points",
                        color=colour, fontsize=9, ha=side)  # fmt: skip
    full = stats.interval(tuned["full"].values("task_loss"))[0]
    plots.reference(ax, full, "full fine-tuning, all weights", plots.BLACK)
    ax.set(xscale="log", xlabel="trained parameters", ylabel="loss on rot13 (nats a character)")
    right.axhspan(-0.01, 0.01, color="#EEEEEE")
    right.axhline(0, color=plots.BLACK, linewidth=1)
    for label, found, colour, shift in (
        ("at equal rank", of_rank, plots.RED, -0.08),
        ("at equal size", of_size, plots.GREEN, 0.08),
    ):
        means, halves = zip(*(stats.interval(values) for values in found.values()), strict=True)
        plots.band(right, np.arange(len(found)) + shift, means, halves, colour, linestyle="none", label=label)
    right.set_xticks(range(len(of_rank)), [f"rank {r}" for r in of_rank])
    right.set(xlim=(-0.5, len(of_rank) - 0.5), ylabel="DoRA minus LoRA (nats a character)")
    right.grid(axis="x", visible=False)
    right.legend(fontsize=9, loc="upper right")
    return fig
