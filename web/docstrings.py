"""A docstring as Markdown.

The project's docstrings are plain text: code in backticks, lists, command lines, blocks of equations or code four
columns in, and sections such as `Args:` whose entries are indented. What is bold or emphasized stands between
asterisks. Everything else is taken word for word, so nothing in it is markup.
"""

import ast
import re
from itertools import groupby

SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields|Usage|Example|Examples):\s*$")
ENTRY = re.compile(r"([A-Za-z_*][\w, *.]*?): (.*)")
ITEM = re.compile(r"- \S")
COMMAND = re.compile(r"(python -m|make) \S")
CODE = re.compile(r"\S.* {2,}# \S.*")  # a line of code with its comment
SPAN = r"`[^`]+`"
BOLD = r"\*\*(?=\S)[^*`]+(?<=\S)\*\*"
EMPHASIS = r"(?<![\w*])\*(?=\w)[^*`]*[^\s*`(]\*(?![\w*])"
SPECIAL = re.compile(f"({SPAN}|{BOLD}|{EMPHASIS})")
MARKUP = re.compile(r"([\\*_<>$\[\]#|~{}^!])")


def as_markdown(text: str) -> str:
    """The docstring `text`, already dedented, as Markdown."""
    lines, out, at = text.split("\n"), [], 0
    while at < len(lines):
        kind = kind_at(lines, at)
        end = end_of(kind, lines, at)
        out += WRITERS[kind](lines[at:end])
        at = end
    return "\n".join(out).strip()


def kind_at(lines: list[str], at: int) -> str:
    """What begins at a line, by its form and by whether there is an empty line before it: a key of WRITERS."""
    line, first = lines[at], not at or not lines[at - 1].strip()
    if not line.strip():
        return "empty"
    if SECTION.match(line):
        return "section"
    if line.startswith(">>> "):
        return "doctest"
    if ITEM.match(line):
        return "list"
    if line.startswith("    "):
        return "block" if first else "entries" if ENTRY.fullmatch(line.strip()) else "prose"
    if first and COMMAND.match(line):
        return "commands"
    return "code" if first and CODE.fullmatch(line) else "prose"


def end_of(kind: str, lines: list[str], at: int) -> int:
    """The first line after `at` that is no part of what begins there."""
    empty = lambda i: not lines[i].strip()  # noqa: E731
    outside = lambda i: not empty(i) and not lines[i].startswith(" ")  # noqa: E731
    ends = {
        "empty": lambda i: True,
        "section": outside,
        "block": outside,
        "doctest": empty,
        "list": lambda i: empty(i) or outside(i) and not ITEM.match(lines[i]),
        "entries": lambda i: empty(i) or outside(i),
        "commands": lambda i: empty(i) or outside(i) and not COMMAND.match(lines[i]),
        "code": lambda i: not CODE.fullmatch(lines[i]),
        "prose": lambda i: kind_at(lines, i) != "prose",
    }[kind]
    return next((i for i in range(at + 1, len(lines)) if ends(i)), len(lines))


def section(lines: list[str]) -> list[str]:
    """A section: its name in bold, and its entries."""
    return ["", f"**{lines[0].strip().rstrip(':')}**", "", *entries(lines[1:]), ""]


def entries(lines: list[str]) -> list[str]:
    """Indented entries as a list; further lines of an entry are deeper in."""
    depth = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    items = []  # (name or nothing, the lines that tell it)
    for line in filter(str.strip, lines):
        text, deeper = line.strip(), len(line) - len(line.lstrip()) > depth
        match = None if deeper else ENTRY.fullmatch(text)
        if match:
            items.append((f"`{match[1]}`: ", [match[2]]))
        elif items:
            items[-1][1].append(text)
        else:
            items.append(("", [text]))
    return [f"- {name}{escaped(chr(10).join(told))}".replace("\n", "\n  ") for name, told in items]


def block(lines: list[str]) -> list[str]:
    """Indented lines: Python where they are Python, else text. If all are not, each part between empty lines counts."""
    lines = [line[4:].rstrip() for line in trimmed(lines)]
    if is_python("\n".join(lines)):
        return fenced("python", lines)
    kinds, kind = [], "text"
    for at, line in enumerate(lines):
        if line and (not at or not lines[at - 1]):
            end = next((i for i in range(at, len(lines)) if not lines[i]), len(lines))
            kind = "python" if is_python("\n".join(lines[at:end])) else "text"
        kinds.append((kind, line))
    return [out for kind, part in groupby(kinds, lambda pair: pair[0]) for out in fenced(kind, [ln for _, ln in part])]


def is_python(text: str) -> bool:
    """Whether `text` is a doctest, or parses as Python that calls, assigns or imports something."""
    if text.startswith(">>> "):
        return True
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:
        return False
    done = ast.Call | ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Import | ast.ImportFrom
    return any(isinstance(node, done) for node in nodes)


def fenced(language: str, lines: list[str]) -> list[str]:
    """Lines word for word, but for the backticks round words in text and in comments, which would be shown."""
    return [f"```{language}", *(without_ticks(language, line) for line in trimmed(lines)), "```", ""]


def without_ticks(language: str, line: str) -> str:
    """A line of text, or the comment of a line of code, without the backticks round words."""
    code, mark, words = ("", "", line) if language == "text" else line.partition("# ")
    return code + mark + re.sub(r"`([^`]+)`", r"\1", words)


def trimmed(lines: list[str]) -> list[str]:
    """`lines` without empty ones at the end."""
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return lines


def escaped(text: str) -> str:
    """Text in which only backticks, and words in bold or emphasized between asterisks, mean anything."""
    return "".join(kept(part) if i % 2 else literal(part) for i, part in enumerate(SPECIAL.split(text)))


def kept(part: str) -> str:
    """Code as it is; of bold or emphasized words the asterisks on either side."""
    if part.startswith("`"):
        return part
    words = part.strip("*")
    mark = "*" * ((len(part) - len(words)) // 2)
    return mark + literal(words) + mark


def literal(words: str) -> str:
    """Words of which nothing is markup."""
    return MARKUP.sub(r"\\\1", words)


WRITERS = {
    "empty": lambda lines: [""],
    "section": section,
    "doctest": lambda lines: ["", *fenced("python", lines)],
    "list": lambda lines: ["", escaped("\n".join(lines)), ""],
    "block": block,
    "entries": lambda lines: ["", *entries(lines), ""],
    "commands": lambda lines: fenced("text", lines),
    "code": lambda lines: fenced("python", lines),
    "prose": lambda lines: [escaped("\n".join(lines))],
}
