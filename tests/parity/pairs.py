"""The same model twice: with our adapters and with PEFT's, the same numbers in both."""

import copy
from dataclasses import dataclass

import peft
import torch
from torch import Tensor, nn

from lora_from_scratch import AdapterConfig, DoRALinear, LoRALinear, add_adapters


def adapters_of(model: nn.Module) -> dict[str, LoRALinear]:
    """Our adapters by dotted name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def peft_adapters_of(model: peft.PeftModel) -> dict[str, nn.Module]:
    """PEFT's adapters by the dotted name that the layer has in the model underneath."""
    inner = model.get_base_model()
    return {name: m for name, m in inner.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}


@dataclass(frozen=True)
class Pair:
    """One model with our adapters, and a copy of it with PEFT's, A, B and magnitude random and equal."""

    ours: nn.Module
    theirs: peft.PeftModel

    def factors(self) -> list[tuple[str, nn.Parameter, nn.Parameter]]:
        """(name, ours, PEFT's) for every A and B, and for every magnitude where the adapters are DoRA's."""
        theirs = peft_adapters_of(self.theirs)
        found = []
        for name, layer in adapters_of(self.ours).items():
            found.append((f"{name}.A", layer.A, theirs[name].lora_A["default"].weight))
            found.append((f"{name}.B", layer.B, theirs[name].lora_B["default"].weight))
            if isinstance(layer, DoRALinear):
                magnitude = theirs[name].lora_magnitude_vector["default"].weight
                found.append((f"{name}.magnitude", layer.magnitude, magnitude))
        return found


def make_pair(model: nn.Module, config: AdapterConfig) -> Pair:
    """Adapt two copies of `model`, ours and PEFT's; A as ours starts, B normal, of a size that changes the outputs.

    A magnitude is up to a half away from what it starts as, either way.
    """
    theirs = peft.get_peft_model(copy.deepcopy(model), peft_config(config))
    pair = Pair(add_adapters(copy.deepcopy(model), config), theirs)
    assert adapters_of(pair.ours).keys() == peft_adapters_of(theirs).keys(), "not the same layers"
    with torch.no_grad():
        for name, mine, other in pair.factors():
            if name.endswith(".B"):
                mine.normal_(std=0.1)
            if name.endswith(".magnitude"):
                mine.mul_(0.5 + torch.rand_like(mine))
            other.copy_(mine)
    return pair


def peft_config(config: AdapterConfig) -> peft.LoraConfig:
    """What PEFT calls the same settings."""
    return peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.targets if isinstance(config.targets, str) else list(config.targets),
        use_rslora=config.rslora,
        use_dora=config.dora,
    )


def assert_near(got: Tensor, wanted: Tensor, tolerance: float, what: str = "") -> None:
    """Equal up to `tolerance` of the largest number wanted."""
    assert got.shape == wanted.shape and got.dtype == wanted.dtype, f"{what}: {got.shape} {got.dtype}"
    largest, off = wanted.abs().max().item(), (got - wanted).abs().max().item()
    assert off <= tolerance * largest, f"{what}: off by {off:.3g} where numbers go up to {largest:.3g}"
