"""How two ways of doing the same are compared on a machine that others use as well.

A time says little by itself: it changes with the machine, and from one second to the next with what else runs there.
So only ratios are judged. The two sides take turns, so that a slow second hits both, and each is taken at its fastest:
noise only ever adds to a time, so the least of many is the nearest to what the work itself takes. The clock is the
processor time of this process. With one thread that is what the work takes, without the waits for a core that is busy
with somebody else's work; on a loaded machine those waits are in almost every step, and half as long as the step.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table: ours over the reference should be at most `bound`."""

    what: str
    ours: float
    reference: float
    bound: float
    unit: str

    @property
    def ratio(self) -> float:
        """Ours over the reference; below 1, ours takes less."""
        return self.ours / self.reference

    @property
    def passes(self) -> bool:
        """Whether the bound holds."""
        return self.ratio <= self.bound


def fastest_of_each(
    ours: Callable[[], object], reference: Callable[[], object], repetitions: int, warm_up: int = 3
) -> tuple[float, float]:
    """The least processor time of either in seconds, of `repetitions` turns each, after `warm_up` uncounted ones.

    Which one goes first changes at every turn, so neither always finds the caches as the other left them.
    """
    sides, best = [ours, reference], [float("inf"), float("inf")]
    gc.collect()
    gc.disable()  # a collection would fall on whichever side happens to run
    try:
        for turn in range(-warm_up, repetitions):
            for side in (0, 1) if turn % 2 else (1, 0):
                start = time.process_time()
                sides[side]()
                took = time.process_time() - start
                if turn >= 0:
                    best[side] = min(best[side], took)
    finally:
        gc.enable()
    return best[0], best[1]


def medians(ways: Mapping[str, Callable[[], object]], repetitions: int, warm_up: int = 1) -> dict[str, float]:
    """{way: median processor time in seconds}, all ways taking turns, the first one another at every turn."""
    names, taken = list(ways), {name: [] for name in ways}
    gc.collect()
    gc.disable()
    try:
        for turn in range(-warm_up, repetitions):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                start = time.process_time()
                ways[name]()
                if turn >= 0:
                    taken[name].append(time.process_time() - start)
    finally:
        gc.enable()
    return {name: statistics.median(seconds) for name, seconds in taken.items()}
