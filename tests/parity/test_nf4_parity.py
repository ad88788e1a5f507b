"""NF4 is bitsandbytes' on the CPU: tables, packed codes and absmax to the bit; where it is not, why and by how much.

Theirs differs from the definition in four places, each shown below: it divides in a short last block, looks codes of
the second level up in a table of 2^16 entries, sums the mean in float32, and decodes wrongly where a row is no whole
number of blocks, be it longer or shorter than one.
"""

import bitsandbytes.functional as bnb
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lora_from_scratch import nf4
from lora_from_scratch.nf4 import NF4Tensor, decoded_absmax, dequantize, quantize

MIDPOINTS = (nf4.LEVELS[:-1] + nf4.LEVELS[1:]) / np.float32(2)
BLOCK_SIZES = [32, 64, 128, 256, 512, 1024, 2048, 4096]  # all that bitsandbytes takes
CELL = 2.0**-15  # its table of second-level codes: 65,536 entries over [-1, 1]

block_sizes = st.sampled_from(BLOCK_SIZES)
shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=40)  # up to 64,000 values, most no whole blocks


@st.composite
def weights(draw, shapes=shapes, dtypes=(np.float32, np.float16)):
    """Normal numbers, some with heavy tails, of any scale from 1e-30 to 1e30; in float16, from 0.01 to 10."""
    shape, dtype, tail = draw(shapes), draw(st.sampled_from(dtypes)), draw(st.sampled_from([0, 1]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    numbers = rng.standard_normal(shape) * np.exp(tail * rng.standard_normal(shape))
    power = draw(st.floats(-2, 1) if dtype is np.float16 else st.floats(-30, 30))
    return (numbers * 10.0**power).astype(dtype)


def theirs(weight, block_size, double=False):
    """bitsandbytes' packed codes, flat, and its QuantState."""
    codes, state = bnb.quantize_4bit(
        torch.from_numpy(weight), blocksize=block_size, compress_statistics=double, quant_type="nf4"
    )
    return codes.numpy().reshape(-1), state


def as_ours(codes, state):
    """What bitsandbytes made, as an NF4Tensor."""
    second = (state.state2.absmax.numpy(), np.float32(state.offset)) if state.nested else (None, None)
    return NF4Tensor(codes, state.absmax.numpy().reshape(-1), *second, state.blocksize, tuple(state.shape))


def by_hand(codes, state):
    """What bitsandbytes' codes stand for, from its own tables."""
    absmax = state.absmax
    if state.nested:
        second = state.state2.absmax.repeat_interleave(state.state2.blocksize)[: absmax.numel()]
        absmax = state.state2.code[absmax.long()] * second + state.offset
    flat = torch.from_numpy(codes).long()
    flat = torch.stack((flat >> 4, flat & 15), dim=1).reshape(-1)[: state.shape.numel()]
    values = state.code[flat] * absmax.repeat_interleave(state.blocksize)[: flat.numel()]
    return values.reshape(state.shape).numpy()


def test_levels():
    """The 16 levels are bitsandbytes' to the bit."""
    assert nf4.LEVELS.tolist() == bnb.get_4bit_type("nf4", device="cpu").tolist()


def test_dynamic_map():
    """The 256 second-level values are bitsandbytes' to the bit."""
    assert nf4.dynamic_map().tolist() == bnb.create_dynamic_map().tolist()


@given(weight=weights(), block_size=block_sizes)
def test_packed_codes_and_absmax(weight, block_size):
    """Every absmax and every code of a whole block are bitsandbytes' to the bit.

    In a short last block it divides by absmax, where we multiply with the reciprocal, there as everywhere; no more.
    """
    q, (codes, state) = quantize(weight, block_size, double=False), theirs(weight, block_size)
    assert q.absmax.tolist() == state.absmax.tolist()
    whole = weight.size // block_size * block_size
    assert np.array_equal(q.packed[: whole // 2], codes[: whole // 2])
    if whole < weight.size:
        rest = np.append(weight.reshape(-1)[whole:].astype(np.float32), np.float32(0))  # an odd tail is padded with 0
        rest = rest[: len(rest) // 2 * 2]
        for packed, scaled in [(codes, rest / q.absmax[-1]), (q.packed, rest * (np.float32(1) / q.absmax[-1]))]:
            wanted = np.searchsorted(MIDPOINTS, scaled)
            assert np.array_equal(packed[whole // 2 :], wanted[::2] << 4 | wanted[1::2])


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_values_on_midpoints(block_size):
    """Values that stand on midpoints, times absmax values that are no powers of two, get bitsandbytes' codes."""
    absmax = np.random.default_rng(block_size).uniform(1, 2, 1000).astype(np.float32)
    blocks = np.resize(np.append(np.float32(1), MIDPOINTS), (1000, block_size)) * absmax[:, None]
    packed = quantize(blocks, block_size, double=False).packed
    assert np.array_equal(packed, theirs(blocks, block_size)[0])
    divided = np.searchsorted(MIDPOINTS, blocks / absmax[:, None]).reshape(-1)
    assert (packed != (divided[::2] << 4 | divided[1::2])).any()  # so that the numbers tell the two apart


@pytest.mark.parametrize("shape", [(3, 64), (5,), (2, 33)])
def test_zeros(shape):
    """Zeros get bitsandbytes' codes, and decode to zeros; only its short last block stores 1e-38 for their absmax."""
    weight = np.zeros(shape, np.float32)
    q, (codes, state) = quantize(weight, double=False), theirs(weight, 64)
    assert np.array_equal(q.packed, codes) and not by_hand(codes, state).any() and not dequantize(q).any()
    short = weight.size % 64 > 0
    assert not q.absmax.any() and state.absmax.tolist() == [0.0] * (weight.size // 64) + [np.float32(1e-38)] * short


# Double quantization


def ratios_and_codes(weight, block_size):
    """Of both: what stands for each absmax, in [-1, 1] and float64, and the code it got. Groups of one value: none."""
    absmax = quantize(weight, block_size, double=False).absmax
    q, (codes, state) = quantize(weight, block_size), theirs(weight, block_size, double=True)
    pairs = []
    for one in (q, as_ours(codes, state)):
        second = np.repeat(one.absmax2, 256)[: absmax.size]
        used = second > 0
        pairs.append(((absmax - one.offset)[used] / second[used].astype(np.float64), one.absmax[used].astype(int)))
    return pairs


def distance_to_range(ratio, code):
    """How far each ratio lies outside of the values to which its code is the nearest."""
    table = nf4.DYNAMIC_MAP.astype(np.float64)
    middle = np.concatenate(([-np.inf], (table[:-1] + table[1:]) / 2, [np.inf]))
    return np.maximum(0, np.maximum(middle[code] - ratio, ratio - middle[code + 1]))


@given(weight=weights(), block_size=block_sizes)
def test_double_quantized_constants(weight, block_size):
    """The mean and the second-level constants are bitsandbytes' but for the rounding of its sum.

    Ours is the mean to half an ulp, theirs sums in float32: up to 2 ulps off here. A constant is the largest |absmax -
    mean|, so it differs by what the mean does, and by the rounding of both differences, half an ulp each.
    """
    q, (_, state) = quantize(weight, block_size), theirs(weight, block_size, double=True)
    apart = abs(float(state.offset) - float(q.offset))
    exact = quantize(weight, block_size, double=False).absmax.mean(dtype=np.float64)
    assert apart <= 2 * np.spacing(q.offset) and abs(q.offset - exact) <= 0.501 * np.spacing(q.offset)
    absmax2 = state.state2.absmax.numpy()
    assert (np.abs(absmax2.astype(np.float64) - q.absmax2) <= apart + np.spacing(np.maximum(absmax2, q.absmax2))).all()
    assert np.array_equal(state.state2.code.numpy(), nf4.DYNAMIC_MAP) and state.state2.blocksize == nf4.SECOND_BLOCK


@given(weight=weights(), block_size=block_sizes)
def test_second_level_codes(weight, block_size):
    """Ours are the nearest values. Theirs are the nearest to a number at most half a table cell away, 2^-16.

    So they are ours or a neighbour, except within a cell of zero, where the values lie closer than the table's cells.
    The room of 2^-24 is for float32's rounding of ratio and midpoint.
    """
    (ratio, ours), (their_ratio, their_codes) = ratios_and_codes(weight, block_size)
    assert (distance_to_range(ratio, ours) <= 2.0**-24).all()
    assert (distance_to_range(their_ratio, their_codes) <= CELL / 2 + 2.0**-24).all()
    coarse = np.abs(ratio) > CELL
    assert (np.abs(ours - their_codes)[coarse] <= 1).all()


@pytest.mark.parametrize("seed", range(3))
def test_second_level_codes_rarely_differ(seed):
    """Of 65,536 second-level codes of normal weights about 0.2 % are the neighbour of ours, and ours is nearer."""
    weight = np.random.default_rng(seed).normal(0, 0.02, (2048, 2048)).astype(np.float32)
    (ratio, ours), (_, their_codes) = ratios_and_codes(weight, 64)
    differ = ours != their_codes
    assert 0 < differ.mean() < 0.0025  # 0.2 % of 65,536 codes, and three standard deviations of 0.00017
    table = nf4.DYNAMIC_MAP.astype(np.float64)
    near, far = np.abs(table[ours] - ratio)[differ], np.abs(table[their_codes] - ratio)[differ]
    assert (near < far).all() and (np.abs(ours - their_codes)[differ & (np.abs(ratio) > CELL)] == 1).all()


def test_equal_absmax_values():
    """Where nothing is left after the mean, bitsandbytes stores code 0, for 0 / 0, and we 127, for 0: decoded alike."""
    weight = np.ones((300, 64), np.float32)
    q, (codes, state) = quantize(weight), theirs(weight, 64, double=True)
    assert not state.state2.absmax.any() and not q.absmax2.any()
    assert set(state.absmax.tolist()) == {0} and set(q.absmax.tolist()) == {127}
    assert (by_hand(codes, state) == 1).all() and (dequantize(q) == 1).all()


# Decoding


@given(weight=weights(), block_size=block_sizes, double=st.booleans())
def test_decoding_their_codes(weight, block_size, double):
    """What bitsandbytes made decodes here to what its codes stand for, to the bit, for any shape."""
    codes, state = theirs(weight, block_size, double)
    q = as_ours(codes, state)
    assert np.array_equal(dequantize(q), by_hand(codes, state))
    assert decoded_absmax(q).dtype == np.float32


@given(
    weight=weights(st.tuples(st.integers(1, 8), st.integers(1, 3).map(lambda n: 1024 * n)), (np.float32,)),
    block_size=st.sampled_from([b for b in BLOCK_SIZES if b <= 1024]),
    double=st.booleans(),
)
def test_decoding_as_they_do(weight, block_size, double):
    """Where a row is a whole number of blocks, its own dequantize_4bit gives, to the bit, what ours does."""
    codes, state = theirs(weight, block_size, double)
    decoded = bnb.dequantize_4bit(torch.from_numpy(codes[:, None]), state).numpy()
    assert np.array_equal(decoded, dequantize(as_ours(codes, state)))


def unequal_rows(shape):
    """Normal numbers in rows that differ in size, so that a constant of another block shows."""
    numbers = np.random.default_rng(0).standard_normal(shape)
    return (numbers * np.geomspace(1, 100, shape[0])[:, None]).astype(np.float32)


UNEVEN = {  # shapes and block sizes where a block ends within a row, or holds several
    "longer than a block and no multiple of it": ((2, 96), 64),
    "shorter than a block that they do not divide": ((8, 48), 64),
    "shorter than a block that holds two of them": ((128, 128), 256),
    "shorter than a block that holds eight of them": ((64, 16), 128),
}
rows = pytest.mark.parametrize("shape, block_size", UNEVEN.values(), ids=list(UNEVEN))


@rows
def test_codes_of_rows_that_are_no_whole_number_of_blocks(shape, block_size):
    """Codes and absmax are bitsandbytes' here too, and ours decode to what they stand for, within the bound.

    No level is further from a value than half the widest gap, 0.152 of the block's largest magnitude.
    """
    weight = unequal_rows(shape)
    codes, state = theirs(weight, block_size)
    q = quantize(weight, block_size, double=False)
    assert np.array_equal(q.packed, codes) and q.absmax.tolist() == state.absmax.tolist()
    assert q.absmax.size == weight.size // block_size
    assert np.array_equal(dequantize(q), by_hand(codes, state))
    bound = np.repeat(q.absmax, block_size).reshape(shape) * (np.diff(nf4.LEVELS).max() / 2 + 2.0**-22)
    assert (np.abs(dequantize(q) - weight) <= bound).all()


@rows
@pytest.mark.xfail(
    strict=False, reason="bitsandbytes 0.50.2 on a CPU begins a new block with each row; a block may span several"
)
def test_their_decoding_of_rows_that_are_no_whole_number_of_blocks(shape, block_size):
    """Known bug of bitsandbytes: dequantize_4bit is wrong where a row is longer or shorter than its blocks."""
    codes, state = theirs(unequal_rows(shape), block_size)
    decoded = bnb.dequantize_4bit(torch.from_numpy(codes[:, None]), state).numpy()
    assert np.array_equal(decoded, by_hand(codes, state))


def test_mean_error_of_rows_shorter_than_a_block_is_below_their_bound():
    """128 x 128 normal numbers in blocks of 256: the bound of bitsandbytes' own tests is 0.0811, ours about 0.080.

    Its own decoding gives 0.11 on a CPU, for the bug above.
    """
    weight = np.random.default_rng(1).standard_normal((128, 128)).astype(np.float32)
    assert np.abs(dequantize(quantize(weight, 256, double=False)) - weight).mean() < 0.0811
