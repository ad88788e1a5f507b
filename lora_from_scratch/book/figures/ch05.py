"""The picture of chapter 05: English over rounded bases, before and after training an adapter."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats


def english(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]) -> Figure:
    """A line for each base and start: nats above the 16-bit base, untrained and trained; NF2 has its own panel."""
    fig, axes = plots.canvas(2, width=10, height=3.2)
    two_bits = [label for label in after if label.startswith("NF2")]
    panels = (("4 bits", [k for k in after if k not in two_bits]), ("2 bits (mind the scale)", two_bits))
    for ax, (title, labels) in zip(axes, panels, strict=True):
        for y, label in enumerate(labels):
            ends = [stats.interval(of[label]) for of in (before, after)]
            ax.plot([mean for mean, _ in ends], [y, y], color="#BBBBBB", zorder=1)
            for (mean, half), face, name in zip(ends, ("white", plots.BLUE), ("before training", "after"), strict=True):
                ax.errorbar(mean, y, xerr=half if half == half else 0, fmt="o", color=plots.BLUE, markerfacecolor=face,
                            capsize=3, label=name if y == 0 else None)  # fmt: skip
        ax.axvline(0, color=plots.GREY, linestyle="--", linewidth=1.2, zorder=0)
        ax.set_yticks(range(len(labels)), labels)
        ax.set(xlabel="nats above the 16-bit base, on English", title=title, ylim=(-0.6, len(labels) - 0.4))
        ax.locator_params(axis="x", nbins=5)
    axes[0].legend(fontsize=8)
    return fig
