"""ΔM and ΔD: what each of them sees of a change, to how many digits, and what is refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_from_scratch.analysis.directions import magnitude_and_direction

sizes = st.integers(1, 6)
seeds = st.integers(0, 2**16)


def two_weights(d_out: int, d_in: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    w0, w1 = torch.randn(2, d_out, d_in, generator=numbers, dtype=torch.float64)
    return w0, w1


def rotated(w: torch.Tensor, angle: float) -> torch.Tensor:
    """Each row turned by `angle`, in the plane of its first two numbers; all others must be zero."""
    turned = w.clone()
    turned[:, 0] = math.cos(angle) * w[:, 0] - math.sin(angle) * w[:, 1]
    turned[:, 1] = math.sin(angle) * w[:, 0] + math.cos(angle) * w[:, 1]
    return turned


@given(sizes, sizes, seeds)
def test_the_two_are_what_the_definition_says(d_out, d_in, seed):
    """ΔM is the mean of | ‖w1‖ - ‖w0‖ | over the rows, ΔD that of 1 - cos(w1, w0), computed number by number."""
    w0, w1 = two_weights(d_out, d_in, seed)
    change, turn = 0.0, 0.0
    for a, b in zip(w0.tolist(), w1.tolist(), strict=True):
        size_a, size_b = math.hypot(*a), math.hypot(*b)
        change += abs(size_b - size_a) / d_out
        turn += (1 - sum(p * q for p, q in zip(a, b, strict=True)) / (size_a * size_b)) / d_out
    assert magnitude_and_direction(w0, w1) == pytest.approx((change, turn), rel=1e-12, abs=1e-14)


def test_by_hand():
    """(3, 4) to (0, 10) grows by 5 and has cos 0.8; (1, 0) to (-1, 0) keeps its size and is reversed."""
    w0, w1 = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[0.0, 10.0], [-1.0, 0.0]])
    assert magnitude_and_direction(w0, w1) == pytest.approx((2.5, (0.2 + 2) / 2))


@given(sizes, sizes, seeds, st.floats(0.1, 10))
def test_a_scale_changes_the_magnitude_alone(d_out, d_in, seed, scale):
    """w1 times c > 0 leaves ΔD as it was; c · w0 against w0 has ΔM = |c - 1| · mean ‖w0‖ and no ΔD."""
    w0, w1 = two_weights(d_out, d_in, seed)
    changed, turned = magnitude_and_direction(w0, scale * w1)
    assert turned == pytest.approx(magnitude_and_direction(w0, w1)[1], rel=1e-12, abs=1e-30)
    grown, still = magnitude_and_direction(w0, scale * w0)
    assert grown == pytest.approx(abs(scale - 1) * w0.norm(dim=1).mean().item(), rel=1e-12, abs=1e-14)
    assert still < 1e-30  # the square of a rounding


@given(sizes, st.integers(2, 6), seeds)
def test_rows_may_be_scaled_each_by_its_own_factor(d_out, d_in, seed):
    """The norms are those of output rows: a factor for each row, unlike one for each column, keeps ΔD."""
    w0, w1 = two_weights(d_out, d_in, seed)
    factors = torch.arange(1.0, 1 + max(d_out, d_in), dtype=torch.float64)
    by_rows = magnitude_and_direction(w0, w1 * factors[:d_out, None])[1]
    by_columns = magnitude_and_direction(w0, w1 * factors[None, :d_in])[1]
    wanted = magnitude_and_direction(w0, w1)[1]
    assert by_rows == pytest.approx(wanted, rel=1e-12) and abs(by_columns - wanted) > 1e-9


@given(sizes, sizes, seeds)
def test_direction_stays_between_none_and_reversed(d_out, d_in, seed):
    """ΔD is 0 for the weight itself, exactly, 2 for its negative, and between them for any other."""
    w0, w1 = two_weights(d_out, d_in, seed)
    assert magnitude_and_direction(w0, w0) == (0, 0)
    assert magnitude_and_direction(w0, -w0) == pytest.approx((0, 2), rel=1e-14)
    changed, turned = magnitude_and_direction(w0, w1)
    assert changed >= 0 and 0 <= turned <= 2 + 1e-14
    assert magnitude_and_direction(w1, w0) == pytest.approx((changed, turned), rel=1e-14)


@given(st.integers(1, 6), seeds, st.floats(-7, 0))
def test_a_small_turn_keeps_its_digits(d_out, seed, power):
    """For a turn by an angle, down to 1e-7, ΔD is 2 sin²(angle / 2) to 1e-6 of itself; 1 - cos would lose it all.

    The unit vectors round by about 1e-16 each, which is 1e-9 of a difference of 1e-7, and squared twice that.
    """
    w0, _ = two_weights(d_out, 2, seed)
    angle = 10**power
    changed, turned = magnitude_and_direction(w0, rotated(w0, angle))
    assert turned == pytest.approx(2 * math.sin(angle / 2) ** 2, rel=1e-6)
    assert changed < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_weights_of_fewer_bits_are_taken_as_they_are(dtype):
    """A weight of few bits is computed with in float64, gradients or not, and not changed."""
    w0, w1 = (weight.to(dtype).requires_grad_() for weight in two_weights(4, 5, 0))
    kept = w1.detach().clone()
    got = magnitude_and_direction(w0, w1)
    assert got == magnitude_and_direction(w0.double(), w1.double()) and all(type(number) is float for number in got)
    assert torch.equal(w1, kept)


REFUSED = [((3, 5), (5, 3)), ((3, 5), (1, 5)), ((5,), (5,)), ((2, 3, 5), (2, 3, 5)), ((0, 5), (0, 5))]


@pytest.mark.parametrize("shapes", REFUSED, ids=str)
def test_shapes_must_be_two_of_a_kind(shapes):
    """Two weights of different shapes, not two-dimensional or without a row are refused, and both shapes named."""
    with pytest.raises(ValueError, match="the weights have shapes .*; give two of") as error:
        magnitude_and_direction(*(torch.ones(shape) for shape in shapes))
    assert all(str(shape) in str(error.value) for shape in shapes)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_must_be_finite(place, value):
    """A number that is not finite is refused, with the weight that has it."""
    weights = [torch.ones(3, 5), torch.ones(3, 5)]
    weights[place][1, 2] = value
    with pytest.raises(ValueError, match=f"the {('first', 'second')[place]} weight has values that are not finite"):
        magnitude_and_direction(*weights)


@pytest.mark.parametrize("place", [0, 1])
def test_rows_of_zeros_are_refused(place):
    """A row of zeros has no direction: refused, with its number and the weight that has it."""
    weights = [torch.ones(3, 5), torch.ones(3, 5)]
    weights[place][2] = 0
    with pytest.raises(ValueError, match=f"row 2 of the {('first', 'second')[place]} weight is zero"):
        magnitude_and_direction(*weights)
