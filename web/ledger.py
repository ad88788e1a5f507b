"""The ledger as one table that can be sorted and filtered (static/ledger.js): every row of every chapter's results.

A row shows its chapter, kind, sentence, what was measured, what chance gives and the verdict. Source, test, scope and
what else there is are folded below the sentence. Its words and counts come from figures/LEDGER.md.
"""

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from web import documents
from web.chapter import NAME, row_address, row_id
from web.markup import TONES
from web.mentions import linked
from web.parts import by_part, said_once

COLUMNS = ("chapter", "kind", "sentence", "measured", "chance", "verdict")
SORTED = ("chapter", "kind", "sentence", "verdict")  # what was measured has a unit of its own in each row
ROW = re.compile(r"(?:\d\d|A\d)\.\w+")  # as "07.better"
IMAGE = documents.MARKDOWN_IMAGE
PART_WORDS = {"yes": "reproduced", "no": "not reproduced", "not settled": "not settled"}  # claims alone have parts
WIDE = "---\nhide-toc: true\n---\n"  # the table takes the room of the list of headings
SHORT = 90  # characters of a wide page's columns; the rest is folded
ORDER = ("claim", "finding", "arithmetic", "identity", *TONES)  # of the options of a filter


@dataclass(frozen=True)
class Entry:
    """A row of the ledger: `name` such as "07.better", the preset it was measured at, and the row as JSON has it."""

    name: str
    preset: str
    row: dict

    @property
    def id(self) -> str:
        """Its anchor; what a GPU measured stands beside the row of the same name, so it has another."""
        return row_id(self.name) if self.preset == "full" else row_id(f"{self.name}-{self.preset}")


def entries(figures: Path) -> list[Entry]:
    """All rows of figures/full and, where it is, figures/gpu, in the order of the chapters."""
    files = [(path, preset) for preset in ("full", "gpu") for path in (figures / preset).glob("*.json")]
    return [
        Entry(f"{path.stem[:2]}.{name}", preset, row)
        for path, preset in sorted(files, key=lambda file: file[0].stem)
        if NAME.fullmatch(path.stem)
        for name, row in json.loads(path.read_text("utf-8"))["rows"].items()
    ]


def page(root: Path, pages: Mapping[str, str]) -> str:
    """The page. Raises ValueError for a verdict that the site has no colour for."""
    found = entries(root / "figures")
    for entry in found:
        if entry.row["verdict"] not in TONES:
            raise ValueError(f"{entry.name}: the verdict {entry.row['verdict']!r} is none of {', '.join(TONES)}")
    head, _, _ = (root / "figures" / "LEDGER.md").read_text("utf-8").partition("\n## ")
    words, picture = IMAGE.sub("", head), IMAGE.search(head)
    forest = folded_picture(documents.turned(picture[0], root, "figures", pages)) if picture else ""
    inside = f"{forest}\n{filters(found)}\n{table(found, pages)}"
    return f"{WIDE}\n{words}\n\n```````{{raw}} html\n{inside}\n```````\n"


def folded_picture(picture: str) -> str:
    """The forest of all intervals: as long as many screens, so it opens on demand."""
    return f"<details><summary>All intervals in one picture</summary>\n{picture}\n</details>"


def filters(found: list[Entry]) -> str:
    """The controls above the table; without JavaScript they are not shown."""
    choices = {
        "chapter": {entry.name[:2] for entry in found},
        "kind": {entry.row["kind"] for entry in found},
        "verdict": {entry.row["verdict"] for entry in found},
        "model": {model(entry.row) for entry in found},
    }
    sorts = "".join(f"<option>{name}</option>" for name in SORTED)
    selects = "\n".join(select(name, options) for name, options in choices.items())
    return (
        f'<form class="ledger-filters" hidden>\n{selects}\n'
        '<label>words <input type="search" name="words"></label>\n'
        f'<label class="narrow">sorted by <select name="sort">{sorts}</select></label>\n'
        f'<output aria-live="polite">{len(found)} rows</output></form>'
    )


def select(name: str, options: set[str]) -> str:
    """A drop-down list whose first option is all."""
    order = sorted(options, key=lambda option: (ORDER.index(option) if option in ORDER else len(ORDER), option))
    inside = "".join(f'<option value="{html.escape(o)}">{html.escape(o)}</option>' for o in order)
    return f'<label>{name} <select name="{name}"><option value="">all</option>{inside}</select></label>'


def table(found: list[Entry], pages: Mapping[str, str]) -> str:
    """The table; a head that is a button sorts by its column."""
    buttons = {name: f'<button type="button">{name}</button>' for name in SORTED}
    heads = "".join(f'<th scope="col">{buttons.get(name, name)}</th>' for name in COLUMNS)
    rows = "\n".join(line(entry, [e for e in found if e.row["asks_again"] == entry.name], pages) for entry in found)
    for number, stem in pages.items():  # an anchor a chapter, on its first row
        rows = rows.replace(f'<a href="{stem}.html">{number}</a>', f'<a id="{stem}" href="{stem}.html">{number}</a>', 1)
    more = '<button type="button" class="more" hidden></button>'  # a narrow page begins with the first rows alone
    return f'<table class="ledger"><thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>\n{more}'


def line(entry: Entry, again: list[Entry], pages: Mapping[str, str]) -> str:
    """A row of the table; `again` are those that ask the same in another scope."""
    row, number = entry.row, entry.name[:2]
    chapter = f'<a href="{pages[number]}.html">{number}</a>' if number in pages else number
    cells = [
        chapter,
        row["kind"],
        f"{linked(row['says'], pages)}\n{folded(details(entry, again), pages)}",
        html.escape(short(row["shown"])),
        html.escape(short(chance(row)) or "none" * bool(row["no_chance"])),
        f'<span class="verdict-word verdict-{TONES[row["verdict"]]}">{row["verdict"]}</span>',
    ]
    inside = "".join(f'<td class="{name}">{cell}</td>' for name, cell in zip(COLUMNS, cells, strict=True))
    keys = {"kind": row["kind"], "verdict": row["verdict"], "model": model(row), "chapter": number}
    data = " ".join(f'data-{name}="{html.escape(value)}"' for name, value in keys.items())
    return f'<tr id="{entry.id}" {data}>{inside}</tr>'


def details(entry: Entry, again: list[Entry]) -> dict[str, str]:
    """What is folded away, by name; what a row does not have is left out."""
    row = entry.row
    said = {
        **in_parts(row),
        "no chance": row["no_chance"],
        "row": entry.name + f" ({entry.preset})" * (entry.preset != "full"),
        "published": row["published"],
        "source": row["source"] + f" (read: {row['read']})" * bool(row["read"]),
        "test": said_once({name: test(part) for name, part in row["parts"].items()}),
        "by its value": "chance passes the same test, so this shows nothing" * bool(row.get("chance_passes")),
        "scope": ", ".join(f"{name} {plain(value)}" for name, value in row["scope"].items() if plain(value)),
        "seen first on": row["seen_first"],
        "tested on": row["tested_on"],
        "asks again": row["asks_again"],
        "asked again": "; ".join(f"{e.name}: {e.row['verdict']}" for e in again),
    }
    return {name: text for name, text in said.items() if text}


def folded(said: Mapping[str, str], pages: Mapping[str, str]) -> str:
    """Names and texts behind a summary; a row that asks the same again is a link."""
    items = []
    for name, text in said.items():
        words = linked(text, pages)
        if name in ("asks again", "asked again"):
            words = ROW.sub(lambda row: f'<a href="{row_address(row[0])}">{row[0]}</a>', text)
        columns = name in ("measured", "chance") and short(text) == text  # a wide page has columns for them
        narrow = ' class="narrow"' if columns else ""
        items.append(f"<dt{narrow}>{name}</dt><dd{narrow}>{words}</dd>")
    return f"<details><summary>source, test, scope</summary><dl>{''.join(items)}</dl></details>"


def short(text: str) -> str:
    """A text of many parts cut to the first of them, and how many there are; one that is not long as it is."""
    parts = text.split("; ")
    if len(text) <= SHORT or len(parts) == 1:
        return text
    return f"{parts[0]}; and {len(parts) - 1} more"


def test(part: Mapping) -> str:
    """What a part of a row has to show, with the reason for the line."""
    return part["criterion"] + (f" ({part['because']})" if part["because"] else "")


def plain(value: object) -> str:
    """An entry of a scope in words: a list is not printed as Python has it."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def in_parts(row: Mapping) -> dict[str, str]:
    """{part: what was measured, what chance gives, the verdict}; of a row with one part, these under their names."""
    measured = by_part(row["shown"], list(row["parts"])) if len(row["parts"]) > 1 else None
    if measured is None:
        return {"measured": row["shown"], "chance": chance(row)}
    return {
        name: f"{value}{null(part)}: {PART_WORDS[part['verdict']]}"
        for value, (name, part) in zip(measured, row["parts"].items(), strict=True)
    }


def chance(row: Mapping) -> str:
    """What the null scores, by part; "" where none was drawn."""
    parts = [(name, part["chance"]["value"]) for name, part in row["parts"].items() if "chance" in part]
    return "; ".join(f"{name + ': ' if name else ''}{value:.4g}" for name, value in parts)


def null(part: Mapping) -> str:
    """What chance gives of one part, after a comma; "" where none was drawn."""
    return f", chance {part['chance']['value']:.4g}" if "chance" in part else ""


def model(row: Mapping) -> str:
    """The model of a row's scope; arithmetic and identities have none."""
    return str(row["scope"].get("model", "none"))
