"""A row of the ledger: a sentence, the test that it has to pass, and what was measured, beside what chance scores.

    claim        somebody published it                       reproduced · not reproduced · partly · not settled
    finding      our own control, or our discovery           holds · does not hold · not settled
    arithmetic   a published figure, worked out again        adds up · does not add up
    identity     two ways to compute one thing               holds, or the chapter fails

A row is written down first and measured once its numbers are there. Only a claim has parts; each has a test of its own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from lora_from_scratch.book.estimates import Estimate
from lora_from_scratch.book.verdicts import NO, NOT_SETTLED, PARTLY, YES, Figures, Identity, Outcome, _Test, combined

WORDS = {  # what an outcome is called, by the kind of the row
    "claim": {YES: "reproduced", NO: "not reproduced", PARTLY: "partly", NOT_SETTLED: "not settled"},
    "finding": {YES: "holds", NO: "does not hold", NOT_SETTLED: "not settled"},
    "arithmetic": {YES: "adds up", NO: "does not add up"},
    "identity": {YES: "holds"},
}
READ = ("full text", "abstract", "second hand")
PLACE = r"abstract|section|table|figure|appendix|equation|algorithm|footnote|theorem|introduction|result file|§"
ALONE = ""  # the name of the one part of a row without parts

Measured = Estimate | tuple[float, float] | float


@dataclass
class Row:
    """One sentence of the ledger. `parts` maps the name of each part to its test.

    Raises ValueError for a test that does not suit the kind, a claim whose source names no place, version or reading,
    and a finding that was seen first somewhere without saying where it was then tested.
    """

    name: str
    kind: str
    says: str
    parts: dict[str, _Test]
    scope: dict[str, object]
    source: str = ""  # with version and place
    read: str = ""  # how far it was read, one of READ
    published: str = ""
    seen_first: str = ""  # a finding made by looking: where, and
    tested_on: str = ""  # on what, not looked at before
    asks_again: str = ""  # "08.better": the row that asks the same in another scope
    shown: str = ""
    estimates: dict[str, Estimate] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    chance: dict[str, Estimate] = field(default_factory=dict)
    no_chance: str = ""  # why no null can be drawn
    chance_passes: bool = False
    verdict: str = ""
    leans: str = ""

    def __post_init__(self) -> None:
        wanted = {"arithmetic": (Figures,), "identity": (Identity,)}.get(self.kind)
        for test in self.parts.values():
            fits = isinstance(test, wanted) if wanted else not isinstance(test, (Figures, Identity))
            if not fits:
                raise ValueError(f"{self.name}: {type(test).__name__} is no test for a row of the kind {self.kind}")
        if not self.parts or (len(self.parts) > 1 and self.kind != "claim"):
            raise ValueError(f"{self.name}: a claim has one test or several parts, any other row one test")
        if self.kind in ("claim", "arithmetic"):
            check_source(self.name, self.source, self.read)
        if bool(self.seen_first) != bool(self.tested_on) or (self.seen_first and self.kind != "finding"):
            raise ValueError(f"{self.name}: what was seen first is a finding, and says both seen_first and tested_on")

    def measure(
        self, measured: Measured | Mapping[str, Measured], chance: object = None, shown: str | None = None
    ) -> str:
        """Record what was measured, print the verdict in words, and return it.

        Args:
            measured: an Estimate, a (mean, half width) pair or a number; of a claim with parts, one by name.
            chance: what a null scores on the same test, in the same form; or, as text, why there is none to draw.
                Claims and findings need it. Where chance passes, a yes is not settled: the test shows nothing.
            shown: the measured value in words; without it, the numbers.

        Raises ValueError for other parts than the row's or a chance left out; AssertionError if an identity fails.
        """
        estimates, needs_chance = self._by_part(measured), self.kind in ("claim", "finding")
        if needs_chance and (chance is None or chance == ""):
            raise ValueError(f"{self.name}: say what chance scores on this test, or in words why no null can be drawn")
        null = {} if chance is None or isinstance(chance, str) else self._by_part(chance)
        outcomes = {part: test.judge(estimates[part]) for part, test in self.parts.items()}
        passed = {part for part in null if self.parts[part].judge(null[part]).leans == YES}
        for part in passed:  # a line that chance is beyond too shows nothing
            both = (outcomes[part].verdict, outcomes[part].leans)
            outcomes[part] = Outcome(*(NOT_SETTLED if side == YES else side for side in both))
        if self.kind == "identity" and outcomes[ALONE].verdict != YES:
            raise AssertionError(f"{self.name}: {self.says}: the error is {estimates[ALONE].value:g}, {self.test}")
        self.estimates, self.outcomes, self.chance, self.chance_passes = estimates, outcomes, null, bool(passed)
        self.no_chance = chance if isinstance(chance, str) else ""
        self.verdict = WORDS[self.kind][combined([o.verdict for o in outcomes.values()])]
        self.leans = WORDS[self.kind][combined([o.leans for o in outcomes.values()])]
        self.shown = shown or in_words(estimates)
        print(self)
        return self.verdict

    @property
    def test(self) -> _Test:
        """The test of a row without parts, or of its first one."""
        return next(iter(self.parts.values()))

    def _by_part(self, measured: object) -> dict[str, Estimate]:
        found = dict(measured) if isinstance(measured, Mapping) else {ALONE: measured}
        if found.keys() != self.parts.keys():
            parts = ", ".join(part or "one value" for part in self.parts)
            raise ValueError(f"{self.name}: got {list(found)}; its parts are {parts}, each measured by name")
        return {part: Estimate.of(value) for part, value in found.items()}

    def __str__(self) -> str:
        lines = [f"{self.verdict.upper()}: {self.says}"]
        if self.published:
            lines.append(f"  published: {self.published}")
        lines.append(f"  measured:  {self.shown}")
        if self.chance or self.no_chance:
            passes = "; by its value alone that passes too, so this shows nothing" if self.chance_passes else ""
            lines.append(f"  chance:    {in_words(self.chance) or self.no_chance}{passes}")
        for part, test in self.parts.items():
            word = WORDS[self.kind][self.outcomes[part].verdict]
            lines.append(
                f"  {f'{part}, {word}' if part else 'the test'}: {test}{f' ({test.because})' * bool(test.because)}"
            )
        if self.verdict == "not settled" and not all(e.has_interval for e in self.estimates.values()):
            lines.append(f"  one seed has no interval; by its value alone: {self.leans}")
        return "\n".join(lines)

    def as_data(self) -> dict:
        """The row as JSON holds it. Raises ValueError before it was measured."""
        if not self.verdict:
            raise ValueError(f"{self.name} was written down and not measured yet")
        plain = ("kind says scope source read published seen_first tested_on asks_again").split()
        last = ("shown no_chance chance_passes verdict leans").split()
        ends = lambda e: {"value": e.value, "low": e.low, "high": e.high}  # noqa: E731
        parts = {
            part: test.as_data()
            | {"estimate": ends(self.estimates[part]), "verdict": self.outcomes[part].verdict}
            | ({"chance": ends(self.chance[part])} if part in self.chance else {})
            for part, test in self.parts.items()
        }
        return {n: getattr(self, n) for n in plain} | {"parts": parts} | {n: getattr(self, n) for n in last}


def in_words(estimates: Mapping[str, Estimate]) -> str:
    """Estimates as text, by part."""
    return "; ".join(f"{part}: {e}" if part else str(e) for part, e in estimates.items())


def check_source(name: str, source: str, read: str) -> None:
    """Raise ValueError unless `source` names a place and an arXiv paper's version, and `read` is one of READ."""
    if not re.search(PLACE, source, re.IGNORECASE):
        raise ValueError(f"{name}: the source {source!r} names no place: a section, a table, a figure, the abstract, …")
    if re.search(r"\d{4}\.\d{5}(?!v\d)", source):
        raise ValueError(f"{name}: the source {source!r} names no version: versions differ, so write 2312.03732v1")
    if read not in READ:
        raise ValueError(f"{name}: read is {read!r}; how far was the source read? one of {', '.join(READ)}")
