"""A broken run as data: what people ask, the slip that breaks it, the number that shows it, and what sees it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lora_from_scratch.diagnose import Finding

GROUPS = {
    "nothing": "Nothing learns",
    "wrong": "It learns the wrong thing",
    "lost": "What it learnt is lost",
    "costs": "It costs more than expected",
}


@dataclass(frozen=True)
class Seen:
    """One number of the broken run beside the healthy run's, and what `diagnose` said of each."""

    broken: float
    healthy: float
    findings: Sequence[Finding] = ()
    silent: Sequence[Finding] = ()  # of the healthy run: to be empty
    raised: str = ""  # the error that the broken run ends in, if it ends in one
    elsewhere: str = ""  # what another look says, where these arguments do not hold it

    @property
    def names(self) -> set[str]:
        """The names of the findings on the broken run."""
        return {finding.name for finding in self.findings}


@dataclass(frozen=True)
class Case:
    """One of the questions. `run(seed)` builds the broken run and its healthy twin.

    `finding` is what `diagnose` should name, or "" with the reason in `unseen`; `compare` is what shows it when it is
    held beside another. `fault` is False where nothing is wrong at all. `slip` is the wrong line, `mend` the right one;
    `number` says in few words what is measured. `threads` are public reports that were read; `chapter` explains it.
    """

    name: str
    group: str
    asks: str
    slip: str
    mend: str
    number: str
    run: Callable[[int], Seen]
    finding: str = ""
    unseen: str = ""
    compare: str = ""
    fault: bool = True
    threads: tuple[str, ...] = field(default=())
    chapter: str = ""

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f"{self.name}: the group is {self.group!r}; it must be one of {', '.join(GROUPS)}")
        if bool(self.finding) == bool(self.unseen):
            raise ValueError(f"{self.name}: give the finding that shows it, or the reason why nothing can")

    def right(self, seen: Seen) -> bool:
        """Whether the broken run was named, or rightly left alone, and nothing was said of the healthy one."""
        named = self.finding in seen.names if self.finding else not seen.findings
        return named and not seen.silent
