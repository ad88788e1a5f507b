"""Means with intervals, differences seed by seed, and tables as text."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_from_scratch.book.stats import STUDENT_T, interval, paired, shown, spearman, table

NUMBERS = st.floats(-100, 100)
SAMPLES = st.lists(NUMBERS, min_size=2, max_size=10)


def within(t: float, freedom: int) -> float:
    """The probability that Student's t with this many degrees of freedom lies in ±t: its density, integrated."""
    x = np.linspace(-t, t, 200_001)
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    return float(np.trapezoid(scale * (1 + x**2 / freedom) ** (-(freedom + 1) / 2), x))


@pytest.mark.parametrize("freedom", range(1, len(STUDENT_T) + 1))
def test_the_t_values_enclose_95_percent(freedom):
    """Each value of STUDENT_T is t, rounded to three decimals, with 95 % of its distribution in ±t."""
    t = STUDENT_T[freedom - 1]
    assert within(t - 0.0005, freedom) < 0.95 < within(t + 0.0005, freedom)


@given(SAMPLES)
def test_an_interval_is_t_standard_errors_around_the_mean(values):
    """Mean and half width are numpy's mean and t · s / sqrt(n), with s from n - 1 degrees of freedom."""
    mean, half = interval(values)
    assert mean == pytest.approx(np.mean(values), abs=1e-9)
    assert half == pytest.approx(STUDENT_T[len(values) - 2] * np.std(values, ddof=1) / np.sqrt(len(values)), abs=1e-9)


def test_an_interval_worked_out_by_hand():
    """1, 2, 3: mean 2, s = 1, and t = 4.303 for two degrees of freedom: ± 4.303 / sqrt(3)."""
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.303 / math.sqrt(3)))


def test_a_95_percent_interval_holds_the_mean_95_times_in_100():
    """Of 4,000 normal samples of three, 5 % miss the true mean, up to four standard deviations: 1.4 %."""
    samples = np.random.default_rng(0).normal(size=(4000, 3))
    held = [abs(mean) <= half for mean, half in map(interval, samples.tolist())]
    assert abs(np.mean(held) - 0.95) < 0.014


def test_one_value_has_a_mean_and_no_interval():
    """A single seed says nothing about the spread: its half width is NaN, never 0."""
    mean, half = interval([1.5])
    assert mean == 1.5 and math.isnan(half)


@pytest.mark.parametrize("values", [[], [1.0] * 11], ids=["none", "eleven"])
def test_no_values_or_more_than_ten_are_an_error(values):
    """Outside the table of t values there is a ValueError with the number of values and what is allowed."""
    with pytest.raises(ValueError, match=f"{len(values)} values; an interval here takes 1 to 10"):
        interval(values)


@pytest.mark.parametrize("values", [[1.0, math.inf], [math.inf, math.inf]], ids=str)
def test_a_diverged_seed_gives_an_infinite_mean_without_an_interval(values):
    """`evaluate` gives inf for a diverged run; the mean is then infinite, the half width NaN, and nothing fails."""
    mean, half = interval(values)
    assert mean == math.inf and math.isnan(half)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=10), st.data())
def test_what_the_seeds_have_in_common_cancels(pairs, data):
    """A shift of each seed, the same in both methods, changes neither the mean difference nor its interval."""
    first, second = zip(*pairs, strict=True)
    shifts = data.draw(st.lists(NUMBERS, min_size=len(pairs), max_size=len(pairs)))
    shifted = [[v + s for v, s in zip(values, shifts, strict=True)] for values in (first, second)]
    assert paired(*shifted) == pytest.approx(paired(first, second), abs=1e-9)


def test_a_paired_difference_is_first_minus_second():
    """Seeds that differ much, and methods that differ by 1 at each: the difference is 1, without any spread."""
    assert paired([11.0, 21.0, 31.0], [10.0, 20.0, 30.0]) == (1.0, 0.0)


def test_pairs_of_different_lengths_are_an_error():
    """A seed without its counterpart is a ValueError, not a pair that is dropped."""
    with pytest.raises(ValueError):
        paired([1.0, 2.0], [1.0])


def test_a_mean_is_shown_with_its_half_width_or_alone():
    """`mean ± half width` with the digits that are asked for; one value stands alone."""
    assert shown([1.0, 2.0, 3.0]) == "2.000 ± 2.484"
    assert shown([1.0, 2.0, 3.0], digits=1) == "2.0 ± 2.5"
    assert shown([1.23456]) == "1.235"


def test_a_table_sets_words_left_and_numbers_right():
    """Columns of numbers are aligned at their ends, all others at their beginnings; a rule stands under the head."""
    text = table(["method", "loss", "n"], [["full", "1.5", 10], ["rank 1", "+12.25", ""], ["", "-0.125", 1000]])
    assert text.split("\n") == [
        "method    loss     n",
        "------  ------  ----",
        "full       1.5    10",
        "rank 1  +12.25",
        "        -0.125  1000",
    ]


CELLS = st.text("ab0.5 -", max_size=6)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=5))
def test_every_cell_of_a_table_stands_in_its_column(rows):
    """Cut at the columns' widths, the lines give the cells back."""
    lines = table(["a", "b", "c"], rows).split("\n")
    widths = [len(rule) for rule in lines[1].split("  ")]
    assert widths == [max(1, *(len(row[i]) for row in rows)) for i in range(3)]
    for line, row in zip(lines[2:], rows, strict=True):
        line = line.ljust(sum(widths) + 4)
        for i, cell in enumerate(row):
            start = sum(widths[:i]) + 2 * i
            assert line[start : start + widths[i]].strip() == cell.strip()


def test_pairs_that_diverge_to_both_sides_have_no_difference():
    """inf - 1 and 1 - inf: neither a number nor an error at the end of a long run."""
    assert all(map(math.isnan, paired([math.inf, 1, 2], [1, math.inf, 2])))
    assert all(map(math.isnan, paired([math.inf, 1], [math.inf, 1])))
    assert all(map(math.isnan, interval([math.nan, 1.0])))


def test_spearman_s_correlation_is_that_of_the_places():
    """A rising function changes nothing; ties share their mean place, as worked out by hand; a constant has none."""
    values = [3.0, -1.0, 7.0, 0.5]
    assert spearman(values, [math.exp(v) for v in values]) == pytest.approx(1)
    assert spearman(values, [-v for v in values]) == pytest.approx(-1)
    # places 1, 2, 3 and 1, 2.5, 2.5: Pearson's correlation of these is 1.5 / sqrt(2 * 1.5)
    assert spearman([1, 2, 3], [1, 5, 5]) == pytest.approx(1.5 / math.sqrt(3))
    assert math.isnan(spearman([1, 2], [4, 4])) and math.isnan(spearman([1, math.nan], [4, 5]))
    for wrong in ([1.0], [1.0, 2.0, 3.0]):
        with pytest.raises(ValueError, match="two lists of one length"):
            spearman(wrong, [1.0, 2.0][: len(wrong)])
