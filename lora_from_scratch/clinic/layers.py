"""The adapters of a model and what else of it trains, told by role: this project's layers and PEFT's alike.

Nothing is imported of PEFT or transformers. An adapter of ours has `A`, `B`, a `base`, and a class with `delta_weight`.
One of PEFT's has `lora_A` and `lora_B`, by the names of its adapters, and a `base_layer`. What PEFT trains and saves
beside them stands in a module called `modules_to_save` or `token_adapter`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

KEPT_BY_PEFT = ("modules_to_save", "token_adapter")


@dataclass(frozen=True)
class Adapter:
    """One low-rank update of one layer: A (r, d_in), B (d_out, r), `base` the layer under it.

    `active` says whether the forward adds it, `merged` whether the base's weight holds it; `key` is the name that PEFT
    has for it, and `own` are all parameters of the adapter, a magnitude among them.
    """

    name: str
    layer: nn.Module
    base: nn.Module
    A: Tensor
    B: Tensor
    scaling: float
    dropout: float
    active: bool
    own: tuple[nn.Parameter, ...]
    key: str = ""
    merged: bool = False

    @property
    def trained(self) -> bool:
        """Whether A or B is to get gradients."""
        return self.A.requires_grad or self.B.requires_grad


def adapters_of(model: nn.Module) -> list[Adapter]:
    """Every adapter of `model`, under its layer's dotted name, without names that PEFT puts in front."""
    found = []
    for name, module in model.named_modules():
        name = name.removeprefix("base_model.model.")
        if hasattr(type(module), "delta_weight") and hasattr(module, "B") and hasattr(module, "A"):
            found.append(_ours(name, module))
        elif "lora_A" in module._modules and "lora_B" in module._modules:
            found.extend(_peft(name, module))
    return found


def _ours(name: str, layer: nn.Module) -> Adapter:
    base = getattr(layer, "base", None) or nn.Module()
    dropout = getattr(layer, "dropout", 0.0)
    dropout = float(getattr(dropout, "p", dropout) or 0.0)  # a number, or a layer of torch's
    own = tuple(_without(layer, base))
    return Adapter(name, layer, base, layer.A, layer.B, float(getattr(layer, "scaling", 1.0)), dropout, True, own)


def _peft(name: str, layer: nn.Module) -> Iterator[Adapter]:
    base, active = layer._modules.get("base_layer") or nn.Module(), set(getattr(layer, "active_adapters", ()))
    merged = set(getattr(layer, "merged_adapters", ()))
    off = bool(merged) or bool(getattr(layer, "disable_adapters", False))
    for key in layer.lora_A:
        A, B = layer.lora_A[key].weight, layer.lora_B[key].weight
        parts = [part[key] for part in layer._modules.values() if isinstance(part, nn.ModuleDict) and key in part]
        own = tuple(p for part in parts for p in part.parameters())
        dropout = float(getattr(layer.lora_dropout[key], "p", 0.0)) if key in layer.lora_dropout else 0.0
        on, scaling = key in active and not off, float(layer.scaling[key])
        yield Adapter(name, layer, base, A, B, scaling, dropout, on, own, key, key in merged)


def _without(layer: nn.Module, base: nn.Module) -> Iterator[nn.Parameter]:
    below = {id(p) for p in base.parameters()}
    return (p for p in layer.parameters() if id(p) not in below)


def peft_configs(model: nn.Module) -> dict[str, object]:
    """PEFT's settings by adapter's name, where the model has them."""
    for module in (model, *model.children()):
        found = getattr(module, "peft_config", None)
        if isinstance(found, dict):
            return found
    return {}


def beside_adapters(model: nn.Module, adapters: list[Adapter]) -> dict[str, nn.Parameter]:
    """What trains and is no part of an adapter, nor of what PEFT saves with one, by name."""
    known = {id(p) for adapter in adapters for p in adapter.own}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in KEPT_BY_PEFT:
            known |= {id(p) for p in module.parameters()}
    biases = {getattr(config, "bias", "none") for config in peft_configs(model).values()} - {"none"}
    return {
        name.removeprefix("base_model.model."): p
        for name, p in model.named_parameters()
        if p.requires_grad and id(p) not in known and not (biases and name.endswith("bias"))
    }
