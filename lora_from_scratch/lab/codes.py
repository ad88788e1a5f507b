"""Codes to hold NF4 against: other sets of levels, used in the same way, by blocks scaled to [-1, 1].

A code is its levels, rising, in float32. What a weight becomes under it is computed here and kept in float32, so
nothing is saved and nothing is packed: this is for measuring what a code loses. Only NF4 has a layer (qlora.py).
"""

from statistics import NormalDist

import numpy as np
import torch
from torch import nn

from lora_from_scratch import nf4
from lora_from_scratch.quantize import quantize_model
from lora_from_scratch.targets import find_targets


def normal_float(bits: int) -> np.ndarray:
    """The levels of NF4's construction for another number of bits, (2^bits,) in float32 (arXiv 2305.14314, section 3).

    Half of them positive, one fewer negative, evenly spaced in probability, and an exact zero. Steps are float64's, so
    for 4 bits the last digits are not those of the published table.
    """
    half, quantile, end = 2 ** (bits - 1), NormalDist().inv_cdf, 0.9677083
    positive = [quantile(p) for p in np.linspace(end, 0.5, half + 1)[:-1]]
    negative = [-quantile(p) for p in np.linspace(end, 0.5, half)[:-1]]
    levels = np.sort(np.array([*positive, 0.0, *negative]))
    return (levels / levels.max()).astype(np.float32)


def _both_signs(positive: list[float]) -> np.ndarray:
    levels = np.array([-x for x in reversed(positive)] + [0.0] + positive)
    return (levels / levels.max()).astype(np.float32)


CODES: dict[str, np.ndarray] = {
    "NF4": nf4.LEVELS,
    "FP4": _both_signs([0.5, 1, 1.5, 2, 3, 4, 6]),  # sign, 2 bits of exponent, 1 of mantissa; +0 and -0 are one level
    "int4": _both_signs([1, 2, 3, 4, 5, 6, 7]),  # -7 … 7
    "NF3": normal_float(3),
    "NF2": normal_float(2),
}
BASES = ("16 bit", *CODES)  # what `quantize_base` knows


def rounded(weight: np.ndarray, levels: np.ndarray, block_size: int = 64) -> np.ndarray:
    """Each value replaced by the nearest of `levels`, times the largest magnitude of its block. float32, same shape.

    `levels` rise within [-1, 1]. A value half way between two takes the lower one.
    """
    values = np.asarray(weight, np.float32).reshape(-1)
    blocks = np.pad(values, (0, -len(values) % block_size)).reshape(-1, block_size)  # (n, block_size)
    absmax = np.abs(blocks).max(axis=1, keepdims=True)  # (n, 1)
    midpoints = (levels[1:] + levels[:-1]) / 2
    codes = np.searchsorted(midpoints, blocks / np.where(absmax > 0, absmax, 1))
    return (levels[codes] * absmax).reshape(-1)[: len(values)].reshape(weight.shape)


@torch.no_grad()
def quantize_base(model: nn.Module, name: str) -> nn.Module:
    """Give the model's linear layers, all but the output head, the weights that a code leaves them. In place.

    "16 bit" rounds to bfloat16. "NF4" is the real thing: NF4Linear, double quantized. The others stay nn.Linear.
    Raises ValueError for a name that is not in BASES.
    """
    if name not in BASES:
        raise ValueError(f"unknown base {name!r}; there are {', '.join(BASES)}")
    if name == "NF4":
        return quantize_model(model)
    for layer in find_targets(model, "all-linear").values():
        if name == "16 bit":
            layer.weight.copy_(layer.weight.bfloat16())
        else:
            layer.weight.copy_(torch.from_numpy(rounded(layer.weight.cpu().numpy(), CODES[name])))
    return model
