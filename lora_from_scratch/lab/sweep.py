"""Comparisons that are honest about the learning rate: every method gets its own best one, at the same cost.

A learning rate that suits one method may ruin another, so a comparison at one shared rate says little. Here every
method tries the same number of rates, first on a log grid, then further out wherever its best lies at an edge, then
between its best and its neighbours. A method whose best still lies at an edge gives *all* methods one more try, up to
twice the budget; if it lies there even then, it is reported as unfinished. The rate is chosen on seed 0 by
`tune_loss`; the losses reported come from other seeds and other windows of text.
"""

import math
from collections.abc import Callable, Sequence
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


def search(
    grids: dict[str, Sequence[float]], budget: int, losses_of: Callable[[list[tuple[str, float]]], list[float]]
) -> dict[str, dict[float, float]]:
    """{label: {rate: tuning loss}}, the same number of rates for every label: those of its grid, then `next_rates`.

    `losses_of` gives the tuning losses of several (label, rate). Each label tries `budget` rates, or all of them one
    more, up to twice as many, while a best one lies at an edge. Raises ValueError for a grid of fewer than 3 rates, or
    one that is not rising and positive.
    """
    for label, grid in grids.items():
        if len(grid) < 3 or grid[0] <= 0 or any(a >= b for a, b in zip(grid, grid[1:], strict=False)):
            raise ValueError(f"{label}: grid is {grid}; give at least 3 positive, rising learning rates")
    tried: dict[str, dict[float, float]] = {label: {} for label in grids}
    at_most = 2 * budget
    while True:
        jobs = []
        for label, found in tried.items():
            rates = next_rates(found) if found else list(grids[label])
            jobs += [(label, rate) for rate in rates[: budget - len(found)]]
        for (label, rate), loss in zip(jobs, losses_of(jobs), strict=True):
            tried[label][rate] = loss
        if all(len(rates) >= budget for rates in tried.values()):
            if budget >= at_most or all(map(bracketed, tried.values())):
                return tried
            budget += 1


def sweep(methods: dict[str, Run], preset: Preset, grid: tuple[float, ...] = GRID) -> dict[str, dict[float, float]]:
    """`search` for runs of the tiny model: one grid for all, and the preset's budget."""

    def losses_of(jobs: list[tuple[str, float]]) -> list[float]:
        runs = [replace(methods[label], lr=rate, seed=0, keep=False, snapshots=0) for label, rate in jobs]
        return [result["tune_loss"] for result in carry_out_all(runs, preset)]

    return search(dict.fromkeys(methods, grid), max(len(grid), preset.budget), losses_of)


def judged(
    methods: dict,
    tried: dict[str, dict[float, float]],
    known: dict[str, float] | None,
    seeds: int,
    results_of: Callable[[list], list[dict]],
) -> dict[str, Tuned]:
    """Every method at the best of the rates `tried`, or at its `known` one where none was, over the seeds 1 to `seeds`.

    `results_of` gives the results of a list of runs.
    """
    runs = {
        label: replace(run, lr=best_rate(tried[label]) if tried[label] else known[label])
        for label, run in methods.items()
    }
    results = results_of([replace(run, seed=1 + s) for run in runs.values() for s in range(seeds)])
    of = {label: results[i * seeds : (i + 1) * seeds] for i, label in enumerate(runs)}
    return {
        label: Tuned(label, run, tried[label], not tried[label] or bracketed(tried[label]), of[label])
        for label, run in runs.items()
    }


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
    use_known = preset.budget == 0 and known and set(methods) <= set(known)
    tried = {label: {} for label in methods} if use_known else sweep(methods, preset, grid)
    return judged(methods, tried, known, preset.seeds, lambda runs: carry_out_all(runs, preset))
