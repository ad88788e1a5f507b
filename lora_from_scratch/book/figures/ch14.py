"""The pictures and tables of chapter 14: best rates over widths and lengths, and gaps by batch."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats

LOOKS = {"rot13": (plots.BLUE, "o", "far"), "cipher-6": (plots.ORANGE, "s", "near")}
ARMS = {  # what is drawn of the batches: (method, way, colour, dashes, marker)
    "rank 16": ("rank 16", "tokens", plots.BLUE, "-", "o"),
    "rank 64": ("rank 64", "tokens", plots.SKY, "-", "^"),
    "both begun": ("both begun", "tokens", plots.ORANGE, "-", "D"),
    "rank 16, equal steps": ("rank 16", "steps", plots.BLUE, "--", "o"),
}


def table_of_rates(cells: Mapping, best: Mapping, seeds: Sequence[int]) -> str:
    """One row a run: the geometric mean of the bases' best rates, and the factor that its 95 % interval spans."""
    rows = []
    for cell in cells:
        task, width, steps, rank, alpha = cell
        mean, half = stats.interval([math.log2(best[cell, seed]) for seed in seeds])
        name = "full" if rank is None else f"rank {rank}, alpha {alpha}"
        factor = "" if math.isnan(half) else f"×÷ {2**half:.2f}"
        rows.append([task, width, steps, name, f"{2**mean:.4f}", factor])
    return stats.table(["task", "width", "steps", "method", "best rate", ""], rows)


def ratio_by_width(
    ratio: Callable, tasks: Sequence[str], widths: Sequence[int], seeds: Sequence[int], real: float
) -> Figure:
    """The ratio of best rates over the width, beside 10 and hidden / 2α, and the pretrained model's."""
    fig, (ax,) = plots.canvas(1, width=8, height=4.6)
    ends = np.array([min(widths) / 1.3, 900])
    ax.plot(ends, ends / 64, color=plots.GREY, linestyle="--", linewidth=1.2)
    ax.axhline(10, color=plots.GREY, linestyle="--", linewidth=1.2)
    ax.annotate("hidden / 2α", (ends[0] * 1.15, ends[0] * 1.15 / 64), xytext=(8, -4), textcoords="offset points",
                color=plots.GREY, va="top")  # fmt: skip
    ax.annotate("10 ×", (ends[0], 10), xytext=(2, 4), textcoords="offset points", color=plots.GREY)
    heights = {}
    for i, task in enumerate(tasks):
        colour, marker, name = LOOKS[task]
        logs = [stats.interval([math.log2(ratio(task, w, seed=k)) for k in seeds]) for w in widths]
        x = np.array(widths) * (1 + 0.03 * i)
        _bars(ax, x, logs, colour, marker)
        heights[name] = (x, 2 ** logs[-1][0], colour)
    for name, (x, y, colour) in heights.items():
        plots.label_end(ax, x, [y] * len(x), f"{name} task", colour)
    ax.plot(576, real, "D", color=plots.PURPLE, markerfacecolor="white", markersize=7)
    ax.annotate("pretrained, one seed", (576, real), xytext=(-9, 12), textcoords="offset points", color=plots.PURPLE,
                ha="right")  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="width of the model", ylabel="LoRA's best rate over full's", xlim=ends)
    ax.set_ylim(0.4, 100)
    ax.set_xticks([*widths, 576], [str(w) for w in (*widths, 576)])
    ax.set_yticks([0.5, 1, 2, 5, 10, 20, 50], ["0.5", "1", "2", "5", "10", "20", "50"])
    ax.minorticks_off()
    return fig


def _bars(ax: Axes, x: Sequence[float], logs: Sequence[tuple[float, float]], colour, marker: str, dashes="-") -> None:
    """A line through means of base-2 logarithms, with their intervals, on a logarithmic axis."""
    mean, half = np.array([m for m, _ in logs]), np.nan_to_num([h for _, h in logs])
    y = 2**mean
    ax.errorbar(x, y, yerr=[y - 2 ** (mean - half), 2 ** (mean + half) - y], color=colour, marker=marker, capsize=3,
                markersize=6, linestyle=dashes)  # fmt: skip


def exponents(fits: Mapping, ratios: Mapping, lengths: Sequence[int]) -> Figure:
    """The exponents of s and r by length, beside the limits; the ratio of best rates by length, beside 15 and 10."""
    fig, axes = plots.canvas(2, width=12, height=4.6)
    for level, text in ((-1, "1 / s: a short run"), (-0.5, "1 / √s: a long run")):
        axes[0].axhline(level, color=plots.GREY, linestyle="--", linewidth=1.2)
        axes[0].annotate(text, (0.99, level), xycoords=("axes fraction", "data"), xytext=(0, 3), ha="right",
                         textcoords="offset points", color=plots.GREY, fontsize=9)  # fmt: skip
    tasks = list(dict.fromkeys(task for task, _ in fits))
    for i, task in enumerate(tasks):
        colour, _, name = LOOKS[task]
        for column, (marker, dashes, what) in enumerate((("o", "-", "s"), ("^", ":", "r"))):
            y = [stats.interval(list(fits[task, n][:, column])) for n in lengths]
            x = np.array(lengths) * (1 + 0.06 * i)
            axes[0].errorbar(x, [m for m, _ in y], yerr=np.nan_to_num([h for _, h in y]), color=colour, marker=marker,
                             linestyle=dashes, markersize=5, capsize=3)  # fmt: skip
            axes[0].annotate(f"{what}, {name}", (x[0], y[0][0]), xytext=(-6, 0), textcoords="offset points", ha="right",
                             va="center", color=colour, fontsize=9)  # fmt: skip
    axes[0].set(ylabel="exponent of the best rate", title="exponents of s (dots) and r (triangles)", ylim=(-1.12, 0.05))
    for level, text in ((15, "15, short runs"), (10, "10")):
        plots.reference(axes[1], level, text)
    for i, task in enumerate(tasks):
        colour, marker, name = LOOKS[task]
        logs = [stats.interval([math.log2(v) for v in ratios[task, n]]) for n in lengths]
        x = np.array(lengths) * (1 + 0.06 * i)
        _bars(axes[1], x, logs, colour, marker)
        plots.label_end(axes[1], x, [2 ** logs[-1][0]] * len(x), f"{name} task", colour, dy=7 * (1 - 2 * i))
    axes[1].set(yscale="log", ylabel="LoRA's best rate over full's", ylim=(0.4, 25), title="the ratio")
    axes[1].set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    for ax in axes:
        ax.set(xscale="log", xlabel="steps of the run")
        ax.set_xlim(lengths[0] / 2.2, lengths[-1] * (6 if ax is axes[0] else 2.2))
        ax.set_xticks(list(lengths), [str(n) for n in lengths])
        ax.minorticks_off()
    return fig


def table_of_batches(losses: Callable, tasks: Sequence[str], methods: Sequence[str], batches: Sequence[int]) -> str:
    """One row a task and method: its loss at each batch, at equal tokens, and then at equal steps where it was run."""
    rows = []
    for task in tasks:
        for method in methods:
            row = [stats.shown(list(losses(task, method, b)), 3) for b in batches]
            both = method in ("full", "rank 16", "rank 64")
            row += [
                stats.shown(list(losses(task, method, b, "steps")), 3) if both else ""
                for b in (batches[0], batches[-1])
            ]
            rows.append([task, method, *row])
    head = [f"batch {b}" for b in batches] + [f"batch {b}, equal steps" for b in (batches[0], batches[-1])]
    return stats.table(["task", "method", *head], rows)


def gaps(losses: Callable, tasks: Sequence[str], batches: Sequence[int]) -> Figure:
    """LoRA's loss less full fine-tuning's by batch, at equal tokens and at equal steps."""
    fig, axes = plots.canvas(len(tasks), width=6 * len(tasks) + 1, height=4.6, sharey=True)
    for ax, task in zip(axes, tasks, strict=True):
        ends = {}
        for i, (name, (method, way, colour, dashes, marker)) in enumerate(ARMS.items()):
            y = [stats.interval(list(losses(task, method, b, way) - losses(task, "full", b, way))) for b in batches]
            means, halves = [m for m, _ in y], [h for _, h in y]
            x = np.array(batches) * (1 + 0.05 * (i - 1.5))
            ax.errorbar(x, means, yerr=np.nan_to_num(halves), color=colour, linestyle=dashes, marker=marker,
                        capsize=3, markersize=5)  # fmt: skip
            ends[name] = (means[-1], colour)
        ax.axhline(0, color=plots.GREY, linewidth=1)
        ax.set(xscale="log", xlabel="batch (windows)", title=f"the {LOOKS[task][2]} task", xlim=(3.2, 300))
        ax.set_xticks(list(batches), [str(b) for b in batches])
        ax.minorticks_off()
        nudges = plots.apart(ax, {name: height for name, (height, _) in ends.items()})
        for name, (height, colour) in ends.items():
            plots.label_end(ax, np.array(batches) * 1.1, [height] * len(batches), name, colour, nudges[name])
    axes[0].set_ylabel("loss less full's (nats a character)")
    return fig
