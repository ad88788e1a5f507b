"""DoRA: a weight as magnitude times direction, LoRA on the direction (arXiv 2402.09353, section 4).

                     W0 + s · B A
    W′ = magnitude · ──────────────         each row divided by its own norm, n = ‖W0 + s · B A‖
                     ‖W0 + s · B A‖

    h = g · (W0 x + s · B A x) + bias,      g = magnitude / n, one number for each of the d_out outputs

The magnitude starts as the row norms of W0, so g starts at 1 and the layer equal to its base. (The paper says
"column-wise", because its W is the transpose of PyTorch's: nbasyl/DoRA, issue 1.) Three things are easy to get wrong,
and each is one line below: the norm runs over the inputs of one output; the bias is not rescaled; the merge uses the
same g.

For the gradient, n counts as a constant (section 4.3), so nothing of its computation is kept for backward. And it is
computed without ever building B A: with w a row of W0 and u the same row of s · B A,

    ‖w + u‖² = ‖w‖² + 2 ⟨w, u⟩ + ‖u‖²,      ⟨w, u⟩ from W0 Aᵀ (d_out, r),   ‖u‖² from A Aᵀ (r, r)

Shapes below: `...` any batch dimensions, d_in, d_out the layer's features, r the rank.
This file builds on lora.py alone.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lora_from_scratch.lora import LoRALinear, lora_scaling, no_autocast


class DoRALinear(LoRALinear):
    """`base` with a trainable magnitude for each output and a low-rank update of the direction.

    (..., d_in) -> (..., d_out). Arguments, A, B, `merge()` and errors are those of LoRALinear; `magnitude` (d_out,)
    is a third parameter, in A's dtype. `delta_weight()` is still s · B A, the change before the rows are
    rescaled; the whole change is `layer.weight - layer.base.weight`, and its rank is not limited by r.

    Dropout acts on the path of A and B alone, as in LoRALinear. (PEFT's DoRA also drops from the base's path there.)
    """

    def __init__(
        self,
        base: nn.Module,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        scaling: Callable[[float, int], float] = lora_scaling,
    ) -> None:
        flags = [(parameter, parameter.requires_grad) for parameter in base.parameters()]
        super().__init__(base, rank, alpha, dropout, scaling)
        try:
            self.magnitude = nn.Parameter(self.row_norms().to(self.A.dtype))  # (d_out,)
        except BaseException:  # out of memory, or interrupted: the base stays as it was
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
            raise

    def forward(self, x: Tensor) -> Tensor:
        h = super().forward(x)  # (..., d_out), the base's bias in it
        g = self.rescaling().to(h.dtype)  # (d_out,)
        return g * h if self.bias is None else g * h + (1 - g) * self.bias.to(h.dtype)  # the bias back to once

    def row_norms(self) -> Tensor:
        """n = ‖W0 + s · B A‖ of each output row, (d_out,), in float32 at least. It takes no gradient, in either mode.

        The three terms cancel in a row that the update all but removes. What is left below their rounding errors is
        noise, and may be negative, so n² has a floor of that size.
        """
        W0, A, B = (t.detach() for t in (self.base.weight, self.A, self.B))
        wide = torch.promote_types(torch.promote_types(W0.dtype, A.dtype), torch.float32)
        W0, A, sB = W0.to(wide), A.to(wide), self.scaling * B.to(wide)
        with no_autocast(W0):
            w_w = torch.linalg.vector_norm(W0, dim=1).square()  # (d_out,) ‖w‖²
            w_u = ((W0 @ A.T) * sB).sum(dim=1)  # (d_out,) ⟨w, u⟩
            u_u = ((sB @ (A @ A.T)) * sB).sum(dim=1)  # (d_out,) ‖u‖²
        floor = torch.finfo(wide).eps * (w_w + u_u)
        return (w_w + 2 * w_u + u_u).maximum(floor).sqrt()

    def rescaling(self) -> Tensor:
        """g = magnitude / n, (d_out,). n is rounded as the magnitude was, so that g starts at exactly 1.

        A row of zeros has no direction to rescale, and is divided by 1. Its magnitude starts at 0 too, and with both at
        0 neither gets a gradient: such an output stays at its bias.
        """
        n = self.row_norms().to(self.magnitude.dtype)
        return self.magnitude / n.masked_fill(n == 0, 1)

    @property
    def weight(self) -> Tensor:
        """W′ = g · (W0 + s · B A), of shape (d_out, d_in), in W0's dtype: float32 at least until one last rounding."""
        w0, delta = self.base.weight, self.delta_weight()
        g = self.rescaling().to(delta.dtype)
        return (g[:, None] * (w0.to(delta.dtype) + delta)).to(w0.dtype)
