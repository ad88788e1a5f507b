"""Paragraphs that tell an outcome, held to the rows they rest on.

A markdown cell of a chapter may say in plain words what came out, if its head names the rows:

    # %% [markdown] rests_on="08.better=reproduced, 08.ratio=not settled"
    # LoRA+ ends lower, by {08.better.shown}. Which ratio is best is open.

`NN.name` is row `name` of chapter NN. `{NN.name.shown}` is filled in from the results when the notebook is made (also
`.verdict` and `.published`). `make sync-check` fails where a committed row has another verdict than a paragraph says,
and `Results.save` lists the paragraphs that a reader's own run does not bear out.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

HEAD = re.compile(r'^# %% \[markdown\][^\n]*\brests_on="([^"]*)"[^\n]*\n((?:#[^\n]*\n?)*)', re.MULTILINE)
REMARK = "This run's numbers do not bear out:"
NUMBER = re.compile(r"\{(\d\d|A\d)\.(\w+)\.(shown|verdict|published)\}")

Committed = Mapping[str, Mapping[str, Mapping]]  # {"08": {"better": the row as JSON holds it}}


def rests_on(text: str) -> dict[str, str]:
    """{"08.better": "reproduced", …} from the head of a cell. Raises ValueError for what cannot be read."""
    found = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"((?:\d\d|A\d)\.\w+)\s*=\s*([a-z ]+)", entry)
        if not match:
            raise ValueError(f"rests_on has {entry!r}; write chapter.row=verdict, as 08.better=reproduced")
        found[match[1]] = match[2].strip()
    return found


def committed(folder: Path) -> dict[str, dict[str, dict]]:
    """The rows that the JSON files of a folder hold, by chapter number and name."""
    files = sorted(folder.glob("*.json"))
    return {path.name[:2]: json.loads(path.read_text("utf-8")).get("rows", {}) for path in files}


def filled(text: str, rows: Committed, strict: bool = True) -> str:
    """`text` with the numbers of `rows` in place of {NN.name.shown}.

    Raises ValueError for a row that is not there; with strict=False, the name stays.
    """

    def number(match: re.Match) -> str:
        chapter, name, what = match.groups()
        if name not in rows.get(chapter, {}):
            if not strict:
                return match[0]
            raise ValueError(f"{match[0]}: the results have no row {chapter}.{name}; run that chapter first")
        return str(rows[chapter][name][what])

    return NUMBER.sub(number, text)


def contradicted(source: Path, rows: Committed) -> list[str]:
    """What `source` says of rows that came out otherwise, or that there are none of."""
    wrong = []
    for head, _ in HEAD.findall(source.read_text("utf-8")):
        for row, said in rests_on(head).items():
            chapter, name = row.split(".")
            is_now = rows.get(chapter, {}).get(name, {}).get("verdict", "missing from the results")
            if is_now != said:
                wrong.append(f"{source.name}: a paragraph rests on {row}={said}, and that row is {is_now}")
    return wrong


def not_borne_out(source: Path, rows: Mapping[str, object]) -> list[str]:
    """For the end of a chapter: its paragraphs that the rows of this very run, {name: Row}, do not bear out.

    A row that one seed cannot settle counts by the side that its value leans to.
    """
    lines, chapter = [], source.name[:2]
    for head, body in HEAD.findall(source.read_text("utf-8")):
        for row, said in rests_on(head).items():
            number, name = row.split(".")
            if number != chapter or name not in rows:
                continue
            verdict, leans = rows[name].verdict, rows[name].leans
            if verdict != said and not (verdict == "not settled" and leans == said):
                words = " ".join(body.replace("#", " ").split())[:70]
                lines.append(f'  "{words} …" rests on {row}={said}; here it is {verdict}')
    return [REMARK, *lines] if lines else []
