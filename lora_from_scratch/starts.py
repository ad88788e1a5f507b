"""Where A and B start: at an SVD of the weight, at what quantization lost, or nowhere in particular.

LoRA starts at B = 0, where A gets no gradient. These starts give both factors something, and take it off the frozen
base, so that W = W_base + s · B A stays what it was, up to rounding. With the SVD W = U S Vᵀ and some pieces i of it,

    B = U_i sqrt(S_i / s),      A = sqrt(S_i / s) V_iᵀ,      W_base = W - s · B A

    pissa          the r largest pieces     (PiSSA, arXiv 2404.02948 v4, section 3, equations 2 to 4)
    milora         the r smallest           (MiLoRA, arXiv 2406.09044 v3, section 3, equations 3 to 5)
    random_start   pieces of those sizes in directions that know nothing of W: the null that both have to beat
    loftq          the r largest of what a 4-bit base lost (LoftQ, arXiv 2310.08659, algorithm 1)

The papers have s = 1; dividing by s makes the product right for every alpha. Once B_0 A_0 has been trained to B A, the
sum is that of an adapter of rank 2r over the untouched W, with the same scaling (2404.02948 v4, appendix C):

    W_base + s · B A  =  W + s · [B | -B_0] [A ; A_0]

QPiSSA (section 4 there) is a composition, and loses less where the residual is narrower than W:

    pissa(layer)
    layer.base = NF4Linear.from_linear(layer.base)      # and that is all, or, to go on as its appendix E does,
    loftq(layer, weight, rounds=4)                      # where `weight` is W as it was before pissa

A layer is whatever has `A` (r, d_in), `B` (d_out, r), a float `scaling` and a `base` with a `weight` (d_out, d_in),
with or without DoRA's magnitude. This file imports nothing of the project: copy it and it runs.
"""

from collections.abc import Callable
from functools import reduce
from math import inf
from numbers import Integral

import torch
from torch import Tensor, nn

Start = tuple[Tensor, Tensor]  # copies of A (r, d_in) and B (d_out, r) as training finds them
Quantizer = Callable[[nn.Linear], nn.Module]  # gives a layer whose `weight` is the decoded one
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def pissa(layer: nn.Module) -> Start:
    """Move the r largest pieces of the layer's weight into A and B. Keep what is returned for `as_plain_adapter`.

    Raises ValueError, the layer as it was, for a base that is quantized or computed, a rank above min(d_out, d_in), a
    scaling that is not positive, a weight that is not finite, pieces of size 0, at which neither factor would learn.
    """
    weight = _whole_weight(layer)
    return _begin(layer, weight, *_pieces(weight, len(layer.A)))


def milora(layer: nn.Module) -> Start:
    """Move the r smallest pieces of the layer's weight into A and B. Raises ValueError as `pissa`."""
    weight = _whole_weight(layer)
    return _begin(layer, weight, *_pieces(weight, len(layer.A), minor=True))


def random_start(layer: nn.Module, generator: torch.Generator, minor: bool = False) -> Start:
    """Factors of the sizes that `pissa` gives, or `milora` if `minor`, in directions drawn at random.

    A Aᵀ, Bᵀ B and the product's singular values are the SVD start's; the frames are uniform (Haar). The base takes up
    the difference, so the layer computes what it did. A CPU generator gives the same draw on every device.
    Raises ValueError as `pissa`, and without a generator.
    """
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"generator is {generator!r}; give torch.Generator().manual_seed(0), or another seed")
    weight = _whole_weight(layer)
    _, sizes, _ = _pieces(weight, len(layer.A), minor)
    left, right = (_random_frame(d, len(sizes), generator).to(weight) for d in weight.shape)
    return _begin(layer, weight, left, sizes, right.T)


def as_plain_adapter(layer: nn.Module, start: Start) -> tuple[Tensor, Tensor]:
    """A (2r, d_in) and B (d_out, 2r): over the weight before `start` was made, with this layer's scaling, the same sum.

    So alpha is 2 r s for a plain LoRA layer, s · sqrt(2r) under rsLoRA. Both hold the trained factors and the start's,
    bit for bit. Raises ValueError for a start of other shapes, and for a base quantized since, whose sum is another.
    """
    _check(layer, writable=True)
    A, B = layer.A.detach(), layer.B.detach()
    if (given := [tuple(factor.shape) for factor in start]) != (own := [tuple(A.shape), tuple(B.shape)]):
        raise ValueError(f"the start's A and B are {given}, the layer's {own}; give what pissa or another returned")
    return torch.cat((A, start[0].to(A))), torch.cat((B, -start[1].to(B)), dim=1)


@torch.no_grad()
def loftq(layer: nn.Module, weight: Tensor, rounds: int = 5, quantize: Quantizer | None = None) -> list[float]:
    """Choose a 4-bit base and A, B so that their sum comes close to `weight` (d_out, d_in), which is W before 4 bits.

    In turn, `rounds` times: the base becomes quantize(W - s · B A), then s · B A the best of rank r of W - base. It
    goes on from the layer's own A and B: from B = 0 this is LoftQ, from pissa's factors QPiSSA of rounds + 1
    iterations, and two rounds are one round twice. A round may also lead away: what is returned is ||W - sum|| / ||W||
    (Frobenius) after each. A DoRA layer's magnitude becomes the row norms of the sum.
    `quantize` gives the new base for a linear layer; without one, the old base makes another of its kind, as NF4Linear
    does. Raises ValueError, the layer as it was, for a base that cannot or has hooks, a misfit, and as `pissa`.
    """
    _check(layer)
    old, scaling, shape = layer.base, layer.scaling, (len(layer.B), layer.A.shape[1])
    if not isinstance(rounds, Integral) or isinstance(rounds, bool) or rounds < 1:
        raise ValueError(f"rounds is {rounds!r}; it is how often to quantize and decompose, an integer of at least 1")
    if quantize is None and not hasattr(old, "from_linear") or any(getattr(old, kind) for kind in HOOKS):
        raise ValueError(f"the base, {type(old).__name__}, is not in 4 bits, so give quantize; or has hooks to remove")
    if weight.shape != shape:
        raise ValueError(f"the weight is {tuple(weight.shape)}, this layer's {shape}; give W as it was before 4 bits")
    quantize = quantize or (lambda linear: old.from_linear(linear, old.block_size, old.double))
    target, A, B = _widened(weight, layer.A, layer.B)
    errors, linear = [], nn.utils.skip_init(nn.Linear, shape[1], shape[0], bias=False)
    linear.bias = getattr(old, "bias", None)
    with torch.autocast(target.device.type, enabled=False):
        for _ in range(rounds):
            linear.weight = nn.Parameter(target - scaling * (B @ A))
            base = quantize(linear).to(old.weight.dtype)
            lost = target - base.weight.to(target)
            A, B = _factors(scaling, *_pieces(lost, len(A)))
            errors.append(((lost - scaling * (B @ A)).norm() / target.norm()).item())
    layer.base = base.requires_grad_(False).train(old.training)
    layer.A.copy_(A), layer.B.copy_(B)
    if hasattr(layer, "magnitude"):
        layer.magnitude.copy_((target - lost + scaling * (B @ A)).norm(dim=1))
    return errors


@torch.no_grad()
def _begin(layer: nn.Module, weight: Tensor, left: Tensor, sizes: Tensor, right: Tensor) -> Start:
    """Put left · sizes · right into A and B, and `weight` without it into the base."""
    A, B = _factors(layer.scaling, left, sizes, right)
    A, B, old = A.to(layer.A.dtype), B.to(layer.B.dtype), layer.base.weight
    with torch.autocast(weight.device.type, enabled=False):  # it would round the product to 16 bits
        residual = weight - layer.scaling * (B.to(weight) @ A.to(weight))
    layer.base.weight = nn.Parameter(residual.to(old.dtype), old.requires_grad)  # `old` may be tied to an embedding
    layer.A.copy_(A), layer.B.copy_(B)
    return A.clone(), B.clone()


def _factors(scaling: float, left: Tensor, sizes: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    return (sizes / scaling).sqrt()[:, None] * right, left * (sizes / scaling).sqrt()  # A, B


def _pieces(weight: Tensor, rank: int, minor: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The r largest or smallest pieces of the SVD: (d_out, r), (r,), (r, d_in)."""
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    which = slice(len(s) - rank, None) if minor else slice(0, rank)
    if not s[which].all():
        raise ValueError(f"only {s[which].count_nonzero()} of these {rank} singular values are above 0; where A and B "
                         "are 0, neither gets a gradient: take a lower rank, or the plain start")  # fmt: skip
    return u[:, which], s[which], vt[which]


def _random_frame(dimension: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` orthonormal columns, uniform among all such: a QR with its signs moved (arXiv math-ph/0609050)."""
    draw = torch.randn(dimension, count, dtype=torch.float64, generator=generator, device=generator.device)
    return (qr := torch.linalg.qr(draw)).Q * qr.R.diagonal().sign()


@torch.no_grad()
def _whole_weight(layer: nn.Module) -> Tensor:
    """base + s · B A, widened: of a new layer W, and of one that was begun W still, so beginning twice is once."""
    _check(layer, writable=True)
    base, A, B = _widened(layer.base.weight, layer.A, layer.B)
    with torch.autocast(base.device.type, enabled=False):
        return base + layer.scaling * (B @ A)


def _check(layer: nn.Module, writable: bool = False) -> None:
    if missing := [name for name in ("A", "B", "scaling", "base") if not hasattr(layer, name)]:
        raise ValueError(f"this {type(layer).__name__} has no {', '.join(missing)}; give an adapted linear layer")
    if writable and type(layer.base._parameters.get("weight")) is not nn.Parameter:
        raise ValueError(f"{type(layer.base).__name__} has no plain weight to change: begin first, then quantize it")
    if not 0 < layer.scaling < inf:
        raise ValueError(f"scaling is {layer.scaling!r}; A and B are divided by its root, so it must be positive")
    if (rank := len(layer.A)) > (most := min(len(layer.B), layer.A.shape[1])):
        raise ValueError(f"rank is {rank}, and a weight of {len(layer.B)} × {layer.A.shape[1]} has {most} pieces")


def _widened(*tensors: Tensor) -> list[Tensor]:
    if any(tensor.is_meta or not torch.isfinite(tensor).all() for tensor in tensors):
        raise ValueError("the weight, A or B holds no finite numbers; was a run lost, or is this the meta device?")
    wide = reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
    return [tensor.detach().to(wide) for tensor in tensors]
