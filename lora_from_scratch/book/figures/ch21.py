"""The pictures of chapter 21: what each advice stands on, and which model needs how much."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book import plots
from lora_from_scratch.book.evidence import AGAINST, PLACES

COLOURS = dict(zip(PLACES, (plots.BLUE, plots.GREEN, plots.PURPLE, plots.GREY), strict=True))


def standing(questions: Mapping[str, Mapping[str, Sequence[str]]]) -> Figure:
    """`questions` is {question: {place: verdicts of the rows there}}: a mark for each row, a column for each place."""
    fig, (ax,) = plots.canvas(width=9.0, height=0.34 * len(questions) + 0.9)
    ax.axis("off")
    starts = dict(zip(PLACES, (4.8, 6.5, 9.2, 10.9), strict=True))
    ax.set(xlim=(0, 12.4), ylim=(len(questions) - 0.4, -1.3))
    for name, x in starts.items():
        ax.text(x - 0.1, -0.7, name, color=COLOURS[name], fontsize=9, va="bottom")
    ax.text(0, -0.7, "● as claimed   × otherwise   ◐ in part   ○ open", color=plots.GREY, fontsize=8.5, va="bottom")
    for y, (question, places) in enumerate(questions.items()):
        ax.axhline(y + 0.5, color="#EEEEEE", linewidth=0.8)
        ax.text(0, y, question, va="center", fontsize=9.5)
        if not any(places.values()):
            ax.text(starts[PLACES[0]] - 0.1, y, "nothing measured", va="center", fontsize=9, color=plots.RED)
        for name, verdicts in places.items():
            for i, verdict in enumerate(sorted(verdicts)):
                _mark(ax, starts[name] + 0.22 * i, y, verdict, COLOURS[name])
    return fig


def _mark(ax, x: float, y: float, verdict: str, colour: str) -> None:
    style = {"color": colour, "markersize": 7, "linestyle": "none"}
    if verdict in AGAINST:
        ax.plot(x, y, marker="x", markeredgewidth=2, **style)
    elif verdict == "partly":
        ax.plot(x, y, marker="o", fillstyle="left", markerfacecoloralt="white", **style)
    else:
        ax.plot(x, y, marker="o", markerfacecolor="white" if verdict == "not settled" else colour, **style)


def needs(
    curves: Mapping[str, Mapping[float, float]], cards: Mapping[str, float], names: Mapping[float, str]
) -> Figure:
    """`curves` is {way: {billions of weights: bytes}}, `cards` {name: bytes}, `names` {billions of weights: model}."""
    fig, (ax,) = plots.canvas(width=8.5, height=4.6)
    ax.set(xscale="log", yscale="log", xlabel="weights of the model", ylabel="to plan with, GB (log)")
    ends = {}
    for (way, by_size), colour in zip(curves.items(), (plots.RED, plots.BLUE, plots.GREEN), strict=False):
        sizes, gigabytes = list(by_size), [n / 1e9 for n in by_size.values()]
        ax.plot(sizes, gigabytes, marker="o", markersize=4, color=colour)
        ends[way] = (sizes, gigabytes, colour)
    ax.set_xlim(min(names) * 0.8, max(names) * 12)
    for name, free in cards.items():
        plots.reference(ax, free / 1e9, name)
    for way, nudge in plots.apart(ax, {w: g[-1] for w, (_, g, _) in ends.items()}).items():
        sizes, gigabytes, colour = ends[way]
        plots.label_end(ax, np.array(sizes), np.array(gigabytes), way, colour, nudge)
    ax.set_xticks(list(names), [n.replace(" ", "\n") for n in names.values()], fontsize=7)
    ax.minorticks_off()
    marks = [1, 3, 10, 30, 100, 300]
    ax.set_yticks(marks, [str(m) for m in marks])
    return fig
