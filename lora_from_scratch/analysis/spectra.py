"""What a weight update is made of: its singular values, its best low-rank part, and how many directions it uses.

A matrix ΔW of shape (d_out, d_in) is a sum of rank-one pieces, σ_i · u_i v_iᵀ, in order of size (its SVD). Keeping
the first r of them is the closest that any matrix of rank r can come to it in the Frobenius norm, and the error is
known: sqrt(σ_{r+1}² + σ_{r+2}² + …) (Eckart and Young, 1936).

This file imports nothing of the project: copy it and it runs.
"""

import torch
from torch import Tensor


def singular_values(matrix: Tensor) -> Tensor:
    """The singular values of a (d_out, d_in) matrix, largest first: min(d_out, d_in) of them, float32 at least.

    Raises ValueError for anything but a finite, floating-point matrix.
    """
    return torch.linalg.svdvals(_checked(matrix))


def low_rank_factors(delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """B (d_out, rank) and A (rank, d_in) whose product B A is the best rank-`rank` approximation of `delta`.

    Each singular value is shared equally, B = U sqrt(S) and A = sqrt(S) Vᵀ, so an adapter with scaling 1 can hold
    them. Raises ValueError for a rank outside 1 to min(d_out, d_in), or a matrix that is not finite.
    """
    delta = _checked(delta)
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= min(delta.shape):
        raise ValueError(
            f"rank is {rank!r}; for a matrix of shape {tuple(delta.shape)} it runs from 1 to {min(delta.shape)}"
        )
    u, s, vt = torch.linalg.svd(delta, full_matrices=False)  # (d_out, k), (k,), (k, d_in)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vt[:rank]


def energy(matrix: Tensor) -> Tensor:
    """The share of the squared Frobenius norm that the first 1, 2, 3, … singular values hold. (min(d_out, d_in),)

    A matrix of zeros has no energy to share: all entries are NaN.
    """
    squares = singular_values(matrix).square()
    return squares.cumsum(0) / squares.sum()


def stable_rank(matrix: Tensor) -> float:
    """||W||_F² / σ_1²: between 1 and the rank, and deaf to tiny singular values. NaN for a matrix of zeros."""
    squares = singular_values(matrix).square()
    return (squares.sum() / squares[0]).item()


def effective_rank(matrix: Tensor) -> float:
    """exp of the entropy of the singular values' shares (Roy and Vetterli, 2007): k for k equal values."""
    s = singular_values(matrix)
    share = s / s.sum()
    return torch.special.entr(share).sum().exp().item()


def _checked(matrix: Tensor) -> Tensor:
    if matrix.dim() != 2 or 0 in matrix.shape or not matrix.is_floating_point():
        raise ValueError(
            f"got {matrix.dtype} of shape {tuple(matrix.shape)}; give a floating-point (d_out, d_in) matrix"
        )
    if not torch.isfinite(matrix).all():
        raise ValueError("the matrix holds NaN or infinity; look for a diverged run or an overflow before its spectrum")
    return matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))
