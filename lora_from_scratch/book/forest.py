"""All verdicts in one picture: each interval against the line of its own test."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lora_from_scratch.book.plots import BLACK, BLUE, GREY, PURPLE, RED, canvas

VERDICT_COLOURS = {"yes": BLUE, "no": RED, "partly": PURPLE, "not settled": GREY}
LIMIT = 4.0  # where a forest ends; what lies beyond is an arrow at the edge
EDGES = (2 - LIMIT, LIMIT)
LONG = 30  # rows; a longer picture has its scale at the head too


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

    A cross is what chance scores; a hollow diamond has no interval; an arrow lies beyond the edge, and so does a cross
    that stands there, a little lower than its row.
    """
    parts = [(row["name"] + (f": {n}" if n else ""), part) for row in rows for n, part in row["parts"].items()]
    parts = [(name, part) for name, part in parts if part["kind"] not in ("Figures", "Identity")]
    fig, (ax,) = canvas(width=8.0, height=1.2 + 0.26 * max(len(parts), 2))
    for y, (_, part) in enumerate(parts):
        _interval(ax, y, in_margins(part), VERDICT_COLOURS[part["verdict"]])
        if "chance" in part:
            null = in_margins(part | {"estimate": part["chance"]})[0]
            ax.plot(np.clip(null, *EDGES), y + 0.25 * _beyond(null), "x", color=BLACK, markersize=5)
    ax.axvline(1, color=BLACK, linewidth=1.2)
    ax.set(yticks=range(len(parts)), yticklabels=[name for name, _ in parts], ylim=(len(parts) - 0.5, -0.5))
    ax.set(xlim=(EDGES[0] - 0.2, EDGES[1] + 0.2), xlabel="measured, in units of the test's line: a yes lies right of 1")
    ax.grid(axis="y", visible=False)
    ax.tick_params(labeltop=len(parts) > LONG)
    _key(ax, above=22 if len(parts) > LONG else 6)
    return fig


def _interval(ax: Axes, y: int, at: tuple[float, float, float], colour: str) -> None:
    value, low, high = at
    known = not np.isnan(low)  # an open end is an interval too
    if known:
        ax.plot(np.clip([low, high], *EDGES), [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
    for edge in {EDGES[int(end > EDGES[1])] for end in at if _beyond(end)}:
        ax.plot(edge, y, marker=">" if edge > 0 else "<", color=colour, markersize=7)
    if not _beyond(value):
        inside = colour if known else "white"
        ax.plot(value, y, "o" if known else "D", color=colour, markersize=5, markerfacecolor=inside)


def _beyond(value: float) -> bool:
    return bool(value < EDGES[0] or value > EDGES[1])  # NaN is not


def _key(ax: Axes, above: float) -> None:
    """What marks and colours mean, `above` points over the rows."""
    dot = {"linestyle": "none", "markersize": 5}
    verdicts = [("no", RED), ("not settled", GREY), ("yes", BLUE)]
    marks = [Line2D([], [], marker="o", color=colour, label=word, **dot) for word, colour in verdicts]
    marks += [
        Line2D([], [], marker="x", color=BLACK, label="chance", **dot),
        Line2D([], [], marker="D", color=GREY, markerfacecolor="white", label="one seed", **dot),
        Line2D([], [], marker=">", color=GREY, label="beyond the edge", **dot),
    ]
    ax.legend(handles=marks, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=above / 9, borderpad=0, ncols=6,
              fontsize=9, handletextpad=0.1, columnspacing=1.2)  # fmt: skip
