"""The pictures and tables of chapter 17: predicted and found rates of starts, and their valleys."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats
from lora_from_scratch.lab.sweep import Tuned

LOOKS = {
    "plain": (plots.BLACK, "o"),
    "PiSSA": (plots.BLUE, "s"),
    "MiLoRA": (plots.ORANGE, "D"),
    "random, large": (plots.SKY, "^"),
    "random, small": (plots.RED, "v"),
}


def table_of_predictions(
    at: Mapping, predicted: Callable, tasks: Mapping[str, Sequence[str]], seeds: Sequence[int]
) -> str:
    """One row a task and start: both ends of the spectrum, the first step, and the two predicted rates over plain."""
    rows = []
    for task, start in [(task, start) for task, some in tasks.items() for start in some]:
        of = lambda name, at=at, task=task, start=start: [at[task, start, s][name] for s in seeds]  # noqa: E731
        rate = lambda by, task=task, start=start: [predicted(task, start, s, by) for s in seeds]  # noqa: E731
        ends = (stats.shown(of("curvature"), 2), stats.shown(of("smallest"), 2), stats.shown(of("step"), 0))
        rows.append([task, start, *ends, stats.shown(rate("curvature"), 2), stats.shown(rate("step"), 2)])
    header = ["task", "start", "λ", "smallest", "first step", "rate over plain's, by λ", "by the step"]
    return stats.table(header, rows)


def order_of(at: Mapping, best: Mapping, starts: Sequence[str], by: str, seed: int, task: str = "rot13") -> float:
    """Spearman's correlation of the found rates of the starts on a base and those predicted from 1 / `by`."""
    return stats.spearman([1 / at[task, start, seed][by] for start in starts], [best[start, seed] for start in starts])


def shuffled_orders(count: int) -> list[float]:
    """Spearman's correlation of every order of `count` things with the right one."""
    right = range(count)
    return [stats.spearman(list(right), list(order)) for order in itertools.permutations(right)]


def mean_miss(
    predicted: Callable, best: Mapping, starts: Sequence[str], by: str | None, seed: int, task: str = "rot13"
) -> float:
    """By how many octaves the predicted rates miss those found, beside the plain start's; `by` None predicts its."""
    others = [start for start in starts if start != "plain"]
    ratios = [(best[s, seed] / best["plain", seed], 1 if by is None else predicted(task, s, seed, by)) for s in others]
    return float(np.mean([abs(math.log2(found / said)) for found, said in ratios]))


def shuffled_miss(
    predicted: Callable, best: Mapping, starts: Sequence[str], by: str, seed: int, task: str = "rot13"
) -> float:
    """`mean_miss` of predictions dealt out to the starts at random: the mean over all ways to deal them."""
    others = [start for start in starts if start != "plain"]
    found = [math.log2(best[start, seed] / best["plain", seed]) for start in others]
    said = [math.log2(predicted(task, start, seed, by)) for start in others]
    return float(np.mean([abs(f - p) for f in found for p in said]))  # each of the predictions is dealt equally often


def rates(at: Mapping, best: Mapping, predicted: Callable, starts: Sequence[str], seeds: Sequence[int]) -> Figure:
    """Found over predicted rates, both over the plain start's: by the curvature, and by Adam's first step."""
    fig, axes = plots.canvas(2, width=10, height=4.6, sharex=True, sharey=True)
    every = [1.0]
    for ax, (by, title) in zip(axes, (("curvature", "by 1 / λ"), ("step", "by Adam's first step")), strict=True):
        for start in starts:
            x = [predicted("rot13", start, s, by) for s in seeds]
            y = [best[start, s] / best["plain", s] for s in seeds]
            colour, marker = LOOKS[start]
            ax.plot(x, y, linestyle="none", color=colour, marker=marker, markersize=7, label=start)
            every += x + y
        ax.set(title=title, xlabel="predicted best rate, over the plain start's")
    ends = (min(every) / 1.4, max(every) * 1.4)
    for ax in axes:
        ax.plot(ends, ends, color=plots.GREY, linestyle="--", linewidth=1)
        ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        low, high = math.floor(math.log2(ends[0])), math.ceil(math.log2(ends[1]))
        ticks = [2.0**k for k in range(low, high + 1) if ends[0] <= 2.0**k <= ends[1]]
        names = [f"{t:g}" if t >= 1 else f"1/{1 / t:g}" for t in ticks]
        ax.set_xticks(ticks, names)
        ax.set_yticks(ticks, names)
        ax.minorticks_off()
    axes[0].set_ylabel("found best rate, over the plain start's")
    axes[1].legend(fontsize=8, loc="lower right")
    return fig


def valleys(
    tuned: Mapping[str, Mapping[str, Tuned]], beside: Mapping, own: Mapping, shared: Mapping, starts: Sequence[str]
) -> Figure:
    """The sweeps of both tasks on one base, and on the other bases three rates a start."""
    fig, axes = plots.canvas(3, width=13, height=4.4)
    for ax, (task, methods) in zip(axes, tuned.items(), strict=False):
        for start, method in methods.items():
            tried = method.tried or {method.run.lr: float(np.mean(method.values("task_loss")))}
            _valley(ax, start, sorted(tried), [tried[rate] for rate in sorted(tried)])
        swept = all(method.tried for method in methods.values())
        ax.set(title=f"{task}: {'the sweep, one base' if swept else 'at rates known before'}")
    for start in starts:
        rate, factors = tuned["rot13"][start].run.lr, sorted(f for s, f in beside if s == start)
        x = [rate * factors[0], rate, rate * factors[1]]
        at_each = (beside[start, factors[0]], own[start], beside[start, factors[1]])
        _valley(axes[2], start, x, [float(np.mean(values)) for values in at_each])
    for start, values in shared.items():
        colour, marker = LOOKS[start]
        axes[2].plot(tuned["rot13"]["plain"].run.lr, np.mean(values), marker, color=colour, markerfacecolor="white")
    axes[2].set(title="rot13: the bases that judge")
    for ax in axes:
        ax.set(xscale="log", xlabel="learning rate")
        _cut(ax)
        low, high = ax.get_xlim()
        ticks = [
            rate for rate in (0.0003, 0.001, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.3) if low <= rate <= high
        ]
        few = ticks if high / low < 30 else [rate for rate in ticks if rate not in (0.005, 0.02, 0.05)]
        ax.set_xticks(few, [f"{rate:g}" for rate in few])
        ax.minorticks_off()
    axes[0].set_ylabel("loss (nats a character)")
    axes[2].legend(fontsize=8)
    return fig


def _valley(ax: Axes, start: str, x: Sequence[float], y: Sequence[float]) -> None:
    colour, marker = LOOKS[start]
    dashes = "--" if start.startswith("random") else "-"
    ax.plot(x, y, color=colour, marker=marker, markersize=5, linestyle=dashes, label=start)


def _cut(ax: Axes) -> None:
    """Let a diverged run not flatten the valleys: the axis ends at 1.5 times the least loss."""
    found = [v for line in ax.get_lines() for v in np.atleast_1d(line.get_ydata()) if np.isfinite(v)]
    if found:
        ax.set_ylim(min(found) * 0.97, min(max(found) * 1.03, min(found) * 1.5))
