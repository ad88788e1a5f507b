"""The picture of appendix A2: how LoRA's saving falls with the tokens of a step."""

from matplotlib.figure import Figure

from lora_from_scratch.book import plots

COLOURS = (plots.SKY, plots.BLUE, plots.BLACK, plots.ORANGE, plots.RED)


def falling(curves: dict[str, list], dots: dict[str, list], ends: dict[str, tuple]) -> Figure:
    """Bytes of full fine-tuning over LoRA's, against the tokens of a step in units of the crossover.

    `curves` is {name: [(tokens over crossover, ratio)]}, `dots` the same, of real steps' peaks; `ends` {name: where a
    card is full}.
    """
    fig, (ax,) = plots.canvas(width=8.2, height=4.6)
    for colour, (name, points) in zip(COLOURS, curves.items(), strict=False):
        x, y = zip(*points, strict=True)
        ax.plot(x, y, color=colour)
        if name in dots:
            ax.plot(*zip(*dots[name], strict=True), "o", color=colour, markersize=4)
        if name in ends:
            ax.plot(*ends[name], "X", color=colour, markersize=11, markeredgecolor="white", zorder=5)
            above = ends[name][1] > 1.5  # below that, the other lines and dots lie above the cross
            ax.annotate("an 80 GB card is full", ends[name], (8, 6) if above else (-8, -12), color=colour, fontsize=9,
                        textcoords="offset points", ha="left" if above else "right")  # fmt: skip
    starts = {name: points[0][1] for name, points in curves.items()}
    ax.set(xscale="log", ylim=(0.6, None), xlim=(0.02, 20), xticks=[0.1, 1, 10], xticklabels=["0.1", "1", "10"],
           xlabel="tokens a step, as a multiple of the crossover", ylabel="full over LoRA, in bytes")  # fmt: skip
    nudges = plots.apart(ax, starts)
    for colour, (name, points) in zip(COLOURS, curves.items(), strict=False):
        ax.annotate(name, points[0], (-5, nudges[name]), textcoords="offset points", color=colour, ha="right",
                    va="center", fontsize=9)  # fmt: skip
    ax.axvline(1, color=plots.GREY, linestyle="--", linewidth=1.2)
    ax.text(1.04, ax.get_ylim()[1], "crossover", color=plots.GREY, fontsize=9, va="top")
    plots.reference(ax, 1.25, "1.25")
    plots.reference(ax, 1, "no saving")
    return fig
