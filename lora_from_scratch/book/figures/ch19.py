"""The pictures of chapter 19: five ways to serve a batch, and where the bank pays."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats

COLOURS = {
    "bank": plots.BLUE,
    "loop": plots.ORANGE,
    "one by one": plots.PURPLE,
    "merge, then run": plots.RED,
    "merged copies": plots.GREEN,
}
Ratios = Sequence[float]  # one a session


def ways(
    curves: Mapping[int, Mapping[str, Mapping[int, Ratios]]], again: Mapping[int, Ratios], counts: Sequence[int]
) -> Figure:
    """`curves` is {tokens a row: {way: {adapters: ratios}}}, `again` the base timed twice, by tokens a row."""
    fig, axes = plots.canvas(len(curves), width=10.5, height=4.4)
    for ax, (tokens, by_way) in zip(axes, curves.items(), strict=True):
        mean, half = stats.interval(again[tokens])
        ax.axhspan(mean - half, mean + half, color="#DDDDDD")
        ax.axhline(1, color=plots.BLACK, linewidth=1)
        ax.set(xscale="log", yscale="log", xlabel="adapters in the batch", xlim=(0.85 * counts[0], counts[-1] * 4.5))
        ends = {}
        for way, by_count in by_way.items():
            means, halves = zip(*(stats.interval(by_count[n]) for n in counts), strict=True)
            plots.band(ax, counts, means, halves, COLOURS[way])
            ends[way] = means[-1]
        for way, nudge in plots.apart(ax, ends).items():
            plots.label_end(ax, np.array(counts), np.array([ends[way]]), way, COLOURS[way], nudge)
        ax.set_xticks(counts, counts)
        ax.minorticks_off()
        _plain_ticks(ax)
        ax.set_title(f"{tokens} token{'s' * (tokens > 1)} a row")
    axes[0].set_ylabel("time over the plain base's (log)")
    return fig


def pays(ratios: Mapping[int, Mapping[int, Mapping[int, Ratios]]]) -> Figure:
    """`ratios` is {tokens a row: {rank: {adapters: the bank's time over the faster other's}}}."""
    fig, axes = plots.canvas(len(ratios), width=10.5, height=3.8, sharey=True)
    for ax, (tokens, by_rank) in zip(axes, ratios.items(), strict=True):
        ax.axhline(1, color=plots.BLACK, linewidth=1)
        ax.set(xscale="log", yscale="log", xlabel="adapters in the batch")
        ranks, ends = list(by_rank), {}
        for rank, by_count in by_rank.items():
            counts = list(by_count)
            means, halves = zip(*(stats.interval(values) for values in by_count.values()), strict=True)
            colour = plots.rank_colour(rank, ranks)
            plots.band(ax, counts, means, halves, colour)
            ends[f"rank {rank}"] = (means[-1], colour)
        for name, nudge in plots.apart(ax, {n: end for n, (end, _) in ends.items()}).items():
            mean, colour = ends[name]
            off = 9 if abs(np.log(mean)) < 0.06 else 0  # not on the line at 1
            plots.label_end(ax, np.array(counts), np.array([mean]), name, colour, nudge + off)
        ax.set_xticks(counts, counts)
        ax.set_xlim(0.8 * counts[0], counts[-1] * 4)
        ax.minorticks_off()
        ax.set_title(f"{tokens} token{'s' * (tokens > 1)} a row")
    _plain_ticks(axes[0])
    axes[0].set_ylabel("bank over the faster other (log)")
    return fig


def _plain_ticks(ax) -> None:
    """Marks of a logarithmic axis where a reader looks for them, in plain numbers."""
    low, high = ax.get_ylim()
    near = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100)
    marks = [m for m in near if low <= m <= high]
    ax.set_yticks(marks, [f"{m:g}" for m in marks])
