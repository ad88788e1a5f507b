"""Runs the chapters, and keeps each committed notebook in step with its source.

    python -m lora_from_scratch.lab.book run [--preset quick] [--chapter 03]     into build/<preset>/, nothing else
    python -m lora_from_scratch.lab.book run --preset full --commit    and renews notebooks/, figures/ and the ledger
    python -m lora_from_scratch.lab.book prose      renews the words in committed notebooks, runs nothing
    python -m lora_from_scratch.lab.book check      do sources, notebooks, figures and ledger agree?

A chapter is written by hand in `notebooks/NN_name.py`, plain Python in jupytext's percent format. Beside it lies
`NN_name.ipynb`: its cells, word for word, and the outputs they gave at preset `full`. Whatever a notebook carries that
nobody wrote (random cell ids, the name of a kernel, times) is counted up or left out here, so that a second run
changes only what was measured.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from lora_from_scratch.lab.cache import ROOT, save_atomically
from lora_from_scratch.lab.presets import PRESETS, preset

PERCENT = {"extension": ".py", "format_name": "percent", "comment_magics": False}  # False: a comment stays a comment
METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}


def sources(root: Path, number: str | None = None) -> list[Path]:
    """The chapters in the order they are read, or the one with this number."""
    found = sorted((root / "notebooks").glob("[0-9][0-9]_*.py"))
    wanted = [path for path in found if number is None or path.name[:2] == number.zfill(2)]
    if not wanted:
        raise SystemExit(f"no chapter {number or ''} in notebooks/; there are: {', '.join(p.stem for p in found)}")
    return wanted


def read_source(path: Path) -> NotebookNode:
    """The chapter as a notebook that was not run yet: ids counted up, no metadata, nothing but plain Python."""
    cells = jupytext.read(path, fmt=PERCENT).cells
    for index, cell in enumerate(cells):
        cell.id, cell.metadata = f"{path.name[:2]}-{index:02d}", NotebookNode()
        if not cell.source.strip():
            raise ValueError(f"{path.name}: cell {cell.id} is empty")
        try:
            compile(cell.source if cell.cell_type == "code" else "", path.name, "exec", dont_inherit=True)
        except SyntaxError as error:  # as a magic gives: a chapter must also run as a script
            line = (error.text or cell.source).strip()
            raise ValueError(f"{path.name}: cell {cell.id} is not plain Python: {error.msg}: {line}") from None
    return nbformat.v4.new_notebook(cells=cells, metadata=METADATA)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def save(notebook: NotebookNode, path: Path) -> None:
    save_atomically(path, lambda temporary: temporary.write_text(as_text(notebook), encoding="utf-8"))


def as_text(notebook: NotebookNode) -> str:
    return nbformat.writes(notebook) + "\n"


def execute(notebook: NotebookNode, environment: dict[str, str], folder: Path) -> str | None:
    """Runs the cells, in place, in a fresh kernel of this very Python; returns what went wrong, if anything did."""
    specs = KernelSpecManager(kernel_dirs=[])  # no kernel that this machine happens to have: sys.executable is left
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs, transport_encryption="auto")
    client = NotebookClient(notebook, km=kernel, record_timing=False)
    cell = None
    try:
        with client.setup_kernel(cleanup_kc=True, env=environment, cwd=str(folder)):
            for index, cell in enumerate(notebook.cells):
                client.execute_cell(cell, index)
                cell.update({"outputs": joined(cell.outputs)} if cell.cell_type == "code" else {})
    except CellExecutionError as error:
        return f"cell {cell.id} failed. " + re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # without a terminal's colours
    except DeadKernelError:
        return f"cell {cell.id} ended its Python process (out of memory, or a crash):\n{cell.source}"


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Printed text that arrived in pieces, by chance of timing, as one piece."""
    whole: list[NotebookNode] = []
    for output in outputs:
        if whole and output.output_type == whole[-1].output_type == "stream" and output.name == whole[-1].name:
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


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


def run_chapter(source: Path, size: str, commit: bool, root: Path) -> str | None:
    """One chapter into build/<preset>/ and, with `commit`, to its place in the repository; returns what failed."""
    figures = Path(f"figures/{size}" if commit else f"build/{size}/figures")  # as seen from the root
    (root / figures).mkdir(parents=True, exist_ok=True)
    try:
        notebook = read_source(source)
    except ValueError as error:
        return str(error)
    environment = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "LORA_PROGRESS")}
    environment |= {"LORA_PRESET": size, "LORA_OUT": str(figures)}
    if os.isatty(2):  # progress is drawn straight on the terminal, past the outputs
        environment["LORA_PROGRESS"] = os.ttyname(2)
    failure = execute(notebook, environment, root)
    save(notebook, root / "build" / size / f"{source.stem}.ipynb")
    if commit and not failure:
        failure = "\n".join(machine_traces(notebook, root)) or None
    if commit and not failure and size == "full":
        save(notebook, source.with_suffix(".ipynb"))
    return failure


def run(root: Path, size: str, number: str | None = None, commit: bool = False) -> list[str]:
    """Every chapter, also after one that failed, a line for each; returns what failed, chapter by chapter."""
    failures, begin = [], time.monotonic()
    for source in sources(root, number):
        start = time.monotonic()
        if sys.stdout.isatty():
            print(f"{source.stem:<32}  running", end="\r", flush=True)
        failure = run_chapter(source, size, commit, root)
        print(f"{source.stem:<32}{time.monotonic() - start:8.1f} s  {'FAILED' if failure else 'ok'}", flush=True)
        failures += [f"{source.stem}: {failure}"] if failure else []
    print(f"{f'at preset {size}, in all':<32}{time.monotonic() - begin:8.1f} s", flush=True)
    return failures


def renewed(source: Path) -> NotebookNode:
    """The source with the outputs that its committed notebook holds; ValueError if those are of other code."""
    path, notebook = source.with_suffix(".ipynb"), read_source(source)
    old = code(nbformat.read(path, as_version=4)) if path.exists() else []
    if [cell.source for cell in old] != [cell.source for cell in code(notebook)]:
        raise ValueError(f"{path.name} was run with other code than {source.name} has: make book N={source.name[:2]}")
    for count, (cell, before) in enumerate(zip(code(notebook), old, strict=True), start=1):
        cell.outputs, cell.execution_count = before.outputs, count
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


def check(root: Path) -> list[str]:
    """All that disagrees between the sources, the committed notebooks and the figures that their results name."""
    wrong: list[str] = []
    for source in sources(root):
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
    return wrong


def ledger(*arguments: str) -> list[str]:
    """The ledger's own command; a failure of it is one of ours."""
    command = ["-m", "lora_from_scratch.lab.ledger", *arguments]
    failed = subprocess.run([sys.executable, *command], cwd=ROOT).returncode != 0
    return [f"failed: python {' '.join(command)}"] if failed else []


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m lora_from_scratch.lab.book", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "prose", "check"))
    parser.add_argument("--preset", choices=PRESETS, help="default: quick, or gpu with CUDA")
    parser.add_argument("--chapter", metavar="NN", help="one chapter, not all")
    parser.add_argument("--commit", action="store_true", help="renew what the repository holds: full or gpu")
    options = parser.parse_args(arguments)
    if options.commit and options.preset not in ("full", "gpu"):
        parser.error("only --preset full or gpu is committed")
    if options.what == "run":
        size = preset(options.preset).name
        problems = run(root, size, options.chapter, options.commit)
        problems += ledger("--write") if options.commit else ledger("--print", f"build/{size}/figures")
    elif options.what == "prose":
        problems = prose(root, options.chapter)
    else:
        problems = check(root) + ledger("--check")
    print("".join(f"\n{problem}\n" for problem in problems), end="", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
