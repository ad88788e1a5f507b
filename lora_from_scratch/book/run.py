"""Runs the chapters, and keeps each committed notebook in step with its source.

python -m lora_from_scratch.book.run run [--preset quick] [--chapter 03]     into build/<preset>/, nothing else
python -m lora_from_scratch.book.run run --chapter appendices      the appendices alone; or chapters, or A1
python -m lora_from_scratch.book.run run --preset full --commit    and renews notebooks/, figures/ and the ledger
python -m lora_from_scratch.book.run prose      renews the words in committed notebooks, runs nothing
python -m lora_from_scratch.book.run check      do sources, notebooks, figures and ledger agree?
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from lora_from_scratch.book import guide, paragraphs
from lora_from_scratch.book.agree import check
from lora_from_scratch.book.chapters import CHAPTERS, fill, machine_traces, prose, read_source, save, sources
from lora_from_scratch.lab.cache import ROOT
from lora_from_scratch.lab.checkpoint import find_checkpoint
from lora_from_scratch.lab.presets import PRESETS, preset
from lora_from_scratch.lab.workers import make_bases


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


def run_chapter(source: Path, size: str, commit: bool, root: Path) -> str | None:
    """One chapter into build/<preset>/ and, with `commit`, to its place in the repository; returns what failed."""
    figures = Path(f"figures/{size}" if commit else f"build/{size}/figures")  # as seen from the root
    (root / figures).mkdir(parents=True, exist_ok=True)
    try:
        notebook = read_source(source)
    except ValueError as error:
        return str(error)
    environment = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "LORA_PROGRESS")}
    # PASSIVE, before torch is loaded: threads that spin while they wait cost much time beside any other work.
    environment |= {"LORA_PRESET": size, "LORA_OUT": str(figures), "OMP_WAIT_POLICY": "PASSIVE"}
    if os.isatty(2):  # progress is drawn straight on the terminal, past the outputs
        environment["LORA_PROGRESS"] = os.ttyname(2)
    failure = execute(notebook, environment, root)
    rows = paragraphs.committed(root / "figures" / "full") | paragraphs.committed(root / figures)
    fill(notebook, rows, strict=False)
    save(notebook, root / "build" / size / f"{source.stem}.ipynb")
    if commit and not failure:
        failure = "\n".join(machine_traces(notebook, root)) or None
    if commit and not failure and size == "full":
        save(notebook, source.with_suffix(".ipynb"))
    return failure


def missing_model(source: Path) -> str | None:
    """Why the pretrained model that a chapter loads cannot be had; None if it can, or if it loads none."""
    if "load_checkpoint" not in source.read_text(encoding="utf-8"):
        return None
    try:
        find_checkpoint()
    except ValueError as error:
        return f"not run: {error}"


def run(root: Path, size: str, number: str | None = None, commit: bool = False) -> list[str]:
    """Every chapter, also after one that failed, a line for each; returns what failed, chapter by chapter.

    A chapter whose pretrained model is not there is not run, and named with the reason.
    """
    failures, begin = [], time.monotonic()
    for source in sources(root, number):
        start = time.monotonic()
        if sys.stdout.isatty():
            print(f"{source.stem:<32}  running", end="\r", flush=True)
        missing = missing_model(source)
        failure = missing or run_chapter(source, size, commit, root)
        state = "NOT RUN" if missing else "FAILED" if failure else "ok"
        print(f"{source.stem:<32}{time.monotonic() - start:8.1f} s  {state}", flush=True)
        failures += [f"{source.stem}: {failure}"] if failure else []
    print(f"{f'at preset {size}, in all':<32}{time.monotonic() - begin:8.1f} s", flush=True)
    return failures


def pretrain(size: str) -> None:
    """The bases of this preset, with a line for what they took: all chapters begin with them."""
    begin, found = time.monotonic(), preset(size)
    make_bases(range(found.bases), found)
    print(f"{'pretrained bases':<32}{time.monotonic() - begin:8.1f} s", flush=True)


def ledger(*arguments: str) -> list[str]:
    """The ledger's own command; a failure of it is one of ours."""
    command = ["-m", "lora_from_scratch.book.ledger", *arguments]
    failed = subprocess.run([sys.executable, *command], cwd=ROOT).returncode != 0
    return [f"failed: python {' '.join(command)}"] if failed else []


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """The command line above; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lora_from_scratch.book.run", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "prose", "check"))
    parser.add_argument("--preset", choices=PRESETS, help="default: quick, or gpu with CUDA")
    parser.add_argument("--chapter", metavar="NN", help="one, as 03 or A1, or all chapters, or all appendices")
    parser.add_argument("--commit", action="store_true", help="renew what the repository holds: full or gpu")
    options = parser.parse_args(arguments)
    if options.commit and options.preset not in ("full", "gpu"):
        parser.error("only --preset full or gpu is committed")
    if options.what == "run":
        size = preset(options.preset).name
        if options.chapter in (None, CHAPTERS):
            pretrain(size)
        problems = run(root, size, options.chapter, options.commit)
        problems += ledger("--write") if options.commit else ledger("--print", f"build/{size}/figures")
        problems += guide.write(root) if options.commit and root == ROOT else []
    elif options.what == "prose":
        problems = prose(root, options.chapter) + (guide.write(root) if root == ROOT else [])
    else:
        problems = check(root) + ledger("--check")
    print("".join(f"\n{problem}\n" for problem in problems), end="", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
