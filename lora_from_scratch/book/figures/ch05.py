"""The picture of chapter 05: English over rounded bases, before and after training an adapter."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats


def english(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]) -> Figure:
    """A line for each base and start: nats above the 16-bit base, untrained and trained; NF2 has panels of its own."""
    fig, axes = plots.canvas(3, width=12, height=3.2)
    two_bits = [label for label in after if label.startswith("NF2")]
    four_bits = [label for label in after if label not in two_bits]
    both, trained = (("before training", "white", before), ("after", plots.BLUE, after)), (("", plots.BLUE, after),)
    panels = (("4 bits", four_bits, both), ("2 bits", two_bits, both), ("2 bits, after training", two_bits, trained))
    for ax, (title, labels, marks) in zip(axes, panels, strict=True):
        for y, label in enumerate(labels):
            ends = [stats.interval(of[label]) for *_, of in marks]
            ax.plot([mean for mean, _ in ends], [y] * len(ends), color="#BBBBBB", zorder=1)
            for (mean, half), (name, face, _) in zip(ends, marks, strict=True):
                ax.errorbar(mean, y, xerr=half if half == half else 0, fmt="o", color=plots.BLUE, markerfacecolor=face,
                            capsize=3, label=name if y == 0 else None)  # fmt: skip
        ax.axvline(0, color=plots.GREY, linestyle="--", linewidth=1.2, zorder=0)
        ax.set_yticks(range(len(labels)), labels)
        ax.set(xlabel="nats above the 16-bit base", title=title, ylim=(-0.6, len(labels) - 0.4))
        ax.locator_params(axis="x", nbins=5)
    axes[1].legend(fontsize=8, loc="center right")
    return fig
