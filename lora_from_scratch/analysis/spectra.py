"""What a weight update is made of, and which of a tuned weight's directions are new.

A matrix W of shape (d_out, d_in) is a sum of rank-one pieces, σ_i · u_i v_iᵀ, in order of size (its SVD). The left
vectors u_i (d_out) are the directions that a layer writes, the right ones v_i (d_in) those that it reads.

**Of an update ΔW**: keeping its first r pieces is the closest that any matrix of rank r can come to it in the Frobenius
norm, and the error is known: sqrt(σ_{r+1}² + σ_{r+2}² + …) (Eckart and Young, 1936).

**Of a tuned weight W1 = W0 + ΔW**: each of its vectors is compared with all vectors of W0,

    similarity[i, j] = | cos(u_i of W0, u_j of W1) |

An *intruder dimension* is one of the k leading vectors of W1 whose largest similarity with any vector of W0 is below ε:
large in the new weight, and like nothing in the old one (arXiv 2410.21228, section 3). The vectors are those of W1 and
not of ΔW: a large ΔW along W0's own vectors makes no intruder.

How alike two unrelated matrices look depends on the width d: a random unit vector has a largest |cosine| of about
sqrt(2 ln d / d) with a basis, 0.28 at d = 128. In a square layer no vector is below ε unless d > 1/ε².
This file imports nothing of the project: copy it and it runs.
"""

from numbers import Integral, Real

import torch
from torch import Tensor, nn

SIDES = ("left", "right")
WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module")  # the names that torch.compile and checkpoint_wrapper add


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
    if not isinstance(rank, Integral) or isinstance(rank, bool) or not 1 <= rank <= min(delta.shape):
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


def similarity(w0: Tensor, w1: Tensor, side: str = "left") -> Tensor:
    """|cosine| between all singular vectors of w0 (rows) and all of w1 (columns), (n, n) with n = min(d_out, d_in).

    In float32, or float64 where the weights are, from a thin SVD: in a layer with d_out > d_in the d_in left vectors
    that have a singular value. Raises ValueError for shapes that differ, values that are not finite, an unknown side.
    """
    _check_pair(w0, w1)
    return _cosines(_vectors(w0, side)[0], _vectors(w1, side)[0])


def intruder_dimensions(w0: Tensor, w1: Tensor, k: int = 10, epsilon: float = 0.5, side: str = "left") -> list[int]:
    """Which of the k leading singular vectors of w1 are intruders: their indices, rising, 0 for the largest.

    Args:
        w0, w1: the weight before and after, (d_out, d_in).
        k: how many vectors of w1 are looked at.
        epsilon: below this largest |cosine| with all vectors of w0, a vector counts as an intruder.
        side: "left", as in the paper, or "right".

    Raises:
        ValueError: as `similarity`; for a k beyond the rank of w1, whose further vectors mean nothing; for an epsilon
            outside (0, 1].
    """
    _check_pair(w0, w1)
    if not isinstance(epsilon, Real) or isinstance(epsilon, bool) or not 0 < epsilon <= 1:
        raise ValueError(f"epsilon is {epsilon!r}; it must be above 0 and at most 1")
    new, sizes = _vectors(w1, side)
    rank = int((sizes > sizes[0] * max(w1.shape) * torch.finfo(sizes.dtype).eps).sum())
    if not isinstance(k, Integral) or isinstance(k, bool) or not 1 <= k <= rank:
        raise ValueError(f"k is {k!r}; the tuned matrix has rank {rank}, so k runs from 1 to {rank}")
    best = _cosines(_vectors(w0, side)[0], new[:, :k]).amax(dim=0)  # (k,)
    return (best < epsilon).nonzero().flatten().tolist()


def intruders_by_layer(
    before: dict[str, Tensor], after: dict[str, Tensor], k: int = 10, epsilon: float = 0.5
) -> dict[str, list[int]]:
    """`intruder_dimensions` for each weight of two dicts with the same names; a whole model's count is their sum.

    `adapted_weights` gives both dicts for a model with adapters. Raises ValueError as `intruder_dimensions`, with the
    layer's name, and for names that differ.
    """
    if before.keys() != after.keys() or not before:
        odd = sorted(before.keys() ^ after.keys())
        raise ValueError(f"the two dicts must name the same weights, at least one; only one has {odd or 'any'}")
    found = {}
    for name, w0 in before.items():
        try:
            found[name] = intruder_dimensions(w0, after[name], k, epsilon)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return found


@torch.no_grad()
def adapted_weights(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """({name: W0}, {name: W0 with its update}) of the adapters in `model`, told by their `delta_weight` and `base`.

    A compiled or checkpointed adapter counts once, under its own name. Raises ValueError if there are none.
    """
    adapters = {}
    for name, module in model.named_modules():
        if hasattr(type(module), "delta_weight") and hasattr(module, "base"):  # the class is asked: wrappers pass on
            adapters[".".join(part for part in name.split(".") if part not in WRAPPERS)] = module
    if not adapters:
        raise ValueError("the model has no adapters; for full fine-tuning, compare two state dicts instead")
    return {n: m.base.weight for n, m in adapters.items()}, {n: m.weight for n, m in adapters.items()}


def _vectors(matrix: Tensor, side: str = "left") -> tuple[Tensor, Tensor]:
    """Singular vectors as columns (d, n), the largest first, and their singular values (n,), from a thin SVD."""
    if side not in SIDES:
        raise ValueError(f"side is {side!r}; it is left, the directions written, or right, the directions read")
    u, s, vt = torch.linalg.svd(_checked(matrix), full_matrices=False)
    return (u if side == "left" else vt.T), s


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    """|cosine| between unit columns, in their own precision."""
    with _in_full(first):
        return (first.T @ second).abs()


def _check_pair(w0: Tensor, w1: Tensor) -> None:
    if w0.shape != w1.shape or w0.dtype != w1.dtype or w0.device != w1.device:
        raise ValueError(
            f"the weights are {w0.dtype} of shape {tuple(w0.shape)} on {w0.device} and {w1.dtype} of "
            f"{tuple(w1.shape)} on {w1.device}; give two of one shape, dtype and device"
        )


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
