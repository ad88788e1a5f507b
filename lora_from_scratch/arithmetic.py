"""Adapters added, taken away, compressed and merged: arithmetic on what training changed.

A trained adapter is a change of a weight, ΔW = s · B A. Such changes can be reckoned with: the sum of two gives a model
that does both tasks, and a negative one takes its task away (arXiv 2212.04089, sections 2 to 4).

**Sum.** Factors set side by side multiply to the sum, exactly, at rank Σ r_i:

    Σ_i w_i s_i · B_i A_i  =  [w_1 s_1 B_1 | w_2 s_2 B_2 | …] · [A_1 ; A_2 ; …]

Sums of factors do not: (B_1 + B_2)(A_1 + A_2) also holds B_1 A_2 and B_2 A_1, which nobody trained.

**Compression.** The first r pieces of the SVD are the best approximation of rank r (Eckart and Young, 1936). ΔW need
not be formed for them. With B = Q_B R_B and Aᵀ = Q_A R_A from two QR's, the SVD of a small core is enough:

    B A = Q_B (R_B R_Aᵀ) Q_Aᵀ = (Q_B U) S (Q_A V)ᵀ,      U S Vᵀ = R_B R_Aᵀ, no larger than (r, r)

**Merges** go entry by entry over ΔW's, here τ_i, and give one whose rank is no longer low: only an SVD makes an adapter
of it again, and cuts something off. TIES (arXiv 2306.01708 v2, section 4):

    trim     τ̂_i = τ_i where |τ_i| is among its largest, elsewhere 0
    elect    γ = sign(Σ_i τ̂_i), the side with the greater total magnitude
    merge    the mean of those τ̂_i that have the sign γ, not counting zeros

DARE thins out one ΔW at random and keeps its mean (arXiv 2311.03099 v3, section 3.1):

    m ~ Bernoulli(p),      δ̂ = (1 - m) ⊙ δ / (1 - p)

Shapes: A (r, d_in), B (d_out, r), ΔW (d_out, d_in). All is computed, and comes back, in the widest of float32 and the
inputs' dtypes, on their device, without gradients; inputs stay as they are. A DoRA adapter is more than s · B A: its
magnitudes have no part in any of this. This file imports nothing of the project: copy it and it runs.
"""

from collections.abc import Sequence
from functools import reduce
from math import isfinite
from numbers import Integral, Real

import torch
from torch import Tensor

Adapter = tuple[Tensor, Tensor, float]  # A (r, d_in), B (d_out, r), the scaling s


def concatenate(adapters: Sequence[Adapter], weights: Sequence[float] | None = None) -> tuple[Tensor, Tensor]:
    """A (Σr, d_in) and B (d_out, Σr) with B A = Σ w_i s_i · B_i A_i: one adapter, of scaling 1, for all of `adapters`.

    Weights are 1 if not given. All of w_i s_i goes into B: to share it with A would take its square root, which a
    negative weight has not, and this way A's rows stay those that were trained. In a LoRA layer, scaling 1 means
    alpha = Σr, under rsLoRA alpha = sqrt(Σr).
    Raises ValueError for an empty list, shapes that do not fit, numbers and entries that are not finite.
    """
    tensors = {}
    for i, adapter in enumerate(_listed("adapters", adapters)):
        if not isinstance(adapter, Sequence) or len(adapter) != 3:
            raise ValueError(f"adapters[{i}] is {_told(adapter)}; each adapter is a tuple (A, B, scaling)")
        tensors |= {f"A[{i}]": adapter[0], f"B[{i}]": adapter[1]}
    pairs = _factors(tensors)
    scalings = _numbers("the scalings", [s for _, _, s in adapters], len(pairs))
    weights = _numbers("weights", [1.0] * len(pairs) if weights is None else weights, len(pairs))
    scales = [w * s for w, s in zip(weights, scalings, strict=True)]
    A = torch.cat([A for A, _ in pairs])  # (Σr, d_in)
    B = torch.cat([scale * B for scale, (_, B) in zip(scales, pairs, strict=True)], dim=1)  # (d_out, Σr)
    return A, B


def compress(A: Tensor, B: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """A (rank, d_in) and B (d_out, rank) with the best B A of that rank, and how much is `lost`.

    `lost` is ||what is cut|| / ||all of it|| in the Frobenius norm, 0 for a product of zeros. Each singular value is
    shared equally, its square root on either side. An SVD leaves signs open; here the entry that is largest in size is
    positive in each column of B. A scaling stays outside, or is in B already as after `concatenate`, never both.

    Errors are those of rounding B and A. Where adapters cancel, and B A is far smaller than they are, it is all noise.
    Raises ValueError for a rank outside 1 to min(d_out, r, d_in), the number of singular directions there are.
    """
    ((A, B),) = _factors({"A": A, "B": B})
    most = min(B.shape[0], *A.shape)
    if not isinstance(rank, Integral) or isinstance(rank, bool) or not 1 <= rank <= most:
        raise ValueError(f"rank is {rank!r}; this product has {most} singular directions, so give 1 to {most}")
    with torch.autocast(A.device.type, enabled=False):  # it would round the products to 16 bits
        q_b, r_b = torch.linalg.qr(B)  # (d_out, k), (k, r) with k = min(d_out, r)
        q_a, r_a = torch.linalg.qr(A.T)  # (d_in, m), (m, r) with m = min(d_in, r)
        u, s, vt = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)  # (k, n), (n,), (n, m) with n = min(k, m)
        left, right = q_b @ u[:, :rank], vt[:rank] @ q_a.T  # (d_out, rank), (rank, d_in)
    sign = left.gather(0, left.abs().argmax(dim=0, keepdim=True)).sign()  # (1, rank)
    half = sign * s[:rank].sqrt()  # (1, rank)
    lost = torch.linalg.vector_norm(s[rank:]) / torch.linalg.vector_norm(s)
    return half.T * right, half * left, lost.item() if s[0] > 0 else 0.0


def ties(deltas: Sequence[Tensor], keep: float, weights: Sequence[float] | None = None) -> Tensor:
    """One ΔW from several: each trimmed to its share `keep` of large entries, the sign elected, the agreeing averaged.

    Three points where the paper is silent or does otherwise:
    - Weights multiply the deltas before the election, so a negative one votes against its task and 0 does not vote. The
      mean is still over the number of those that agree. The paper has no weights.
    - Of n entries, round(keep · n) stay, one at least, and all that are as large as the smallest of them. The paper
      trims all parameters of a model together; here it is each delta by itself, of whatever shape.
    - Where both sides weigh exactly the same, γ = 0 and the merged entry is 0. (The authors' code gives such an entry
      the sign that most of the others got.)
    Raises ValueError for an empty list, shapes that differ, a keep outside (0, 1], weights that do not fit.
    """
    if not isinstance(keep, Real) or isinstance(keep, bool) or not 0 < keep <= 1:
        raise ValueError(f"keep is {keep!r}; it is the share of entries that stay, above 0 and at most 1")
    deltas = _widened({f"deltas[{i}]": delta for i, delta in enumerate(_listed("deltas", deltas))})
    weights = _numbers("weights", [1.0] * len(deltas) if weights is None else weights, len(deltas))
    if len(shapes := {tuple(delta.shape) for delta in deltas}) > 1:
        raise ValueError(f"the deltas have shapes {sorted(shapes)}; give changes of one weight, all of one shape")
    trimmed = torch.stack([w * _trimmed(delta, keep) for w, delta in zip(weights, deltas, strict=True)])  # (n, …)
    elected = trimmed.sum(dim=0).sign()  # γ, of the shape of a delta
    agrees = trimmed.sign() == elected  # (n, …); where γ = 0 only zeros agree, and add nothing
    return (trimmed * agrees).sum(dim=0) / agrees.sum(dim=0).clamp(min=1)


def dare(delta: Tensor, drop: float, generator: torch.Generator) -> Tensor:
    """`delta` with each entry dropped with probability `drop`, the rest divided by 1 - drop: the same in the mean.

    An entry δ spreads by |δ| · sqrt(drop / (1 - drop)), three times its size at 0.9. A CPU generator gives the same
    draw on every device. Raises ValueError for a drop outside [0, 1), a delta that is not finite, no generator.
    """
    if not isinstance(drop, Real) or isinstance(drop, bool) or not 0 <= drop < 1:
        raise ValueError(f"drop is {drop!r}; it is a probability from 0 up to, not including, 1")
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"generator is {_told(generator)}; give torch.Generator().manual_seed(0), or another seed")
    (delta,) = _widened({"delta": delta})
    where = {"generator": generator, "device": generator.device}
    kept = torch.rand(delta.shape, dtype=torch.float64, **where) >= drop  # a float32 draw is a multiple of 2^-24
    return torch.where(kept.to(delta.device), delta / (1 - drop), 0)


def _trimmed(delta: Tensor, keep: float) -> Tensor:
    """`delta` with zeros for all that is smaller than the round(keep · n)-th largest of its n entries."""
    sizes = delta.abs()
    count = max(1, round(keep * delta.numel()))
    return delta * (sizes >= sizes.flatten().topk(count).values.min())


def _factors(tensors: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The tensors, which come as A, B, A, B, …, in pairs: all in one dtype and for weights of one shape."""
    names, wide = list(tensors), _widened(tensors)
    pairs = list(zip(wide[::2], wide[1::2], strict=True))
    for i, (A, B) in enumerate(pairs):
        if A.dim() != 2 or B.dim() != 2 or A.shape[0] != B.shape[1]:
            sizes = f"{names[2 * i]} is {tuple(A.shape)} and {names[2 * i + 1]} {tuple(B.shape)}"
            raise ValueError(f"{sizes}; give A (r, d_in) and B (d_out, r) with the same r")
    if len(sizes := {(B.shape[0], A.shape[1]) for A, B in pairs}) > 1:
        raise ValueError(f"the adapters are for weights of shapes {sorted(sizes)}; only those of one shape add up")
    return pairs


def _widened(tensors: dict[str, Tensor]) -> list[Tensor]:
    """The tensors without gradient, in the widest of their dtypes and float32; the names are for what is refused."""
    first = next(iter(tensors.values()))
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.numel() == 0:
            raise ValueError(f"{name} is {_told(tensor)}; give a floating-point tensor that has entries")
        if tensor.device != first.device:
            raise ValueError(f"{name} is on {tensor.device}, others on {first.device}; move them to one device first")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} holds NaN or infinity; look for a diverged run or an overflow first")
    wide = reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()), torch.float32)
    return [tensor.detach().to(wide) for tensor in tensors.values()]


def _numbers(name: str, values: Sequence[float], count: int) -> list[float]:
    listed = isinstance(values, Sequence) and len(values) == count
    if not listed or not all(isinstance(v, Real) and not isinstance(v, bool) and isfinite(v) for v in values):
        raise ValueError(f"{name}: got {_told(values)}; give a list of finite numbers, one for each of {count}")
    return [float(v) for v in values]


def _listed(name: str, values: Sequence[object]) -> Sequence:
    if not isinstance(values, Sequence) or len(values) == 0:
        raise ValueError(f"{name} is {_told(values)}; give a list of at least one")
    return values


def _told(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} of shape {tuple(value.shape)}"
    return " ".join(repr(value).split())[:80]
