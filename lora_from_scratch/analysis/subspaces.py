"""Which directions an update writes and reads, and how they stand to those of another one (2106.09685, section 7).

The directions are singular vectors. Of an update given as B A they come without building it; two updates are compared
by the part of their leading directions that they share; and an update with its weight, by how much larger it is along
its own leading directions than the weight is there.

This file imports nothing of the project: copy it and it runs.
"""

from numbers import Integral

import torch
from torch import Tensor


def product_svd(B: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The SVD of B A without building it: U (d_out, r), the r singular values, Vᵀ (r, d_in).

    With B = Q_B R_B and Aᵀ = Q_A R_A, all of B A that is not a rotation is the small R_B R_Aᵀ, (r, r). Multiply the
    singular values by a layer's `scaling` for those of its update. Raises ValueError for factors that are not finite
    or do not fit, and for a rank above min(d_out, d_in).
    """
    B, A = _checked(B), _checked(A)
    rank = A.shape[0]
    if B.shape[1] != rank or rank > min(B.shape[0], A.shape[1]):
        raise ValueError(
            f"B has shape {tuple(B.shape)} and A {tuple(A.shape)}; give (d_out, r) and (r, d_in) with r at most both"
        )
    q_b, r_b = torch.linalg.qr(B)  # (d_out, r), (r, r)
    q_a, r_a = torch.linalg.qr(A.T)  # (d_in, r), (r, r)
    with _in_full(B):
        u, s, vt = torch.linalg.svd(r_b @ r_a.T)  # all (r, r)
        return q_b @ u, s, vt @ q_a.T


def subspace_similarity(first: Tensor, second: Tensor) -> Tensor:
    """φ(i, j) of the LoRA paper (section 7.2, equation 4): how much the leading i and j right vectors share.

    φ(i, j) = ‖V_i V_jᵀ‖² / min(i, j), from 0 (nothing) to 1 (one contains the other). `first` (r1, d) and `second`
    (r2, d) are, say, two A; entry [i - 1, j - 1] of the (r1, r2) result is φ(i, j). Raises ValueError for matrices of
    another width, or not finite.
    """
    if first.dim() != 2 or second.dim() != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"the shapes are {tuple(first.shape)} and {tuple(second.shape)}; give (r1, d) and (r2, d)")
    first, second = _checked(first), _checked(second)
    with _in_full(first):
        shared = (_right(first).T @ _right(second)).square()  # (r1, r2)
    i, j = (torch.arange(1, n + 1, dtype=shared.dtype, device=shared.device) for n in shared.shape)
    return shared.cumsum(0).cumsum(1) / torch.minimum(i.unsqueeze(1), j)


def amplification(w0: Tensor, delta: Tensor, rank: int) -> float:
    """How much the update amplifies its own leading directions (2106.09685, section 7.3): ‖ΔW‖ / ‖Uᵀ W0 V‖.

    U and V are the leading `rank` vectors of `delta`, so the denominator is what W0 does along them. Raises ValueError
    for matrices that differ in shape, dtype or device or are not finite, and for a rank outside 1 to min(d_out, d_in).
    """
    kinds = [f"{w.dtype} of shape {tuple(w.shape)} on {w.device}" for w in (w0, delta)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"W0 is {kinds[0]}, the update {kinds[1]}; give two of one shape, dtype and device")
    w0, delta = _checked(w0), _checked(delta)
    if not isinstance(rank, Integral) or isinstance(rank, bool) or not 1 <= rank <= min(delta.shape):
        raise ValueError(f"rank is {rank!r}; for a matrix of shape {tuple(delta.shape)} it runs to {min(delta.shape)}")
    u, _, vt = torch.linalg.svd(delta, full_matrices=False)
    with _in_full(w0):
        along = u[:, :rank].T @ w0 @ vt[:rank].T  # (rank, rank)
    return (delta.norm() / along.norm()).item()


def _right(matrix: Tensor) -> Tensor:
    """The right singular vectors as columns, (d_in, n), the largest first."""
    return torch.linalg.svd(matrix, full_matrices=False)[2].T


def _checked(matrix: Tensor) -> Tensor:
    if matrix.dim() != 2 or 0 in matrix.shape or not matrix.is_floating_point():
        raise ValueError(
            f"got {matrix.dtype} of shape {tuple(matrix.shape)}; give a floating-point (d_out, d_in) matrix"
        )
    if not torch.isfinite(matrix).all():
        raise ValueError("the matrix holds NaN or infinity; look for a diverged run or an overflow before its spectrum")
    return matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))


def _in_full(like: Tensor) -> torch.autocast:
    """A context in which products keep their precision: autocast would round them."""
    return torch.autocast("cpu" if like.is_meta else like.device.type, enabled=False)
