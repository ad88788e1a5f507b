"""The blocks of an output as HTML. Whatever a chapter has printed is escaped."""

import html
import re
import struct
from collections.abc import Mapping
from pathlib import Path

from web.chapter import row_address
from web.mentions import linked
from web.outputs import WORDS, Block, Case, Table, Text, Verdict
from web.parts import by_part, parts_table, said_once

TONES = {  # of a verdict; its word stands beside the colour, always
    "reproduced": "yes",
    "holds": "yes",
    "adds up": "yes",
    "partly": "partly",
    "not settled": "open",
    "not reproduced": "no",
    "does not hold": "no",
    "does not add up": "no",
}
PART = re.compile(rf"(.+), ({'|'.join(WORDS)})")  # the name of a line on one part of a verdict
PASSES = "; by its value alone that passes too, so this shows nothing"  # what a row says of its chance, once
LEGIBLE = 0.5  # of a picture's own size: its words can still be read
FIGURES = "figures"  # the folder beside the pages that holds the pictures and the numbers


def block(found: Block, pages: Mapping[str, str], row: str = "") -> str:
    """A block of a printed output; `row` is the ledger's name of a verdict's row."""
    if isinstance(found, Table):
        return table(found)
    if isinstance(found, Verdict):
        return verdict(found, pages, row)
    return case(found, pages) if isinstance(found, Case) else printed(found)


def printed(text: Text) -> str:
    """Text as it stood in the notebook. A long line is broken; where there are columns it is scrolled, by keys too."""
    columns = ' columns" tabindex="0' if re.search(r"\S {2,}\S", text.text) else ""
    return f'<pre class="printed{columns}">{html.escape(text.text, quote=False)}</pre>'


def table(found: Table) -> str:
    """A table with numbers to the right."""
    sides = [' class="number"' if right else "" for right in found.right]
    head = "".join(f"<th{side}>{html.escape(cell)}</th>" for cell, side in zip(found.header, sides, strict=True))
    rows = (
        "".join(f"<td{side}>{html.escape(cell)}</td>" for cell, side in zip(row, sides, strict=True))
        for row in found.rows
    )
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        '<div class="printed-table" tabindex="0"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def verdict(found: Verdict, pages: Mapping[str, str], row: str = "") -> str:
    """A box: the word, the sentence, then published, measured, chance and test, and the row's name, into the ledger."""
    lines, table = in_parts(found)
    lines = "\n".join(f"<dt>{html.escape(name)}</dt><dd>{linked(text, pages)}</dd>" for name, text in lines)
    name = f' <a class="verdict-row" href="{row_address(row)}">{row}</a>' if row else ""
    return (
        f'<div class="verdict verdict-{TONES[found.word]}">\n'
        f'<p><span class="verdict-word">{found.word}</span> {linked(found.says, pages)}{name}</p>\n'
        f"{table}<dl>\n{lines}\n</dl></div>"
    )


def in_parts(found: Verdict) -> tuple[list[tuple[str, str]], str]:
    """The lines of a verdict, and a table of its parts in place of some of them; "" where it has not several."""
    tests = {match[1]: (match[2], text) for name, text in found.lines if (match := PART.fullmatch(name))}
    measured = by_part(found.line("measured"), list(tests)) if len(tests) > 1 else None
    if measured is None:
        return found.lines, ""
    null, passes, _ = found.line("chance").partition(PASSES)
    chance = by_part(null, list(tests))
    words = [word for word, _ in tests.values()]  # first: a phone shows them without scrolling
    columns = {"verdict": words, "measured": measured, **({"chance": chance} if chance else {})}
    taken = ("measured", "chance") if chance else ("measured",)
    lines = [(name, text) for name, text in found.lines if name not in taken and not PART.fullmatch(name)]
    lines += [("chance", PASSES.removeprefix("; "))] if chance and passes else []
    lines.append(("the test", said_once({part: text for part, (_, text) in tests.items()})))
    return lines, parts_table(list(tests), columns)


def case(found: Case, pages: Mapping[str, str]) -> str:
    """A broken run of the clinic: its title, and what was wrong, seen, said and mended. What it says is broken."""
    lines = "\n".join(f"<dt>{html.escape(name)}</dt><dd>{linked(text, pages)}</dd>" for name, text in found.lines)
    return f'<div class="case">\n<p>{html.escape(found.title)}</p>\n<dl>\n{lines}\n</dl></div>'


def picture(path: Path, alt: str, lazy: bool = True, width: int = 0) -> str:
    """An image of FIGURES with its size, so that the page does not jump; a click shows it as large as it is.

    `width` is what it takes at most, in pixels; 0 for its own. Raises ValueError for a file that is no PNG or not
    there, and for an image that says nothing to those who cannot see it.
    """
    if not alt.strip():
        raise ValueError(f"{path.name} has no alt text")
    wide, high = png_size(path)
    source, style = html.escape(f"{FIGURES}/{path.name}"), f' style="max-width: {width}px"' if width else ""
    loading = ' loading="lazy"' if lazy else ""
    return (
        f'<a class="picture" href="{source}"{style}><img src="{source}" width="{wide}" height="{high}"'
        f' style="--legible: {round(LEGIBLE * wide)}px"{loading} alt="{html.escape(alt)}"></a>'
    )


def figure(path: Path, caption: str, alt: str, pages: Mapping[str, str]) -> str:
    """A picture with its caption. Raises ValueError as picture() does."""
    return f"<figure>{picture(path, alt)}\n<figcaption>{linked(caption, pages)}</figcaption></figure>"


def png_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels, from the head of a PNG file. Raises ValueError where it is none, or not there."""
    if not path.exists():
        raise ValueError(f"{path.name} is not in {path.parent.name}/")
    head = path.read_bytes()[:24]
    if len(head) < 24 or head[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"{path.name} is no PNG picture")
    return struct.unpack(">II", head[16:24])
