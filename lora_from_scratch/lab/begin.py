"""How A and B begin: as LoRALinear leaves them, turned round, or from what quantization lost."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lora_from_scratch.analysis import spectra


def _random_b(layer: nn.Module) -> None:
    nn.init.kaiming_uniform_(layer.B, a=math.sqrt(5))


def _swap_zero(layer: nn.Module) -> None:
    nn.init.zeros_(layer.A)
    _random_b(layer)


STARTS: dict[str, Callable[[nn.Module], object]] = {
    "B zero": lambda layer: None,  # as LoRALinear leaves it: A random, B zero
    "A zero": _swap_zero,
    "both random": _random_b,
    "both zero": lambda layer: nn.init.zeros_(layer.A),
}
LOFTQ = "what quantization lost"  # the start of LoftQ, which needs the weight as it was


@torch.no_grad()
def start_from_lost(layer: nn.Module, weight: Tensor) -> None:
    """Let s · B A be the best rank-r part of weight - base (LoftQ's first step, arXiv 2310.08659, algorithm 1)."""
    B, A = spectra.low_rank_factors(weight - layer.base.weight, layer.rank)
    layer.A.copy_(A)
    layer.B.copy_(B / layer.scaling)
    if hasattr(layer, "magnitude"):  # a DoRA layer: the sizes too are those of the weight as it was
        layer.magnitude.copy_(layer.row_norms())
