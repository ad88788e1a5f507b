"""x times a frozen weight kept in 4 bits, which is decoded when it is needed and never kept (arXiv 2305.14314).

        forward                                     backward
    x ──► F.linear(x, decode(packed)) ──► h         grad x ◄── grad h @ decode(packed)    decoded again

The weight is frozen, so it needs no gradient: backward needs it only to hand on the gradient of x. Autograd would
keep the decoded weight until then, sixteen bits or more a weight, and nothing would be saved. Here it keeps only the
codes, which exist anyway, and decodes them a second time. Even then the whole weight never exists at once: both
passes go through it in slices of a few hundred rows.

Shapes: `...` any batch dimensions, d_in and d_out the layer's features. `parts` are those of nf4.NF4Tensor as tensors:
packed, absmax, absmax2 and offset, the last two None if quantized once; `layout` is (d_out, d_in, block_size).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_from_scratch import nf4

Layout = tuple[int, int, int]
Parts = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


def decode_rows(parts: Parts, layout: Layout, first: int, last: int) -> Tensor:
    """Rows `first` to `last` of the weight, (last - first, d_in) in float32: nf4.dequantize in torch, on any device.

    `first` must be one of `row_slices`, so that the slice begins with a block.
    """
    packed, absmax, absmax2, offset = parts
    _, d_in, block_size = layout
    start, stop = first * d_in, last * d_in
    blocks = slice(start // block_size, -(-stop // block_size))
    constants = absmax[blocks]
    if absmax2 is not None:
        table = torch.tensor(nf4.DYNAMIC_MAP, device=packed.device)
        second = torch.arange(blocks.start, blocks.stop, device=packed.device) // nf4.SECOND_BLOCK
        constants = table[constants.int()] * absmax2[second] + offset
    words = torch.tensor(nf4.PAIRS, device=packed.device).view(torch.int64)[:, 0]  # (256,) two float32 levels each
    codes = packed[start // 2 : -(-stop // 2)].int()
    values = words.index_select(0, codes).view(torch.float32)[: stop - start]
    whole = values.numel() // block_size * block_size
    values[:whole].view(-1, block_size).mul_(constants[: whole // block_size, None])
    values[whole:].mul_(constants[whole // block_size :])  # a short last block, or nothing
    return values.view(last - first, d_in)


def row_slices(layout: Layout, rows: int) -> list[tuple[int, int]]:
    """(first, last) for slices of about `rows` rows, each beginning with a block."""
    d_out, d_in, block_size = layout
    whole_rows = block_size // math.gcd(block_size, d_in)  # the fewest rows that are a whole number of blocks
    step = whole_rows * max(1, rows // whole_rows)
    return [(first, min(first + step, d_out)) for first in range(0, d_out, step)]


class FrozenProduct(torch.autograd.Function):
    """x @ W.T, (..., d_in) -> (..., d_out), or, `back`, x @ W, the other way; W = decode(parts), in slices of `rows`.

    Each is the other's backward. Saves `parts` for it, and nothing else.
    """

    @staticmethod
    def forward(
        x: Tensor,
        back: bool,
        layout: Layout,
        rows: int,
        dtype: torch.dtype,
        packed: Tensor,
        absmax: Tensor,
        absmax2: Tensor | None,
        offset: Tensor | None,
    ) -> Tensor:  # a parameter for each argument, no *parts: by their number torch.compile knows that there is no ctx
        parts, slices = (packed, absmax, absmax2, offset), row_slices(layout, rows)
        if not back:
            columns = [F.linear(x, decode_rows(parts, layout, a, b).to(dtype)) for a, b in slices]
            return columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)
        flat = x.reshape(-1, layout[0])  # (N, d_out)
        total = flat.new_zeros(len(flat), layout[1])  # (N, d_in)
        for first, last in slices:
            total.addmm_(flat[:, first:last], decode_rows(parts, layout, first, last).to(dtype))
        return total.view(*x.shape[:-1], layout[1])

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        x, ctx.back, ctx.layout, ctx.rows, ctx.dtype, *parts = inputs
        ctx.x_dtype = x.dtype
        ctx.save_for_backward(*parts)  # the layer's own buffers

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        parts = ctx.saved_tensors  # read once: under gradient checkpointing that is all one may
        dtype = torch.promote_types(ctx.dtype, grad.dtype)  # under autocast grad has fewer bits than the weight
        x_grad = FrozenProduct.apply(grad.to(dtype), not ctx.back, ctx.layout, ctx.rows, dtype, *parts)
        return x_grad.to(ctx.x_dtype), *[None] * 8

    @staticmethod
    def vmap(info, in_dims: tuple, x: Tensor, *rest) -> tuple[Tensor, int]:
        """torch.func.vmap over x: one more batch dimension. Raises ValueError for codes of which each is another's."""
        if any(dim is not None for dim in in_dims[5:]):
            raise ValueError("vmap over several 4-bit layers does not work; call one after the other")
        return FrozenProduct.apply(x.movedim(in_dims[0], 0), *rest), 0
