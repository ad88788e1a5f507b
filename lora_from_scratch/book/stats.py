"""Means with 95 % intervals over seeds, rank correlations, and tables as text."""

import math
import statistics
from collections.abc import Sequence

import numpy as np

# The 97.5 % points of Student's t distribution for 1 to 9 degrees of freedom (any statistics textbook).
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half width of its 95 % interval) over seeds. The half width is NaN for one value, or where one diverged.

    Raises ValueError for no values, or for more than ten.
    """
    if not 1 <= len(values) <= len(STUDENT_T) + 1:
        raise ValueError(f"{len(values)} values; an interval here takes 1 to {len(STUDENT_T) + 1}")
    mean = sum(values) / len(values)  # fmean raises where both infinities occur
    if len(values) == 1 or not math.isfinite(mean):  # a diverged run has an infinite loss
        return mean, math.nan
    mean = statistics.fmean(values)
    return mean, STUDENT_T[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))


def paired(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """(mean, half width) of first - second, seed by seed: what the seeds have in common cancels."""
    return interval([a - b for a, b in zip(first, second, strict=True)])


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """The correlation of the places of two lists in their orders; equal values share their mean place.

    NaN where one list is constant or holds NaN. Raises ValueError for lists of different lengths, or of fewer than two.
    """
    a, b = (np.asarray(values, dtype=float) for values in (first, second))
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise ValueError(f"shapes {a.shape} and {b.shape}; give two lists of one length, 2 or more")
    if np.isnan(a).any() or np.isnan(b).any() or len(set(a)) < 2 or len(set(b)) < 2:
        return math.nan
    places = [np.mean([np.searchsorted(np.sort(v), v, side) for side in ("left", "right")], axis=0) for v in (a, b)]
    return float(np.corrcoef(*places)[0, 1])


def shown(values: Sequence[float], digits: int = 3) -> str:
    """`mean ± half width` as text; the mean alone where there is one value."""
    mean, half = interval(values)
    return f"{mean:.{digits}f}" if math.isnan(half) else f"{mean:.{digits}f} ± {half:.{digits}f}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows as aligned text: words to the left, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    right = [all(_is_number(row[i]) for row in cells[1:]) for i in range(len(header))]
    lines = [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def _is_number(text: str) -> bool:
    return text in ("", "nan", "inf") or text[0] in "0123456789-+."
