"""Adapters on a whole model: choose the layers, freeze the rest, count, merge.

Works on any torch model, one of `transformers` included: a linear layer is found, wrapped in place, and put
back under the same name. Nothing else of the model changes.

    model = add_adapters(model, AdapterConfig(rank=8, alpha=16, targets=["q_proj", "v_proj"]))
    optimizer = torch.optim.AdamW(trainable_parameters(model), lr=1e-3)      # after the adapters, not before
    ...
    model = merge_adapters(model)
"""

from dataclasses import dataclass

from torch import nn

from lora_from_scratch.dora import DoRALinear
from lora_from_scratch.lora import LoRALinear, check_hyperparameters, lora_scaling
from lora_from_scratch.qlora import NF4Linear
from lora_from_scratch.rslora import rslora_scaling
from lora_from_scratch.targets import check_targets, find_targets, named_layers, replace_modules, unwrapped


@dataclass(frozen=True)
class AdapterConfig:
    """What to add, and where.

    Args:
        rank, alpha, dropout: as in LoRALinear.
        targets: "all-linear" (every linear layer but an output head or a classifier's), a list of layer names, each
            the whole dotted name or its last parts ("q_proj", "self_attn.q_proj"), or one string, a regular
            expression for the whole dotted name. The meanings are those of PEFT's `target_modules`.
        rslora: scale by alpha / sqrt(rank) instead of alpha / rank (arXiv 2312.03732).
        dora: DoRA layers instead of LoRA layers (arXiv 2402.09353).

    Raises:
        ValueError: for hyperparameters or targets out of range.
    """

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.0
    targets: str | list[str] | tuple[str, ...] = "all-linear"
    rslora: bool = False
    dora: bool = False

    def __post_init__(self) -> None:
        check_hyperparameters(self.rank, self.alpha, self.dropout)
        check_targets(self.targets)
        for name in ("rank", "alpha", "dropout"):  # NumPy's numbers are numbers
            if hasattr(value := getattr(self, name), "item"):
                object.__setattr__(self, name, value.item())


def add_adapters(model: nn.Module, config: AdapterConfig) -> nn.Module:
    """Freeze `model`, wrap its target layers in LoRALinear (or DoRALinear), in place, and return it.

    A layer that stands at two places (shared modules) gets one adapter, at both. A model keeps its train or
    eval mode. If anything is refused, nothing has changed.

    Raises:
        ValueError: if the model has adapters already, if a target matches nothing (the message lists what
            there is), or if a target is no linear layer (the message names it and its type).
    """
    present = [name for name, module in model.named_modules() if is_adapter(module)]
    if present:
        first = present[0] or "its root"
        raise ValueError(f"the model has adapters already, the first at {first}; merge_adapters first")
    targets = find_targets(model, config.targets)
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    layer_class = DoRALinear if config.dora else LoRALinear
    scaling = rslora_scaling if config.rslora else lora_scaling
    try:
        swap = {m: layer_class(m, config.rank, config.alpha, config.dropout, scaling) for m in targets.values()}
        model.requires_grad_(False)
        replace_modules(model, swap)
    except BaseException:  # a failure or an interruption half way
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        raise
    return model


def merge_adapters(model: nn.Module) -> nn.Module:
    """Replace every adapter of `model` by its merged linear layer, in place, and return the model.

    All are merged before the first is replaced, so a failure leaves the model as it was. What comes back is
    frozen, as the base was: call model.requires_grad_(True) to train all of it. Raises ValueError without adapters.
    """
    if is_adapter(unwrapped(model)):
        raise ValueError(
            "the model itself is an adapted layer, which has no parent to hold its merge; use layer.merge()"
        )
    adapters = {name: module for name, module in named_layers(model).items() if is_adapter(unwrapped(module))}
    if not adapters:
        raise ValueError("the model has no adapters to merge; add_adapters puts them in, and a merge takes them out")
    swap = {}
    for name, module in adapters.items():
        try:
            swap[module] = unwrapped(module).merge()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    replace_modules(model, swap)
    return model


def is_adapter(module: nn.Module) -> bool:
    """Whether `module` is an adapter, told by its role: a `B`, and a class (no wrapper's) that has `delta_weight`."""
    return hasattr(type(module), "delta_weight") and hasattr(module, "B")


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that get gradients, as a list for an optimizer. Raises ValueError if there are none."""
    found = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not found:
        raise ValueError("nothing in this model is trainable; add_adapters first, or model.requires_grad_(True)")
    return found


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters. Tied ones count once; a weight in 4 bits counts as out · in, not as bytes."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    packed = sum(m.out_features * m.in_features for m in model.modules() if isinstance(m, NF4Linear))
    return sum(n for n, trained in sizes if trained), packed + sum(n for n, _ in sizes)


def print_trainable_parameters(model: nn.Module) -> None:
    """Print the counts in the very line that PEFT's method of this name prints."""
    trainable, total = count_parameters(model)
    percent = 100 * trainable / total if total else 0.0
    print(f"trainable params: {trainable:,d} || all params: {total:,d} || trainable%: {percent:.4f}")
