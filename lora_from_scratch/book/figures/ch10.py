"""The pictures of chapter 10: a planted direction, counts beside their null, and the two conventions."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from lora_from_scratch.book import plots, stats

COLOURS = {"full": plots.BLACK, "rank 4": plots.SKY, "rank 64": plots.BLUE}


def toy(lambdas: torch.Tensor, likeness: torch.Tensor, tenth: float, band: tuple[float, float]) -> Figure:
    """The best likeness of the ten leading vectors, (lambdas, 10), over λ / σ1; `tenth` is σ10 / σ1."""
    fig, (ax,) = plots.canvas(width=7.5)
    ax.axhspan(*band, color="#DDDDDD", label="two random bases")
    for j in range(likeness.shape[1]):
        colour = plots.RED if j == 0 else plots.GREY
        label = {0: "the leading vector of W1", 1: "the next nine"}.get(j)
        ax.plot(lambdas, likeness[:, j], ".", color=colour, markersize=4, label=label)
    ax.axhline(0.5, color=plots.BLACK, linestyle="--", linewidth=1, label="ε = 0.5")
    ax.axvline(tenth, color=plots.BLUE, linewidth=1, label="λ = σ10 of W0")
    ax.axvline(1, color=plots.BLUE, linewidth=1, linestyle=":", label="λ = σ1 of W0")
    ax.set(xlabel="λ / σ1", ylabel="best likeness with the vectors of W0", ylim=(0, 1.03))
    ax.legend(loc="lower left", fontsize=8)
    return fig


def counts(ten: Sequence[Mapping], first: Sequence[Mapping], tasks: Sequence[str], labels: Sequence[str]) -> Figure:
    """Two rows (ten vectors, the leading one) of a panel a task: trained, filled, and its null, hollow.

    `ten` and `first` are each (trained, null), {(task, label): [one a seed]}.
    """
    plots.plt.rcParams.update(plots.STYLE)
    fig, axes = plots.plt.subplots(2, len(tasks), figsize=(11, 7), layout="constrained", sharey="row")
    for row, both in zip(axes, (ten, first), strict=True):
        for ax, task in zip(row, tasks, strict=True):
            own = [label for label in labels if (task, label) in both[0]]
            for of, shift, face in ((both[0], -0.1, plots.BLUE), (both[1], 0.1, "white")):
                means, halves = zip(*(stats.interval(of[task, label]) for label in own), strict=True)
                ax.errorbar(np.arange(len(own)) + shift, means, yerr=np.nan_to_num(halves), linestyle="none",
                            marker="o", color=plots.BLUE, markerfacecolor=face, capsize=3,
                            label="trained" if shift < 0 else "random, the same singular values")  # fmt: skip
            ax.set(xticks=range(len(own)), title=task, ylim=(-0.05, 1.08) if both is first else (-0.2, None))
            ax.set_xticklabels([label.replace(", ", ",\n") for label in own], fontsize=8, rotation=30)
    axes[0][0].set_ylabel("intruders a matrix, of ten")
    axes[1][0].set_ylabel("share of leading vectors that are one")
    axes[0][0].legend(fontsize=8)
    return fig


def conventions(
    curves: Sequence[Mapping], epsilons: Sequence[float], ks: Sequence[int], below: Sequence[float]
) -> Figure:
    """Counts over ε and over k; `curves` is (trained, null), {label: (over ε, over k)}; `below` the random share."""
    fig, axes = plots.canvas(2, width=10.5, height=4.2)
    for of, style in zip(curves, ("-", "--"), strict=True):
        for label, both in of.items():
            for ax, x, y in zip(axes, (epsilons, ks), both, strict=True):
                name = label if style == "-" else f"{label}, null"
                ax.plot(x, y, style, color=COLOURS[label], marker="o", markersize=3, label=name)
    certain = min((e for e, share in zip(epsilons, below, strict=True) if share > 0.99), default=epsilons[-1])
    axes[0].axvline(certain, color=plots.GREY, linewidth=1)
    axes[0].set(xlabel="ε", ylabel="intruders a matrix, of ten")
    axes[1].set(xlabel="k, how many leading vectors are looked at", ylabel="intruders a matrix (ε = 0.5)")
    axes[0].legend(fontsize=8)
    return fig
