"""A measured value with its interval: what a verdict is computed from."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A measured value and its 95 % interval; both ends are NaN where there is none, as with a single seed.

    Raises ValueError for an interval with one end alone, or one that does not hold the value.
    """

    value: float
    low: float = math.nan
    high: float = math.nan

    def __post_init__(self) -> None:
        one_end = math.isnan(self.low) != math.isnan(self.high)
        if one_end or self.has_interval and not self.low <= self.value <= self.high:
            raise ValueError(
                f"[{self.low}, {self.high}] is no interval around {self.value}; give both ends, or neither"
            )

    @classmethod
    def of(cls, measured: "Estimate | tuple[float, float] | float") -> "Estimate":
        """From an Estimate, a (mean, half width) pair as book/stats.py gives it, or a number without an interval."""
        if isinstance(measured, Estimate):
            return measured
        mean, half = map(float, measured) if isinstance(measured, (tuple, list)) else (float(measured), math.nan)
        if half < 0:
            raise ValueError(f"the half width is {half}; it must be 0 or more, or NaN where there is no interval")
        return cls(mean, mean - half, mean + half) if math.isfinite(mean + half) else cls(mean)

    @property
    def has_interval(self) -> bool:
        """Whether there are two ends."""
        return not math.isnan(self.low)

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]" if self.has_interval else f"{self.value:.4g}"
