"""`make agree`: does this machine measure what the book says? One line for each row of the ledger.

python -m lora_from_scratch.book.here                   runs at quick what is not there yet, then compares
python -m lora_from_scratch.book.here --folder FOLDER   compares the results that lie there, and runs nothing
python -m lora_from_scratch.book.here --keep            renews figures/QUICK.json from the results in build/quick

    inside     this machine's value lies in the committed interval (without one: it is the committed value)
    same       outside it, and on the same side of the test's line
    as quick   on the other side, where the book's own run at `quick` lies too: the fewer steps do it, not the machine
    one seed   on another side, or the committed row is not settled; `quick` has one seed and at most half the steps,
               so it cannot settle this
    no part    `quick` asks this of other sizes than the book, so there is nothing to compare
    WRONG      an identity that fails, or a counted figure that is another one; or a value on the other side of a
               settled line and farther out than one seed of the committed ones may lie; the exit status is 1
"""

import argparse
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

from lora_from_scratch.book.provenance import other_code
from lora_from_scratch.lab.cache import ROOT, save_atomically

INSIDE, SAME, AS_QUICK, ONE_SEED, WRONG = "inside", "same", "as quick", "one seed", "WRONG"
NO_PART = "no part"
KEPT = "figures/QUICK.json"  # {chapter: {"code": hash, "rows": {row: {part: value}}}} of the book's own run at quick
COUNTED = 1e-6  # relative: what is counted has no noise, and processors differ in last bits


def row_state(ours: dict, committed: dict, quick: dict[str, float] | None = None) -> str:
    """INSIDE, SAME, AS_QUICK, ONE_SEED or WRONG, the worst of the row's parts, or NO_PART.

    Rows are as the chapters' JSON files hold them; `quick` has the values of its parts in the book's own run at quick,
    where there are any. Those parts are compared that both have: chapter 14 has fewer widths at quick, and other
    numbers of steps.
    """
    shared = [name for name in ours["parts"] if name in committed["parts"]]
    if not shared:
        return NO_PART
    seeds = committed["scope"].get("seeds", 1)
    seeds = seeds if isinstance(seeds, int) else 1
    states = [
        _part(committed["kind"], ours["parts"][n], committed["parts"][n], seeds, (quick or {}).get(n)) for n in shared
    ]
    return max(states, key=[INSIDE, SAME, AS_QUICK, ONE_SEED, WRONG].index)


def _part(kind: str, ours: dict, committed: dict, seeds: int, quick: float | None) -> str:
    value, was = ours["estimate"]["value"], committed["estimate"]
    if kind == "identity":
        return INSIDE if value is not None and abs(value) <= committed["tolerance"] else WRONG
    if value is None or was["value"] is None:
        return INSIDE if value == was["value"] else ONE_SEED
    exact = math.isclose(value, was["value"], rel_tol=COUNTED, abs_tol=1e-12)
    if kind == "arithmetic":
        return INSIDE if exact else WRONG
    if was["low"] is None or was["high"] is None:
        return INSIDE if exact else _by_side(ours, committed)
    if was["low"] <= value <= was["high"] or exact:
        return INSIDE
    state, reach = _by_side(ours, committed), (was["high"] - was["low"]) / 2 * math.sqrt(seeds + 1)
    middle = (was["high"] + was["low"]) / 2
    opposite = {ours["verdict"], committed["verdict"]} == {"yes", "no"} or _leans(value, committed) == "opposite"
    if not opposite or abs(value - middle) <= reach:
        return state
    return AS_QUICK if quick is not None and abs(value - quick) <= reach else WRONG


def _by_side(ours: dict, committed: dict) -> str:
    return SAME if _leans(ours["estimate"]["value"], committed) == "same" else ONE_SEED


def _leans(value: float, committed: dict) -> str:
    """Is `value` on the side of the test's line that the committed verdict names: "same", "opposite" or "open"?"""
    from lora_from_scratch.book import verdicts

    test = getattr(verdicts, committed["kind"])
    fields = {n: committed[n] for n in test.__dataclass_fields__ if n in committed}
    side = test(**fields).side(value, value)
    if {side, committed["verdict"]} == {"yes", "no"}:
        return "opposite"
    return "same" if side == committed["verdict"] else "open"


def compare(
    ours: dict[str, dict], committed: dict[str, dict], kept: dict[str, dict] | None = None
) -> list[tuple[str, str, str, str]]:
    """(row, state, here, in the book) of every row of `committed`; "missing" where there is none here.

    `kept` is what KEPT holds. A chapter of it counts where the same code made it.
    """
    lines = []
    for stem, content in committed.items():
        found, quick = ours.get(stem, {}).get("rows", {}), (kept or {}).get(stem, {"code": None})
        same_code = quick["code"] is not None and quick["code"] == ours.get(stem, {}).get("provenance", {}).get("code")
        for name, row in content["rows"].items():
            values = quick["rows"].get(name) if same_code else None
            state = row_state(found[name], row, values) if name in found else "missing"
            here = found[name]["shown"] if name in found else "not run here"
            lines.append((f"{stem[:2]}.{name}", state, here, row["shown"]))
    return lines


def read(folder: Path) -> dict[str, dict]:
    """{chapter: its JSON content} of a folder."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}


def values_of(results: dict[str, dict]) -> dict[str, dict]:
    """What KEPT holds, of results as the chapters' JSON files hold them."""
    return {
        stem: {
            "code": content["provenance"]["code"],
            "rows": {
                name: {part: p["estimate"]["value"] for part, p in row["parts"].items()}
                for name, row in content["rows"].items()
            },
        }
        for stem, content in results.items()
    }


def keep(folder: Path, root: Path) -> None:
    """Renew KEPT by what lies in `folder`. A chapter that does not lie there stays as it was kept."""
    path = root / KEPT
    before = json.loads(path.read_text("utf-8")) if path.exists() else {}
    after = before | values_of({stem: content for stem, content in read(folder).items() if fresh(content, root)})
    text = json.dumps(dict(sorted(after.items())), indent=1, ensure_ascii=False) + "\n"
    save_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


def fresh(content: dict | None, root: Path) -> bool:
    """Whether results were made by the code that is in the tree."""
    return content is not None and not other_code(content["provenance"].get("modules"), root)


def report(lines: list[tuple[str, str, str, str]]) -> str:
    """The comparison in words: a line a row, then the counts and what the words mean."""
    table = [f"{state:9} {row:24} here {here} | book {book}" for row, state, here, book in lines]
    counts = ", ".join(f"{n} {state}" for state, n in Counter(state for _, state, _, _ in lines).most_common())
    return "\n".join(
        [*table, "", f"Of {len(lines)} rows: {counts}.", "", *__doc__.split("\n\n")[2].split("\n")]
    ).rstrip()


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """The command line above; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args(arguments)
    folder, committed = options.folder or root / "build" / "quick" / "figures", read(root / "figures" / "full")
    if options.keep:
        keep(folder, root)
        return 0
    if not options.folder:
        there = read(folder)
        for stem in (stem for stem in committed if not fresh(there.get(stem), root)):
            command = ["-m", "lora_from_scratch.book.run", "run", "--preset", "quick", "--chapter", stem[:2]]
            subprocess.run([sys.executable, *command], cwd=root, stdout=sys.stderr)  # one that fails stays missing
    ours = {stem: content for stem, content in read(folder).items() if fresh(content, root)}
    if not ours:
        print(f"no results of this code in {folder}; without --folder the chapters are run")
        return 2
    kept = json.loads((root / KEPT).read_text("utf-8")) if (root / KEPT).exists() else None
    lines = compare(ours, committed, kept)
    print(report(lines))
    return int(any(state == WRONG for _, state, _, _ in lines))


if __name__ == "__main__":
    sys.exit(main())
