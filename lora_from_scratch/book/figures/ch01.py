"""The pictures of chapter 01: losses by rank, and every learning rate that was tried."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats
from lora_from_scratch.lab.sweep import Tuned

FULL = {"full, all weights": (plots.GREY, ":"), "full, same layers": (plots.BLACK, "--")}


def ranks(tuned: Mapping[str, Mapping[str, Tuned]], every: Sequence[int]) -> Figure:
    """A panel for each task, on one scale: LoRA's loss over the rank, beside the bands of full fine-tuning."""
    fig, axes = plots.canvas(len(tuned), width=10.5, height=4.6, sharey=True)
    for ax, (task, arms) in zip(axes, tuned.items(), strict=True):
        means, halves = zip(*(stats.interval(arms[f"LoRA rank {r}"].values("task_loss")) for r in every), strict=True)
        plots.band(ax, every, means, halves, plots.BLUE, label="LoRA")
        for label, (colour, line) in FULL.items():
            mean, half = stats.interval(arms[label].values("task_loss"))
            half = float(np.nan_to_num(half))
            ax.axhspan(mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)
            ax.axhline(mean, color=colour, linestyle=line, linewidth=1.4, label=label)
        ax.set(xscale="log", xlabel="rank", title=task)
        ax.set_xticks(every, every)
        ax.minorticks_off()
    axes[0].set_ylabel("loss on the task (nats a character)")
    axes[-1].legend()
    return fig


def rates(tuned: Mapping[str, Mapping[str, Tuned]], every: Sequence[int], letters: Mapping[str, float]) -> Figure:
    """A panel for each task: the tuning loss of every rate that was tried, the best ringed."""
    fig, axes = plots.canvas(len(tuned), width=10.5, height=4.4)
    for ax, (task, arms) in zip(axes, tuned.items(), strict=True):
        for label, t in arms.items():
            colour, line = FULL.get(label) or (plots.rank_colour(t.run.adapter.rank, list(every)), "-")
            tried, style = sorted(t.tried), {"color": colour, "linestyle": line, "markersize": 3.5, "label": label}
            ax.plot(tried, [t.tried[rate] for rate in tried], marker="s" if label in FULL else "o", **style)
            ax.plot(t.run.lr, t.tried[t.run.lr], "o", markersize=9, markerfacecolor="none", color=colour)
        plots.reference(ax, letters[task], "letter frequencies")
        ax.set(xscale="log", xlabel="learning rate", title=task)
    axes[0].set_ylabel("loss on the task (nats a character)")
    axes[0].legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, 0.92))  # below the line of the letters
    return fig
