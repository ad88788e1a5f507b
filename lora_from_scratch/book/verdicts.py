"""Verdicts as data: what a claim has to show, written down before it is measured.

A test draws a line (or two) and asks on which side the *whole* interval of an estimate lies:

    ──[──•──]───────┼──────────────     yes or no, by the side that the test asks for
    ───────────[────┼─•──]─────────     not settled: the interval touches the line
    ────────────────┼───────•──────     not settled: one seed has no interval; it only leans to a side

    Lower(by=m)          a paired difference below -m      AtLeast(x)    a ratio, share, exponent or correlation
    Higher(by=m)         a paired difference above m       AtMost(x)     likewise, on the other side
    Equal(within=m)      a difference between -m and m     Identity(t)   an error of at most t: else the chapter fails
    Figures(value, d)    ours, rounded or cut to d decimals, is theirs

The same test is put to *chance*: what a null scores (a random update of that size and rank, a copy of the base, the
clock against itself). What chance passes too is not shown. This file imports nothing but dataclasses and math.
"""

import math
from dataclasses import asdict, dataclass

YES, NO, PARTLY, NOT_SETTLED = "yes", "no", "partly", "not settled"


@dataclass(frozen=True)
class Outcome:
    """What a test says of an estimate, and to which side the value alone leans: yes, no or not settled, each."""

    verdict: str
    leans: str


@dataclass(frozen=True)
class _Test:
    """What the tests share. `because` gives the reason for the line: the effect that it is to exclude, or to show."""

    def judge(self, estimate) -> Outcome:
        """The outcome for an estimate: a `value` between `low` and `high`. NaN ends (no interval) are not settled."""
        return Outcome(self.side(estimate.low, estimate.high), self.side(estimate.value, estimate.value))

    def side(self, low: float, high: float) -> str:
        """Where the whole of [low, high] lies. No comparison with NaN is true, so NaN is never settled."""
        raise NotImplementedError

    def as_data(self) -> dict:
        """The test as JSON holds it: its kind, its numbers, and what it asks for in words."""
        return {"kind": type(self).__name__, **asdict(self), "criterion": str(self)}


def _check(name: str, value: float, ok: bool) -> None:
    if not (ok and math.isfinite(value)):
        raise ValueError(f"{name} is {value!r}; no measured interval can be judged by that: give a finite margin")


@dataclass(frozen=True)
class Lower(_Test):
    """A paired difference is below -by. With by=0, below zero at all."""

    by: float
    because: str = ""

    def __post_init__(self) -> None:
        _check("by", self.by, self.by >= 0)

    def side(self, low: float, high: float) -> str:
        return YES if high < -self.by else NO if low > -self.by else NOT_SETTLED

    def __str__(self) -> str:
        return f"the interval of the difference is wholly below {-self.by or 0:g}"


@dataclass(frozen=True)
class Higher(Lower):
    """A paired difference is above `by`: Lower, mirrored."""

    def side(self, low: float, high: float) -> str:
        return Lower(self.by).side(-high, -low)

    def __str__(self) -> str:
        return f"the interval of the difference is wholly above {self.by:g}"


@dataclass(frozen=True)
class Equal(_Test):
    """A difference is between -within and within, a margin above 0."""

    within: float
    because: str = ""

    def __post_init__(self) -> None:
        _check("within", self.within, self.within > 0)

    def side(self, low: float, high: float) -> str:
        m = self.within
        return YES if -m < low and high < m else NO if low > m or high < -m else NOT_SETTLED

    def __str__(self) -> str:
        return f"the interval of the difference is wholly within ±{self.within:g}"


@dataclass(frozen=True)
class AtLeast(_Test):
    """A ratio, share, exponent or correlation is above x."""

    x: float
    because: str = ""

    def __post_init__(self) -> None:
        _check("x", self.x, True)

    def side(self, low: float, high: float) -> str:
        return YES if low > self.x else NO if high < self.x else NOT_SETTLED

    def __str__(self) -> str:
        return f"the interval is wholly above {self.x:g}"


@dataclass(frozen=True)
class AtMost(AtLeast):
    """A ratio, share, exponent or correlation is below x: AtLeast, mirrored."""

    def side(self, low: float, high: float) -> str:
        return AtLeast(-self.x).side(-high, -low)

    def __str__(self) -> str:
        return f"the interval is wholly below {self.x:g}"


@dataclass(frozen=True)
class Figures(_Test):
    """Ours, rounded or cut to `digits` decimals, is the published figure; -3 decimals are thousands."""

    published: float
    digits: int = 0
    because: str = ""

    def __post_init__(self) -> None:
        _check("published", self.published, True)

    def judge(self, estimate) -> Outcome:
        """Yes or no: a figure that is counted has no interval."""
        size = abs(estimate.value) * 10.0**self.digits
        near = 1e-9 * max(1.0, size)  # 0.35 is no binary fraction, and still 0.35
        ours = {math.floor(size + near), math.floor(size + 0.5 + near)} if math.isfinite(size) else {math.nan}
        same_sign = estimate.value * self.published >= 0
        theirs = round(abs(self.published) * 10.0**self.digits)
        return Outcome(*2 * (YES if theirs in ours and same_sign else NO,))

    def __str__(self) -> str:
        return f"rounded or cut off at the same digit, the figure is {self.published:.{max(self.digits, 0)}f}"


@dataclass(frozen=True)
class Identity(_Test):
    """An error is at most `tolerance`, a number of at least 0. Where it is not, the code is wrong."""

    tolerance: float
    because: str = ""

    def __post_init__(self) -> None:
        _check("tolerance", self.tolerance, self.tolerance >= 0)

    def judge(self, estimate) -> Outcome:
        """Yes or no, by the size of the error."""
        return Outcome(*2 * (YES if abs(estimate.value) <= self.tolerance else NO,))

    def __str__(self) -> str:
        return f"the error is at most {self.tolerance:g}"


def combined(verdicts: list[str]) -> str:
    """The verdict on a claim of several parts: partly where some came out as yes and some as no.

    Reproduced only if every part is, not reproduced only if none is; otherwise an open part leaves the claim open.
    """
    if YES in verdicts and NO in verdicts:
        return PARTLY
    return verdicts[0] if len(set(verdicts)) == 1 else NOT_SETTLED
