"""The sweep of sweep.py for lessons of a real model, which are carried out one at a time and cost minutes.

The rules are the same: every method tries as many rates as the others, on seed 0, first those of its grid; as long as a
best one lies at an edge, all get one more, up to twice as many; and the losses reported come from other seeds. But each
method has a grid of its own, around the rates that suit its kind, so that three rates can be enough.
"""

from dataclasses import replace

from lora_from_scratch.lab.adapt import Lesson, carry_out
from lora_from_scratch.lab.checkpoint import Checkpoint
from lora_from_scratch.lab.sweep import Tuned, judged, search


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

    def losses_of(jobs: list[tuple[str, float]]) -> list[float]:
        plain = [replace(methods[label], lr=rate, seed=0, judged=False, keep=False) for label, rate in jobs]
        return [result["tune_loss"] for result in carry_out(plain, checkpoint)]

    use_known = known and set(methods) <= set(known)
    tried = {label: {} for label in methods} if use_known else search(grids, max(map(len, grids.values())), losses_of)
    return judged(methods, tried, known, seeds, lambda lessons: carry_out(lessons, checkpoint))
