"""Do the sources, the committed notebooks, the results and the figures agree? What `make sync-check` asks."""

import json
from pathlib import Path

from lora_from_scratch.book import contents, evidence, found, guide, paragraphs
from lora_from_scratch.book.chapters import as_text, machine_traces, renewed, sources
from lora_from_scratch.book.provenance import other_code
from lora_from_scratch.lab.cache import ROOT


def of_other_code(root: Path) -> list[str]:
    """Which committed results came from other code than the tree's. (A word in a docstring is no other code.)"""
    lines = []
    for path in sorted((root / "figures").glob("*/*.json")):
        modules = json.loads(path.read_text(encoding="utf-8"))["provenance"].get("modules")
        if other := other_code(modules, root):
            files = f"other {', '.join(other)}" if modules else "code whose hash they do not record"
            lines.append(f"{path.relative_to(root)}: results of {files}; make book N={path.name[:2]} renews them")
    return lines


def check(root: Path) -> list[str]:
    """All that disagrees between the sources, the committed notebooks and the figures that their results name."""
    wrong: list[str] = []
    rows = paragraphs.committed(root / "figures" / "full")
    for source in sources(root):
        wrong += paragraphs.contradicted(source, rows)
        try:
            notebook = renewed(source)
        except ValueError as error:
            wrong.append(str(error))
            continue
        if as_text(notebook) != source.with_suffix(".ipynb").read_text(encoding="utf-8"):
            wrong.append(f"{source.stem}.ipynb has other words than {source.name}: make prose N={source.name[:2]}")
        wrong += [f"{source.stem}.ipynb: {trace}" for trace in machine_traces(notebook, root)]
    results = sorted((root / "figures").glob("*/*.json"))
    for path in [*sorted((root / "notebooks").glob("*.ipynb")), *results]:
        if not (root / "notebooks" / f"{path.stem}.py").exists():
            wrong.append(f"{path.relative_to(root)} is of no chapter")
    named = {path.parent / name for path in results for name in json.loads(path.read_text(encoding="utf-8"))["figures"]}
    there = set((root / "figures").glob("*/*.png"))
    wrong += [f"{path.relative_to(root)} is named in results and missing" for path in sorted(named - there)]
    wrong += [f"{path.relative_to(root)} is named in no results" for path in sorted(there - named)]
    has_guide, has_readme = (root == ROOT or (root / name).exists() for name in (guide.NAME, "README.md"))
    return (
        wrong
        + of_other_code(root)
        + (guide.check(root) if has_guide else [])
        + (found.check(root) + contents.check(root) if has_readme else [])
        + evidence.check(root)
    )
