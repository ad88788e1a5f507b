"""How many weights an update changed, and of what rank it is, in the numbers that a checkpoint holds.

A sparse update leaves most weights as they were: sparsity = 1 - (how many changed) / n (arXiv 2505.11711v2). In the
paper's code (check_sparsity.py and update_rank.py) the checkpoints are in bfloat16, with 8 bits of precision, and a
difference of at most 1e-5 counts as none; the rank is that of the differences of the bfloat16 weights. Both hang on the
rounding: a change of less than half the distance to the next number may leave a weight as it was, and others are
rounded to whole distances. That adds noise to the update, and noise is of full rank.

This file imports nothing of the project: copy it and it runs.
"""

import torch
from torch import Tensor


def difference(before: Tensor, after: Tensor, dtype: torch.dtype) -> Tensor:
    """after - before, each rounded to `dtype` first, as float32 (or float64, where that is the dtype).

    Raises ValueError for shapes that differ, a dtype that is no floating-point one, and values that are not finite.
    """
    if before.shape != after.shape or not dtype.is_floating_point:
        raise ValueError(
            f"shapes {tuple(before.shape)} and {tuple(after.shape)}, dtype {dtype}; give two of one shape, and floats"
        )
    if not (torch.isfinite(before).all() and torch.isfinite(after).all()):
        raise ValueError("the weights hold NaN or infinity; look for a diverged run before its changes")
    wide = torch.promote_types(dtype, torch.float32)
    return after.detach().to(dtype).to(wide) - before.detach().to(dtype).to(wide)


def share_changed(
    before: dict[str, Tensor], after: dict[str, Tensor], dtype: torch.dtype, tolerance: float = 1e-5
) -> float:
    """The share of all weights, over two dicts of the same names, that differ by more than `tolerance` in `dtype`.

    Raises ValueError as `difference`, for names that differ or none, and for a negative tolerance.
    """
    _check_names(before, after)
    if not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance!r}; it is 0 or more")
    changed = sum(int((difference(before[n], after[n], dtype).abs() > tolerance).sum()) for n in before)
    return changed / sum(weight.numel() for weight in before.values())


def rank_share(before: dict[str, Tensor], after: dict[str, Tensor], dtype: torch.dtype) -> float:
    """The rank of each matrix's change in `dtype` over the most that its shape allows, the mean over the matrices.

    The rank is torch.linalg.matrix_rank's: the singular values above max(out, in) · eps · the largest one.
    Raises ValueError as `difference`, and for names that differ or none.
    """
    _check_names(before, after)
    changes = [difference(before[n], after[n], dtype) for n in before]
    return sum(int(torch.linalg.matrix_rank(c)) / min(c.shape) for c in changes) / len(changes)


def _check_names(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    if before.keys() != after.keys() or not before:
        odd = sorted(before.keys() ^ after.keys())
        raise ValueError(f"the two dicts must name the same weights, at least one; only one has {odd or 'any'}")
