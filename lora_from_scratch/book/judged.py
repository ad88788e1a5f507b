"""A claim with a judge of its own, as chapters 00 to 11 still have them. New rows take a test instead."""

from collections.abc import Callable
from dataclasses import dataclass

VERDICTS = ("reproduced", "partly", "not at this scale", "does not add up")


@dataclass
class Claim:
    """A published claim: what it says, where, the published value, and the criterion that decides.

    `judge` maps the measured value to a verdict of VERDICTS; True and False stand for the first and the third.
    """

    says: str
    source: str
    published: str
    criterion: str
    judge: Callable[[object], str | bool]
    shown: str = ""
    value: object = None
    verdict: str = ""

    def measure(self, value: object, shown: str) -> None:
        """Record the measured value (`shown` is how the ledger writes it), and print the verdict."""
        verdict = self.judge(value)
        verdict = {True: "reproduced", False: "not at this scale"}.get(verdict, verdict)
        if verdict not in VERDICTS:
            raise ValueError(f"the judge gave {verdict!r}; a verdict is one of {', '.join(VERDICTS)}")
        self.value, self.shown, self.verdict = value, shown, verdict
        print(f"{verdict.upper()}: {self.says}\n  published: {self.published}\n  measured:  {shown}")
