"""What a cell has printed, taken apart: tables, verdicts, captions of figures, and the rest as it is.

A table is what `book.stats.table` prints: a header, a line of dashes, and rows in columns. A verdict is what a row of
the ledger prints when it is measured (`book.rows.Row`): its word in capitals, its sentence, and indented lines.
"""

import re
from dataclasses import dataclass, field

WORDS = (  # of book.rows.WORDS, longest first, as "not reproduced" ends in another one
    "does not add up",
    "not reproduced",
    "does not hold",
    "not settled",
    "reproduced",
    "adds up",
    "partly",
    "holds",
)
DASHES = re.compile(r"-+(?:  -+)+$")
TITLE = re.compile(r"[A-Z][^a-z]{3,}(?: {2,}\(.+\))?")
NAMED = re.compile(r"(  [a-z]+ {2,})(\S.*)")
AMOUNT = re.compile(r"×? ?[-−+]?\d[\d.,]*(?:e[-+]?\d+)?(?: ?%)?")  # a number, or how many times one is another
VERDICT = re.compile(rf"({'|'.join(word.upper() for word in WORDS)}): (.+)")
UNDER_IT = re.compile(rf"  (?:(?:published|measured|chance|the test): |one seed has |\S.*, (?:{'|'.join(WORDS)}): )")


@dataclass
class Text:
    """Lines that are nothing else."""

    text: str


@dataclass
class Table:
    """`right` tells of each column whether it stands to the right, as numbers do."""

    header: list[str]
    rows: list[list[str]]
    right: list[bool]


@dataclass
class Verdict:
    """`lines` are (name, text) pairs, as ("measured", "0.17 [0.11, 0.23]"); a name may be empty."""

    word: str
    says: str
    lines: list[tuple[str, str]] = field(default_factory=list)

    def line(self, name: str) -> str:
        """The text under a name, or ""."""
        return next((text for n, text in self.lines if n == name), "")


@dataclass
class Case:
    """What the clinic prints of a broken run: its title, whence it is, and (name, text) pairs, as ("mend", "…")."""

    title: str
    lines: list[tuple[str, str]]


Block = Text | Table | Verdict | Case


def blocks(printed: str) -> list[Block]:
    """The blocks of a printed text, in order. Empty lines between them are left out."""
    lines, found, plain, at = printed.split("\n"), [], [], 0
    while at < len(lines):
        block, used = _table(lines, at) or _verdict(lines, at) or _case(lines, at) or (None, 1)
        if block:
            found += [*_text(plain), block]
            plain = []
        else:
            plain.append(lines[at])
        at += used
    return [*found, *_text(plain)]


def _text(lines: list[str]) -> list[Text]:
    text = "\n".join(line.rstrip() for line in lines).strip("\n")
    return [Text(text)] if text.strip() else []


def _table(lines: list[str], at: int) -> tuple[Table, int] | None:
    """The table whose header is line `at`, and how many lines it takes."""
    if at + 2 >= len(lines) or not DASHES.match(lines[at + 1].rstrip()):
        return None
    columns = [match.span() for match in re.finditer(r"-+", lines[at + 1])]
    if not _fits(lines[at], columns):
        return None
    end = at + 2
    while end < len(lines) and lines[end].strip() and _fits(lines[end], columns):
        end += 1
    cells = [[line[a:b].strip() for a, b in columns] for line in (lines[at], *lines[at + 2 : end])]
    right = [
        all(_stands_right(line, a, b) for line in (lines[at], *lines[at + 2 : end]))
        or all(AMOUNT.fullmatch(row[i]) for row in cells[1:])
        for i, (a, b) in enumerate(columns)
    ]
    return (Table(cells[0], cells[1:], right), end - at) if cells[1:] else None


def _fits(line: str, columns: list[tuple[int, int]]) -> bool:
    """Whether a line keeps to the columns: nothing between them, nothing after, each cell at one edge of its column."""
    line = line.rstrip()
    gaps = [line[end:start] for (_, end), (start, _) in zip(columns, columns[1:], strict=False)]
    edges = all(line[a : a + 1] != " " or _stands_right(line, a, b) for a, b in columns)
    return len(line) <= columns[-1][1] and not "".join(gaps).strip() and edges


def _stands_right(line: str, start: int, end: int) -> bool:
    """Whether a cell reaches its column's right edge, or is empty."""
    cell = line[start:end]
    return not cell.strip() or (len(cell) == end - start and cell[-1] != " ")


def _verdict(lines: list[str], at: int) -> tuple[Verdict, int] | None:
    """The verdict that begins at line `at`, and how many lines it takes."""
    match = VERDICT.fullmatch(lines[at].rstrip())
    if not match:
        return None
    end = at + 1
    while end < len(lines) and UNDER_IT.match(lines[end]):
        end += 1
    return Verdict(match[1].lower(), match[2], [_named(line.strip()) for line in lines[at + 1 : end]]), end - at


def _case(lines: list[str], at: int) -> tuple[Case, int] | None:
    """The case whose title is line `at`: capitals, then names and texts in two columns. What goes on is further in."""
    if not TITLE.fullmatch(lines[at].rstrip()) or at + 1 == len(lines) or not (first := NAMED.match(lines[at + 1])):
        return None
    found, end, column = [], at + 1, len(first[1])
    while end < len(lines) and lines[end].startswith("  ") and lines[end].strip():
        name, text = lines[end][:column].strip(), lines[end][column:].strip()
        if name or not found:
            found.append((name, text))
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]} {text}")
        end += 1
    return Case(lines[at].rstrip(), found), end - at


def _named(line: str) -> tuple[str, str]:
    """("measured", "0.17") of "measured:  0.17". A part's name may hold a comma: "rot13, not reproduced"."""
    name, colon, text = line.partition(": ")
    return (name, text.strip()) if colon else ("", line)
