"""The pictures and tables of chapter 15: bits a parameter, and where ranks leave the common curve."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_from_scratch.analysis.departure import best_of_rates, bits_each, predicted_step
from lora_from_scratch.book import plots, stats


def table_of_memories(groups: Mapping[str, Sequence[Mapping]]) -> str:
    """One row a group of results: parameters, the data's bits for each, bits stored, recall, and English afterwards."""
    rows = []
    for name, found in groups.items():
        of = lambda key, found=found: [r[key] for r in found]  # noqa: E731
        each = [r["stored"] / r["trained"] for r in found]
        unsure = [max(r["right"] - r["sure"] + r["sure_and_wrong"], 0) / r["right"] if r["right"] else 0 for r in found]
        data = f"{found[0]['data'] / found[0]['trained']:.2f}"
        meetings = stats.shown(of("stored"), 0)
        row = [name, f"{found[0]['trained']:,d}", data, meetings, stats.shown(each, 3), stats.shown(of("whole"), 2)]
        rows.append([*row, stats.shown(unsure, 2), stats.shown(of("text_loss"), 2)])
    header = ["", "trained", "data, a parameter", "bits stored", "a parameter", "whole", "unsure", "English after"]
    return stats.table(header, rows)


def constant(left: Mapping[int, float], counts: Mapping[int, int], bits: np.ndarray, steps: int) -> tuple[float, float]:
    """(c, one step for all): geometric means over the ranks that left of bits met for each parameter, and of steps.

    A rank that has not left counts as leaving at the last step, if none has.
    """
    gone = {who: step for who, step in left.items() if math.isfinite(step)} or dict.fromkeys(left, float(steps))
    each = [bits_each(step, counts[who], bits) for who, step in gone.items()]
    mean = lambda values: math.exp(sum(map(math.log, values)) / len(values))  # noqa: E731
    return mean(each), mean(list(gone.values()))


def table_of_departures(gone: Mapping, counts: Mapping[int, int], c: float, steps: int) -> str:
    """One row a rank and base: where it left, where c and 2 bits a parameter are met, and the bits met at leaving."""
    at = lambda step: f"{step:.0f}" if math.isfinite(step) else f"after {steps}"  # noqa: E731
    rows = []
    for seed, (left, bits) in gone.items():
        for who, step in left.items():
            if who not in counts or who == "copy":
                rows.append([seed, "64, a copy", f"{counts[64]:,d}", at(step), "", "", ""])
                continue
            said = [at(predicted_step(b, counts[who], bits)) for b in (c, 2)]
            each = f"{bits_each(step, counts[who], bits):.2f}" if math.isfinite(step) else ""
            rows.append([seed, who, f"{counts[who]:,d}", at(step), *said, each])
    return stats.table(["base", "rank", "trained", "left at", f"by {c:.2f} bits", "by 2 bits", "bits met, each"], rows)


def capacity(
    one: Mapping[int, Sequence], by_rank: Mapping[int, Sequence], places: Mapping[str, Sequence], few: int
) -> Figure:
    """Bits a trained parameter of rank 1 by meetings; and after `few` of them by rank and place, over parameters."""
    fig, axes = plots.canvas(2, width=11.5, height=4.4)
    for x, y, text in ((100, 1, "GPT-2, met 100 times"), (100, 1 / 1.3, "Llama"), (1000, 2, "1,000 times")):
        axes[0].plot(x, y, "x", color=plots.GREY, markersize=8, markeredgewidth=2)
        axes[0].annotate(text, (x, y), xytext=(-7, 4), textcoords="offset points", ha="right", color=plots.GREY)
    order = sorted(one)
    means, halves = zip(*(stats.interval(_each(one[count])) for count in order), strict=True)
    plots.reference(axes[0], one[few][0]["data"] / one[few][0]["trained"], "all that the data have")
    plots.band(axes[0], order, means, np.nan_to_num(halves), plots.BLUE)
    axes[0].set(xscale="log", xlabel="times that each pair was met", ylabel="bits stored, a trained parameter")
    axes[0].set(xlim=(min(order) / 6, max(2000, max(order) * 1.5)), ylim=(min(0, *means) - 0.1, 3.6), title="rank 1")
    named_ticks(axes[0], [n * 10**k for k in (0, 1, 2, 3) for n in (1, 2, 5)])
    looks = {"attention": (plots.ORANGE, "D"), "MLP": (plots.GREEN, "^")}
    marks = {f"rank {r}": (found, plots.BLUE, "o") for r, found in by_rank.items()}
    marks |= {name: (found, *looks[name]) for name, found in places.items()}
    for label, (found, colour, marker) in marks.items():
        mean, half = stats.interval(_each(found))
        x = found[0]["trained"]
        axes[1].errorbar(x, mean, yerr=np.nan_to_num(half), color=colour, marker=marker, capsize=3, markersize=6)
        axes[1].annotate(label, (x, mean), xytext=(9, 0), textcoords="offset points", color=colour, va="center")
    axes[1].set(xscale="log", xlabel="trained parameters", ylabel="bits stored, a trained parameter")
    axes[1].set_title(f"{few} meetings, 3.1 bits a parameter to store")
    axes[1].set_xlim(3000, 45000)
    axes[1].set_ylim(bottom=min(0, axes[1].get_ylim()[0]))
    named_ticks(axes[1], [5000, 10000, 20000, 40000])
    return fig


def named_ticks(ax: Axes, ticks: Sequence[float]) -> None:
    """Of `ticks`, those within the logarithmic x axis, written out."""
    low, high = ax.get_xlim()
    chosen = [tick for tick in ticks if low <= tick <= high]
    ax.set_xticks(chosen, [f"{tick:,g}" for tick in chosen])
    ax.minorticks_off()


def _each(found: Sequence[Mapping]) -> list[float]:
    return [r["stored"] / r["trained"] for r in found]


def leaving_curves(found: Mapping, gone: Mapping, counts: Mapping, c: float, width: int, seed: int) -> Figure:
    """The curves of one base with filled marks where ranks left, open ones where c bits a parameter are met."""
    fig, (ax,) = plots.canvas(1, width=8.5, height=4.8)
    left, bits = gone[seed]
    ranks = sorted(counts)
    ends, drawn = {}, {}
    for who in (*ranks, "full"):
        curve = best_of_rates([r["losses"] for r in found[seed, who]], width).mean(-1)
        x = (np.arange(len(curve)) + 0.5) * width
        colour = plots.RED if who == "full" else plots.rank_colour(who, ranks)
        ax.plot(x, curve, color=colour, linestyle="--" if who == "full" else "-")
        ends[str(who)], drawn[str(who)] = curve[-1], (x, curve, colour)
        if who in left:
            said = predicted_step(c, counts[who], bits)
            for step, face in ((left[who], colour), (said, "white")):
                if x[0] <= step <= x[-1]:
                    ax.plot(
                        step,
                        np.interp(math.log(step), np.log(x), curve),
                        "o",
                        color=colour,
                        markerfacecolor=face,
                        markersize=8,
                    )
    ax.set(xscale="log", xlabel="step", ylabel="loss of text not met before (nats a character)")
    named_ticks(ax, [1, 2, 5, 10, 20, 50, 100, 200, 500])
    nudges = plots.apart(ax, ends)
    for name, (x, curve, colour) in drawn.items():
        plots.label_end(ax, x, curve, name if name == "full" else f"rank {name}", colour, dy=nudges[name])
    return fig
