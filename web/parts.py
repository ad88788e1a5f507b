"""A row of several parts as a table: what was measured, what chance gives and the verdict of each; a test said once."""

import html
import re
from collections.abc import Mapping, Sequence


def by_part(text: str, names: Sequence[str]) -> list[str] | None:
    """What a text such as "rot13: 0.1; cipher-6: 0.2" says of each part; None where it is not of that form."""
    match = re.fullmatch("; ".join(rf"{re.escape(name)}: (.*)" for name in names), text)
    return list(match.groups()) if match else None


def parts_table(names: Sequence[str], columns: Mapping[str, Sequence[str]]) -> str:
    """A table with a line for each part; `columns` maps a head to what stands below it. All is escaped."""
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in ("part", *columns))
    lines = (
        "".join(f"<td>{html.escape(cell)}</td>" for cell in (name, *cells))
        for name, *cells in zip(names, *columns.values(), strict=True)
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    table = f'<table class="parts"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="parts-box" tabindex="0">{table}</div>'


def said_once(tests: Mapping[str, str]) -> str:
    """The tests of all parts, {part: test}: each test once, with the parts that it is for unless it is for all."""
    alike: dict[str, list[str]] = {}
    for part, test in tests.items():
        alike.setdefault(test, []).append(part)
    return "; ".join(f"{' · '.join(parts)}: {test}" if len(alike) > 1 else test for test, parts in alike.items())
