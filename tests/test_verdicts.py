"""Verdicts: which side of a line a whole interval lies on, and nothing else."""

import ast
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_from_scratch.book import verdicts
from lora_from_scratch.book.estimates import Estimate
from lora_from_scratch.book.verdicts import (
    NO,
    NOT_SETTLED,
    PARTLY,
    YES,
    AtLeast,
    AtMost,
    Equal,
    Figures,
    Higher,
    Identity,
    Lower,
    combined,
)

numbers = st.floats(-1e6, 1e6, allow_subnormal=False)
margins = st.floats(1e-3, 1e3)
halves = st.floats(0, 1e3)
TESTS = (Lower, Higher, Equal, AtLeast, AtMost)


def around(value: float, half: float) -> Estimate:
    return Estimate(value, value - half, value + half)


@st.composite
def intervals(draw) -> Estimate:
    ends = sorted(draw(st.tuples(numbers, numbers, numbers)))
    return Estimate(ends[1], ends[0], ends[2])


@given(intervals(), margins)
def test_lower_and_higher_mirror_each_other(estimate, m):
    """A difference is lower by m exactly where its negative is higher by m, verdict and leaning both."""
    mirrored = Estimate(-estimate.value, -estimate.high, -estimate.low)
    assert Lower(m).judge(estimate) == Higher(m).judge(mirrored)
    assert AtLeast(m).judge(estimate) == AtMost(-m).judge(mirrored)


@given(intervals(), margins)
def test_not_settled_is_exactly_where_the_interval_touches_the_line(estimate, m):
    """For a test with one line; its own two ends included, as an end that lies on the line touches it."""
    for test, line in ((Lower(m), -m), (Higher(m), m), (AtLeast(m), m), (AtMost(m), m)):
        touches = estimate.low <= line <= estimate.high
        assert (test.judge(estimate).verdict == NOT_SETTLED) == touches
    touches = any(estimate.low <= line <= estimate.high for line in (-m, m))
    assert (Equal(m).judge(estimate).verdict == NOT_SETTLED) == touches


@given(intervals(), margins, st.floats(0, 1e6))
def test_moving_an_interval_away_from_the_line_never_turns_yes_into_no(estimate, m, by):
    """Each test is monotone: further on the side of a yes, the verdict gets no worse."""
    order = [NO, NOT_SETTLED, YES]
    for test, sign in ((Lower(m), -1), (Higher(m), 1), (AtLeast(m), 1), (AtMost(m), -1)):
        moved = Estimate(*(end + sign * by for end in (estimate.value, estimate.low, estimate.high)))
        assert order.index(test.judge(moved).verdict) >= order.index(test.judge(estimate).verdict)


@given(intervals(), margins, st.floats(0, 1))
def test_a_narrower_interval_never_unsettles_and_never_reverses(estimate, m, share):
    """More seeds around the same value settle what was open, and leave what was settled."""
    low, high = (estimate.value + share * (end - estimate.value) for end in (estimate.low, estimate.high))
    narrow = Estimate(estimate.value, min(low, estimate.value), max(high, estimate.value))
    for test in (kind(m) for kind in TESTS):
        before = test.judge(estimate).verdict
        assert before == NOT_SETTLED or test.judge(narrow).verdict == before


@given(numbers, margins)
def test_one_seed_settles_nothing_and_leans_as_its_value_does(value, m):
    """Without an interval every test is open; the leaning is the verdict on an interval of no width."""
    for test in (kind(m) for kind in TESTS):
        outcome = test.judge(Estimate(value))
        assert outcome.verdict == NOT_SETTLED
        assert outcome.leans == test.judge(around(value, 0)).verdict


def test_a_diverged_run_is_not_settled():
    """NaN and infinite means have no interval, so no test says yes or no of them."""
    for measured in ((math.nan, math.nan), (math.inf, math.nan), (-math.inf, 1.0), math.nan):
        for test in (kind(0.5) for kind in TESTS):
            assert test.judge(Estimate.of(measured)).verdict == NOT_SETTLED
    assert Lower(0.1).judge(Estimate.of(math.nan)).leans == NOT_SETTLED


def test_equality_needs_a_margin_and_a_wide_interval_is_no_equality():
    """An interval that holds 0 shows no equality; it has to lie within the margin."""
    assert Equal(0.1).judge(around(0.0, 0.2)).verdict == NOT_SETTLED
    assert Equal(0.1).judge(around(0.0, 0.05)).verdict == YES
    assert Equal(0.1).judge(around(0.5, 0.05)).verdict == NO
    assert Equal(0.1).judge(around(-0.5, 0.05)).verdict == NO
    for margin in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="within is"):
            Equal(margin)


@pytest.mark.parametrize("kind", [Lower, Higher])
def test_a_margin_below_zero_is_refused(kind):
    """Lower(by=-1) would call a rise of a half lower."""
    for by in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="by is"):
            kind(by)
    kind(0)


@pytest.mark.parametrize(
    ("value", "published", "digits", "fits"),
    [
        (18.874368, 18.9, 1, True),  # rounded
        (18.874368, 18.8, 1, True),  # cut off
        (18.874368, 18.7, 1, False),
        (9285, 10_000, -3, False),
        (9285, 9000, -3, True),
        (0.361, 0.35, 2, False),
        (0.35, 0.35, 2, True),  # no binary fraction, and still 0.35
        (2.5, 3, 0, True),
        (2.5, 2, 0, True),
        (-0.62, -0.62, 2, True),
        (0.62, -0.62, 2, False),
        (math.nan, 1, 0, False),
        (math.inf, 1, 0, False),
    ],
)
def test_a_figure_agrees_if_ours_rounded_or_cut_is_theirs(value, published, digits, fits):
    """To the digit that is printed, with the sign."""
    assert Figures(published, digits).judge(Estimate(value)).verdict == (YES if fits else NO)


@given(st.decimals(0, 10_000, places=4), st.integers(0, 3))
def test_figures_agree_with_decimal_arithmetic(value, digits):
    """Against exact decimals: what a number rounds to, and what it is cut to, fit; the next ones do not."""
    step = 10.0**-digits
    cut = math.floor(value * 10**digits) / 10**digits
    rounded = math.floor(value * 10**digits + value.__class__("0.5")) / 10**digits
    for published in (cut, rounded):
        assert Figures(published, digits).judge(Estimate(float(value))).verdict == YES
    for published in (cut - step, rounded + step):
        assert published < 0 or Figures(published, digits).judge(Estimate(float(value))).verdict == NO


def test_an_identity_takes_an_error_up_to_its_tolerance():
    """NaN is no small error."""
    assert Identity(1e-6).judge(Estimate(1e-6)).verdict == YES
    for error in (2e-6, -2e-6, math.nan, math.inf):
        assert Identity(1e-6).judge(Estimate(error)).verdict == NO


@given(st.lists(st.sampled_from([YES, NO, NOT_SETTLED]), min_size=1, max_size=5))
def test_a_claim_of_parts_is_never_better_than_its_worst_and_never_worse_than_its_best(parts):
    """Reproduced needs every part, not reproduced needs none; partly needs one of each."""
    whole, order = combined(parts), [NO, PARTLY, NOT_SETTLED, YES]
    best, worst = max(parts, key=order.index), min(parts, key=order.index)
    assert whole != YES or worst == YES
    assert whole != NO or best == NO
    assert (whole == PARTLY) == (YES in parts and NO in parts)
    assert order.index(worst) <= order.index(whole) <= order.index(best)
    assert combined(parts[::-1]) == whole


def test_an_estimate_is_one_value_with_two_ends_or_none():
    """Half an interval, one beside its value and a negative half width are refused."""
    for wrong in ((1, 0, math.nan), (1, math.nan, 2), (1, 2, 3), (1, 2, 0), (math.nan, 0, 1)):
        with pytest.raises(ValueError, match="no interval"):
            Estimate(*wrong)
    with pytest.raises(ValueError, match="half width"):
        Estimate.of((1.0, -0.1))
    assert Estimate.of((1.0, 0.5)) == Estimate(1.0, 0.5, 1.5)
    assert not Estimate.of(3).has_interval and Estimate.of(Estimate(1, 0, 2)) == Estimate(1, 0, 2)


def test_every_test_tells_its_criterion_with_its_number():
    """What stands in the ledger names the line and its side."""
    for test, words in (
        (Lower(0.02), "below -0.02"),
        (Lower(0), "below 0"),
        (Higher(0.02), "above 0.02"),
        (Equal(0.01), "within ±0.01"),
        (AtLeast(0.6), "above 0.6"),
        (AtMost(0.6), "below 0.6"),
        (Figures(18.9, 1), "18.9"),
        (Identity(1e-6), "1e-06"),
    ):
        assert words in str(test)
        assert test.as_data()["kind"] == type(test).__name__ and test.as_data()["criterion"] == str(test)


def test_the_tests_import_nothing_but_dataclasses_and_math():
    """So that a reader can lift the file, and sees all there is to a verdict in it."""
    tree = ast.parse(Path(verdicts.__file__).read_text(encoding="utf-8"))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules == {"dataclasses", "math"}
