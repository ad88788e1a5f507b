"""The picture of all verdicts: on which side of 1 an interval is drawn is what its test says of it."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_from_scratch.book.estimates import Estimate
from lora_from_scratch.book.forest import LIMIT, forest, in_margins
from lora_from_scratch.book.rows import Row
from lora_from_scratch.book.verdicts import NO, YES, AtLeast, AtMost, Equal, Higher, Identity, Lower

TESTS = [kind(m) for kind in (Lower, Higher, Equal, AtLeast, AtMost) for m in (0.02, 3.0)] + [Lower(0), AtLeast(-0.5)]


def part(test, estimate: Estimate) -> dict:
    ends = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return test.as_data() | {"estimate": ends, "verdict": test.judge(estimate).verdict}


@given(st.sampled_from(TESTS), st.floats(-5, 5), st.floats(0.001, 2))
def test_an_interval_lies_right_of_one_exactly_where_its_test_says_yes(test, value, half):
    """And left of it where it says no; what is not settled crosses 1. For every kind of test, and a line at 0."""
    estimate = Estimate(value, value - half, value + half)
    at, low, high = in_margins(part(test, estimate))
    assert low <= high
    verdict = test.judge(estimate).verdict
    near = 1e-9
    assert verdict != YES or low > 1 - near
    assert verdict != NO or high < 1 + near
    assert verdict in (YES, NO) or low <= 1 + near and high >= 1 - near


def row(name: str, test, measured, chance=(0.0, 0.01)) -> dict:
    found = Row(name, "finding", "says", {"": test}, {})
    found.measure(measured, chance=chance)
    return found.as_data() | {"name": name}


@pytest.fixture
def drawn():
    matplotlib.use("agg")
    rows = [
        row("far off", Lower(0.01), (-9.0, 0.1)),
        row("one seed", AtLeast(2), 3.0),
        row("diverged", Lower(0.1), (np.nan, np.nan)),
        {"name": "merge", "parts": {"": Identity(1).as_data()}},
    ]
    fig = forest(rows)
    yield fig.axes[0]
    plt.close(fig)


def test_every_row_with_an_interval_has_its_name_and_identities_have_none(drawn):
    """Figures and identities have no interval, and so no place in the picture."""
    assert [label.get_text() for label in drawn.get_yticklabels()] == ["far off", "one seed", "diverged"]


def test_what_lies_beyond_the_picture_is_drawn_at_its_edge(drawn):
    """With an arrow, so that nothing is left out silently."""
    arrows = [line for line in drawn.lines if line.get_marker() == ">"]
    assert len(arrows) == 1 and arrows[0].get_xdata()[0] == LIMIT


def test_an_interval_with_an_open_end_is_no_single_seed():
    """Also where the test turns it round, so that the open end is the lower one."""
    part = {"kind": "AtMost", "x": 1.0, "verdict": "not settled"}
    part["estimate"] = {"value": 0.5, "low": 0.1, "high": float("inf")}
    ax = forest([{"name": "open", "parts": {"": part}}]).axes[0]
    assert not [line for line in ax.lines if line.get_marker() == "D"]
    assert [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "<"] == [2 - LIMIT]


def test_a_single_seed_is_a_hollow_mark_without_an_interval(drawn):
    """It settles nothing, and looks like it."""
    marks = [line for line in drawn.lines if line.get_marker() == "D"]
    assert marks and all(mark.get_markerfacecolor() == "white" for mark in marks)
