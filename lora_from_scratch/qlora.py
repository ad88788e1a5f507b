"""QLoRA's base layer: a linear layer whose weight is kept in 4 bits (arXiv 2305.14314, section 3, equation 5).

    h = decode(packed) x + bias          then LoRA on top, in full precision:  h + s · B A x

        forward                                     backward
    x ──► F.linear(x, decode(packed)) ──► h         grad x ◄── grad h @ decode(packed)    decoded again

The weight is frozen, so it needs no gradient: backward needs it only to hand on the gradient of x. Autograd would
keep the decoded weight until then, sixteen bits or more a weight, and nothing would be saved. Here it keeps only the
codes, which exist anyway, and decodes them a second time. Even then the whole weight never exists at once: both
passes go through it in slices of a few hundred rows.

Anything that adapts a layer with `weight`, `bias`, `in_features` and `out_features` works over this one unchanged.
This file builds on nf4.py alone. Shapes: `...` any batch dimensions, d_in and d_out the layer's features.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_from_scratch import nf4

ROWS = 256  # rows of the weight decoded at a time: few enough to be small, enough to keep a product fast


def decode_rows(parts: tuple[Tensor, ...], layout: tuple[int, int, int], first: int, last: int) -> Tensor:
    """Rows `first` to `last` of the weight, (last - first, d_in) in float32: nf4.dequantize in torch, on any device.

    `parts` are packed, absmax and, double quantized, absmax2 and offset; `layout` is (d_out, d_in, block_size).
    `first` must be a multiple of `whole_rows`, so that the slice begins with a block.
    """
    packed, absmax = parts[:2]
    _, d_in, block_size = layout
    start, stop = first * d_in, last * d_in
    blocks = slice(start // block_size, -(-stop // block_size))
    constants = absmax[blocks]
    if len(parts) > 2:
        table = torch.tensor(nf4.DYNAMIC_MAP, device=packed.device)
        second = torch.arange(blocks.start, blocks.stop, device=packed.device) // nf4.SECOND_BLOCK
        constants = table[constants.int()] * parts[2][second] + parts[3]
    words = torch.tensor(nf4.PAIRS, device=packed.device).view(torch.int64)[:, 0]  # (256,) two float32 levels each
    codes = packed[start // 2 : -(-stop // 2)].int()
    values = words.index_select(0, codes).view(torch.float32)[: stop - start]
    whole = values.numel() // block_size * block_size
    values[:whole].view(-1, block_size).mul_(constants[: whole // block_size, None])
    values[whole:].mul_(constants[whole // block_size :])  # a short last block, or nothing
    return values.view(last - first, d_in)


def row_slices(layout: tuple[int, int, int]) -> list[tuple[int, int]]:
    """(first, last) for slices of about ROWS rows, each beginning with a block."""
    d_out, d_in, block_size = layout
    whole_rows = block_size // math.gcd(block_size, d_in)  # the fewest rows that are a whole number of blocks
    step = whole_rows * max(1, ROWS // whole_rows)
    return [(first, min(first + step, d_out)) for first in range(0, d_out, step)]


class FrozenProduct(torch.autograd.Function):
    """x @ decode(parts).T. (..., d_in) -> (..., d_out). Saves `parts` for backward and nothing else."""

    @staticmethod
    def forward(ctx, x: Tensor, layout: tuple[int, int, int], dtype: torch.dtype, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(*parts)  # the layer's own buffers
        ctx.layout, ctx.dtype, ctx.x_dtype = layout, dtype, x.dtype
        columns = [F.linear(x, decode_rows(parts, layout, a, b).to(dtype)) for a, b in row_slices(layout)]
        return columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        parts = ctx.saved_tensors  # read once: under gradient checkpointing that is all one may
        layout, dtype = ctx.layout, torch.promote_types(ctx.dtype, grad.dtype)
        flat = grad.reshape(-1, layout[0]).to(dtype)  # (N, d_out)
        total = flat.new_zeros(len(flat), layout[1])  # (N, d_in)
        for first, last in row_slices(layout):
            total.addmm_(flat[:, first:last], decode_rows(parts, layout, first, last).to(dtype))
        unsaved = [None] * (2 + len(parts))
        return total.view(*grad.shape[:-1], layout[1]).to(ctx.x_dtype), *unsaved


class NF4Linear(nn.Module):
    """A frozen linear layer with its weight in NF4: (..., d_in) -> (..., d_out).

    The codes and their constants are buffers: `packed`, `absmax` and, double quantized, `absmax2` and `offset`, as in
    nf4.NF4Tensor. So they move, save, load and copy with the model. The constants stay float32 under `.half()` and
    the like; what changes then is the dtype that the layer decodes to and computes in.

    A new layer holds zeros, to be filled by `load_state_dict`; `from_linear` makes one from an nn.Linear.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        block_size: int = 64,
        double: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        nf4.check_block_size(block_size)
        self.in_features, self.out_features, self.block_size = in_features, out_features, int(block_size)
        count = in_features * out_features
        blocks, floats = -(-count // block_size), {"dtype": torch.float32, "device": device}
        zeros = nf4.ZERO << 4 | nf4.ZERO
        self.register_buffer("packed", torch.full((-(-count // 2),), zeros, dtype=torch.uint8, device=device))
        if double:
            self.register_buffer("absmax", torch.zeros(blocks, dtype=torch.uint8, device=device))
            self.register_buffer("absmax2", torch.zeros(-(-blocks // nf4.SECOND_BLOCK), **floats))
            self.register_buffer("offset", torch.zeros((), **floats))
        else:
            self.register_buffer("absmax", torch.zeros(blocks, **floats))
        self.register_buffer("layout", torch.tensor([out_features, in_features, block_size], device=device))
        # Holds no value: its dtype, which .half() and .to() change, is the one to compute in.
        self.register_buffer("like", torch.empty(0, dtype=dtype, device=device), persistent=False)
        zero_bias = torch.zeros(out_features, dtype=dtype, device=device) if bias else None
        self.register_parameter("bias", None if zero_bias is None else nn.Parameter(zero_bias, requires_grad=False))

    @classmethod
    def from_linear(cls, linear: nn.Linear, block_size: int = 64, double: bool = True) -> "NF4Linear":
        """The 4-bit copy of a linear layer, which is left as it is. On the meta device, one without values.

        Raises ValueError for anything but an nn.Linear with a finite weight of float16, bfloat16, float32 or float64.
        """
        if not isinstance(linear, nn.Linear) or not linear.weight.is_floating_point():
            found = f"{type(linear).__name__} of {getattr(getattr(linear, 'weight', None), 'dtype', 'no weight')}"
            raise ValueError(f"this layer is {found}; only an nn.Linear with a floating-point weight is quantized")
        weight, bias = linear.weight.detach(), linear.bias
        options = {"device": weight.device, "dtype": weight.dtype}
        made = cls(linear.in_features, linear.out_features, bias is not None, block_size, double, **options)
        if not weight.is_meta:
            wide = torch.promote_types(weight.dtype, torch.float32)  # NumPy knows no bfloat16
            q = nf4.quantize(weight.to("cpu", wide).numpy(), block_size, double)
            for name in ("packed", "absmax", "absmax2", "offset")[: 4 if double else 2]:
                made.get_buffer(name).copy_(torch.from_numpy(np.asarray(getattr(q, name))))
            if bias is not None:
                made.bias.data.copy_(bias.detach())
        return made.train(linear.training)

    @property
    def double(self) -> bool:
        """Whether the absmax values are quantized too."""
        return self.absmax.dtype == torch.uint8

    @property
    def weight(self) -> Tensor:
        """The weight, decoded anew at every call: (d_out, d_in) in the layer's dtype. It takes no gradient."""
        parts, layout = self._parts(), self._layout()
        whole = self.packed.new_empty(layout[:2], dtype=self.like.dtype)
        for first, last in row_slices(layout):
            whole[first:last] = decode_rows(parts, layout, first, last)
        return whole

    def forward(self, x: Tensor) -> Tensor:
        h = FrozenProduct.apply(x, self._layout(), self.like.dtype, *self._parts())  # (..., d_out)
        return h if self.bias is None else h + self.bias.to(h.dtype)

    def extra_repr(self) -> str:
        """What print(model) shows of this layer."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{sizes}, block_size={self.block_size}, double={self.double}"

    def _parts(self) -> tuple[Tensor, ...]:
        both = (self.packed, self.absmax)
        return (*both, self.absmax2, self.offset) if self.double else both

    def _layout(self) -> tuple[int, int, int]:
        return self.out_features, self.in_features, self.block_size

    def _apply(self, fn, recurse: bool = True) -> "NF4Linear":
        """What .to(), .half() and .cuda() call with what they do to a tensor: the constants keep their dtype."""
        before = {n: b for n, b in self._buffers.items() if b is not None and n != "like" and b.is_floating_point()}
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
        return self

    def _load_from_state_dict(self, state, prefix, metadata, strict, missing, unexpected, errors) -> None:
        """Take all parts or none: some missing, or one of another layer's shape or dtype, is an error.

        All missing is no error of its own: so an adapter's state dict, without its base, loads with strict=False.
        """
        own = {n: t for n, t in (*self._buffers.items(), ("bias", self.bias)) if t is not None and n != "like"}
        if not any(key.startswith(prefix) for key in state):
            missing.extend(prefix + name for name in own)
            return
        errors_before = len(errors)
        if self.bias is None and prefix + "bias" in state:
            errors.append(f"{prefix}bias is given, and this layer has none")
        for name, part in own.items():
            given = state.get(prefix + name)
            if given is None:
                errors.append(
                    f"{prefix}{name} is missing; a 4-bit layer is loaded whole, from another one's state dict"
                )
            elif given.shape != part.shape or (name != "bias" and given.dtype != part.dtype):
                found, wanted = (f"{t.dtype} of shape {tuple(t.shape)}" for t in (given, part))
                errors.append(f"{prefix}{name} is {found}, and this layer needs {wanted}")
            elif name == "layout" and not given.is_meta and tuple(given.tolist()) != self._layout():
                errors.append(
                    f"{prefix}layout, (d_out, d_in, block size), is {given.tolist()}, and this layer's {self._layout()}"
                )
        if len(errors) == errors_before:
            super()._load_from_state_dict(state, prefix, metadata, strict, missing, unexpected, errors)
            self.like = self.like.new_empty(0, device=self.packed.device)  # with assign=True, packed may have moved
