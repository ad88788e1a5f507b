"""The interval of a share: against its closed forms, and by how often it holds the share that is true."""

import random

import pytest

from lora_from_scratch.book.shares import share


@pytest.mark.parametrize("n", [1, 17, 48])
def test_all_of_n_and_none_of_n_have_their_closed_forms(n):
    """The ends solve p^n = 0.025 and (1 - p)^n = 0.025."""
    assert share(n, n).low == pytest.approx(0.025 ** (1 / n)) and share(n, n).high == 1
    assert share(0, n).high == pytest.approx(1 - 0.025 ** (1 / n)) and share(0, n).low == 0


def test_the_interval_mirrors_and_holds_its_share():
    for k in range(11):
        one, other = share(k, 10), share(10 - k, 10)
        assert one.low == pytest.approx(1 - other.high) and one.low <= k / 10 <= one.high


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_it_misses_the_true_share_in_at_most_one_draw_of_twenty(p):
    """The binomial law is discrete, so it misses less often than it may."""
    draw = random.Random(0)
    misses = sum(not (e := share(sum(draw.random() < p for _ in range(20)), 20)).low <= p <= e.high for _ in range(400))
    assert misses / 400 <= 0.06


@pytest.mark.parametrize("k, n", [(3, 2), (-1, 2), (0, 0)])
def test_what_is_no_share_is_refused(k, n):
    with pytest.raises(ValueError, match="is no share"):
        share(k, n)
