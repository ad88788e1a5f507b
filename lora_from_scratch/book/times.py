"""How long the chapters take, by machine: figures/TIMES.json, and figures/TIMES.md made from it.

    make notebooks | tee times.txt
    make times MACHINE="two cores of a 2019 laptop"     adds yours: this module, given the name and times.txt
    python -m lora_from_scratch.book.times              renews figures/TIMES.md alone

A machine is an entry {"machine", "preset", "seconds": {"00": …}}; another run of it adds to its entry, or renews it.
The first entry is the one whose minutes stand in the README (contents.py).
"""

import json
import re
import sys
from pathlib import Path

from lora_from_scratch.lab.cache import ROOT, save_atomically
from lora_from_scratch.lab.presets import PRESETS

DATA, NAME, BASES = "figures/TIMES.json", "figures/TIMES.md", "bases"
LINE = re.compile(r"^(pretrained bases|\d\d|A\d)\S* +(\d+\.\d) s(?:  ok)?\s*$", re.MULTILINE)  # as book/run.py prints
PRESET = re.compile(r"^at preset (\w+), in all ", re.MULTILINE)
HEAD = """\
# How long the chapters take

Seconds, as `make notebooks` prints them, by machine. A chapter that failed or was not run has none. The tiny bases are
pretrained once; later runs take them, and finished trainings, from `build/cache`. Add your machine:

```
make notebooks | tee times.txt
make times MACHINE="what it is, in a few words"
```
"""


def entry(machine: str, printed: str) -> dict:
    """The entry of a machine from what `make notebooks` printed there.

    Raises ValueError for a machine without a name, and for a text without the lines of chapters or the last line.
    """
    if not machine.strip():
        raise ValueError("the machine has no name; say in a few words what it is, as 'two cores of a 2019 laptop'")
    seconds = {BASES if name == "pretrained bases" else name: float(s) for name, s in LINE.findall(printed)}
    preset = PRESET.search(printed)
    if not seconds or not preset:
        raise ValueError("no chapter's line, or no last line with the preset; give all that `make notebooks` printed")
    if preset[1] not in PRESETS:
        raise ValueError(f"the preset is {preset[1]!r}; it must be one of {', '.join(PRESETS)}")
    return {"machine": machine.strip(), "preset": preset[1], "seconds": seconds}


def added(entries: list[dict], new: dict) -> list[dict]:
    """`entries` with the seconds of `new` in the entry of its machine and preset, or with `new` at the end."""
    key = lambda e: (e["machine"], e["preset"])  # noqa: E731
    if key(new) not in map(key, entries):
        return [*entries, new]
    return [e | {"seconds": e["seconds"] | new["seconds"]} if key(e) == key(new) else e for e in entries]


def read(root: Path = ROOT) -> list[dict]:
    """The entries; none where there is no file."""
    path = root / DATA
    return json.loads(path.read_text("utf-8")) if path.exists() else []


def minutes(number: str, entries: list[dict]) -> str:
    """Minutes on the first machine, as the README has them. Not timed there: "?", or nothing for an appendix."""
    seconds = entries[0]["seconds"].get(number) if entries else None
    untimed = "" if number.startswith("A") else "?"
    return untimed if seconds is None else f"{seconds / 60:.1f}"


def as_markdown(entries: list[dict]) -> str:
    """The table: a line a chapter, a column a machine."""
    numbers = sorted({n for e in entries for n in e["seconds"]}, key=lambda n: (n != BASES, n))
    columns = [f"{e['machine']}, `{e['preset']}`" for e in entries]
    lines = [HEAD, f"| chapter | {' | '.join(columns)} |"]
    lines.append("|---|" + "---:|" * len(entries))
    for number in numbers:
        cells = [f"{e['seconds'][number]:.0f}" if number in e["seconds"] else "" for e in entries]
        lines.append(f"| {number} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def check(root: Path) -> list[str]:
    """Whether figures/TIMES.md is what the entries give."""
    path, entries = root / NAME, read(root)
    if not entries or (path.exists() and path.read_text("utf-8") == as_markdown(entries)):
        return []
    return [f"{NAME} is not what {DATA} gives: python -m lora_from_scratch.book.times"]


def main(arguments: list[str], printed: str = "", root: Path = ROOT) -> None:
    """The command line above."""
    entries = added(read(root), entry(arguments[0], printed)) if arguments else read(root)
    text = json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
    save_atomically(root / DATA, lambda temporary: temporary.write_text(text, "utf-8"))
    save_atomically(root / NAME, lambda temporary: temporary.write_text(as_markdown(entries), "utf-8"))


if __name__ == "__main__":
    main(sys.argv[1:], sys.stdin.read() if sys.argv[1:] else "")
