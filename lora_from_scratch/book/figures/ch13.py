"""The pictures of chapter 13: rates, what a cut keeps, and what is forgotten on the way."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats
from lora_from_scratch.book.figures.ch12 import tried_rates
from lora_from_scratch.lab.sweep import Tuned

RATES = dict(zip(("full", "LoRA rank 1", "LoRA rank 16", "attention rank 33", "MLP rank 20"),
                 (plots.BLACK, plots.SKY, plots.BLUE, plots.ORANGE, plots.GREEN), strict=True))  # fmt: skip
PATHS = {
    "full, all weights": plots.BLACK,
    "LoRA rank 8": plots.BLUE,
    "rank 8, a third of the rate": plots.SKY,
    "full again": plots.GREEN,
}
TEXTS = {"text_loss": "documentation", "own_loss": "what the model wrote by itself"}


def rates(tuned: Mapping[str, Tuned]) -> Figure:
    """The tuning loss of every rate that was tried."""
    return tried_rates(tuned, RATES, "tuning loss on documents (nats a token)")


def kept(share: Mapping[str, Sequence[float]], cuts: Sequence[int]) -> Figure:
    """The share of the gain that is left, for "rank r" and "entries r", a value a seed each."""
    fig, (ax,) = plots.canvas(width=7, height=4)
    for way, text, colour in (("rank", "cut to a rank", plots.BLUE), ("entries", "largest entries", plots.ORANGE)):
        means, halves = np.array([stats.interval(share[f"{way} {r}"]) for r in cuts]).T
        ax.errorbar(cuts, means, np.nan_to_num(halves), marker="o", capsize=3, color=colour, label=text)
    ax.axhline(1, color=plots.GREY, linestyle="--", linewidth=1.2)
    ax.text(cuts[0], 1.02, "the whole change", color=plots.GREY, fontsize=9)
    ax.set(xscale="log", xlabel="rank, or as many numbers as its factors hold", ylabel="share of the gain")
    ax.set_ylim(0, 1.1)
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
        ax.annotate("compared here", (target, 0.98), xycoords=("data", "axes fraction"), xytext=(4, 0),
                    textcoords="offset points", color=plots.GREY, fontsize=8, va="top")  # fmt: skip
        ax.set(xscale="log", xlabel="loss on records (nats a token)", ylabel="loss (nats a token)", title=title)
        ax.set_xticks(ticks := [0.15, 0.3, 0.6, 1.2, 2.2], ticks)
        ax.minorticks_off()
    axes[1].legend(fontsize=8)
    return fig
