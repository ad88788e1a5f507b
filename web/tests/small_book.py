"""A book of two chapters in a folder of its own, small enough to be built, and broken, many times."""

import json
import struct
import zlib
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

HEAD = """\
# {number} · {title}

**The question.** Does it stand?

**What you will be able to do.** Build a page.

**What you need.** Appendix A1, and nothing else.
"""
CAPTION = "One white pixel."
ROW = {
    "kind": "claim",
    "says": "rank 1 ends as low as rank 64",
    "scope": {"model": "tiny Llama"},
    "source": "arXiv 2106.09685v2, table 6",
    "read": "full text",
    "published": "73.4 against 73.5",
    "seen_first": "",
    "tested_on": "",
    "asks_again": "",
    "parts": {
        "": {"criterion": "the interval is wholly below 0.02", "because": "1 % of the loss", "chance": {"value": 0.06}}
    },
    "shown": "0.17 [0.11, 0.23]",
    "no_chance": "",
    "chance_passes": False,
    "verdict": "not reproduced",
}
VERDICT = """\
NOT REPRODUCED: rank 1 ends as low as rank 64
  published: 73.4 against 73.5
  measured:  0.17 [0.11, 0.23]
  chance:    0.06
  the test: the interval is wholly below 0.02 (1 % of the loss)
"""
PROVENANCE = {
    "preset": "full",
    "device": "CPU (x86_64), one thread a run",
    "torch": "2.13.0",
    "python": "3.11.7",
    "seeds": [1, 2, 3],
    "corpus_sha256": "f" * 64,
    "code": "0" * 64,
    "seconds": 7.0,
    "training_seconds": 3376.0,
}
CELLS = {"prediction": 1, "picture": 4, "words": 5}  # where they stand in the first chapter


def make(root: Path) -> Path:
    """Write the book into `root`, and return it."""
    for folder in ("notebooks", "figures/full", "lora_from_scratch"):
        (root / folder).mkdir(parents=True)
    (root / "README.md").write_text("# A book\n\nRead [the first chapter](notebooks/00_first.ipynb).\n")
    (root / "figures" / "LEDGER.md").write_text("# The ledger\n\nSome words.\n\n## 00_first\n")
    (root / "lora_from_scratch" / "__init__.py").write_text("from lora_from_scratch.lora import scale\n")
    (root / "lora_from_scratch" / "lora.py").write_text(
        '"""LoRA."""\n\n\ndef scale(alpha: float, rank: int) -> float:\n    """The factor s = alpha / rank."""\n'
    )
    first = [
        new_markdown_cell("**Write down your prediction:** the loss of rank 1. See chapter 00."),
        new_code_cell("print(1)", outputs=[stream("a  b\n-  -\n1  2\n")]),
        new_code_cell("row.measure(0.17)", outputs=[stream(VERDICT)]),
        new_code_cell("results.figure(fig)", outputs=[picture(), stream(CAPTION + "\n")]),
        new_markdown_cell("A formula $\\sqrt{r}$.", metadata={"rests_on": "00.rank_one=not reproduced"}),
        new_markdown_cell("<details><summary>Solution</summary>\n\n`42`\n\n</details>"),
    ]
    write(root, "00_first", first, {"rank_one": ROW}, {"00_first_pixel.png": {"caption": CAPTION, "alt": "White."}})
    write(root, "A1_more", [new_markdown_cell("See chapter 00.")], {}, {})
    (root / "figures" / "full" / "00_first_pixel.png").write_bytes(png())
    return root


def write(root: Path, stem: str, cells: list[NotebookNode], rows: dict, figures: dict) -> None:
    """A chapter: its notebook and its results."""
    head = new_markdown_cell(HEAD.format(number=stem[:2], title=stem[3:]))
    notebook = new_notebook(cells=[head, *cells])
    for at, cell in enumerate(notebook.cells):
        cell.id = f"{stem[:2]}-{at:02d}"
    nbformat.write(notebook, root / "notebooks" / f"{stem}.ipynb")
    results = {"provenance": PROVENANCE, "rows": rows, "figures": figures}
    (root / "figures" / "full" / f"{stem}.json").write_text(json.dumps(results))


def stream(text: str) -> NotebookNode:
    """What a cell has printed."""
    return new_output("stream", text=text)


def picture() -> NotebookNode:
    """A picture in a notebook. The site shows the one in figures/full instead."""
    return new_output("display_data", data={"image/png": "", "text/plain": "<Figure>"})


def png() -> bytes:
    """A white pixel."""
    parts = {b"IHDR": struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0), b"IDAT": zlib.compress(b"\x00\xff"), b"IEND": b""}
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def change_cell(root: Path, at: int, old: str, new: str) -> None:
    """Replace words of a cell of the first chapter."""
    path = root / "notebooks" / "00_first.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert old in notebook.cells[at].source
    notebook.cells[at].source = notebook.cells[at].source.replace(old, new)
    nbformat.write(notebook, path)


def change_results(root: Path, change) -> None:
    """Change the results of the first chapter by a function of them."""
    path = root / "figures" / "full" / "00_first.json"
    results = json.loads(path.read_text())
    change(results)
    path.write_text(json.dumps(results))
