"""What is measured of NF4 and QLoRA, against bitsandbytes and, for a whole layer, bitsandbytes under PEFT.

Both sides have the same numbers, in blocks of 64, double quantized. bitsandbytes is compiled for this processor, and
ours is NumPy and torch; decoding in a QLoRA step is torch's part, the rows that say NF4 are NumPy's.
"""

import tracemalloc

import bitsandbytes
import peft
import torch
from torch import nn

from benchmarks.steps import ALPHA, RANK, Holder, Step
from lora_from_scratch import AdapterConfig, add_adapters, nf4, quantize_model

SIDE = 4096  # the quantized matrix is SIDE x SIDE, as in a 7B model


def matrix() -> torch.Tensor:
    """Weights as they come: normal, float32, (SIDE, SIDE)."""
    return torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def quantize_steps() -> tuple[Step, Step]:
    """Quantizing the matrix: ours, bitsandbytes."""
    weight = matrix()
    array = weight.numpy()
    return lambda: nf4.quantize(array), lambda: bitsandbytes.functional.quantize_4bit(
        weight, quant_type="nf4", compress_statistics=True
    )


def decode_steps() -> tuple[Step, Step]:
    """Decoding the matrix to float32: ours, bitsandbytes."""
    weight = matrix()
    q = nf4.quantize(weight.numpy())
    packed, state = bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    return lambda: nf4.dequantize(q), lambda: bitsandbytes.functional.dequantize_4bit(packed, state)


def quantize_bytes() -> tuple[int, int]:
    """(bytes at the peak of quantizing beside the input, the result included; bytes of the input)."""
    array = matrix().numpy()
    tracemalloc.start()  # NumPy tells it of all it allocates
    try:
        nf4.quantize(array)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return peak, array.nbytes


def ours_qlora_layer() -> nn.Module:
    """The layer in 4 bits with our adapter."""
    model = quantize_model(Holder(), ["linear"])
    return add_adapters(model, AdapterConfig(rank=RANK, alpha=ALPHA, targets=["linear"])).linear


def peft_qlora_layer() -> nn.Module:
    """bitsandbytes' 4-bit layer of the same numbers with PEFT's adapter."""
    holder = Holder()
    full = holder.linear
    packed = bitsandbytes.nn.Linear4bit(
        full.in_features, full.out_features, bias=False, compute_dtype=torch.float32, quant_type="nf4"
    )
    packed.load_state_dict(full.state_dict())
    holder.linear = packed.to("cpu")  # which quantizes
    holder.is_loaded_in_4bit = True  # by which PEFT chooses its adapter for bitsandbytes
    peft.get_peft_model(holder, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["linear"]))
    return holder.linear
