"""The 95 % interval of a share that is counted, as "17 of 17 cases": Clopper and Pearson's, by the binomial law.

The lower end is the share at which as many successes or more have a probability of 2.5 %; the upper end is the one at
which as many or fewer have it. With n of n the lower end is 0.025^(1/n): 17 of 17 may still be a share of 0.80.
It holds if the n cases are independent. Cases of one kind, or one case on copies of a base, are not: count them once.
"""

import math

from lora_from_scratch.book.estimates import Estimate

TAIL = 0.025


def share(successes: int, n: int) -> Estimate:
    """`successes` of `n` as an estimate with its interval. Raises ValueError unless 0 <= successes <= n and n > 0."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} of {n} is no share; give a count from 0 to n, and an n of at least 1")
    low = 0.0 if successes == 0 else _where(lambda p: 1 - _at_most(successes - 1, n, p) >= TAIL)
    high = 1.0 if successes == n else _where(lambda p: _at_most(successes, n, p) <= TAIL)
    return Estimate(successes / n, low, high)


def _at_most(k: int, n: int, p: float) -> float:
    """The probability of k successes or fewer of n, each of probability p."""
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


def _where(reached) -> float:
    """The p in [0, 1] at which a condition that holds from there on begins to hold."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high
