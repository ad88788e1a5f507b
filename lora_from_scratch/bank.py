"""Many adapters over one frozen base: in one forward pass, each row of a batch goes through an adapter of its own.

    y_i = W0 x_i + s_a B_a A_a x_i        a: the adapter of row i; a row without one gets W0 x_i alone

The base is the costly part, and it is the same for all rows, so it runs once for the whole batch. All adapters of a
layer lie in two tensors, so the rows' own parts are two batched products, however many adapters there are. An adapter
of a smaller rank is filled up with zeros, which add nothing. (The idea is that of Punica, arXiv 2310.18547, and S-LoRA,
arXiv 2311.03285; their kernels also spare the copies that `A[slots]` makes.)

    bank = AdapterBank(model, capacity=8)
    bank.load("french", "adapters/french")
    bank(ids, adapters=["french", None, "french"])

Shapes: n rows that have an adapter, T positions of a row, R the largest rank, S slots.
"""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_from_scratch.dora import DoRALinear
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lora import check_linear, weight_like
from lora_from_scratch.peft_format import load_adapter
from lora_from_scratch.targets import find_targets, replace_modules, unwrapped


class BankLinear(nn.Module):
    """`base` and the adapters of many, (rows, ..., d_in) -> (rows, ..., d_out).

    `chosen` is (rows, slots): which rows of the batch have an adapter, None for all of them, and in which slot each one
    lies. Where no row has one, `chosen` is None.
    """

    def __init__(self, base: nn.Module, slots: int) -> None:
        super().__init__()
        check_linear(base)
        like = weight_like(base)
        options = {"device": like.device, "dtype": torch.promote_types(like.dtype, torch.float32)}
        self.base, self.in_features, self.out_features = base, base.in_features, base.out_features
        self.register_buffer("A", torch.zeros(slots, 0, self.in_features, **options), persistent=False)  # (S, R, d_in)
        self.register_buffer("B", torch.zeros(slots, self.out_features, 0, **options), persistent=False)  # s · B
        self.chosen: tuple[Tensor | None, Tensor] | None = None

    def put(self, slot: int, A: Tensor, B: Tensor) -> None:
        """Keep A (r, d_in) and B (d_out, r), the scaling in B, in a slot. For a larger r all slots are made larger."""
        rank = len(A)
        if (more := rank - self.A.shape[1]) > 0:
            self.A = torch.cat([self.A, self.A.new_zeros(len(self.A), more, self.in_features)], dim=1)
            self.B = torch.cat([self.B, self.B.new_zeros(len(self.B), self.out_features, more)], dim=2)
        self.clear(slot)
        self.A[slot, :rank], self.B[slot, :, :rank] = A, B

    def clear(self, slot: int) -> None:
        """Make the adapter in a slot one that adds nothing."""
        self.A[slot], self.B[slot] = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)  # (rows, ..., d_out)
        if self.chosen is None or self.A.shape[1] == 0:
            return y
        rows, slots = self.chosen
        own = x if rows is None else x[rows]
        own = own.flatten(1, -2) if x.dim() > 2 else own[:, None]  # (n, T, d_in)
        A, B = self.A[slots], self.B[slots]  # (n, R, d_in), (n, d_out, R)
        z = torch.bmm(own.to(A.dtype), A.mT)  # (n, T, R)
        if rows is None and y.dtype == B.dtype and y.is_contiguous():
            y.view(len(y), -1, self.out_features).baddbmm_(z, B.mT)  # into the base's own output
            return y
        update = torch.bmm(z, B.mT)  # (n, T, d_out)
        rows = slice(None) if rows is None else rows
        y[rows] = (y[rows].to(B.dtype) + update.view(y[rows].shape)).to(y.dtype)
        return y


class AdapterBank(nn.Module):
    """`model` with room for `capacity` adapters at once, for inference: frozen, and its layers wrapped in place.

    Raises ValueError for a capacity below 1, a model with adapters, or targets as `find_targets` says.
    """

    def __init__(self, model: nn.Module, targets: str | list[str] | tuple[str, ...] = "all-linear", capacity: int = 8):
        super().__init__()
        if not isinstance(capacity, Integral) or isinstance(capacity, bool) or capacity < 1:
            raise ValueError(
                f"capacity is {capacity!r}; it is how many adapters lie in memory, so an integer of at least 1"
            )
        if present := [name or "its root" for name, module in model.named_modules() if is_adapter(module)]:
            raise ValueError(f"the model has an adapter at {present[0]}; merge it into the base first")
        layers = find_targets(model, targets)
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.plain = [
            copy.deepcopy(model, shared)
        ]  # the same tensors, unwrapped, to load into; in a list: no submodule
        model.requires_grad_(False)
        swap = {layer: BankLinear(layer, capacity) for layer in layers.values()}
        self.layers = {name: swap[layer] for name, layer in layers.items()}
        replace_modules(model, swap)
        self.model, self.capacity = model, capacity
        self.slots: OrderedDict[str, int] = OrderedDict()  # {name: slot}, the least recently used first

    @property
    def names(self) -> list[str]:
        """The adapters that are loaded, the least recently used first."""
        return list(self.slots)

    @torch.no_grad()
    def load(self, name: str, folder: str | Path) -> str | None:
        """Load the adapter in `folder` under `name`, in place of one of that name; the name that had to go, or None.

        Where the bank is full, the least recently used goes. Raises ValueError, and the bank is as it was, for whatever
        `load_adapter` refuses, for DoRA, and for an adapter of a layer that is none of the bank's targets.
        """
        if not isinstance(name, str) or not name:
            raise ValueError(f"name is {name!r}; give the adapter one, as text")
        adapters = self._read(folder)
        full = name not in self.slots and len(self.slots) == self.capacity
        gone = next(iter(self.slots)) if full else None
        if gone is not None:
            self.evict(gone)
        free = set(range(self.capacity)) - set(self.slots.values())
        slot = self.slots.pop(name) if name in self.slots else min(free)
        for at, layer in self.layers.items():
            if at in adapters:
                layer.put(slot, *adapters[at])
            else:
                layer.clear(slot)
        self.slots[name] = slot
        return gone

    def evict(self, name: str) -> None:
        """Make room: forget an adapter. Raises ValueError if there is none of that name."""
        self._check_known(name)
        slot = self.slots.pop(name)
        for layer in self.layers.values():
            layer.clear(slot)

    @torch.no_grad()
    def forward(self, *inputs: object, adapters: Sequence[str | None], **options: object) -> object:
        """What the model gives for `inputs`, each row of the batch with the adapter named for it, or None for none.

        The first tensor's first dimension is the batch. Raises ValueError for an unknown name, or if there is not one
        name, or None, for each row, or no tensor at all.
        """
        adapters = [adapters] if isinstance(adapters, str) else list(adapters)
        batch = next((x for x in (*inputs, *options.values()) if isinstance(x, Tensor)), None)
        if batch is None:
            raise ValueError("there is no tensor among the inputs, so no batch; give the model's inputs as tensors")
        if len(adapters) != len(batch):
            raise ValueError(f"there are {len(adapters)} adapters for {len(batch)} rows; name one, or None, for each")
        for name in dict.fromkeys(name for name in adapters if name is not None):
            self._check_known(name)
            self.slots.move_to_end(name)
        rows = [i for i, name in enumerate(adapters) if name is not None]
        slots = torch.tensor([self.slots[adapters[i]] for i in rows], device=batch.device)
        every = None if len(rows) == len(adapters) else torch.tensor(rows, device=batch.device)
        chosen = (every, slots) if rows else None
        try:
            for layer in self.layers.values():
                layer.chosen = chosen
            return self.model(*inputs, **options)
        finally:
            for layer in self.layers.values():
                layer.chosen = None

    def _read(self, folder: str | Path) -> dict[str, tuple[Tensor, Tensor]]:
        """{layer: (A, s · B)} of a folder, by the checks of `load_adapter`."""
        plain = self.plain[0]
        shared = {id(tensor): tensor for tensor in (*plain.parameters(), *plain.buffers())}
        loaded = load_adapter(copy.deepcopy(plain, shared), folder)
        found = {n: unwrapped(m) for n, m in loaded.named_modules() if is_adapter(unwrapped(m))}
        if dora := [name for name, layer in found.items() if isinstance(layer, DoRALinear)]:
            raise ValueError(
                f"{folder}: {dora[0]} is DoRA, which changes the whole weight; merge it into a base of its own"
            )
        if foreign := [name for name in found if name not in self.layers]:
            raise ValueError(f"{folder}: it adapts {foreign[0]}, which is none of this bank's targets")
        return {name: (layer.A, layer.scaling * layer.B) for name, layer in found.items()}

    def _check_known(self, name: str) -> None:
        if name not in self.slots:
            raise ValueError(f"no adapter is called {name!r}; there are {', '.join(self.slots) or 'none yet'}")
