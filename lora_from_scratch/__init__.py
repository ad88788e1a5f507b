"""LoRA and its variants from scratch: the public names, nothing else."""

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

__all__ = [
    "AdapterConfig",
    "DoRALinear",
    "LoRALinear",
    "NF4Linear",
    "PagedAdamW",
    "add_adapters",
    "count_parameters",
    "lora_scaling",
    "loraplus_param_groups",
    "merge_adapters",
    "nf4",
    "print_trainable_parameters",
    "quantize_model",
    "rslora_scaling",
    "trainable_parameters",
]
