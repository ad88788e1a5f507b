"""How the book draws: one look, colours that colour-blind readers tell apart, labels on the lines themselves.

Figures have a white ground of their own, so they read the same on a light page and on a dark one.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# The palette of Okabe and Ito (2008), made to be told apart by colour-blind readers.
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY = "#767676"

STYLE = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 130,
    "figure.dpi": 110,
    "savefig.bbox": "tight",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "lines.linewidth": 1.8,
    "legend.frameon": False,
}


def canvas(columns: int = 1, width: float = 7.0, height: float = 4.0, **options) -> tuple[Figure, list[Axes]]:
    """A figure with `columns` panels side by side, in the book's style. Takes the options of plt.subplots."""
    plt.rcParams.update(STYLE)
    fig, axes = plt.subplots(1, columns, figsize=(width, height), layout="constrained", squeeze=False, **options)
    return fig, list(axes[0])


def rank_colour(rank: int, ranks: list[int]) -> tuple:
    """A colour that darkens with the rank, on a map that reads in grey too."""
    place = sorted(ranks).index(rank) / max(1, len(ranks) - 1)
    return plt.get_cmap("viridis")(0.85 - 0.75 * place)


def label_end(ax: Axes, x: np.ndarray, y: np.ndarray, text: str, colour, dy: float = 0.0) -> None:
    """Write a line's name beside its last point."""
    ax.annotate(text, (x[-1], y[-1]), xytext=(5, dy), textcoords="offset points", color=colour, va="center", fontsize=9)


def apart(ax: Axes, heights: dict[str, float], gap: float = 11) -> dict[str, float]:
    """{name: height} -> {name: nudge in points}, so that labels at these heights do not lie on each other."""
    ax.figure.canvas.draw()  # so that the axes have their final size
    at = {name: ax.transData.transform((1, y))[1] * 72 / ax.figure.dpi for name, y in heights.items()}
    nudges, floor = {}, float("-inf")
    for name in sorted(at, key=at.get):
        nudges[name] = max(at[name], floor) - at[name]
        floor = at[name] + nudges[name] + gap
    return nudges


def reference(ax: Axes, value: float, text: str, colour=GREY) -> None:
    """A dashed horizontal line at a reference value, named on the line."""
    ax.axhline(value, color=colour, linestyle="--", linewidth=1.2)
    ax.annotate(text, (0.01, value), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
                color=colour, fontsize=9)  # fmt: skip


def band(ax: Axes, x, means, halves, colour, **options) -> None:
    """A line through `means` with its 95 % intervals as bars (none where there is a single seed)."""
    ax.errorbar(x, means, yerr=np.nan_to_num(halves), color=colour, marker="o", markersize=4, capsize=3, **options)
