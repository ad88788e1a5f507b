"""LoRA: a frozen linear layer plus a trainable low-rank update (arXiv 2106.09685, section 4.1).

    h = W0 x + s · B A x,        s = alpha / r

                 x  (d_in)
                 │
         ┌───────┴────────┐
         │                │
    W0   │ (d_out, d_in)  │  A  (r, d_in)     random at the start
    frozen                │
         │                z  (r)
         │                │
         │                │  B  (d_out, r)    zero at the start
         │              × s
         └───────(+)──────┘
                  │
                 h  (d_out)

Only A and B are trained, r · (d_in + d_out) numbers. B starts at zero, so the layer starts equal to the one it wraps.
Shapes below: `...` any batch dimensions, d_in, d_out the layer's features, r the rank. Copy this file, and it runs.
"""

import functools
import math
from collections.abc import Callable
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def lora_scaling(alpha: float, rank: int) -> float:
    """The factor s = alpha / rank in front of B A (arXiv 2106.09685, section 4.1)."""
    check_hyperparameters(rank, alpha)
    return alpha / rank


def check_hyperparameters(rank: int, alpha: float, dropout: float = 0.0) -> None:
    """Raise ValueError unless rank is an integer >= 1, alpha positive and finite, dropout in [0, 1)."""
    if not isinstance(rank, Integral) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"rank is {rank!r}; it must be an integer of at least 1")
    if not isinstance(alpha, Real) or isinstance(alpha, bool) or not 0 < alpha < math.inf:
        raise ValueError(f"alpha is {alpha!r}; it must be a positive, finite number")
    if not isinstance(dropout, Real) or isinstance(dropout, bool) or not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout!r}; it must be a number from 0 up to, not including, 1")


Scaling = Callable[[float, int], float]  # (alpha, rank) -> s
PLAIN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPUTED = {  # attributes of a weight that is computed from others, and the call that makes it plain again
    "parametrizations": "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')",
    "weight_mask": "torch.nn.utils.prune.remove(layer, 'weight')",
    "weight_u": "torch.nn.utils.remove_spectral_norm(layer)",
    "weight_g": "torch.nn.utils.remove_weight_norm(layer)",
}


def weight_like(layer: nn.Module) -> Tensor:
    """A tensor of the dtype and on the device of `layer.weight`: its `like`, if it has one, as a 4-bit layer does."""
    return layer.like if hasattr(layer, "like") else layer.weight  # reading a 4-bit weight would decode all of it


def check_linear(layer: nn.Module) -> None:
    """Raise ValueError unless `layer` can stand under an adapter: it maps d_in to d_out through a plain `.weight`."""
    name, sizes = type(layer).__name__, ("in_features", "out_features")
    if hasattr(layer, "delta_weight"):
        raise ValueError(f"this layer already has an adapter ({name}); merge it before adding another")
    if name == "Conv1D":  # what GPT-2 in `transformers` uses
        raise ValueError("Conv1D stores its weight transposed; replace it by an nn.Linear with weight = conv.weight.T")
    if not isinstance(layer, nn.Module) or not all(hasattr(layer, size) for size in sizes):
        raise ValueError(f"{name} is no linear layer; adapters go on nn.Linear")
    if call := next((call for mark, call in COMPUTED.items() if hasattr(layer, mark)), None):
        raise ValueError(f"the weight of this {name} is computed from others and cannot be frozen; call {call} first")
    weight, shape = weight_like(layer), (layer.out_features, layer.in_features)
    if isinstance(weight, nn.parameter.UninitializedParameter):
        raise ValueError(f"this lazy layer ({name}) has no weight yet; run a batch through it first")
    kind = type(weight)
    if kind.__module__.partition(".")[0] != "torch" or not isinstance(weight, Tensor) or weight.dtype not in PLAIN:
        kind = getattr(weight, "dtype", kind.__name__) if kind in (Tensor, nn.Parameter) else kind.__name__
        raise ValueError(f"the weight of this {name} is {kind}; adapters need a float16, bfloat16, float32 or float64 "
                         "tensor: adapt the layer before it is packed, or decode it first")  # fmt: skip
    if not hasattr(layer, "like") and tuple(weight.shape) != shape:
        raise ValueError(f"this {name} has a weight of shape {tuple(weight.shape)}, not (out, in) = {shape}; unpack it")


def check_replaceable(layer: nn.Module) -> None:
    """Raise ValueError if an nn.Linear in place of `layer` would lose hooks, or a forward that is not nn.Linear's."""
    name, own = type(layer).__name__, "forward" in vars(layer) or type(layer).forward is not nn.Linear.forward
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if hooks := [kind.strip("_") for kind in kinds if getattr(layer, kind)]:
        raise ValueError(f"this {name} has {', '.join(hooks)}, which would be lost; remove them first")
    if isinstance(layer, nn.Linear) and own:
        raise ValueError(f"this {name} has a forward of its own, which an nn.Linear would not have; leave it out")


def no_autocast(like: Tensor) -> torch.autocast:
    """A context in which products keep their dtype on the device of `like`: autocast would round a weight."""
    return torch.autocast("cpu" if like.is_meta else like.device.type, enabled=False)


class LoRALinear(nn.Module):
    """`base` with a low-rank update: (..., d_in) -> (..., d_out).

    A starts uniform in ±1/sqrt(d_in), Kaiming-uniform with a = sqrt(5), as in PEFT and the authors' loralib; the paper
    (section 4.1) says Gaussian. B starts at zero. Both are on the device of the base's weight and in its dtype, but in
    float32 over 16 bits, where small steps would round to none. The base is frozen.

    Args:
        base: the layer to adapt, an nn.Linear or any module with `weight`, `in_features`, `out_features`.
        rank, alpha: r, the number of rows of A and of columns of B, and the numerator of the scaling.
        dropout: probability of zeroing an entry of x on the adapter's path, in train mode only.
        scaling: the function of (alpha, rank) that gives s. Afterwards `layer.scaling` is a plain float.

    Raises ValueError, the base as it was, for a rank, alpha or dropout out of range or a base that is no linear layer.
    """

    def __init__(
        self, base: nn.Module, rank: int, alpha: float, dropout: float = 0.0, scaling: Scaling = lora_scaling
    ) -> None:
        super().__init__()
        check_hyperparameters(rank, alpha, dropout)
        check_linear(base)
        self.rank, self.alpha, self.dropout = int(rank), float(alpha), float(dropout)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.scaling, like = float(scaling(alpha, rank)), weight_like(base)
        options = {"device": like.device, "dtype": torch.promote_types(like.dtype, torch.float32)}
        self.A = nn.Parameter(torch.empty(self.rank, self.in_features, **options))  # (r, d_in)
        self.B = nn.Parameter(torch.zeros(self.out_features, self.rank, **options))  # (d_out, r)
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.base = base
        self.train(base.training)
        base.requires_grad_(False)  # last, so that what fails before changes nothing

    def forward(self, x: Tensor) -> Tensor:
        h = self.base(x)  # (..., d_out)
        if self.training and self.dropout > 0:
            x = F.dropout(x, self.dropout)
        z = F.linear(x.to(self.A.dtype), self.A)  # (..., r)
        update = F.linear(self.scaling * z, self.B)  # (..., d_out); s multiplies r numbers, not d_out
        return h + update.to(h.dtype)

    def delta_weight(self) -> Tensor:
        """s · B A, of shape (d_out, d_in), in the widest of float32, A, B and W0. Gradients flow through it."""
        dtypes = (torch.float32, self.A.dtype, self.B.dtype, weight_like(self.base).dtype)
        wide = functools.reduce(torch.promote_types, dtypes)
        with no_autocast(self.A):
            return self.scaling * (self.B.to(wide) @ self.A.to(wide))

    @property
    def weight(self) -> Tensor:
        """W0 + s · B A, of shape (d_out, d_in), in W0's dtype: summed in the widest of all, rounded once."""
        w0, delta = self.base.weight, self.delta_weight()
        return (w0.to(delta.dtype) + delta).to(w0.dtype)

    @property
    def bias(self) -> Tensor | None:
        """The base's bias, (d_out,) or None."""
        return getattr(self.base, "bias", None)

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """A fresh, frozen nn.Linear that computes in one product what this layer computes in three.

        Both layers stay as they are. Raises ValueError for hooks, for a base with a forward of its own, and for a sum
        without a finite value in the base's dtype (float16 overflows at 65504).
        """
        check_replaceable(self), check_replaceable(self.base)
        weight = self.weight  # (d_out, d_in)
        if not weight.is_meta and not torch.isfinite(weight).all():
            raise ValueError(f"the merged weight is not finite in {weight.dtype}; look at A and B, or merge in float32")
        options = {"bias": self.bias is not None, "device": weight.device, "dtype": weight.dtype}
        merged = nn.utils.skip_init(nn.Linear, self.in_features, self.out_features, **options)
        merged.weight.copy_(weight)
        if self.bias is not None:
            merged.bias.copy_(self.bias)
        return merged.requires_grad_(False).train(self.training)

    def extra_repr(self) -> str:  # what print(model) shows
        return f"rank={self.rank}, alpha={self.alpha:g}, scaling={self.scaling:g}, dropout={self.dropout:g}"
