"""The picture of chapter 05: English over rounded bases, before and after training an adapter."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats


def english(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]) -> Figure:
    """A line for each base and start, from its loss before training to the one after; NF2 has a panel of its own."""
    fig, axes = plots.canvas(2, width=10, height=3.6, width_ratios=[3, 2])
    sixteen = stats.interval(after["16 bit"])[0]
    two_bits = [label for label in after if label.startswith("NF2")]
    panels = (("16 and 4 bits", [k for k in after if k not in two_bits]), ("2 bits (mind the scale)", two_bits))
    for ax, (title, labels) in zip(axes, panels, strict=True):
        for y, label in enumerate(labels):
            (mean, half), start = stats.interval(after[label]), stats.interval(before[label])[0]
            names = {"label": "before training"} if y == 0 else {}
            ax.plot([start, mean], [y, y], color="#BBBBBB", zorder=1)
            ax.plot(start, y, "o", color="white", markeredgecolor=plots.BLUE, **names)
            names = {"label": "after"} if y == 0 else {}
            ax.errorbar(mean, y, xerr=half if half == half else 0, fmt="o", color=plots.BLUE, capsize=3, **names)
        ax.axvline(sixteen, color=plots.GREY, linestyle="--", linewidth=1.2, zorder=0)
        ax.annotate("16 bit, trained", (sixteen, len(labels) - 0.5), xytext=(3, 0), textcoords="offset points",
                    color=plots.GREY, fontsize=8, va="top")  # fmt: skip
        ax.set_yticks(range(len(labels)), labels)
        ax.set(xlabel="loss on English (nats a character)", title=title, ylim=(-0.6, len(labels) - 0.4))
        ax.locator_params(axis="x", nbins=5)
    axes[0].legend(loc="lower right", fontsize=8)
    return fig
