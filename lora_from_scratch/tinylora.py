"""TinyLoRA: a whole model trained by 13 numbers, or by one (arXiv 2602.04118 v1, section 4.0.2).

    W' = W + U Σ (Σ_i v_i P_i) Vᵀ,      U, Σ, V the r largest pieces of the SVD of W, the P_i fixed and random, (r, r)

Only v, u numbers, is trained, and layers may share it: LoRA with A = Vᵀ, which stands still, and a B computed from v.
The paper takes r = 2 and does not say how P is drawn: here normal of variance 1 / r, as in PEFT (which puts sqrt(Σ) on
either side of the sum: another update for the same v and P). At v = 0 a model is as it was.

**A caution.** Only v is saved; P is drawn again from its seed, U and V are computed again. So 26 bytes are an adapter
only beside the same W, seed, PyTorch and kind of machine: PyTorch promises equal draws neither across releases nor
across platforms. An SVD leaves signs open (here each column of U has a positive largest entry) and, between equal
singular values, directions. What is to last is `delta_weight()`, or A and the B that v gave.
"""

from numbers import Integral

import torch
from torch import Tensor, nn

from lora_from_scratch.lora import LoRALinear, check_linear
from lora_from_scratch.targets import find_targets, replace_modules


class TinyLoRALinear(LoRALinear):
    """`base`, frozen, with the update of `v` (u,), which others may share, and `P` (u, r, r). Else a LoRALinear."""

    def __init__(self, base: nn.Module, v: nn.Parameter, P: Tensor) -> None:
        nn.Module.__init__(self)  # not LoRALinear's, whose A and B are trained
        check_linear(base)
        self.in_features, self.out_features, self.rank = base.in_features, base.out_features, P.shape[-1]
        self.scaling, self.alpha, self.dropout = 1.0, float(self.rank), 0.0
        weight = base.weight.detach().to(torch.promote_types(base.weight.dtype, torch.float32))
        u, s, vt = torch.linalg.svd(weight, full_matrices=False)
        if self.rank > len(s):
            raise ValueError(f"rank is {self.rank}, and a weight of {tuple(weight.shape)} has {len(s)} singular values")
        u, s, vt = u[:, : self.rank], s[: self.rank], vt[: self.rank]  # (d_out, r), (r,), (r, d_in)
        sign = u.gather(0, u.abs().argmax(dim=0, keepdim=True)).sign()  # (1, r)
        for name, part in (("A", sign.T * vt), ("U", sign * u * s), ("P", P.to(weight))):
            self.register_buffer(name, part, persistent=False)
        self.v, self.base, self.training = v, base.requires_grad_(False), base.training

    @property
    def B(self) -> Tensor:
        """U Σ (Σ_i v_i P_i), (d_out, r). Gradients flow to v."""
        return self.U @ torch.tensordot(self.v.to(self.P.dtype), self.P, dims=1)


def add_tinylora(model: nn.Module, size: int = 13, rank: int = 2, seed: int = 0, targets="all-linear") -> nn.Module:
    """Freeze `model` and wrap its `targets` (see AdapterConfig), in place; one v of `size` numbers trains them all.
    Raises ValueError, nothing changed, for an adapted model, a size or a rank out of range, and as find_targets does.
    """
    layers, adapted = find_targets(model, targets), any(hasattr(type(m), "delta_weight") for m in model.modules())
    most = min(min(layer.in_features, layer.out_features) for layer in layers.values())
    if adapted or not (isinstance(size, Integral) and isinstance(rank, Integral) and size >= 1 and 1 <= rank <= most):
        raise ValueError(f"size is {size!r}, rank {rank!r}; both are at least 1, rank at most {most}, over no adapters")
    draw, first = torch.Generator().manual_seed(seed), next(iter(layers.values())).weight
    v = nn.Parameter(torch.zeros(size, device=first.device, dtype=torch.promote_types(first.dtype, torch.float32)))
    swap = {m: TinyLoRALinear(m, v, torch.randn(size, rank, rank, generator=draw) / rank**0.5) for m in layers.values()}
    replace_modules(model.requires_grad_(False), swap)
    return model
