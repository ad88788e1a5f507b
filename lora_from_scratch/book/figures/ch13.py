"""The pictures of chapter 13: rates, what a cut keeps, and what is forgotten on the way."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats
from lora_from_scratch.lab.sweep import Tuned

RATES = dict(zip(("full", "LoRA rank 1", "LoRA rank 16", "attention rank 33", "MLP rank 20"),
                 (plots.BLACK, plots.SKY, plots.BLUE, plots.ORANGE, plots.GREEN), strict=True))  # fmt: skip
PATHS = {
    "full": plots.BLACK,
    "LoRA rank 8": plots.BLUE,
    "rank 8, a third of the rate": plots.SKY,
    "full again": plots.GREY,
}
TEXTS = {"text_loss": "documentation", "own_loss": "what the model wrote by itself"}


def rates(tuned: Mapping[str, Tuned]) -> Figure:
    """The tuning loss of every rate that was tried, hollow, and the best one filled."""
    fig, (ax,) = plots.canvas(width=8, height=4.4)
    for label, t in tuned.items():
        tried = sorted(t.tried)
        losses, best = [t.tried[rate] for rate in tried], tried.index(t.run.lr)
        ax.plot(tried, losses, "o-", markerfacecolor="white", color=RATES[label], label=label)
        ax.plot(tried[best], losses[best], "o", color=RATES[label])
    ax.set(xscale="log", xlabel="learning rate", ylabel="loss on documents (nats a token)")
    ax.legend(fontsize=8)
    return fig


def kept(share: Mapping[str, Sequence[float]], cuts: Sequence[int]) -> Figure:
    """The share of the gain that is left, for "rank r" and "entries r", a value a seed each."""
    fig, (ax,) = plots.canvas(width=7, height=4)
    for way, text, colour in (("rank", "cut to a rank", plots.BLUE), ("entries", "largest entries", plots.ORANGE)):
        means, halves = np.array([stats.interval(share[f"{way} {r}"]) for r in cuts]).T
        ax.errorbar(cuts, means, np.nan_to_num(halves), marker="o", capsize=3, color=colour, label=text)
    plots.reference(ax, 1.0, "the whole change")
    ax.set(xscale="log", xlabel="rank, or as many numbers as its factors hold", ylabel="share of the gain")
    ax.set_xticks(cuts, cuts)
    ax.minorticks_off()
    ax.legend(loc="lower right")
    return fig


def paths(found: Mapping[str, Sequence[Mapping]], target: float) -> Figure:
    """A panel for each text: its loss over the loss on records, a line for each seed."""
    fig, axes = plots.canvas(2, width=10.5, height=4.2)
    for ax, (name, title) in zip(axes, TEXTS.items(), strict=True):
        for label, runs in found.items():
            for i, path in enumerate(runs):
                style = {"markersize": 3, "linewidth": 1.2, "color": PATHS[label], "label": None if i else label}
                ax.plot(path["task_loss"], path[name], "o-", **style)
        ax.axvline(target, color=plots.GREY, linestyle="--", linewidth=1)
        ax.set(xscale="log", xlabel="loss on records (nats a token)", ylabel="loss (nats a token)", title=title)
    axes[0].legend(fontsize=8)
    return fig
