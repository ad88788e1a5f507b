"""LoRA and its variants from scratch: the public names, nothing else."""

from importlib import import_module

from lora_from_scratch import nf4
from lora_from_scratch.dora import DoRALinear
from lora_from_scratch.inject import (
    AdapterConfig,
    add_adapters,
    count_parameters,
    merge_adapters,
    print_trainable_parameters,
    trainable_parameters,
)
from lora_from_scratch.lora import LoRALinear, lora_scaling
from lora_from_scratch.loraplus import loraplus_param_groups
from lora_from_scratch.paged import PagedAdamW
from lora_from_scratch.qlora import NF4Linear
from lora_from_scratch.quantize import quantize_model
from lora_from_scratch.rslora import rslora_scaling

ON_DEMAND = {"AdapterBank": "bank", "load_adapter": "peft_format", "save_adapter": "peft_format"}

__all__ = [
    "AdapterBank",
    "AdapterConfig",
    "DoRALinear",
    "LoRALinear",
    "NF4Linear",
    "PagedAdamW",
    "add_adapters",
    "count_parameters",
    "load_adapter",
    "lora_scaling",
    "loraplus_param_groups",
    "merge_adapters",
    "nf4",
    "print_trainable_parameters",
    "quantize_model",
    "rslora_scaling",
    "save_adapter",
    "trainable_parameters",
]


def __getattr__(name: str) -> object:
    """What is about files is loaded when it is asked for: a result is of the code that was loaded when it was made."""
    if name not in ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{ON_DEMAND[name]}"), name)
