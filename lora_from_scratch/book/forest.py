"""All verdicts in one picture: each interval against the line of its own test."""

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book.plots import BLACK, BLUE, GREY, PURPLE, RED, canvas

VERDICT_COLOURS = {"yes": BLUE, "no": RED, "partly": PURPLE, "not settled": GREY}
LIMIT = 4.0  # where a forest ends; what lies beyond is drawn at the edge, with an arrow


def in_margins(part: dict) -> tuple[float, float, float]:
    """The value and interval of a row's part, in units of its test's line: the yes of each test lies beyond 1.

    Lower(by): -difference / by. Higher(by): difference / by. AtLeast(x): value / x. Equal(within) and AtMost(x) are
    turned so that 2 - |difference| / within, and 2 - value / x, are beyond 1 where the test says yes. A line at 0
    has no unit: then the widest end of the interval is 1 away from it.
    """
    kind, ends = part["kind"], [part["estimate"][end] for end in ("value", "low", "high")]
    value, low, high = (np.nan if end is None else end for end in ends)
    if kind == "Equal":
        inner = 0.0 if low < 0 < high else min(abs(low), abs(high))
        far, near = max(abs(low), abs(high)) / part["within"], inner / part["within"]
        return 2 - abs(value) / part["within"], 2 - far, 2 - near
    line = part["by"] if "by" in part else part["x"]
    sign = -1.0 if kind in ("Lower", "AtMost") else 1.0
    line = -line if kind == "Lower" else line
    unit = abs(line) or max(np.nan_to_num([abs(value), abs(low), abs(high)])) or 1.0
    at = sorted(1 + sign * (end - line) / unit for end in (low, high))
    return 1 + sign * (value - line) / unit, at[0], at[1]


def forest(rows: list[dict]) -> Figure:
    """Every part of `rows` (as JSON holds them, with a `name`) as an interval against its line, coloured by verdict.

    A cross is what chance scores; a hollow diamond has no interval.
    """
    parts = [(row["name"] + (f": {n}" if n else ""), part) for row in rows for n, part in row["parts"].items()]
    parts = [(name, part) for name, part in parts if part["kind"] not in ("Figures", "Identity")]
    fig, (ax,) = canvas(width=8.0, height=1.2 + 0.26 * max(len(parts), 2))
    for y, (_, part) in enumerate(parts):
        value, low, high = np.clip(in_margins(part), 2 - LIMIT, LIMIT)
        colour = VERDICT_COLOURS[part["verdict"]]
        if np.isfinite(low):
            ax.plot([low, high], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
            for end in {low, high} & {LIMIT, 2 - LIMIT}:
                ax.plot(end, y, marker=">" if end > 0 else "<", color=colour, markersize=7)
        ax.plot(value, y, marker="o" if np.isfinite(low) else "D", color=colour, markersize=5,
                markerfacecolor=colour if np.isfinite(low) else "white")  # fmt: skip
        if "chance" in part:
            ax.plot(np.clip(in_margins(part | {"estimate": part["chance"]})[0], 2 - LIMIT, LIMIT), y, "x", color=BLACK)
    ax.axvline(1, color=BLACK, linewidth=1.2)
    ax.set(yticks=range(len(parts)), yticklabels=[name for name, _ in parts], ylim=(len(parts) - 0.5, -0.5))
    ax.set(xlim=(2 - LIMIT - 0.2, LIMIT + 0.2), xlabel="measured, in units of the test's line: a yes lies right of 1")
    ax.grid(axis="y", visible=False)
    words = {0.0: ("no", RED), 0.3: ("not settled", GREY), 0.68: ("yes", BLUE)}
    for x, (word, colour) in words.items():
        ax.annotate(word, (x, 1.01), xycoords="axes fraction", color=colour, fontsize=9)
    ax.annotate("× chance, ◇ one seed", (1, 1.01), xycoords="axes fraction", color=GREY, fontsize=9, ha="right")
    return fig
