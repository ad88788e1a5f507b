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

Only A and B are trained: r · (d_in + d_out) numbers instead of d_in · d_out.
Because B starts at zero, the adapted layer starts out equal to the layer it wraps.

Shapes below: `...` any batch dimensions, d_in, d_out the layer's features, r the rank.
This file imports nothing of the project: copy it and it runs.
"""

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


def check_linear(layer: nn.Module) -> None:
    """Raise ValueError unless `layer` can stand under an adapter: it maps d_in to d_out through `.weight`."""
    name = type(layer).__name__
    if hasattr(layer, "delta_weight"):
        raise ValueError(f"this layer already has an adapter ({name}); merge it before adding another")
    if name == "Conv1D":  # what GPT-2 in `transformers` uses
        raise ValueError(
            "Conv1D stores its weight transposed, (in, out), so it is not adapted here; replace it by an "
            "nn.Linear with weight = conv.weight.T and bias = conv.bias, and adapt that"
        )
    if not isinstance(layer, nn.Linear) and not (hasattr(layer, "in_features") and hasattr(layer, "out_features")):
        raise ValueError(f"{name} is no linear layer; adapters go on nn.Linear")
    if not isinstance(layer, nn.Linear):
        return  # another kind of linear layer, such as one that holds its weight in 4 bits
    if isinstance(layer.weight, nn.parameter.UninitializedParameter):
        raise ValueError(f"this lazy layer ({name}) has no weight yet; run a batch through it first")
    if not isinstance(layer.weight, nn.Parameter):
        raise ValueError(
            f"the weight of this {name} is computed from others (a parametrization), so it cannot be frozen; "
            "call torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') first"
        )
    if tuple(layer.weight.shape) != (layer.out_features, layer.in_features):
        raise ValueError(
            f"the weight of this {name} has shape {tuple(layer.weight.shape)}, not (out_features, in_features) = "
            f"({layer.out_features}, {layer.in_features}); unpack it first"
        )
    if not layer.weight.is_floating_point():
        raise ValueError(
            f"the weight of this {name} is {layer.weight.dtype}; adapters need a real floating-point weight"
        )


class LoRALinear(nn.Module):
    """`base` with a low-rank update: (..., d_in) -> (..., d_out).

    A starts uniform in ±1/sqrt(d_in), which is Kaiming-uniform with a = sqrt(5), as in PEFT and in the
    authors' loralib; the paper itself (section 4.1) says Gaussian. B starts at zero. Both take the dtype
    and the device of the base's weight. The base is frozen, and otherwise left as it is.

    Args:
        base: the layer to adapt, an nn.Linear or any module with `weight`, `in_features`, `out_features`.
        rank: r, the number of rows of A and of columns of B.
        alpha: the numerator of the scaling.
        dropout: probability of zeroing an entry of x on the adapter's path, in train mode only.
        scaling: the function of (alpha, rank) that gives s. Afterwards `layer.scaling` is a plain float.

    Raises:
        ValueError: for a rank below 1, an alpha that is not positive and finite, a dropout outside [0, 1),
            a base that is no linear layer.
    """

    def __init__(
        self,
        base: nn.Module,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        scaling: Callable[[float, int], float] = lora_scaling,
    ) -> None:
        super().__init__()
        check_hyperparameters(rank, alpha, dropout)
        check_linear(base)
        self.rank, self.alpha, self.dropout = int(rank), float(alpha), float(dropout)
        self.scaling = float(scaling(alpha, rank))
        weight = base.weight
        like = {"device": weight.device, "dtype": weight.dtype}
        self.A = nn.Parameter(torch.empty(self.rank, base.in_features, **like))  # (r, d_in)
        self.B = nn.Parameter(torch.zeros(base.out_features, self.rank, **like))  # (d_out, r)
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.base = base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        h = self.base(x)  # (..., d_out)
        if self.training and self.dropout > 0:
            x = F.dropout(x, self.dropout)
        z = F.linear(x.to(self.A.dtype), self.A)  # (..., r)
        update = F.linear(self.scaling * z, self.B)  # (..., d_out); s multiplies r numbers, not d_out
        return h + update.to(h.dtype)

    def delta_weight(self) -> Tensor:
        """s · B A, of shape (d_out, d_in), in float32 where A and B have fewer bits. Gradients flow through it."""
        wide = torch.promote_types(self.A.dtype, torch.float32)
        return self.scaling * (self.B.to(wide) @ self.A.to(wide))

    @property
    def weight(self) -> Tensor:
        """W0 + s · B A, of shape (d_out, d_in), in W0's dtype: summed in float32 at least, rounded once."""
        w0, delta = self.base.weight, self.delta_weight()
        return (w0.to(delta.dtype) + delta).to(w0.dtype)

    @property
    def bias(self) -> Tensor | None:
        """The base's bias, (d_out,) or None."""
        return self.base.bias

    @property
    def in_features(self) -> int:
        """d_in."""
        return self.base.in_features

    @property
    def out_features(self) -> int:
        """d_out."""
        return self.base.out_features

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """A fresh, frozen nn.Linear that computes in one product what this layer computes in three.

        The wrapped layer and this one are untouched. Raises ValueError if the sum has no finite value in
        the base's dtype (float16 overflows at 65504).
        """
        weight = self.weight  # (d_out, d_in)
        if not weight.is_meta and not torch.isfinite(weight).all():
            raise ValueError(f"the merged weight is not finite in {weight.dtype}; look at A and B, or merge in float32")
        options = {"bias": self.bias is not None, "device": weight.device, "dtype": weight.dtype}
        merged = nn.utils.skip_init(nn.Linear, self.in_features, self.out_features, **options)
        merged.weight.copy_(weight)
        if self.bias is not None:
            merged.bias.copy_(self.bias)
        return merged.requires_grad_(False).train(self.training)

    def extra_repr(self) -> str:
        """What print(model) shows of this layer."""
        return f"rank={self.rank}, alpha={self.alpha:g}, scaling={self.scaling:g}, dropout={self.dropout:g}"
