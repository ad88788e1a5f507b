"""The picture of chapter 20: every broken run, its number, and what sees it."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from lora_from_scratch.book import plots
from lora_from_scratch.lab.broken.case import GROUPS, Case, Seen

EYES = {  # what sees a run: mark, colour
    "diagnose": ("o", plots.BLUE),
    "the folder": ("D", plots.GREEN),
    "comparing": ("X", plots.RED),
}


def eye(case: Case, seen: Seen) -> str:
    """Which of EYES sees a broken run."""
    return "diagnose" if seen.findings else "the folder" if seen.elsewhere else "comparing"


def ward(cases: Mapping[str, Case], seen: Mapping[str, Seen]) -> Figure:
    """A line for each run, by group: what is measured, broken and well, and a mark in the column of what sees it."""
    height = len(cases) + 1.4 * len(GROUPS)
    fig, (ax,) = plots.canvas(width=11, height=0.235 * height + 0.4)
    ax.axis("off")
    ax.set(xlim=(0, 11), ylim=(-height, 1.2))
    columns = dict(zip(EYES, (8.6, 9.6, 10.6), strict=True))
    for name, x in columns.items():
        ax.text(x, 0.3, name, ha="center", va="bottom", fontsize=9, color=EYES[name][1])
    for x, text in ((6.55, "broken"), (7.55, "well")):
        ax.text(x, 0.3, text, ha="right", va="bottom", fontsize=9, color=plots.GREY)
    y = 0.0
    for group, title in GROUPS.items():
        y -= 0.9
        ax.text(0, y, title, weight="bold", va="center", fontsize=10)
        for name, case in ((n, c) for n, c in cases.items() if c.group == group):
            y -= 1
            found = seen[name]
            ax.axhline(y - 0.5, color="#EEEEEE", linewidth=0.8, zorder=0)
            ax.text(0.15, y, name, va="center", fontsize=9)
            ax.text(5.6, y, case.number.partition(",")[0], va="center", ha="right", fontsize=8, color=plots.GREY)
            for x, number in ((6.55, found.broken), (7.55, found.healthy)):
                ax.text(
                    x, y, f"{number:.3g}" if number < 1e3 else f"{number:,.0f}", va="center", ha="right", fontsize=9
                )
            mark, colour = EYES[by := eye(case, found)]
            ax.plot(columns[by], y, mark, color=colour, markersize=6)
        y -= 0.5
    return fig
