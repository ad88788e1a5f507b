"""The picture of appendix A4: a first task as later ones are learnt."""

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats

COLOURS = {"full": plots.BLACK, "rank 1": plots.SKY, "rank 4": plots.BLUE, "rank 4, decay 1": plots.ORANGE}


def turns(results: dict, counted: dict, sequences: dict[str, tuple[str, ...]]) -> Figure:
    """A panel for each sequence with the loss on its first task at every stage, and one with the intruders.

    `results` and `counted` are {(label, sequence): [one a seed]}: what `learn_in_turn` gives, and intruders a matrix.
    """
    fig, axes = plots.canvas(len(sequences) + 1, width=12, height=4.2)
    stages = np.arange(4)
    for ax, (name, order) in zip(axes, sequences.items(), strict=False):
        for j, (label, colour) in enumerate(COLOURS.items()):
            values = [[r["losses"][stage][order[0]] for r in results[label, name]] for stage in stages]
            means, halves = zip(*map(stats.interval, values), strict=True)
            plots.band(ax, stages + 0.06 * (j - 1.5), means, halves, colour, label=label)
        ax.set(xticks=stages, ylabel=f"loss on {order[0]}", title=f"{name}: {order[0]}, learnt first")
        ax.set_xticklabels(["base", *(f"after\n{task}" for task in order)], fontsize=9)
    for j, (label, colour) in enumerate(COLOURS.items()):
        for name, style in zip(sequences, ("-", "--"), strict=True):
            means, halves = zip(*map(stats.interval, zip(*counted[label, name], strict=True)), strict=True)
            plots.band(axes[-1], stages + 0.06 * (j - 1.5), means, halves, colour, linestyle=style)
    axes[-1].axhline(10, color=plots.GREY, linewidth=1)
    axes[-1].annotate("all that are counted", (0, 10), xytext=(0, 3), textcoords="offset points", color=plots.GREY,
                      fontsize=8)  # fmt: skip
    axes[-1].plot([], [], "-", color=plots.GREY, label="far")
    axes[-1].plot([], [], "--", color=plots.GREY, label="near")
    axes[-1].set(xticks=stages, xlabel="tasks learnt", ylabel="intruders a matrix (of ten)", title="They add up")
    axes[-1].legend(fontsize=8)
    axes[0].legend(fontsize=8)
    return fig
