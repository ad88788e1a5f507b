"""The sweep of sweep.py for lessons of a real model, which are carried out one at a time and cost minutes.

The rules are the same: every method tries as many rates as the others, on seed 0, first those of its grid; as long as a
best one lies at an edge, all get one more, up to twice as many; and the losses reported come from other seeds. But each
method has a grid of its own, around the rates that suit its kind, so that three rates can be enough.
"""

from dataclasses import replace

from lora_from_scratch.lab.adapt import Lesson, carry_out
from lora_from_scratch.lab.checkpoint import Checkpoint
from lora_from_scratch.lab.sweep import Tuned, best_rate, bracketed, next_rates


def tune(
    methods: dict[str, Lesson],
    grids: dict[str, tuple[float, ...]],
    checkpoint: Checkpoint,
    seeds: int,
    known: dict[str, float] | None = None,
) -> dict[str, Tuned]:
    """Every method at its own best learning rate, over the seeds 1 to `seeds`.

    Args:
        methods: {label: lesson}; the lessons' own `lr` and `seed` are replaced.
        grids: {label: rising rates}, at least 3 for each, and equally many.
        known: rates found before, {label: rate}: with one for every method, none is tried.

    Raises ValueError for grids of other methods, of unequal length, or of fewer than 3 rates.
    """
    if grids.keys() != methods.keys() or len({len(grid) for grid in grids.values()}) != 1:
        raise ValueError(f"grids are for {', '.join(grids)}; give each of {', '.join(methods)} one, equally long")
    if any(len(grid) < 3 or list(grid) != sorted(set(grid)) for grid in grids.values()):
        raise ValueError(f"grids are {grids}; give each method at least 3 rising rates")
    tried: dict[str, dict[float, float]] = {label: {} for label in methods}
    if known and set(methods) <= set(known):
        best, finished = {label: known[label] for label in methods}, dict.fromkeys(methods, True)
    else:
        tried = _tried(methods, grids, checkpoint)
        best = {label: best_rate(found) for label, found in tried.items()}
        finished = {label: bracketed(found) for label, found in tried.items()}
    runs = {label: replace(lesson, lr=best[label]) for label, lesson in methods.items()}
    results = carry_out([replace(run, seed=1 + s) for run in runs.values() for s in range(seeds)], checkpoint)
    of = {label: results[i * seeds : (i + 1) * seeds] for i, label in enumerate(runs)}
    return {label: Tuned(label, run, tried[label], finished[label], of[label]) for label, run in runs.items()}


def _tried(methods: dict[str, Lesson], grids: dict, checkpoint: Checkpoint) -> dict[str, dict[float, float]]:
    """{label: {rate: tuning loss}}."""
    tried: dict[str, dict[float, float]] = {label: {} for label in methods}
    at_most = 2 * max(map(len, grids.values()))
    while True:
        rates = {label: next_rates(found)[:1] if found else grids[label] for label, found in tried.items()}
        jobs = [(label, rate) for label, some in rates.items() for rate in some]
        lessons = [replace(methods[label], lr=rate, seed=0, judged=False, keep=False) for label, rate in jobs]
        for (label, rate), result in zip(jobs, carry_out(lessons, checkpoint), strict=True):
            tried[label][rate] = result["tune_loss"]
        if all(map(bracketed, tried.values())) or len(next(iter(tried.values()))) >= at_most:
            return tried
