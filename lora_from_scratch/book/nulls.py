"""NULLS.md: a dated log of what did not work, from the rows that do not hold, were not reproduced or are not settled.

A row's date is that of the commit since which its verdict stands. It is looked up in git when the row is new here or
its verdict has changed, and then kept in the log itself. So the check needs no git, and a shallow clone or an unpacked
archive agrees; only there, a row that is new is dated by the day on which the log is written.
"""

import json
import re
import subprocess
from datetime import date
from pathlib import Path

from lora_from_scratch.lab.cache import save_atomically

VERDICTS = ("not reproduced", "does not hold", "does not add up", "not settled")
NAME = "NULLS.md"
HEAD = """\
# What did not work

Every row of [the ledger](figures/LEDGER.md) that does not hold, was not reproduced, does not add up or is not settled,
the newest first. Rendered by `make book`; no line is written by hand. A date is that of the commit since which the row
has this verdict. *Not settled* says that the interval touches the line of the test, that chance passes it too, or that
there is one seed alone: it is no evidence of no effect.
"""
LINE = re.compile(r"^- (\d{4}-\d\d-\d\d) · `(\w+\.\w+)` · \*\*([a-z ]+)\*\*", re.MULTILINE)


def rows_of(chapters: dict[str, dict]) -> dict[str, dict]:
    """{"09.better": row, …} of the rows with one of VERDICTS."""
    named = {f"{stem[:2]}.{n}": row for stem, content in chapters.items() for n, row in content["rows"].items()}
    return {name: row for name, row in named.items() if row["verdict"] in VERDICTS}


def known_dates(text: str) -> dict[tuple[str, str], str]:
    """{(row, verdict): date} of a log's text."""
    return {(name, verdict): day for day, name, verdict in LINE.findall(text)}


def dates_in_git(root: Path, chapters: dict[str, dict]) -> dict[tuple[str, str], str]:
    """{(row, verdict): the day of the commit since which it stands}, of committed verdicts; empty without git."""
    dates: dict[tuple[str, str], str] = {}
    for stem in chapters:
        file, open_rows = f"figures/full/{stem}.json", set(rows_of({stem: chapters[stem]}))
        for line in _git(root, "log", "--format=%H %cs", "--", file).splitlines():  # from the newest back
            commit, day = line.split()
            try:
                then = json.loads(_git(root, "show", f"{commit}:{file}") or "{}").get("rows", {})
            except json.JSONDecodeError:
                break
            for name in sorted(open_rows):
                verdict = chapters[stem]["rows"][name[3:]]["verdict"]
                if isinstance(then, dict) and then.get(name[3:], {}).get("verdict") == verdict:
                    dates[name, verdict] = day
                else:
                    open_rows.discard(name)
            if not open_rows:
                break
    return dates


def as_markdown(chapters: dict[str, dict], dates: dict[tuple[str, str], str]) -> str:
    """The log: counts, then a line a row, the newest first, within a day by chapter. Undated rows stand as such."""
    rows = rows_of(chapters)
    counts = [f"{n} {v}" for v in VERDICTS if (n := sum(row["verdict"] == v for row in rows.values()))]
    total = sum(len(content["rows"]) for content in chapters.values())
    lines = [HEAD, f"Of {total} rows: {', '.join(counts) or 'none'}.", ""]
    day_of = {name: dates.get((name, row["verdict"]), "undated") for name, row in rows.items()}
    for name in sorted(rows, key=day_of.get, reverse=True):  # a stable sort: within a day by chapter
        row = rows[name]
        task = f" ({row['scope']['task']})" if row["scope"].get("task") else ""
        published = f"; published: {row['published']}" if row["published"] else ""
        chance = "; chance passes too" * bool(row.get("chance_passes") and row["verdict"] == "not settled")
        words = f"{row['says']}{task}: {row['shown']}{chance}{published}."
        lines.append(f"- {day_of[name]} · `{name}` · **{row['verdict']}** · {' '.join(words.split())}")
    return "\n".join(lines) + "\n"


def write(root: Path, chapters: dict[str, dict]) -> None:
    """Renew NULLS.md: dates that it has stay, a new row or verdict gets the commit's, or else today's."""
    path, rows = root / NAME, rows_of(chapters)
    known = known_dates(path.read_text("utf-8")) if path.exists() else {}
    if any((name, row["verdict"]) not in known for name, row in rows.items()):
        today = {(name, row["verdict"]): date.today().isoformat() for name, row in rows.items()}
        known = today | dates_in_git(root, chapters) | known
    text = as_markdown(chapters, known)
    save_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


def agrees(root: Path, chapters: dict[str, dict]) -> bool:
    """Whether NULLS.md is what the rows give, with the dates that stand in it, each row with one."""
    path = root / NAME
    text = path.read_text("utf-8") if path.exists() else ""
    return text == as_markdown(chapters, known_dates(text)) and "- undated ·" not in text


def _git(root: Path, *arguments: str) -> str:
    """What git prints there; nothing where there is no git or no repository of this very folder."""
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout
