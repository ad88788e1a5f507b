"""What is true of every NF4 quantizer (arXiv 2305.14314, section 3), whoever wrote it. `make check NF4=file.py:Class`

    q = MyNF4(weight, block_size)    weight is a float32 tensor of any shape
    q.packed                         uint8, two codes a byte, the first in the high four bits: a tensor or an array
    q.absmax                         float32, one for each block of `block_size` values in row-major order
    q.dequantize()                   float32 of the weight's shape: level · absmax

The constants stay in float32: double quantization is not asked for.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from lora_from_scratch.nf4_tables import LEVELS, ZERO

CALL = "(a float32 tensor of shape (4, 32), 64)"
NEEDS = ("packed", "absmax", "dequantize")
BLOCK = 64


def build(quantizer: type) -> object:
    """One quantized weight, to see whether it can be built."""
    return quantizer(torch.linspace(-1, 1, 128).reshape(4, 32), BLOCK)


def weight(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, larger from one block to the next."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).reshape(-1)
    return (numbers * (1 + torch.arange(len(numbers)) // BLOCK)).reshape(shape)


def array(values: object) -> np.ndarray:
    """A tensor or an array as an array."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def decoded(q: object) -> np.ndarray:
    """What q stands for."""
    return array(q.dequantize())


def levels(repeats: int = 4) -> Tensor:
    """A block that holds the 16 levels alone, `repeats` times each."""
    return torch.from_numpy(np.tile(LEVELS, repeats)).reshape(1, -1)


@pytest.mark.usual_cause("The shape not kept, or padding not cut off; or a result in float64 or 16 bits.")
def test_shape_and_dtype_come_back(layer_class):
    """dequantize() gives float32 of the weight's shape, also where the last block is short."""
    for shape in ((4, 32), (3, 50), (7,), (2, 3, 32)):
        back = decoded(layer_class(weight(*shape), BLOCK))
        assert back.shape == shape, f"a weight of {shape} comes back as {back.shape}"
        assert back.dtype == np.float32, f"it comes back in {back.dtype}"


@pytest.mark.usual_cause(
    "max() in place of abs().max(): a block may have its largest number below zero. Or one constant for the tensor."
)
def test_absmax_is_largest_size_of_block(layer_class):
    """absmax holds the largest magnitude of each block of values, in row-major order."""
    w = -weight(4, 64).abs()
    got, wanted = (
        array(layer_class(w.clone(), BLOCK).absmax).reshape(-1),
        w.abs().reshape(-1, BLOCK).amax(dim=1).numpy(),
    )
    assert got.shape == wanted.shape, f"absmax has {len(got)} numbers for {len(wanted)} blocks"
    assert np.allclose(got, wanted, rtol=1e-6), f"the first absmax is {got[0]:.4g}, not {wanted[0]:.4g}"


@pytest.mark.usual_cause("Blocks down the columns, or rows as blocks: blocks run through weight.reshape(-1).")
def test_blocks_run_along_rows(layer_class):
    """A large number coarsens the block of its row-major neighbours, and no other."""
    w = weight(32, 32)
    large = w.clone()
    large[0, 0] = 1e4
    changed = (decoded(layer_class(w.clone(), BLOCK)) != decoded(layer_class(large, BLOCK))).reshape(-1)
    assert changed[:BLOCK].sum() > BLOCK // 2, "it does not coarsen the first 64 values"
    assert not changed[BLOCK:].any(), "it changes values outside the first 64"


@pytest.mark.usual_cause(
    "Other levels: 16 even steps (int4), or quantiles without the zero. NF4 has eight above zero and seven below."
)
def test_levels_come_back_exactly(layer_class):
    """A block of the 16 NF4 levels comes back to the last digits of float32."""
    off = np.abs(decoded(layer_class(levels(), BLOCK)) - levels().numpy()).max()
    assert off < 1e-6, f"a level is off by {off:.3g}"


@pytest.mark.usual_cause("Sixteen quantiles without a zero among them; or a block of zeros divided by its absmax, 0.")
def test_zero_stays_zero(layer_class):
    """Zeros come back as exact zeros, among other numbers and in a block of their own."""
    w = weight(2, 64)
    w[0, ::3], w[1] = 0, 0
    back = decoded(layer_class(w.clone(), BLOCK))
    assert np.isfinite(back).all(), "a block of zeros gives NaN or infinity"
    assert (back[w.numpy() == 0] == 0).all(), f"a zero comes back as {np.abs(back[w.numpy() == 0]).max():.3g}"


@pytest.mark.usual_cause(
    "The level below in place of the nearest: count the midpoints between levels below x / absmax, not the levels."
)
def test_nearest_level_is_taken(layer_class):
    """Each value comes back as the level nearest to it, times absmax."""
    w = weight(8, 64, seed=3)
    scale = w.abs().amax(dim=1, keepdim=True).numpy()
    least = np.abs(w.numpy()[..., None] / scale[..., None] - LEVELS).min(axis=-1)
    off = np.abs(decoded(layer_class(w.clone(), BLOCK)) - w.numpy()) / scale
    assert (off <= least + 1e-5).all(), f"{(off > least + 1e-5).mean():.0%} of the values went to a farther level"


@pytest.mark.usual_cause("A code a byte: shift the first of two by four bits and add the second.")
def test_two_codes_fill_a_byte(layer_class):
    """packed is uint8 with half a byte a weight."""
    packed = array(layer_class(weight(4, 64), BLOCK).packed)
    assert packed.dtype == np.uint8, f"packed is {packed.dtype}"
    assert packed.size == 128, f"256 weights take {packed.size} bytes, not 128"


@pytest.mark.usual_cause("The second of two codes in the high bits: checkpoints have the first there.")
def test_first_code_is_in_high_bits(layer_class):
    """The bytes are those of published checkpoints: first code high, codes rising with the level."""
    packed = array(layer_class(levels(), BLOCK).packed).reshape(-1)
    wanted = np.tile(np.arange(16, dtype=np.uint8), 4)
    got = np.stack((packed >> 4, packed & 15), axis=1).reshape(-1)
    assert len(got) == 64 and (got == wanted).all(), f"the levels' codes are {got[:16].tolist()}; zero's is {ZERO}"


@pytest.mark.usual_cause("A division in place, weight /= absmax. Work on a copy.")
def test_weight_is_left_alone(layer_class):
    """Quantizing changes no bit of the weight."""
    w = weight(4, 64)
    layer_class(w, BLOCK)
    assert torch.equal(w, weight(4, 64)), "the weight has changed"
