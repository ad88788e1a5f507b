"""The ledger: every claim of the book beside what was measured, rendered from the chapters' JSON files.

python -m lora_from_scratch.book.ledger --print FOLDER    the ledger of one run, as text
python -m lora_from_scratch.book.ledger --write           renew figures/LEDGER.md from figures/full and figures/gpu
python -m lora_from_scratch.book.ledger --check           fail unless figures/LEDGER.md is what those files give
"""

import argparse
import json
import sys
import textwrap
from pathlib import Path

from lora_from_scratch.lab.cache import ROOT, save_atomically

LEDGER = ROOT / "figures" / "LEDGER.md"


def read(folder: Path) -> dict[str, dict]:
    """{chapter: its JSON content} of a folder, in chapter order; empty if there is no such folder."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def as_text(chapters: dict[str, dict]) -> str:
    """The ledger for a terminal."""
    lines, verdicts = [], []
    for chapter, content in chapters.items():
        lines.append(f"\n{chapter}  ({content['provenance']['seconds']:.0f} s)")
        for claim in content["claims"].values():
            verdicts.append(claim["verdict"])
            lines += textwrap.wrap(claim["says"], 110, initial_indent="  · ", subsequent_indent="    ")
            lines.append(
                f"      published {claim['published']} | measured {claim['shown']} | {claim['verdict'].upper()}"
            )
    count = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    presets = ", ".join(sorted({content["provenance"]["preset"] for content in chapters.values()}))
    return "\n".join([f"The ledger of claims, preset {presets}: {count or 'no claims'}", *lines])


def as_markdown(full: dict[str, dict], gpu: dict[str, dict]) -> str:
    """figures/LEDGER.md: one table a chapter, the CPU's results and, where there are any, the GPU's side by side."""
    lines = [
        "# The ledger of claims",
        "",
        "Rendered from the JSON files in this folder by `make book`; no line is written by hand. Each verdict is",
        "computed from a criterion that its chapter states before the measurement.",
    ]
    for chapter in sorted(full | gpu):
        sides = [side[chapter] for side in (full, gpu) if chapter in side]
        lines += ["", f"## {chapter}", ""]
        for side in sides:
            p = side["provenance"]
            lines.append(
                f"Preset `{p['preset']}`, {p['device']}, torch {p['torch']}, Python {p['python']}, "
                f"seeds {p['seeds']}, text {p['corpus_sha256'][:12]}, {p['seconds']:.0f} s; "
                f"its training runs, one after the other, {p['training_seconds']:.0f} s."
            )
        heads = [f"measured (`{side['provenance']['preset']}`) | verdict" for side in sides]
        columns = f"| claim | source | published | criterion | {' | '.join(heads)} |"
        lines += ["", columns, "|" + "---|" * (columns.count("|") - 1)]
        for name in dict.fromkeys(name for side in sides for name in side["claims"]):
            first = next(side["claims"][name] for side in sides if name in side["claims"])
            cells = [first["says"], first["source"], first["published"], first["criterion"]]
            for side in sides:
                claim = side["claims"].get(name, {"shown": "", "verdict": ""})
                cells += [claim["shown"], f"**{claim['verdict']}**" if claim["verdict"] else ""]
            lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command line above; gives the exit status."""
    parser = argparse.ArgumentParser(description="the ledger of claims")
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--print", type=Path, metavar="FOLDER")
    group.add_argument("--write", action="store_true")
    group.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    if options.print:
        print(as_text(read(options.print)))
        return 0
    text = as_markdown(read(ROOT / "figures" / "full"), read(ROOT / "figures" / "gpu"))
    if options.write:
        save_atomically(LEDGER, lambda temporary: temporary.write_text(text))
        return 0
    agrees = LEDGER.exists() and LEDGER.read_text() == text
    if not agrees:
        print("figures/LEDGER.md is not what the JSON files give; run `make book`, or the --write of this command")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
