"""Whether matrices look as they were drawn, entry by entry alike, or as training or an SVD leaves them.

Entries drawn alike have marks, each with a known sampling error. The kurtosis E[x⁴] / E[x²]² is 9/5 if they are
uniform and 3 if they are normal. The mean squares of the rows differ by chance alone, by (kurtosis - 1) / columns
relative to their own square. Matrices of one shape have one size, and the largest of uniform entries is √3 times their
root mean square. A step of Adam makes a kurtosis of 1, a few make one near 9/5, but with longer tails; training makes
some rows, and some layers, larger than others. An SVD, even of noise, gives columns at right angles.

This file imports nothing of the project: copy it and it runs.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LAWS = {"uniform": (1.8, 1.3), "normal": (3.0, math.sqrt(24))}  # the kurtosis; √entries times its standard error
LIMIT = 3.0  # standard errors


def looks_drawn(matrices: Sequence[Tensor], fewest: int = 1800) -> bool:
    """Whether all of `matrices`, each (m, n), could have been drawn entry by entry from one law, uniform or normal.

    False for matrices of zeros, for one row or column, and below `fewest` entries in all: some hundreds could be
    what six steps of Adam have made.
    """
    wide = [matrix.detach().double() for matrix in matrices if matrix.dim() == 2 and min(matrix.shape) > 1]
    entries = torch.tensor([float(matrix.numel()) for matrix in wide])
    if (
        not wide
        or entries.sum() < fewest
        or not all(matrix.any() for matrix in wide)
        or all(map(_at_right_angles, wide))
    ):
        return False
    kurtosis = torch.stack([matrix.pow(4).mean() / matrix.square().mean() ** 2 for matrix in wide])
    mean = float((kurtosis * entries).sum() / entries.sum())
    for law, scale in LAWS.values():
        if abs(mean - law) <= LIMIT * scale / math.sqrt(entries.sum()):
            return _rows_alike(wide, law) and _sizes_alike(wide, law, bounded=law < 2)
    return False


def _at_right_angles(matrix: Tensor) -> bool:
    """Whether the vectors along the shorter side of a matrix are orthogonal, to a thousandth of their lengths."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    products = tall.T @ tall  # (n, n) with n the shorter side
    return float((products - products.diag().diag()).norm() / products.norm()) < 1e-3


def _rows_alike(matrices: Sequence[Tensor], law: float) -> bool:
    """Whether rows' mean squares vary by no more than chance: a ratio of 1, in standard errors over all matrices."""
    ratios, weights = [], []
    for matrix in matrices:
        squares = matrix.square().mean(dim=1)  # (m,)
        ratios.append(float(squares.var() / squares.mean() ** 2) * matrix.shape[1] / (law - 1))
        weights.append(matrix.shape[0] - 1)
    mean = sum(r * w for r, w in zip(ratios, weights, strict=True)) / sum(weights)
    return mean - 1 <= LIMIT * math.sqrt(2 / sum(weights)) * 1.5  # the squares of a normal have long tails


def _sizes_alike(matrices: Sequence[Tensor], law: float, bounded: bool) -> bool:
    """Whether matrices of one shape have one root mean square, but for chance; and, if uniform, the bound it gives."""
    shapes: dict[tuple[int, ...], list[Tensor]] = {}
    for matrix in matrices:
        shapes.setdefault(tuple(matrix.shape), []).append(matrix)
    for shape, alike in shapes.items():
        sizes = [float(matrix.square().mean().sqrt()) for matrix in alike]
        error = math.sqrt((law - 1) / (4 * math.prod(shape)))  # of a root mean square, relative
        mean, many = sum(sizes) / len(sizes), len(sizes) - 1
        spread = sum((size / mean - 1) ** 2 for size in sizes) / error**2  # about `many`, a chi square
        if many and spread / many - 1 > LIMIT * math.sqrt(2 / many):
            return False
        largest = max(float(matrix.abs().max()) for matrix in alike) * math.sqrt(len(sizes) / sum(s * s for s in sizes))
        if bounded and abs(largest / math.sqrt(3) - 1) > LIMIT * error / math.sqrt(len(sizes)) + 4 / math.prod(shape):
            return False
    return True
