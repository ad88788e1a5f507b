"""A chapter's source and its committed notebook, kept in step.

A chapter is written by hand in `notebooks/NN_name.py`, plain Python in jupytext's percent format, and so is an
appendix, `notebooks/AN_name.py`: depth for those who want it. Beside it lies `NN_name.ipynb`: its cells, word for word,
and the outputs they gave at preset `full`. Whatever a notebook carries that nobody wrote (random cell ids, the name of
a kernel, times) is counted up or left out here, so that a second run changes only what was measured.
"""

import re
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from lora_from_scratch.book import paragraphs
from lora_from_scratch.lab.cache import save_atomically

PERCENT = {"extension": ".py", "format_name": "percent", "comment_magics": False}  # False: a comment stays a comment
CHAPTERS, APPENDICES = "chapters", "appendices"  # what `make notebooks` and `make appendices` run
METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}


def sources(root: Path, which: str | None = None) -> list[Path]:
    """The chapters and then the appendices, in the order they are read; or one part, CHAPTERS or APPENDICES; or the
    one with this number, such as "3" or "A1"."""
    folder = root / "notebooks"
    parts = {CHAPTERS: sorted(folder.glob("[0-9][0-9]_*.py")), APPENDICES: sorted(folder.glob("A[0-9]_*.py"))}
    found = [path for part in parts.values() for path in part]
    wanted = parts.get(which, [path for path in found if which is None or path.name[:2] == which.upper().zfill(2)])
    if not wanted:
        raise SystemExit(f"no chapter {which or ''} in notebooks/; there are: {', '.join(p.stem for p in found)}")
    return wanted


def read_source(path: Path) -> NotebookNode:
    """The chapter as a notebook that was not run yet: ids counted up, nothing but plain Python.

    Of a cell's metadata only `rests_on` stays, what a paragraph rests on (paragraphs.py).
    """
    cells = jupytext.read(path, fmt=PERCENT).cells
    for index, cell in enumerate(cells):
        kept = {key: value for key, value in cell.metadata.items() if key == "rests_on"}
        cell.id, cell.metadata = f"{path.name[:2]}-{index:02d}", NotebookNode(kept)
        if not cell.source.strip():
            raise ValueError(f"{path.name}: cell {cell.id} is empty")
        try:
            compile(cell.source if cell.cell_type == "code" else "", path.name, "exec", dont_inherit=True)
        except SyntaxError as error:  # as a magic gives: a chapter must also run as a script
            line = (error.text or cell.source).strip()
            raise ValueError(f"{path.name}: cell {cell.id} is not plain Python: {error.msg}: {line}") from None
    return nbformat.v4.new_notebook(cells=cells, metadata=METADATA)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells of a notebook, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def save(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook, under a temporary name first."""
    save_atomically(path, lambda temporary: temporary.write_text(as_text(notebook), encoding="utf-8"))


def as_text(notebook: NotebookNode) -> str:
    """A notebook as its file holds it."""
    return nbformat.writes(notebook) + "\n"


def machine_traces(notebook: NotebookNode, root: Path) -> list[str]:
    """Where outputs name a folder of this machine or an address in its memory: no other machine would give them."""
    folders = [re.escape(str(folder)) for folder in (root, Path.home()) if folder != Path("/")]
    pattern = re.compile("|".join([*folders, r"/ipykernel_\d+", r" at 0x[0-9a-f]{6,}"]))
    return [
        f"the output of cell {cell.id} holds {trace}, which is of one machine only"
        for cell in code(notebook)
        for output in cell.outputs
        for trace in pattern.findall(output.get("text", "") + str(output.get("data", {}).get("text/plain", "")))
    ]


def fill(notebook: NotebookNode, rows: paragraphs.Committed, strict: bool = True) -> None:
    """Put the numbers of `rows` into the paragraphs that name them, in place."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = paragraphs.filled(cell.source, rows, strict)


def renewed(source: Path) -> NotebookNode:
    """The source with the outputs that its committed notebook holds, and the committed numbers in its paragraphs.

    A run's remark on paragraphs that its numbers do not bear out is left out: it was made of other words.
    Raises ValueError if the outputs are of other code, or a paragraph names a row that there is not.
    """
    path, notebook = source.with_suffix(".ipynb"), read_source(source)
    old = code(nbformat.read(path, as_version=4)) if path.exists() else []
    if [cell.source for cell in old] != [cell.source for cell in code(notebook)]:
        raise ValueError(f"{path.name} was run with other code than {source.name} has: make book N={source.name[:2]}")
    for count, (cell, before) in enumerate(zip(code(notebook), old, strict=True), start=1):
        kept = [o for o in before.outputs if not o.get("text", "").startswith(paragraphs.REMARK)]
        cell.outputs, cell.execution_count = kept, count
    fill(notebook, paragraphs.committed(source.parents[1] / "figures" / "full"))
    return notebook


def prose(root: Path, number: str | None = None) -> list[str]:
    """Gives committed notebooks the words of their sources, outputs kept; returns what must be run instead."""
    stale = []
    for source in sources(root, number):
        try:
            save(renewed(source), source.with_suffix(".ipynb"))
        except ValueError as error:
            stale.append(str(error))
    return stale
