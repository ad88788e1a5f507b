"""Comparisons that are honest about the learning rate: every method gets its own best one, at the same cost.

A learning rate that suits one method may ruin another, so a comparison at one shared rate says little. Here every
method tries the same number of rates, first on a log grid, then further out wherever its best lies at an edge, then
between its best and its neighbours. A method whose best still lies at an edge gives *all* methods one more try, up to
twice the budget; if it lies there even then, it is reported as unfinished. The rate is chosen on seed 0 by
`tune_loss`; the losses reported come from other seeds and other windows of text.
"""

import math
from dataclasses import dataclass, replace

from lora_from_scratch.lab.finetune import Run
from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.workers import carry_out_all

GRID = tuple(10 ** (k / 2) for k in (-6, -5, -4, -3))  # 0.001, 0.0032, 0.01, 0.032


@dataclass(frozen=True)
class Tuned:
    """A method at its best learning rate: `run` holds the rate, `results` one entry a seed (see `fine_tune`).

    `tried` maps each rate tried to its tuning loss, and is empty where the rate was known; `finished` is False where
    the best of them is at an edge. `resolution` is the factor to the farther of the best one's neighbours: the true
    optimum may lie anywhere between them. It is NaN where the rate was known.
    """

    label: str
    run: Run
    tried: dict[float, float]
    finished: bool
    results: list[dict]

    @property
    def resolution(self) -> float:
        """The factor within which the best rate is known; infinite at an edge, NaN where nothing was tried."""
        if not self.tried:
            return math.nan
        rates, best = sorted(self.tried), self.run.lr
        if not min(rates) < best < max(rates):
            return math.inf
        place = rates.index(best)
        return max(rates[place + 1] / best, best / rates[place - 1])

    def ties(self, margin: float) -> list[float]:
        """The rates tried whose tuning loss is within `margin` of the best one's, rising: they are not told apart."""
        least = min((loss for loss in self.tried.values() if not math.isnan(loss)), default=math.nan)
        return sorted(rate for rate, loss in self.tried.items() if loss <= least + margin)

    def values(self, name: str) -> list[float]:
        """One entry of every seed's result, such as `task_loss`."""
        return [result[name] for result in self.results]


def next_rates(tried: dict[float, float]) -> list[float]:
    """Where to look next: beyond the best rate if it is at an edge, else half way (in log) to both its neighbours."""
    rates = sorted(tried)
    best = rates.index(best_rate(tried))
    if best == 0:
        return [rates[0] * rates[0] / rates[1]]
    if best == len(rates) - 1:
        return [rates[-1] * rates[-1] / rates[-2]]
    sides = sorted((rates[best - 1], rates[best + 1]), key=lambda rate: (math.isnan(tried[rate]), tried[rate]))
    return [math.sqrt(rates[best] * side) for side in sides]


def best_rate(tried: dict[float, float]) -> float:
    """The rate of the smallest loss; of several, the smallest rate. A loss that is NaN is the largest of all."""
    return min(tried, key=lambda rate: (math.isnan(tried[rate]), tried[rate], rate))


def bracketed(tried: dict[float, float]) -> bool:
    """Whether the best rate has a worse one on either side."""
    return min(tried) < best_rate(tried) < max(tried)


def sweep(methods: dict[str, Run], preset: Preset, grid: tuple[float, ...] = GRID) -> dict[str, dict[float, float]]:
    """{label: {rate: tuning loss}}, the same number of rates for every method.

    Raises ValueError for a grid of fewer than 3 rates, or one that is not rising and positive.
    """
    if len(grid) < 3 or grid[0] <= 0 or any(a >= b for a, b in zip(grid, grid[1:], strict=False)):
        raise ValueError(f"grid is {grid}; give at least 3 positive, rising learning rates")
    tried: dict[str, dict[float, float]] = {label: {} for label in methods}
    budget = max(len(grid), preset.budget)
    at_most = 2 * budget
    while True:
        jobs = []
        for label in methods:
            rates = next_rates(tried[label]) if tried[label] else list(grid)
            jobs += [(label, rate) for rate in rates[: budget - len(tried[label])]]
        runs = [replace(methods[label], lr=rate, seed=0, keep=False, snapshots=0) for label, rate in jobs]
        for (label, rate), result in zip(jobs, carry_out_all(runs, preset), strict=True):
            tried[label][rate] = result["tune_loss"]
        if all(len(rates) >= budget for rates in tried.values()):
            if budget >= at_most or all(map(bracketed, tried.values())):
                return tried
            budget += 1


def told_apart(first: Tuned, second: Tuned) -> bool:
    """Whether the best rates of two methods differ by more than both resolutions: else they are a tie of the grid."""
    ratio = max(first.run.lr, second.run.lr) / min(first.run.lr, second.run.lr)
    return ratio > first.resolution * second.resolution * (1 + 1e-9)  # NaN: a rate that was not tuned settles nothing


def compare(
    methods: dict[str, Run], preset: Preset, known: dict[str, float] | None = None, grid: tuple[float, ...] = GRID
) -> dict[str, Tuned]:
    """Every method at its own best learning rate, over the preset's seeds: the same seeds for all.

    Args:
        methods: {label: run}; the runs' own `lr` and `seed` are replaced.
        known: rates found before, {label: rate}. Used only where the preset's budget is 0 and every label has one.
    """
    if preset.budget == 0 and known and set(methods) <= set(known):
        tried = {label: {} for label in methods}
        best, finished = {label: known[label] for label in methods}, dict.fromkeys(methods, True)
    else:
        tried = sweep(methods, preset, grid)
        best = {label: best_rate(tried[label]) for label in methods}
        finished = {label: bracketed(tried[label]) for label in methods}
    runs = [replace(run, lr=best[label], seed=1 + s) for label, run in methods.items() for s in range(preset.seeds)]
    results = carry_out_all(runs, preset)
    tuned = {}
    for i, (label, run) in enumerate(methods.items()):
        own = results[i * preset.seeds : (i + 1) * preset.seeds]
        tuned[label] = Tuned(label, replace(run, lr=best[label]), tried[label], finished[label], own)
    return tuned
