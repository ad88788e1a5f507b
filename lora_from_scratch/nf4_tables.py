"""The two tables of codes of NF4, derived: what 4 bits stand for, and what the 8 bits of a constant stand for.

Both are those of the published checkpoints to the bit (arXiv 2305.14314, section 3 and appendix E, and its released
code). nf4.py uses them. This file imports nothing of the project: copy it and it runs.
"""

from statistics import NormalDist

import numpy as np


def _linspace(first: float, last: float, count: int) -> np.ndarray:
    """`count` even steps as the tables of every NF4 checkpoint have them; np.linspace differs in last bits.

    The step is rounded to float32, and each half counts from its own end.
    """
    first, last = float(np.float32(first)), float(np.float32(last))
    step, i = float(np.float32((last - first) / (count - 1))), np.arange(count)
    return np.where(i < count // 2, first + step * i, last - step * (count - 1 - i)).astype(np.float32)


def midpoints(values: np.ndarray) -> np.ndarray:
    """Half way between neighbours, in float32: a number is rounded to the value on its side."""
    return (values[:-1] + values[1:]) / np.float32(2)


def nf4_levels() -> np.ndarray:
    """The 16 levels in float32, rising from -1 to 1, derived from the quantiles of a normal distribution.

    Eight positive and seven negative ones, each half evenly spaced in probability from 1/2 (left out, it is the zero)
    to 0.9677083, between 1 - 1/30 and 1 - 1/32, as 1 would be infinite; an exact zero; then all over the largest.
    """
    quantile, end = NormalDist().inv_cdf, 0.9677083  # arXiv 2305.14314, section 3 and appendix E
    positive = [quantile(float(p)) for p in _linspace(end, 0.5, 9)[:-1]]
    negative = [-quantile(float(p)) for p in _linspace(end, 0.5, 8)[:-1]]
    levels = np.sort(np.array([*positive, 0.0, *negative], np.float32))
    return levels / levels.max()


def dynamic_map() -> np.ndarray:
    """The 256 values, rising from about -1 to 1 in float32, that an 8-bit second-level code may stand for.

    Ever finer steps at ever larger sizes: for i = 0 … 6, the 2^i means of neighbours in 2^i + 1 even steps from 0.1
    to 1, times ±10^(i - 6); and 0 and 1. (The paper says 8-bit floats; this is what its released code does.)
    """
    sizes = [np.float32(10.0 ** (i - 6)) * midpoints(_linspace(0.1, 1, 2**i + 1)) for i in range(7)]
    positive = np.concatenate(sizes)  # (127,)
    return np.sort(np.concatenate((-positive, positive, np.array([0, 1], np.float32))))


LEVELS, DYNAMIC_MAP = nf4_levels(), dynamic_map()  # (16,), (256,)
PAIRS = np.stack((np.repeat(LEVELS, 16), np.tile(LEVELS, 16)), axis=1)  # (256, 2): what a byte decodes to
ZERO = int(np.searchsorted(LEVELS, 0.0))  # 7, the code of zero
