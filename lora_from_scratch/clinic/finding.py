"""What a diagnosis says: what is wrong, the numbers that show it, and what to do."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a run. `evidence` is {what was looked at: a number}; `mend` is one line."""

    name: str
    evidence: dict[str, float]
    mend: str

    def __str__(self) -> str:
        numbers = ", ".join(f"{what} {_short(number)}" for what, number in self.evidence.items())
        return f"{self.name} ({numbers}): {self.mend}"


def some(names: list[str], at_most: int = 3) -> str:
    """A list of names as text, the rest of a long one counted."""
    return ", ".join(names[:at_most]) + (f" and {len(names) - at_most} more" if len(names) > at_most else "")


def _short(number: float) -> str:
    return f"{number:,d}" if isinstance(number, int) else f"{number:.3g}"
