"""Where a learning curve leaves the common one, and where the bits of the data say that it should.

Curves that meet the same data in the same order are compared by looks: means over so many steps. At each look the
common curve is the lowest of all. A curve is *above* it there if their difference, paired step by step, is more than
twice its standard error. It has left at the first of three looks running at which it is above. (Where it would come
back later, it counts as left all the same: a slow start and want of room look alike here.)

The prediction: a model of P trained numbers, each with room for c bits, leaves once the data that it has met, in bits,
are c · P ("LoRA Without Regret", Thinking Machines, 2025, "How much capacity is needed", has both bounds, no rule).
This file imports NumPy and nothing of the project: copy it and it runs.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

RUNNING, NOISES = 3, 2


def looks(losses: Sequence[float], width: int) -> np.ndarray:
    """The losses of a run's steps cut into looks of `width`, (looks, width); what is over at the end is left out.

    Raises ValueError for a width below 2, which leaves no noise to measure, or fewer than RUNNING looks.
    """
    if width < 2 or len(losses) // width < RUNNING:
        raise ValueError(
            f"{len(losses)} steps in looks of {width}: take 2 or more a look, and {RUNNING} looks at least"
        )
    whole = len(losses) // width * width
    return np.asarray(losses[:whole], dtype=float).reshape(-1, width)


def best_of_rates(curves: Sequence[Sequence[float]], width: int) -> np.ndarray:
    """One curve of several rates': at each look the one that is lowest there. (looks, width)"""
    cut = np.stack([looks(losses, width) for losses in curves])  # (rates, looks, width)
    means = np.where(np.isfinite(cut.mean(-1)), cut.mean(-1), np.inf)
    return np.take_along_axis(cut, means.argmin(0)[None, :, None], axis=0)[0]


def common(curves: Mapping[str, np.ndarray]) -> np.ndarray:
    """The lowest of several curves at each look, each (looks, width)."""
    cut = np.stack(list(curves.values()))
    return np.take_along_axis(cut, cut.mean(-1).argmin(0)[None, :, None], axis=0)[0]


def departure(curve: np.ndarray, lowest: np.ndarray) -> float:
    """The step at the middle of the first of RUNNING looks at which `curve` is above `lowest`; infinite if none is.

    Both (looks, width), of the same steps.
    """
    apart, width = curve - lowest, curve.shape[1]
    above = apart.mean(-1) > NOISES * apart.std(-1, ddof=1) / math.sqrt(width)
    first = next((i for i in range(len(above) - RUNNING + 1) if above[i : i + RUNNING].all()), math.inf)
    return (first + 0.5) * width


def bits_met(losses: Sequence[float], characters: int) -> np.ndarray:
    """The data's bits up to and with each step: the summed loss of `characters` a step, from nats. (steps,)"""
    return np.cumsum(np.asarray(losses, dtype=float)) * characters / math.log(2)


def bits_each(step: float, parameters: int, bits: np.ndarray) -> float:
    """c: the bits met by the step at which a model of so many trained parameters leaves, for each of them."""
    return float(np.interp(step, np.arange(1, len(bits) + 1), bits)) / parameters


def predicted_step(c: float, parameters: int, bits: np.ndarray) -> float:
    """The step by which c · parameters bits are met; infinite if the data end before."""
    steps = np.arange(1, len(bits) + 1)
    return math.inf if c * parameters > bits[-1] else float(np.interp(c * parameters, [0.0, *bits], [0, *steps]))


def octaves(predicted: float, found: float, steps: int, first: float = 1.0) -> float:
    """|log2 of predicted / found|, each cut to `first` and `steps`: beyond what was looked at nobody is wrong."""
    cut = [min(max(step, first), steps) for step in (predicted, found)]
    return abs(math.log2(cut[0] / cut[1]))
