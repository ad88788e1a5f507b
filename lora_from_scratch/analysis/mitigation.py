"""Making chosen directions of a weight smaller or larger, and nothing else.

A matrix is a sum of rank-one pieces, W = Σ σ_i u_i v_iᵀ. Multiplying some of the σ_i by a factor, and leaving the
rest, asks what those pieces do: if the model gets better at something as they shrink, they were in its way. The
intruder dimensions of a tuned weight (`intruder_dimensions` in spectra.py) are shrunk so in arXiv 2410.21228, and in
PEFT's `reduce_intruder_dimension`:

    W' = W1 + (factor - 1) · Σ_{i an intruder} σ_i u_i v_iᵀ

In PEFT the factor is called `mitigation_lambda`, and 0.75 *leaves* three quarters of an intruder: its docstring says
"the relative portion ... that is subtracted", its code subtracts 1 - mitigation_lambda. PEFT then cuts W' - W0 to the
adapter's rank, since W' - W0 has a higher one; `low_rank_factors` in spectra.py does the same.

This file imports nothing of the project: copy it and it runs.
"""

import math
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor


def scale_directions(weight: Tensor, which: Sequence[int], factor: float) -> Tensor:
    """`weight` with the singular values at the places `which` multiplied by `factor`; 0 is the largest one.

    Args:
        weight: (d_out, d_in).
        which: places in the order of the singular values, such as `intruder_dimensions` gives. Empty: an equal copy.
        factor: 0 takes the directions away, 1 changes nothing, above 1 makes them larger.

    The SVD is in float32 at least; the result has the weight's dtype. Raises ValueError for a weight that is not a
    finite, floating-point matrix, for a place outside the singular values or given twice, and for a factor that is
    negative or not finite.
    """
    if weight.dim() != 2 or not weight.is_floating_point() or not torch.isfinite(weight).all():
        raise ValueError(
            f"got {weight.dtype} of shape {tuple(weight.shape)}; give a finite, floating-point (d_out, d_in) matrix"
        )
    count = min(weight.shape)
    wrong = [i for i in which if not isinstance(i, Integral) or isinstance(i, bool) or not 0 <= i < count]
    if wrong or len(set(which)) < len(which):
        raise ValueError(f"which is {list(which)}; give different places from 0 to {count - 1}")
    if not math.isfinite(factor) or factor < 0:
        raise ValueError(f"factor is {factor!r}; it must be 0 or more, and finite")
    exact = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    u, s, vt = torch.linalg.svd(exact, full_matrices=False)  # (d_out, n), (n,), (n, d_in)
    chosen = list(which)
    with _in_full(weight):
        pieces = (u[:, chosen] * s[chosen]) @ vt[chosen]  # (d_out, d_in), zero if none is chosen
    return (exact + (factor - 1) * pieces).to(weight.dtype)


def _in_full(like: Tensor) -> torch.autocast:
    """A context in which products keep their precision: autocast would round them."""
    return torch.autocast("cpu" if like.is_meta else like.device.type, enabled=False)
