"""NF4: the tables, every code against a slow definition, short blocks, double quantization, refusals.

Equality with bitsandbytes stands in tests/parity/test_nf4_parity.py.
"""

import dataclasses
import math
import tracemalloc
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lora_from_scratch import nf4
from lora_from_scratch.nf4 import NF4Tensor, decoded_absmax, dequantize, quantize

pytestmark = pytest.mark.filterwarnings("error")  # no test here may warn: not of an overflow, not of a 0 / 0

PUBLISHED = np.array(  # the table of arXiv 2305.14314, appendix E, in float32
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
MIDPOINTS = (PUBLISHED[:-1] + PUBLISHED[1:]) / np.float32(2)
HALF_GAP = np.diff(PUBLISHED.astype(np.float64)).max() / 2  # 0.152: between -1 and -0.696
TINY = 2.0**-149  # the smallest float32
FLOATS = (np.float16, np.float32, np.float64)

block_sizes = st.integers(1, 12).map(lambda k: 2**k)
seeds = st.integers(0, 999)
powers_of_two = st.integers(-50, 50).map(lambda k: 2.0**k)
ordinary = st.floats(-30, 30).map(lambda p: 10.0**p)
denormal = st.integers(-149, -126).map(lambda k: 2.0**k)
units = st.floats(-1, 1, width=16) | st.sampled_from([-1.0, 1.0, -0.0, 0.0, *PUBLISHED.tolist(), *MIDPOINTS.tolist()])


@st.composite
def weights(draw, dtypes=FLOATS, scales=ordinary | powers_of_two | denormal):
    """Arrays of any shape and layout, full of ±1, zeros, levels and midpoints, times one scale."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=9))
    numbers, dtype = draw(hnp.arrays(np.float64, shape, elements=units)) * draw(scales), draw(st.sampled_from(dtypes))
    array = np.array(np.clip(numbers, -60000, 60000) if dtype is np.float16 else numbers, dtype)
    layout = draw(st.sampled_from(["rows", "transposed", "every other", "backwards"]))
    if layout == "transposed":
        return array.T
    if layout == "every other":
        return np.repeat(array[..., None], 2, axis=-1)[..., 0]
    return np.flip(array) if layout == "backwards" and shape else array


def slow_quantize(weight, block_size):
    """The definition, one float32 at a time: (codes, absmax)."""
    values = [np.float32(value) for value in weight.reshape(-1)]
    codes, absmax = [], []
    for start in range(0, len(values), block_size):
        block = values[start : start + block_size]
        largest = max(abs(value) for value in block)
        absmax.append(largest)
        for value in block:
            if largest <= 2.0**-128:  # 1 / largest is no float32
                scaled = value / largest if largest else np.float32(0)
            else:
                scaled = value * (np.float32(1) / largest)
            code = 0
            while code < 15 and scaled > (PUBLISHED[code] + PUBLISHED[code + 1]) / np.float32(2):
                code += 1
            codes.append(code)
    return codes, absmax


def slow_dequantize(codes, absmax, block_size):
    """The definition, one float32 at a time."""
    return [PUBLISHED[code] * absmax[i // block_size] for i, code in enumerate(codes)]


def codes_of(q):
    """The 4-bit codes, the first of a byte in its high nibble, the padding cut off."""
    return np.stack((q.packed >> 4, q.packed & 15), axis=1).reshape(-1)[: q.size]


def packed(codes):
    """Bytes of codes, an odd tail padded with 7, the code of zero."""
    pairs = np.append(codes, [7] * (len(codes) % 2)).astype(np.uint8).reshape(-1, 2)
    return pairs[:, 0] << 4 | pairs[:, 1]


def blocks_with(absmax):
    """An array that has these absmax values in blocks of 2."""
    return np.stack((absmax, np.zeros_like(absmax)), axis=1).reshape(-1)


def assert_same(q, other):
    """Equal in every part, to the bit."""
    for field in dataclasses.fields(q):
        a, b = getattr(q, field.name), getattr(other, field.name)
        same = a.dtype == b.dtype and a.tobytes() == b.tobytes() if isinstance(a, np.ndarray | np.generic) else a == b
        assert same, f"{field.name}: {a} and {b}"


def in_float32(weight):
    """The weight's float32 values, in float64, flat: what errors are measured from."""
    return weight.astype(np.float32).astype(np.float64).reshape(-1)


# The tables


def test_levels_are_published():
    """The derived levels are the published 16, to the bit."""
    assert nf4.nf4_levels().dtype == np.float32 and nf4.nf4_levels().tolist() == PUBLISHED.tolist()


def test_levels_rise_from_minus_one_to_one_through_zero():
    """The levels rise strictly from -1 to 1, and exactly one of them is zero: 7 lie below it, 8 above."""
    levels = nf4.LEVELS.tolist()
    assert levels == sorted(set(levels)) and (levels[0], levels[-1]) == (-1, 1)
    assert [level for level in levels if level == 0] == [levels[nf4.ZERO]] and nf4.ZERO == 7


def float32_steps(first, last, count):
    """torch.linspace's: the step is rounded to float32, each half counts from its own end."""
    first, last = float(np.float32(first)), float(np.float32(last))
    step = float(np.float32((last - first) / (count - 1)))
    return [np.float32(first + step * i if i < count // 2 else last - step * (count - 1 - i)) for i in range(count)]


@pytest.mark.parametrize("end, wrong", [(0.9677083, 0), ((1 - 1 / 30 + 1 - 1 / 32) / 2, 12)])
def test_levels_need_the_rounded_end(end, wrong):
    """Quantiles that end at the decimal 0.9677083 are the levels; at its fraction 0.96770833…, 12 of 16 are off."""
    quantile = NormalDist().inv_cdf
    positive = [quantile(float(p)) for p in float32_steps(end, 0.5, 9)[:-1]]
    negative = [-quantile(float(p)) for p in float32_steps(end, 0.5, 8)[:-1]]
    levels = np.sort(np.array(positive + [0.0] + negative, np.float32))
    levels /= levels.max()
    assert np.count_nonzero(levels != PUBLISHED) == wrong
    np.testing.assert_array_max_ulp(levels, PUBLISHED, maxulp=8)


@pytest.mark.parametrize("linspace, wrong", [(float32_steps, 0), (np.linspace, 22)])
def test_dynamic_map_is_tree(linspace, wrong):
    """2^i means of neighbours in 2^i + 1 steps from 0.1 to 1, times ±10^(i-6), 0 and 1; np.linspace gets 22 wrong."""
    values = [0.0, 1.0]
    for i in range(7):
        edges = np.array(linspace(0.1, 1, 2**i + 1), np.float32)
        for low, high in zip(edges, edges[1:], strict=False):
            size = np.float32(10.0 ** (i - 6)) * ((low + high) / np.float32(2))
            values += [float(size), -float(size)]
    table = np.sort(np.array(values, np.float32))
    assert np.count_nonzero(table != nf4.dynamic_map()) == wrong
    np.testing.assert_array_max_ulp(table, nf4.dynamic_map(), maxulp=2)


def test_dynamic_map_has_256_rising_values():
    """256 distinct rising values, one of them 0 and the last one 1, which alone has no negative."""
    values = nf4.dynamic_map()
    assert values.dtype == np.float32 and values.shape == (256,) and (np.diff(values) > 0).all()
    assert np.count_nonzero(values == 0) == 1 and values[-1] == 1
    assert set(values.tolist()) - {-v for v in values.tolist()} == {1.0}


# Codes and what they decode to


@given(weight=weights(), block_size=block_sizes)
def test_codes_are_slow_definition(weight, block_size):
    """Codes, packing and absmax are those of a loop over single numbers, for any shape, layout, type and scale."""
    q = quantize(weight, block_size, double=False)
    codes, absmax = slow_quantize(weight, block_size)
    assert q.packed.tolist() == packed(codes).tolist() and q.absmax.tolist() == absmax
    assert (q.block_size, q.shape, q.absmax2, q.offset) == (block_size, weight.shape, None, None)


@given(weight=weights(), block_size=block_sizes, double=st.booleans())
def test_decoding_is_slow_definition(weight, block_size, double):
    """Decoding multiplies level by absmax in float32, number by number, and gives float32 of the input's shape."""
    q = quantize(weight, block_size, double)
    absmax = q.absmax
    if double:
        absmax = [nf4.DYNAMIC_MAP[c] * q.absmax2[i // 256] + q.offset for i, c in enumerate(q.absmax)]
    decoded = dequantize(q)
    assert decoded.dtype == np.float32 and decoded.shape == weight.shape
    assert decoded.reshape(-1).tolist() == slow_dequantize(codes_of(q), absmax, block_size)
    assert decoded_absmax(q).tolist() == list(absmax)


@pytest.mark.parametrize("block_size", [2, 64, 4096, 2**17])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray], ids=["rows", "columns"])
def test_array_of_many_chunks(block_size, layout):
    """An array larger than what is worked on at once comes out as its blocks do, one by one."""
    assert nf4.CHUNK < 2**17 < 341 * 577  # odd, and the last block short
    weight = layout(np.random.default_rng(0).standard_normal((341, 577), np.float32))
    padded = np.append(weight.reshape(-1), np.zeros(-weight.size % block_size, np.float32)).reshape(-1, block_size)
    absmax = np.abs(padded).max(axis=1)
    codes = np.searchsorted(MIDPOINTS, padded * (np.float32(1) / absmax)[:, None]).reshape(-1)[: weight.size]
    q = quantize(weight, block_size, double=False)
    assert np.array_equal(q.packed, packed(codes)) and np.array_equal(q.absmax, absmax)
    wanted = PUBLISHED[codes] * np.repeat(absmax, block_size)[: weight.size]
    assert np.array_equal(dequantize(q), wanted.reshape(weight.shape))


@pytest.mark.parametrize("scale", [2.0**-100, 1.0, 2.0**100])
@pytest.mark.parametrize("code", range(15))
def test_tie_goes_to_lower_code(code, scale):
    """A value on the midpoint of two levels gets the lower code, the next float32 above it the higher one."""
    scale = np.float32(scale)
    midpoint = MIDPOINTS[code] * scale
    above = np.nextafter(midpoint, np.float32(np.inf))
    assert codes_of(quantize(np.array([scale, midpoint, above]), double=False)).tolist() == [15, code, code + 1]


@given(seed=seeds, scale=st.sampled_from([2.0**-120, 2.0**-60, 1.0, 2.0**60, 2.0**120]))
def test_values_are_multiplied_by_the_reciprocal(seed, scale):
    """Codes follow x · (1 / absmax) in float32: dividing x by absmax would move some on a midpoint."""
    absmax = np.random.default_rng(seed).uniform(1, 2, 400).astype(np.float32) * np.float32(scale)
    blocks = np.concatenate((absmax[:, None], absmax[:, None] * MIDPOINTS), axis=1)  # (400, 16)
    codes = codes_of(quantize(blocks, block_size=16, double=False)).reshape(400, 16)
    assert np.array_equal(codes, np.searchsorted(MIDPOINTS, blocks * (np.float32(1) / absmax)[:, None]))
    assert (codes != np.searchsorted(MIDPOINTS, blocks / absmax[:, None])).any()


# Packing


def test_first_code_is_in_high_nibble():
    """1 has code 15 and -1 code 0: (1, -1) packs as 0xF0, (-1, 1) as 0x0F, a lone 1 (padded) as 0xF7."""
    for values, byte in [([1, -1], 0xF0), ([-1, 1], 0x0F), ([1], 0xF7), ([-1], 0x07)]:
        assert quantize(np.array(values, np.float32), double=False).packed.tolist() == [byte]


@given(codes=hnp.arrays(np.uint8, st.integers(1, 300), elements=st.integers(0, 15)), block_size=block_sizes)
def test_any_codes_come_back(codes, block_size):
    """Codes decode to their levels, and what they decode to quantizes to the same bytes: all 16 in both nibbles."""
    codes[::block_size] = 15  # the largest value of each block
    absmax = np.ones(-(-codes.size // block_size), np.float32)
    q = NF4Tensor(packed(codes), absmax, None, None, block_size, codes.shape)
    assert dequantize(q).tolist() == PUBLISHED[codes].tolist()
    assert_same(quantize(dequantize(q), block_size, double=False), q)


@given(size=st.integers(0, 99).map(lambda n: 2 * n + 1), block_size=block_sizes, seed=seeds)
def test_odd_tail_is_padded_with_zeros_code(size, block_size, seed):
    """An odd count of values takes (n + 1) / 2 bytes, and the last nibble is 7."""
    q = quantize(np.random.default_rng(seed).standard_normal(size), block_size)
    assert q.packed.size == (size + 1) // 2 and q.packed[-1] & 15 == 7


# Zeros, lone values, short blocks


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("others", [0.0, 1e-40, 1.0, 1e30])
def test_block_of_zeros_stays_zeros(double, zero, others):
    """A block of zeros packs as 0x77 and decodes to exact zeros, whatever its neighbours are; its absmax is +0."""
    weight = np.full((3, 64), others, np.float32)
    weight[1] = zero
    q = quantize(weight, double=double)
    assert q.packed.reshape(3, 32)[1].tolist() == [0x77] * 32
    assert not dequantize(q)[1].any()
    absmax = quantize(weight, double=False).absmax
    assert absmax[1] == 0 and not np.signbit(absmax).any()


@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False), block_size=block_sizes)
@example(value=TINY, block_size=64)
@example(value=float(np.finfo(np.float32).max), block_size=64)
def test_lone_value_decodes_exactly(value, block_size):
    """A lone value of any size is its block's largest, and decodes to the bit: in 0, 1 or 2 dimensions."""
    for shape in ((), (1,), (1, 1)):
        decoded = dequantize(quantize(np.full(shape, value, np.float32), block_size, double=False))
        assert decoded.tolist() == np.full(shape, value).tolist()


@given(weight=weights(), block_size=block_sizes)
def test_largest_values_decode_exactly(weight, block_size):
    """The largest values of each block decode to the bit, and zeros do."""
    q = quantize(weight, block_size, double=False)
    x, absmax = in_float32(weight), np.repeat(q.absmax, block_size)[: weight.size]
    exact = (np.abs(x) == absmax) | (x == 0)
    assert np.array_equal(dequantize(q).reshape(-1)[exact], x[exact])


@given(whole=st.integers(0, 3), tail=st.integers(1, 64), block_size=st.sampled_from([2, 8, 64]), seed=seeds)
def test_each_block_is_quantized_alone(whole, tail, block_size, seed):
    """Whole blocks and a short last one come out as if each were alone: absmax is of a block's own values."""
    values = np.random.default_rng(seed).standard_normal(whole * block_size + tail)
    values[whole * block_size :] *= 1e-6  # a larger value from elsewhere would show
    q = quantize(values, block_size, double=False)
    alone = [quantize(values[i : i + block_size], block_size, double=False) for i in range(0, values.size, block_size)]
    assert q.packed.tolist() == [byte for one in alone for byte in one.packed]
    assert q.absmax.tolist() == [one.absmax[0] for one in alone]


def test_short_last_block_of_negatives():
    """The absmax of a short last block of negative values is the largest of their magnitudes; no padding enters."""
    q = quantize(np.array([5.0, 1.0, 1.0, 1.0, -3.0, -1.0, -2.0]), block_size=4, double=False)
    assert q.absmax.tolist() == [5, 3] and dequantize(q)[4] == -3


# What must hold


@given(weight=weights(scales=ordinary), block_size=block_sizes)
def test_quantizing_twice_changes_nothing(weight, block_size):
    """What was decoded quantizes to the same codes and absmax, without double quantization.

    For blocks whose absmax is normal, as here (above 2^-24 · 1e-30): at 5 · 2^-149 what was decoded may move again.
    """
    q = quantize(weight, block_size, double=False)
    assert_same(quantize(dequantize(q), block_size, double=False), q)


@given(weight=weights(), block_size=block_sizes)
def test_error_is_at_most_half_widest_gap(weight, block_size):
    """Every value is decoded to within absmax times half the gap between -1 and -0.696: no value has a nearer level.

    The slack is float32's: 1 / absmax, the product, the midpoint and the decoded value round by 2^-24 each, 2^-22 in
    all, and by half of 2^-149 where they are denormal.
    """
    q = quantize(weight, block_size, double=False)
    absmax = np.repeat(q.absmax, block_size)[: weight.size].astype(np.float64)
    error = np.abs(dequantize(q).reshape(-1).astype(np.float64) - in_float32(weight))
    assert (error <= absmax * (HALF_GAP + 2.0**-22) + TINY / 2).all()


@given(weight=weights(), block_size=block_sizes)
def test_error_with_double_quantization(weight, block_size):
    """Double quantization adds to a value's error at most what it changes absmax by (levels are at most 1)."""
    absmax, decoded = quantize(weight, block_size, double=False).absmax, quantize(weight, block_size)
    absmax, second = (np.repeat(a, block_size)[: weight.size].astype(float) for a in (absmax, decoded_absmax(decoded)))
    error = np.abs(dequantize(decoded).reshape(-1).astype(np.float64) - in_float32(weight))
    bound = absmax * (HALF_GAP + 2.0**-22) + np.abs(second - absmax) * (1 + 2.0**-22) + TINY
    assert (error <= bound).all()


@given(weight=weights(scales=powers_of_two, dtypes=(np.float32,)), k=st.integers(-49, 49), double=st.booleans())
def test_power_of_two_scales_constants_alone(weight, k, double):
    """2^k times the weight has the same codes, of both levels, and constants exactly 2^k times as large."""
    q, scaled = (quantize(np.ascontiguousarray(w), 4, double) for w in (weight, weight * np.float32(2.0**k)))
    factor = np.float32(2.0**k)
    if double:
        wanted = dataclasses.replace(q, absmax2=q.absmax2 * factor, offset=q.offset * factor)
    else:
        wanted = dataclasses.replace(q, absmax=q.absmax * factor)
    assert_same(scaled, wanted)


@given(order=st.integers(1, 9).flatmap(lambda n: st.permutations(range(n))), block_size=block_sizes, seed=seeds)
def test_permuted_blocks_permute_codes(order, block_size, seed):
    """Blocks in another order have their codes and absmax in that order."""
    blocks = np.random.default_rng(seed).standard_normal((len(order), block_size))
    q, permuted = quantize(blocks, block_size, double=False), quantize(blocks[order], block_size, double=False)
    assert np.array_equal(permuted.packed.reshape(len(order), -1), q.packed.reshape(len(order), -1)[order])
    assert np.array_equal(permuted.absmax, q.absmax[order])


@given(weight=weights(), block_size=block_sizes)
def test_sign_turns_largest_values_alone(weight, block_size):
    """Under -x absmax stays, and so does the code of zero; the largest values turn from code 15 to 0."""
    q, turned = quantize(weight, block_size, double=False), quantize(np.array(-weight), block_size, double=False)
    assert np.array_equal(q.absmax, turned.absmax)
    x, absmax = in_float32(weight), np.repeat(q.absmax, block_size)[: weight.size]
    zero, largest, least = x == 0, (x == absmax) & (x > 0), (x == -absmax) & (x < 0)
    for where, code, other in [(zero, 7, 7), (largest, 15, 0), (least, 0, 15)]:
        assert (codes_of(q)[where] == code).all() and (codes_of(turned)[where] == other).all()


def test_levels_are_not_symmetric():
    """-x decodes to another magnitude than x: only -1, 0 and 1 have their negative among the levels."""
    levels = nf4.LEVELS.tolist()
    assert [level for level in levels if -level in levels] == [-1, 0, 1]
    decoded = dequantize(quantize(np.array([1.0, 0.5, -0.5]), double=False))
    assert decoded.tolist() == [1.0, PUBLISHED[12], PUBLISHED[2]] and -PUBLISHED[2] != PUBLISHED[12]


@given(weight=weights(dtypes=(np.float16, np.float64)), block_size=block_sizes, double=st.booleans())
def test_other_floats_are_cast_to_float32_first(weight, block_size, double):
    """float16 and float64 give what their float32 values give, double quantized or not."""
    assert_same(quantize(weight, block_size, double), quantize(weight.astype(np.float32), block_size, double))


@given(weight=weights(), block_size=block_sizes, double=st.booleans())
def test_input_is_left_alone(weight, block_size, double):
    """The input is not changed and need not be writable; nor does decoding change the codes or constants."""
    weight.flags.writeable = False
    before = weight.tobytes()
    q = quantize(weight, block_size, double)
    kept = dataclasses.replace(q, packed=q.packed.copy(), absmax=q.absmax.copy())
    dequantize(q)[...] = 7
    assert weight.tobytes() == before
    assert_same(q, kept)


@given(multiples=hnp.arrays(np.int32, st.integers(1, 99), elements=st.integers(-(2**22), 2**22)), double=st.booleans())
@example(multiples=np.array([0, 0, 1, 0, -1, 1], np.int32), double=True)
def test_denormal_weights(multiples, double):
    """Where 1 / absmax is no float32 (below 2^-128) nothing overflows or turns to NaN, and the error is still bounded.

    `multiples` are of 2^-149: up to 2^-127. Double quantization adds its error of absmax.
    """
    weight = multiples.astype(np.float64) * TINY
    q, absmax = quantize(weight, 4, double), quantize(weight, 4, double=False).absmax.astype(np.float64)
    decoded = dequantize(q).astype(np.float64)
    assert np.isfinite(decoded).all()
    bound = absmax * (HALF_GAP + 2.0**-22) + np.abs(decoded_absmax(q) - absmax) + TINY
    assert (np.abs(decoded - weight) <= np.repeat(bound, 4)[: weight.size]).all()


@pytest.mark.parametrize("double", [False, True])
def test_largest_float32(double):
    """Weights at float32's end decode to finite values: neither a sum of absmax values nor a product overflows."""
    largest = np.finfo(np.float32).max
    decoded = dequantize(quantize(np.full((300, 64), largest), double=double))
    assert (decoded == largest).all()


# Double quantization


def drawn_absmax(kind, count, seed):
    """`count` absmax values of one kind, in float32."""
    rng = np.random.default_rng(seed)
    values = {
        "normal": np.abs(rng.normal(3, 0.3, count)),
        "wild": np.exp(rng.normal(0, 5, count)),
        "one large": np.where(np.arange(count) == count // 2, 1e6, rng.uniform(0, 1, count)),
        "some zero": np.where(rng.random(count) < 0.5, 0, rng.uniform(0, 1, count)),
    }
    return values[kind].astype(np.float32)


counts = st.sampled_from([1, 2, 255, 256, 257, 300, 512, 513, 700])
kinds = st.sampled_from(["normal", "wild", "one large", "some zero"])


@given(kind=kinds, count=counts, seed=seeds)
@example(kind="wild", count=300, seed=0)
def test_second_level_is_brute_force(kind, count, seed):
    """absmax minus its mean, in blocks of 256, over each block's largest magnitude; then the nearest of the 256 values.

    The mean is right to half an ulp. "Nearest" is found among all 256, in float64; on the float32 midpoint of two
    neighbours, which may be half an ulp off the real one, the lower is taken.
    """
    absmax = drawn_absmax(kind, count, seed)
    q = quantize(blocks_with(absmax), block_size=2)
    assert abs(float(q.offset) - math.fsum(absmax) / count) <= 0.501 * np.spacing(q.offset)
    table = nf4.DYNAMIC_MAP.astype(np.float64)
    for group, start in enumerate(range(0, count, 256)):
        rest = absmax[start : start + 256] - q.offset
        largest = np.abs(rest).max()
        assert q.absmax2[group] == largest
        ratio = rest / largest if largest else rest
        distance = np.abs(ratio.astype(np.float64)[:, None] - table)
        nearest = distance.argmin(axis=1)
        codes = q.absmax[start : start + 256]
        for code, best, value in zip(codes.tolist(), nearest, ratio, strict=True):
            tie = best == code + 1 and value == (nf4.DYNAMIC_MAP[code] + nf4.DYNAMIC_MAP[best]) / np.float32(2)
            assert code == best or tie
    assert q.absmax2.shape == (-(-count // 256),) and q.absmax.dtype == np.uint8


def test_second_level_tie_goes_to_lower_code():
    """An absmax that stands on the midpoint of two second-level values gets the lower code.

    With absmax values m + d and m - d the mean is m; m = 1 and a power of two for the largest d keep all exact.
    """
    middle = (nf4.DYNAMIC_MAP[:-1] + nf4.DYNAMIC_MAP[1:]) / np.float32(2)
    exact = [code for code in range(128, 255) if (np.float32(1) + middle[code]) - np.float32(1) == middle[code]]
    assert len(exact) > 9
    for code in exact:
        absmax = np.array([2, 0, 1 + middle[code], 1 - middle[code]], np.float32)
        q = quantize(blocks_with(absmax), block_size=2)
        assert q.offset == 1 and q.absmax2.tolist() == [1] and q.absmax[2] == code


@given(kind=kinds, count=counts, seed=seeds)
def test_error_of_absmax_is_bounded(kind, count, seed):
    """absmax comes back to within absmax2 times half the widest gap of the 256 values, 0.00703.

    The slack is float32's: of the difference, ratio, midpoint, product and sum, each at most 2^-24 of what is rounded.
    """
    absmax = drawn_absmax(kind, count, seed)
    q = quantize(blocks_with(absmax), block_size=2)
    half_gap = np.diff(nf4.DYNAMIC_MAP.astype(np.float64)).max() / 2
    assert half_gap == pytest.approx(0.9 / 64 / 2, abs=2.0**-24)
    absmax2 = np.repeat(q.absmax2, 256)[:count].astype(np.float64)
    error = np.abs(decoded_absmax(q).astype(np.float64) - absmax)
    assert (error <= half_gap * absmax2 + 2.0**-24 * (4 * absmax2 + absmax + q.offset)).all()


def test_second_groups_have_their_own_constant():
    """300 blocks have two second-level constants; the 44 of the second group are matched against theirs alone."""
    absmax = np.concatenate((np.linspace(1, 999, 256), np.linspace(499, 501, 44))).astype(np.float32)  # mean 500
    q = quantize(blocks_with(absmax), block_size=2)
    assert q.absmax2 == pytest.approx([499, 1], abs=1e-4)  # 2^-24 · 500 in the mean and the difference, and some room
    assert np.abs(decoded_absmax(q)[256:] - absmax[256:]).max() < 0.008  # 0.00703 of 1; of the first group's, 3.5


@given(value=ordinary.map(np.float32), count=counts)
def test_equal_absmax_values_decode_exactly(value, count):
    """If all blocks have the same absmax, the mean is that and nothing is left over: double quantization is exact."""
    q = quantize(blocks_with(np.full(count, value, np.float32)), block_size=2)
    assert q.offset == value and not q.absmax2.any() and (decoded_absmax(q) == value).all()


@given(weight=weights(), block_size=block_sizes)
def test_double_quantization_keeps_codes(weight, block_size):
    """The 4-bit codes are the same with double quantization and without."""
    assert np.array_equal(quantize(weight, block_size).packed, quantize(weight, block_size, double=False).packed)


# Size


@given(weight=weights(), block_size=block_sizes)
def test_nbytes(weight, block_size):
    """Half a byte a weight, and a block 4 bytes; or 1 byte, 4 for every 256 blocks and 4 for the mean."""
    n, blocks = weight.size, math.ceil(weight.size / block_size)
    assert quantize(weight, block_size, double=False).nbytes == math.ceil(n / 2) + 4 * blocks
    q = quantize(weight, block_size)
    assert q.nbytes == math.ceil(n / 2) + blocks + 4 * math.ceil(blocks / 256) + 4
    assert q.size == n and q.bits_per_parameter == 8 * q.nbytes / n


def test_bits_per_parameter():
    """In blocks of 64: 4 + 32/64 = 4.5 bits a weight; 4096 x 4096, 4 + 8/64 + 32/(64 · 256) and a mean: 4.127."""
    assert quantize(np.ones((64, 64)), double=False).bits_per_parameter == 4.5
    bits = quantize(np.zeros((4096, 4096), np.float16)).bits_per_parameter
    assert bits == 4 + 8 / 64 + 32 / (64 * 256) + 32 / 4096**2 and round(bits, 3) == 4.127


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray], ids=["rows", "columns"])
def test_quantizing_needs_little_memory(double, layout):
    """Beside 4 million float32 values, quantizing needs at most a quarter of their memory, the result included."""
    weight = layout(np.random.default_rng(0).standard_normal((2048, 2048), np.float32))
    tracemalloc.start()
    try:
        quantize(weight, double=double)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 0.25 * weight.nbytes


# What is refused


@pytest.mark.parametrize("place", [0, 63, 70000, -1], ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_and_infinity_are_refused(dtype, bad, place):
    """NaN and infinity are refused, wherever they stand, the short last block and a transposed array included."""
    weight = np.zeros((3, 23339), dtype)
    weight.reshape(-1)[place] = bad
    for array in (weight, weight.T):
        with pytest.raises(ValueError, match="NaN or infinity"):
            quantize(array)


@pytest.mark.parametrize("bad", [1e39, -1e39, 1e300])
def test_float64_beyond_float32_is_refused(bad):
    """A float64 that float32 cannot hold is refused as infinity, without a warning."""
    with pytest.raises(ValueError, match=r"infinity \(in float32\)"):
        quantize(np.array([1.0, bad]))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5, 2)])
def test_empty_array_is_refused(shape):
    """An array without values is refused, and its shape named."""
    with pytest.raises(ValueError, match=rf"shape \({shape[0]}.*no values"):
        quantize(np.zeros(shape, np.float32))


REFUSED = {
    "int64": np.ones(3, np.int64),
    "uint8": np.ones(3, np.uint8),
    "complex64": np.ones(3, np.complex64),
    "bool": np.ones(3, bool),
    "object": np.ones(3, object),
    ">f4": np.ones(3, ">f4"),
    "list": [1.0, 2.0],
    "float": 1.0,
    "NoneType": None,
    "torch.float32": torch.ones(3),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_weights_are_refused(kind):
    """What is no NumPy array of float16, float32 or float64 is refused, and its kind named."""
    with pytest.raises(ValueError, match=f"the weight is {kind}; give a NumPy array of float16, float32 or float64"):
        quantize(REFUSED[kind])


@pytest.mark.parametrize("block_size", [0, 1, 3, 63, -64, True, False, 64.0, "64", None, 2**12 + 2])
def test_block_size_must_be_power_of_two(block_size):
    """A block size that is no power of two from 2 up is refused and named, by quantize and by NF4Tensor."""
    q = quantize(np.ones(3))
    for call in (
        lambda: quantize(np.ones(3), block_size),
        lambda: dataclasses.replace(q, block_size=block_size),
        lambda: nf4.check_block_size(block_size),
    ):
        with pytest.raises(ValueError, match=f"block_size is {block_size!r}; it must be a power of two"):
            call()


@given(block_size=st.integers(1, 20).map(lambda k: 2**k), kind=st.sampled_from([int, np.int32, np.int64]))
def test_power_of_two_is_accepted(block_size, kind):
    """Every power of two from 2 up is accepted, NumPy's integers too, and kept as an int."""
    q = quantize(np.ones(3), kind(block_size))
    assert type(q.block_size) is int and q.block_size == block_size


PARTS = {  # of 20,001 values in blocks of 64: 10,001 bytes, 313 blocks, 2 second-level constants
    "cut off": ("packed", lambda q: q.packed[:-1], r"packed is uint8 of shape \(10000,\).* uint8 of shape \(10001,\)"),
    "too long": ("packed", lambda q: np.append(q.packed, q.packed[:1]), r"packed is uint8 of shape \(10002,\)"),
    "folded": ("packed", lambda q: q.packed[:, None], r"packed is uint8 of shape \(10001, 1\)"),
    "int8 codes": ("packed", lambda q: q.packed.view(np.int8), r"packed is int8 .*needs uint8"),
    "no codes": ("packed", lambda q: None, "packed is NoneType"),
    "list of codes": ("packed", lambda q: q.packed.tolist(), "packed is list"),
    "torch codes": ("packed", lambda q: torch.tensor(q.packed), "packed is torch.uint8"),
    "absmax cut off": ("absmax", lambda q: q.absmax[:-1], r"absmax is uint8 of shape \(312,\).* of shape \(313,\)"),
    "absmax of floats": ("absmax", lambda q: decoded_absmax(q), "absmax is float32 .*needs uint8"),
    "one absmax2": ("absmax2", lambda q: q.absmax2[:1], r"absmax2 is float32 of shape \(1,\).* of shape \(2,\)"),
    "three absmax2": ("absmax2", lambda q: np.ones(3, np.float32), r"absmax2 is float32 of shape \(3,\)"),
    "absmax2 of float64": ("absmax2", lambda q: q.absmax2.astype(float), "absmax2 is float64 .*needs float32"),
    "no absmax2": ("absmax2", lambda q: None, "absmax is uint8 .*needs float32"),
    "no offset": ("offset", lambda q: None, "absmax2 and offset come together"),
    "other shape": ("shape", lambda q: (141, 142), r"packed .* an array of shape \(141, 142\) in blocks of 64"),
    "other block size": ("block_size", lambda q: 128, r"absmax .* blocks of 128 needs uint8 of shape \(157,\)"),
}


@pytest.mark.parametrize("kind", PARTS)
def test_parts_that_do_not_fit_are_refused(kind):
    """An NF4Tensor of parts that are cut off, of another type or of another array is refused, and the part named."""
    name, change, words = PARTS[kind]
    q = quantize(np.ones(20001))
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(q, **{name: change(q)})


def test_single_parts_that_do_not_fit_are_refused():
    """Without double quantization absmax must be float32, one a block, and no offset may stand alone."""
    q = quantize(np.ones(200), double=False)
    for change, words in [
        ({"absmax": q.absmax.astype(np.uint8)}, "absmax is uint8 .*needs float32"),
        ({"absmax": np.ones(3, np.float32)}, r"absmax is float32 of shape \(3,\).* of shape \(4,\)"),
        ({"offset": np.float32(1)}, "absmax2 and offset come together"),
    ]:
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(q, **change)
