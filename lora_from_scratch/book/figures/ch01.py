"""The pictures of chapter 01: losses by rank, and every learning rate that was tried."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats
from lora_from_scratch.lab.sweep import Tuned

FULL = {"full, all weights": plots.GREY, "full, same layers": plots.BLACK}


def ranks(tuned: Mapping[str, Mapping[str, Tuned]], every: Sequence[int]) -> Figure:
    """A panel for each task: LoRA's loss over the rank, beside the bands of full fine-tuning."""
    fig, axes = plots.canvas(len(tuned), width=10.5, height=4.2)
    for ax, (task, arms) in zip(axes, tuned.items(), strict=True):
        means, halves = zip(*(stats.interval(arms[f"LoRA rank {r}"].values("task_loss")) for r in every), strict=True)
        plots.band(ax, every, means, halves, plots.BLUE, label="LoRA")
        for label, colour in FULL.items():
            mean, half = stats.interval(arms[label].values("task_loss"))
            half = float(np.nan_to_num(half))
            ax.axhspan(mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)
            ax.axhline(mean, color=colour, linestyle="--", linewidth=1.2, label=label)
        ax.set(xscale="log", xlabel="rank", title=task)
        ax.set_xticks(every, every)
        ax.minorticks_off()
    axes[0].set_ylabel("loss on the task (nats a character)")
    axes[0].legend()
    return fig


def rates(tuned: Mapping[str, Mapping[str, Tuned]], every: Sequence[int], letters: Mapping[str, float]) -> Figure:
    """A panel for each task: the tuning loss of every rate that was tried, the best ringed."""
    fig, axes = plots.canvas(len(tuned), width=10.5, height=4.4)
    for ax, (task, arms) in zip(axes, tuned.items(), strict=True):
        for label, t in arms.items():
            colour = FULL.get(label) or plots.rank_colour(t.run.adapter.rank, list(every))
            tried = sorted(t.tried)
            ax.plot(tried, [t.tried[rate] for rate in tried], color=colour, marker="o", markersize=3.5, label=label)
            ax.plot(t.run.lr, t.tried[t.run.lr], "o", markersize=9, markerfacecolor="none", color=colour)
        ax.axhline(letters[task], color=plots.GREY, linestyle=":", linewidth=1.3)
        ax.set(xscale="log", xlabel="learning rate", title=task)
    axes[0].set_ylabel("loss on the task (nats a character)")
    axes[0].legend(fontsize=8)
    return fig
