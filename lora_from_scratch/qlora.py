"""QLoRA's base layer: a linear layer whose weight is kept in 4 bits (arXiv 2305.14314, section 3, equation 5).

    h = decode(packed) x + bias          then LoRA on top, in full precision:  h + s · B A x

Codes and constants are all that is kept, about 4.1 bits a weight; frozen_product.py decodes them, a slice at a time,
in forward and once more in backward.

Anything that adapts a layer with `weight`, `bias`, `in_features` and `out_features` works over this one unchanged.
This file builds on those two, nf4.py and frozen_product.py. Shapes: `...` any batch dimensions, d_in and d_out the
layer's features.
"""

import numpy as np
import torch
from torch import Tensor, nn

from lora_from_scratch import nf4
from lora_from_scratch.frozen_product import FrozenProduct, Layout, Parts, decode_rows, row_slices

ROWS = 256  # rows of the weight decoded at a time: few enough to be small, enough to keep a product fast
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class NF4Linear(nn.Module):
    """A frozen linear layer with its weight in NF4: (..., d_in) -> (..., d_out).

    The codes and their constants are buffers: `packed`, `absmax` and, double quantized, `absmax2` and `offset`, as in
    nf4.NF4Tensor. So they move, save, load and copy with the model. The constants stay float32 under `.half()` and
    the like; what changes then is the dtype that the layer decodes to and computes in. It is that of `like`, an empty
    buffer by which the dtype and device of `weight` are known without decoding it.

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
        self.register_buffer("like", torch.empty(0, dtype=dtype, device=device), persistent=False)
        zero_bias = torch.zeros(out_features, dtype=dtype, device=device) if bias else None
        self.register_parameter("bias", None if zero_bias is None else nn.Parameter(zero_bias, requires_grad=False))

    @classmethod
    def from_linear(cls, linear: nn.Linear, block_size: int = 64, double: bool = True) -> "NF4Linear":
        """The 4-bit copy of a linear layer, which is left as it is. On the meta device, one without values.

        Raises ValueError for anything but an nn.Linear with a finite weight of float16, bfloat16, float32 or float64,
        and for one with hooks or with a forward of its own, which would be lost.
        """
        name = type(linear).__name__
        if not isinstance(linear, nn.Linear) or not linear.weight.is_floating_point():
            found = f"{name} of {getattr(getattr(linear, 'weight', None), 'dtype', 'no weight')}"
            raise ValueError(f"this layer is {found}; only an nn.Linear with a floating-point weight is quantized")
        if hooks := [kind.strip("_") for kind in HOOKS if getattr(linear, kind)]:
            raise ValueError(f"this {name} has {', '.join(hooks)}, which would be lost; remove them first")
        if "forward" in vars(linear) or type(linear).forward is not nn.Linear.forward:
            raise ValueError(f"this {name} has a forward of its own, which 4 bits would not have; leave it out")
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
        for first, last in row_slices(layout, ROWS):
            whole[first:last] = decode_rows(parts, layout, first, last)
        return whole

    def forward(self, x: Tensor) -> Tensor:
        h = FrozenProduct.apply(x, False, self._layout(), ROWS, self.like.dtype, *self._parts())  # (..., d_out)
        return h if self.bias is None else h + self.bias.to(h.dtype)

    def extra_repr(self) -> str:
        """What print(model) shows of this layer."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{sizes}, block_size={self.block_size}, double={self.double}"

    def _parts(self) -> Parts:
        return self.packed, self.absmax, *((self.absmax2, self.offset) if self.double else (None, None))

    def _layout(self) -> Layout:
        return self.out_features, self.in_features, self.block_size

    def _apply(self, fn, recurse: bool = True) -> "NF4Linear":
        """What .to(), .half() and .cuda() call with what they do to a tensor: the constants keep their dtype."""
        before = {n: b for n, b in self._buffers.items() if b is not None and n != "like" and b.is_floating_point()}
        try:
            return super()._apply(fn, recurse)
        finally:  # also where `fn` failed or was interrupted: constants that were rounded are lost for good
            for name, old in before.items():
                new = self._buffers[name]
                if new.dtype != old.dtype:
                    self._buffers[name] = old.to(new.device)

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
