"""What the guide's advices stand on, counted from the rows, and a mark by which a stale chapter 21 is found out.

Chapter 21 prints the committed rows of other chapters. Its results keep a hash of the rows that it read; `make
sync-check` fails where the hash is of other rows than the committed ones, and where an advice changed its rows.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from lora_from_scratch.analysis import advise
from lora_from_scratch.book import paragraphs
from lora_from_scratch.book.advices import ADVICES
from lora_from_scratch.book.article import ARTICLE
from lora_from_scratch.book.standing import PLACES, place

CHAPTER = "21_choosing"
AGAINST = ("not reproduced", "does not hold", "does not add up")


def named() -> Iterator[tuple[str, str]]:
    """(row, verdict) of all that advices, the article's lines and the calculator rest on; a row may come twice."""
    for rests_on in (*(a.rests_on for a in ADVICES), *(line.rests_on for line in ARTICLE), advise.RESTS_ON):
        yield from paragraphs.rests_on(rests_on).items()


def row_of(name: str, rows: paragraphs.Committed) -> dict:
    """Row "13.on_par" of `rows`. Raises ValueError where there is none."""
    chapter, _, row = name.partition(".")
    if row not in rows.get(chapter, {}):
        raise ValueError(f"there is no row {name!r}; write chapter.row, as 13.on_par, of a chapter that was run")
    return rows[chapter][row]


def stands_on(rests_on: str, rows: paragraphs.Committed) -> dict[str, list[str]]:
    """{place: the verdicts of the rows there}, of a text such as an advice's `rests_on`."""
    found = {name: [] for name in PLACES}
    for name in paragraphs.rests_on(rests_on):
        row = row_of(name, rows)
        found[place(row)].append(row["verdict"])
    return found


def fingerprint(rows: paragraphs.Committed) -> str:
    """A hash of the rows that the guide rests on, as said and as they are: all that is shown of them."""
    read = [
        [name, said, *(row_of(name, rows)[key] for key in ("says", "scope", "verdict", "shown"))]
        for name, said in sorted(set(named()))
        if not name.startswith(CHAPTER[:2])
    ]
    return hashlib.sha256(json.dumps(read).encode()).hexdigest()[:16]


def check(root: Path) -> list[str]:
    """Whether chapter 21 read the rows that are committed now; nothing where it was not run, or a row is missing."""
    folder = root / "figures" / "full"
    path = folder / f"{CHAPTER}.json"
    if not path.exists():
        return []
    try:
        now = fingerprint(paragraphs.committed(folder))
    except ValueError:  # guide.check names the row
        return []
    if json.loads(path.read_text("utf-8"))["numbers"].get("evidence") == now:
        return []
    return [f"{path.relative_to(root)}: it read other rows than are committed; make book N=21 renews it"]
