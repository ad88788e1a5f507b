"""The ledger: every row of the book beside what was measured, rendered from the chapters' JSON files.

python -m lora_from_scratch.book.ledger --print FOLDER    the ledger of one run, as text
python -m lora_from_scratch.book.ledger --write           renew figures/LEDGER.md and .png from figures/full and gpu,
                                                          and NULLS.md from figures/full
python -m lora_from_scratch.book.ledger --check           fail unless both are what those files give
"""

import argparse
import json
import sys
import textwrap
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt

from lora_from_scratch.book import nulls
from lora_from_scratch.book.forest import forest
from lora_from_scratch.lab.cache import ROOT, save_atomically

LEDGER = ROOT / "figures" / "LEDGER.md"
HEAD = """\
# The ledger

Rendered from the JSON files in this folder by `make book`; no line is written by hand. Each verdict is computed from a
test that its chapter writes down before the measurement. *Not settled* is where the interval touches the test's line,
where chance passes the same test, or where there is one seed alone; none of these is evidence of no effect.
"""


def read(folder: Path) -> dict[str, dict]:
    """{chapter: its JSON content} of a folder, in chapter order; empty if there is no such folder."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}


def counts(rows: list[dict]) -> str:
    """How many rows of each kind came out how, a line a kind."""
    kinds: dict[str, Counter] = {}
    for row in rows:
        kinds.setdefault(row["kind"], Counter())[row["verdict"]] += 1
    lines = (f"{kind}: " + ", ".join(f"{n} {v}" for v, n in found.most_common()) for kind, found in kinds.items())
    return "\n".join(lines)


def as_text(chapters: dict[str, dict]) -> str:
    """The ledger for a terminal."""
    lines, rows = [], [row for content in chapters.values() for row in content["rows"].values()]
    for chapter, content in chapters.items():
        lines.append(f"\n{chapter}  ({content['provenance']['seconds']:.0f} s)")
        for row in content["rows"].values():
            lines += textwrap.wrap(row["says"], 110, initial_indent="  · ", subsequent_indent="    ")
            published = f"published {row['published']} | " if row["published"] else ""
            lines.append(f"      {published}measured {row['shown']} | {row['verdict'].upper()}")
    presets = ", ".join(sorted({content["provenance"]["preset"] for content in chapters.values()}))
    return "\n".join([f"The ledger, preset {presets}: {counts(rows) or 'no rows'}", *lines])


def as_markdown(full: dict[str, dict], gpu: dict[str, dict]) -> str:
    """figures/LEDGER.md: counts by kind, one table a chapter with CPU and GPU side by side, and what is asked twice."""
    everything = [row for side in (full, gpu) for content in side.values() for row in content["rows"].values()]
    lines = [HEAD, *(f"- {line}" for line in counts(everything).splitlines())]
    if any(row["parts"] for row in everything):
        lines += ["", "![Every verdict that has an interval, against the line of its test](LEDGER.png)"]
    for chapter in sorted(full | gpu):
        lines += ["", f"## {chapter}", "", *_chapter([side[chapter] for side in (full, gpu) if chapter in side])]
    return "\n".join([*lines, *_asked_again(full | gpu)]) + "\n"


def _chapter(sides: list[dict]) -> list[str]:
    lines = []
    for side in sides:
        p = side["provenance"]
        lines.append(
            f"Preset `{p['preset']}`, {p['device']}, torch {p['torch']}, Python {p['python']}, "
            f"seeds {p['seeds']}, text {p['corpus_sha256'][:12]}, code {p.get('code', 'not recorded')[:12]}, "
            f"{p['seconds']:.0f} s; its training runs, one after the other, {p['training_seconds']:.0f} s."
        )
    heads = [f"measured (`{side['provenance']['preset']}`) | verdict" for side in sides]
    found = [side["rows"] for side in sides]
    lines += ["", *_table(["kind", "sentence", "source", "published", "test", "chance", "scope", *heads])]
    for name in dict.fromkeys(name for rows in found for name in rows):
        first = next(rows[name] for rows in found if name in rows)
        read = f" (read: {first['read']})" if first["read"] else ""
        cells = [first["kind"], first["says"], first["source"] + read, first["published"]]
        cells += [_tests(first), _chance(first), _scope(first)]
        for row in (rows.get(name, {"shown": "", "verdict": ""}) for rows in found):
            cells += [row["shown"], f"**{row['verdict']}**" if row["verdict"] else ""]
        lines.append(_line(cells))
    return lines


def _asked_again(chapters: dict[str, dict]) -> list[str]:
    """Questions that were put in two scopes, side by side."""
    rows = {f"{stem[:2]}.{n}": row for stem, content in chapters.items() for n, row in content["rows"].items()}
    pairs = [(rows[row["asks_again"]], row) for row in rows.values() if row["asks_again"] in rows]
    if not pairs:
        return []
    table = _table(["sentence", "first scope", "measured", "verdict", "second scope", "measured", "verdict"])
    for first, second in pairs:
        cells = [cell for row in (first, second) for cell in (_scope(row), row["shown"], f"**{row['verdict']}**")]
        table.append(_line([first["says"], *cells]))
    return ["", "## Asked twice", "", *table]


def _tests(row: dict) -> str:
    words = (
        f"{name + ': ' if name else ''}{part['criterion']}" + (f" ({part['because']})" if part["because"] else "")
        for name, part in row["parts"].items()
    )
    return "; ".join(words)


def _chance(row: dict) -> str:
    found = [
        f"{name + ': ' if name else ''}{p['chance']['value']:.4g}" for name, p in row["parts"].items() if "chance" in p
    ]
    return "; ".join(found) + " (passes)" * bool(row.get("chance_passes")) if found else row["no_chance"]


def _scope(row: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in row["scope"].items())


def _table(columns: list[str]) -> list[str]:
    head = f"| {' | '.join(columns)} |"
    return [head, "|" + "---|" * (head.count("|") - 1)]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def draw(chapters: dict[str, dict], path: Path) -> None:
    """All rows with an interval as one forest. Without any, no picture, and an old one goes."""
    rows = [row | {"name": f"{s[:2]}.{n}"} for s, content in chapters.items() for n, row in content["rows"].items()]
    if not any(row["parts"] for row in rows):
        path.unlink(missing_ok=True)
        return
    fig = forest(rows)
    save_atomically(path, lambda temporary: fig.savefig(temporary, metadata={"Software": None}))
    plt.close(fig)


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
    full, gpu = read(ROOT / "figures" / "full"), read(ROOT / "figures" / "gpu")
    text = as_markdown(full, gpu)
    if options.write:
        save_atomically(LEDGER, lambda temporary: temporary.write_text(text, "utf-8"))
        draw(full | gpu, LEDGER.with_suffix(".png"))
        nulls.write(ROOT, full)
        return 0
    drawn = LEDGER.with_suffix(".png").exists() == (LEDGER.with_suffix(".png").name in text)
    agrees = drawn and LEDGER.exists() and LEDGER.read_text("utf-8") == text
    if not agrees:
        print("figures/LEDGER.md, or its picture, is not what the JSON files give: run this command with --write")
    dated = nulls.agrees(ROOT, full)
    if not dated:
        print("NULLS.md is not what the JSON files give: run this command with --write")
    return 0 if agrees and dated else 1


if __name__ == "__main__":
    sys.exit(main())
