"""NF4, the 4-bit code of QLoRA, with double quantization (arXiv 2305.14314, section 3), in NumPy alone.

    weights ──► blocks of 64 ──► absmax: the largest magnitude of each block, a float32
                     │                      │
             x · (1 / absmax)               │   double quantization: minus their mean, then
             lies in [-1, 1]                │   blocks of 256, an 8-bit code each
                     │                      │
             nearest of 16 levels           └──► 8 bits + 32/256 bits a block
                     │
             a 4-bit code a weight, two a byte    ──► 4 + 8/64 + 32/(64 · 256) = 4.127 bits a weight

To decode, look the level up and multiply by absmax. The levels are quantiles of a normal distribution, because trained
weights look normal: nf4_tables.py derives them, and is all that this file needs. Codes and absmax are, bit for bit,
those of the authors' library bitsandbytes.
"""

import math
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from lora_from_scratch.nf4_tables import DYNAMIC_MAP, LEVELS, PAIRS, ZERO, dynamic_map, midpoints, nf4_levels

__all__ = ["DYNAMIC_MAP", "LEVELS", "PAIRS", "ZERO", "NF4Tensor", "decoded_absmax", "dequantize", "dynamic_map"]
__all__ += ["check_block_size", "nf4_levels", "quantize"]  # the tables too are found here

CHUNK = 2**16  # values worked on at once: they and all that is made of them stay in the cache
SECOND_BLOCK = 256  # absmax values that share one second-level constant


@dataclass(frozen=True)
class NF4Tensor:
    """A quantized array.

    `packed` holds two codes a byte, the first in the high nibble. `absmax` has one entry a block of `block_size`
    values: a float32, or, double quantized, an 8-bit code that stands for `dynamic_map()[code] · absmax2 + offset`,
    with one `absmax2` for every 256 of them. Raises ValueError for parts that don't fit together.
    """

    packed: np.ndarray
    absmax: np.ndarray
    absmax2: np.ndarray | None
    offset: np.float32 | None
    block_size: int
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        check_block_size(self.block_size)
        blocks, double = -(-self.size // self.block_size), self.absmax2 is not None
        expected = {"packed": (-(-self.size // 2), np.uint8), "absmax": (blocks, np.uint8 if double else np.float32)}
        if double:
            expected["absmax2"] = (-(-blocks // SECOND_BLOCK), np.float32)
        for name, (count, dtype) in expected.items():
            part = getattr(self, name)
            kind, shape = getattr(part, "dtype", type(part).__name__), getattr(part, "shape", None)
            if shape != (count,) or kind != dtype:
                raise ValueError(
                    f"{name} is {kind} of shape {shape}; an array of shape {self.shape} in blocks of "
                    f"{self.block_size} needs {np.dtype(dtype)} of shape ({count},): is it cut off, or another array's?"
                )
        if double != (self.offset is not None):
            raise ValueError("absmax2 and offset come together: give both (double quantization) or neither")

    @property
    def size(self) -> int:
        """How many weights there are."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and the constants (not of the tables of levels, which all arrays share)."""
        return sum(part.nbytes for part in (self.packed, self.absmax, self.absmax2, self.offset) if part is not None)

    @property
    def bits_per_parameter(self) -> float:
        """Bits a weight, constants included: 4.5 in blocks of 64, or 4.127 double quantized."""
        return 8 * self.nbytes / self.size


def quantize(weight: np.ndarray, block_size: int = 64, double: bool = True) -> NF4Tensor:
    """Quantize an array of any shape to NF4, in row-major blocks of `block_size` values; the last may be short.

    `weight` is of float16, 32 or 64, `block_size` a power of two; `double` quantizes the absmax values too.
    Raises ValueError for NaN, infinity (in float32), an empty array, another dtype, or a bad block size.
    """
    check_block_size(block_size)
    if not isinstance(weight, np.ndarray) or weight.dtype not in (np.float16, np.float32, np.float64):
        kind = getattr(weight, "dtype", type(weight).__name__)
        raise ValueError(
            f"the weight is {kind}; give a NumPy array of float16, float32 or float64 "
            "(of a torch tensor: w.detach().cpu().float().numpy())"
        )
    if weight.size == 0:
        raise ValueError(f"the weight has shape {weight.shape} and so no values; there is nothing to quantize")
    flat = weight.reshape(-1) if weight.flags.c_contiguous else weight.flat  # a view: nothing is copied
    packed = np.empty(-(-weight.size // 2), np.uint8)
    absmax = np.empty(-(-weight.size // block_size), np.float32)
    step = max(CHUNK, block_size)
    for start in range(0, weight.size, step):
        blocks = _in_blocks(flat[start : start + step], block_size)  # (n, block_size)
        largest = np.maximum(blocks.max(axis=1), -blocks.min(axis=1)) + 0.0  # (n,); adding 0 makes -0.0 of zeros 0.0
        if not np.isfinite(largest).all():
            raise ValueError("the weight holds NaN or infinity (in float32); a diverged run cannot be quantized")
        absmax[start // block_size :][: len(largest)] = largest
        codes = _codes(blocks, largest).reshape(-1, 2)  # (n · block_size / 2, 2)
        part = packed[start // 2 : (start + step) // 2]
        part[:] = (codes[:, 0] << 4 | codes[:, 1])[: len(part)]
    constants = _second_level(absmax) if double else (absmax, None, None)
    return NF4Tensor(packed, *constants, int(block_size), weight.shape)


def dequantize(q: NF4Tensor) -> np.ndarray:
    """The array that `q` stands for, in float32: level · absmax."""
    absmax = decoded_absmax(q)
    words = PAIRS.view(np.uint64)[:, 0]  # (256,): two float32 levels, moved as one word of 64 bits
    out = np.empty(len(absmax) * q.block_size, np.float32)  # whole blocks; the last one's padding is cut off below
    out[q.size :] = 0
    step = max(CHUNK, q.block_size)
    for start in range(0, q.size, step):
        part = q.packed[start // 2 : (start + step) // 2]
        np.take(words, part, out=out[start:].view(np.uint64)[: len(part)], mode="clip")  # "raise" would copy
        blocks = out[start : start + step].reshape(-1, q.block_size)
        blocks *= absmax[start // q.block_size :][: len(blocks), None]
    return out[: q.size].reshape(q.shape)


def decoded_absmax(q: NF4Tensor) -> np.ndarray:
    """The absmax of each block, in float32, (blocks,)."""
    if q.absmax2 is None:
        return q.absmax
    return DYNAMIC_MAP[q.absmax] * np.repeat(q.absmax2, SECOND_BLOCK)[: len(q.absmax)] + q.offset


def check_block_size(block_size: int) -> None:
    """Raise ValueError unless `block_size` is a power of two from 2 up."""
    if not isinstance(block_size, Integral) or block_size < 2 or block_size & (block_size - 1):
        raise ValueError(f"block_size is {block_size!r}; it must be a power of two, such as 64, and at least 2")


def _in_blocks(values: np.ndarray, block_size: int) -> np.ndarray:
    """A stretch of values as (n, block_size) in float32, the last row filled up with zeros."""
    with np.errstate(over="ignore"):  # a float64 too large for float32 becomes infinite, and is refused as such
        values = np.asarray(values, np.float32)
    short = -len(values) % block_size
    return (np.pad(values, (0, short)) if short else values).reshape(-1, block_size)


def _codes(blocks: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """The code of each value, (n, block_size): how many midpoints lie below x / absmax; on one the lower level wins.

    By the reciprocal in float32, as dividing would move values off a midpoint; but for rows so tiny that it overflows.
    """
    tiny = largest <= 2.0**-128
    scaled = blocks * (np.float32(1) / np.where(tiny, np.float32(1), largest))[:, None]  # (n, block_size)
    if tiny.any():
        scaled[tiny] = blocks[tiny] / np.maximum(largest[tiny], np.float32(2.0**-149))[:, None]
    codes, above = np.zeros(scaled.shape, np.uint8), np.empty(scaled.shape, bool)
    for midpoint in midpoints(LEVELS):  # fifteen passes over a chunk in the cache; a binary search is slower
        np.greater(scaled, midpoint, out=above)
        codes += above.view(np.uint8)
    return codes


def _second_level(absmax: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.float32]:
    """Codes (uint8), the constants of the second level, and the mean that was taken off."""
    offset = np.float32(absmax.mean(dtype=np.float64))  # a sum in float32 could overflow
    blocks = _in_blocks(absmax - offset, SECOND_BLOCK)  # (n, 256)
    largest = np.abs(blocks).max(axis=1)  # (n,)
    ratios = blocks / np.where(largest > 0, largest, np.float32(1))[:, None]
    codes = np.searchsorted(midpoints(DYNAMIC_MAP), ratios)  # on a midpoint the lower
    return codes.astype(np.uint8).reshape(-1)[: len(absmax)], largest, offset
