"""The picture of chapter 20: every broken run, its number beside its twin's, and what tells it."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from lora_from_scratch.book import plots
from lora_from_scratch.lab.broken.case import GROUPS, Case, Seen

DARK = "#444444"
EYES = {  # what tells a run: mark, colour
    "an error": ("s", DARK),
    "diagnose": ("o", plots.BLUE),
    "the folder": ("D", plots.GREEN),
    "comparing": ("X", plots.RED),
}
COLUMNS = dict(zip(EYES, (9.0, 9.8, 10.7, 11.6), strict=True))


def eyes(case: Case, seen: Seen) -> list[str]:
    """Which of EYES tell a run: an error that it ends in, its own finding, the folder, or what is held beside it."""
    by = {
        "an error": bool(seen.raised),
        "diagnose": bool(case.finding) and case.finding in seen.names,
        "the folder": bool(seen.elsewhere),
        "comparing": bool(case.compare),
    }
    return [name for name, tells in by.items() if tells]


def ward(cases: Mapping[str, Case], seen: Mapping[str, Seen]) -> Figure:
    """A line for each run, by group: what is measured, the run's number and its twin's, and a mark for each eye."""
    height = len(cases) + 1.4 * len(GROUPS)
    fig, (ax,) = plots.canvas(width=12, height=0.25 * height + 0.4)
    ax.axis("off")
    ax.set(xlim=(0, 12), ylim=(-height, 1.2))
    for name, x in COLUMNS.items():
        ax.text(x, 0.3, name, ha="center", va="bottom", fontsize=10, color=EYES[name][1])
    for x, text in ((7.55, "the run"), (8.45, "its twin")):
        ax.text(x, 0.3, text, ha="right", va="bottom", fontsize=10, color=DARK)
    y = 0.0
    for group, title in GROUPS.items():
        y -= 0.9
        ax.text(0, y, title, weight="bold", va="center", fontsize=11)
        for name, case in ((n, c) for n, c in cases.items() if c.group == group):
            y -= 1
            found, fault = seen[name], "" if case.fault else "  (no fault)"
            ax.axhline(y - 0.5, color="#EEEEEE", linewidth=0.8, zorder=0)
            ax.text(0.15, y, name + fault, va="center", fontsize=10)
            ax.text(6.75, y, case.number, va="center", ha="right", fontsize=9.5, color=DARK)
            for x, number in ((7.55, found.broken), (8.45, found.healthy)):
                ax.text(x, y, short(number), va="center", ha="right", fontsize=10)
            for by in eyes(case, found):
                mark, colour = EYES[by]
                ax.plot(COLUMNS[by], y, mark, color=colour, markersize=6)
        y -= 0.5
    return fig


def short(number: float) -> str:
    """Three digits; a difference that is a rounding error as one."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.1e}" if 0 < number < 1e-3 else f"{number:.3g}"
