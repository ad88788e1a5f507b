"""Many adapters over one frozen base: in one forward pass, each row of a batch goes through an adapter of its own.

    bank = AdapterBank(model, capacity=8)
    bank.load("french", "adapters/french")
    bank(ids, adapters=["french", None, "french"])

The bank knows which adapter lies in which slot. What its layers compute with them is in bank_linear.py.
"""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_from_scratch.bank_linear import BankLinear, Chosen
from lora_from_scratch.dora import DoRALinear
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.peft_format import load_adapter
from lora_from_scratch.targets import find_targets, replace_modules, unwrapped


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
        chosen = Chosen.of([None if name is None else self.slots[name] for name in adapters], batch.device)
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
