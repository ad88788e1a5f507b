"""The pictures of chapter 06: the bytes alive during two steps, and the stack of a giant's bytes."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from lora_from_scratch.book import plots

COLOURS = {"weights": plots.BLUE, "gradients": plots.PURPLE, "optimizer": plots.ORANGE, "activations": plots.GREEN,
           "logits": plots.BLACK}  # fmt: skip


def two_steps(runs: dict[str, tuple[list[dict], int, int]]) -> Figure:
    """A panel a set-up: the MB alive after each operation of two steps.

    `runs` is {name: (steps of peaks.alive, the sum of the parts, what is planned)}.
    """
    fig, axes = plots.canvas(len(runs), width=10.5, height=4.2)
    for ax, (name, (steps, total, plan)) in zip(axes, runs.items(), strict=True):
        start = 0
        for number, step in enumerate(steps, 1):
            values = [n / 1e6 for part in step.values() for n in part]
            ax.plot(range(start, start + len(values)), values, color=plots.BLUE, linewidth=1.2)
            top = max(range(len(values)), key=values.__getitem__)
            ax.plot(start + top, values[top], "o", color=plots.BLUE)
            ax.annotate(f"step {number}: {values[top]:.1f}", (start + top, values[top]), (-7, -3),
                        textcoords="offset points", color=plots.BLUE, ha="right", fontsize=9,
                        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
            start += len(values)
        lines = ((total, "sum of the parts", "--", "top"), (plan, "and the logits' term", ":", "bottom"))
        for value, words, style, side in lines:
            ax.axhline(value / 1e6, color=plots.GREY, linestyle=style, linewidth=1.3)
            ax.text(start, value / 1e6, words, color=plots.GREY, fontsize=9, va=side, ha="right")
        ax.set(title=name, xlabel="operation", ylim=(0, 1.12 * plan / 1e6), xlim=(-0.12 * start, None))
    axes[0].set_ylabel("MB alive")
    return fig


def stack(bars: dict[str, dict[str, float]], cards: dict[str, float], title: str) -> Figure:
    """A bar a set-up, {name: {part: GB}}; a line a card."""
    fig, (ax,) = plots.canvas(width=8.6, height=4.0)
    names = list(bars)
    for place, parts in enumerate(bars.values()):
        left = 0.0
        for part, width in parts.items():
            ax.barh(place, width, left=left, color=COLOURS[part], label=part if place == 0 else None)
            left += width
    for card, gb in cards.items():
        ax.axvline(gb, color=plots.GREY, linestyle="--", linewidth=1.1, zorder=0)
        ax.text(gb, -0.62, f"“{card} GB”", color=plots.GREY, fontsize=9, ha="center", va="bottom")
    sums = [f"{name}  ({sum(parts.values()):.1f})" for name, parts in bars.items()]
    ax.set(yticks=range(len(names)), yticklabels=sums, xlabel="GB (10⁹ bytes)", ylim=(len(names) - 0.4, -0.7))
    ax.grid(visible=False)
    ax.set_title(title, pad=12)
    _legend(ax, list(COLOURS))
    return fig


def _legend(ax, parts: Sequence[str]) -> None:
    handles, labels = ax.get_legend_handles_labels()
    by_name = dict(zip(labels, handles, strict=True))
    ax.legend([by_name[p] for p in parts if p in by_name], [p for p in parts if p in by_name], loc="center",
              bbox_to_anchor=(0.68, 0.64), ncols=2, fontsize=9)  # fmt: skip
