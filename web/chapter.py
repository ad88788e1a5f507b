"""A chapter as it is committed: its notebook, and the JSON file and pictures that its last run at `full` left."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from web.outputs import Verdict

NAME = re.compile(r"(\d\d|A\d)_\w+")


@dataclass(frozen=True)
class Chapter:
    """`pages` maps the number of every chapter of the book, "07" or "A1", to its page."""

    stem: str
    notebook: NotebookNode
    results: dict
    figures: Path
    pages: Mapping[str, str]

    @property
    def number(self) -> str:
        """ "07" or "A1"."""
        return self.stem[:2]

    def row_of(self, verdict: Verdict) -> str:
        """The ledger's name, as "07.better", of the row that printed this verdict, or "" if it has none."""
        for name, row in self.results["rows"].items():
            if (row["says"], row["shown"]) == (verdict.says, verdict.line("measured")):
                return f"{self.number}.{name}"
        return ""


def row_id(row: str) -> str:
    """The anchor of a row such as "07.better" in the ledger."""
    return "row-" + row.replace(".", "-")


def row_address(row: str) -> str:
    """Where the ledger has a row such as "07.better"."""
    return f"ledger.html#{row_id(row)}"


def row_names(root: Path) -> set[str]:
    """ "07.better" and all other rows of the committed results."""
    files = [path for path in (root / "figures" / "full").glob("*.json") if NAME.fullmatch(path.stem)]
    return {f"{path.stem[:2]}.{name}" for path in files for name in json.loads(path.read_text("utf-8"))["rows"]}


def all_pages(root: Path) -> dict[str, str]:
    """{"00": "00_why_low_rank", …, "A1": …} of every committed notebook, chapters first."""
    stems = sorted(path.stem for path in (root / "notebooks").glob("*.ipynb"))
    return {stem[:2]: stem for stem in stems if NAME.fullmatch(stem)}


def read(root: Path, stem: str, pages: Mapping[str, str]) -> Chapter:
    """The chapter called `stem`. Raises ValueError if its results are not committed."""
    figures = root / "figures" / "full"
    results = figures / f"{stem}.json"
    if not results.exists():
        raise ValueError(f"figures/full has no {results.name}; make book N={stem[:2]} makes it")
    notebook = nbformat.read(root / "notebooks" / f"{stem}.ipynb", as_version=4)
    return Chapter(stem, notebook, json.loads(results.read_text("utf-8")), figures, pages)
