"""A docstring as Markdown.

The project's docstrings are plain text: code in backticks, lists, blocks of equations four columns in, and sections
such as `Args:` whose entries are indented. Everything else is taken word for word, so nothing in it is markup.
"""

import re

SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields|Usage|Example|Examples):\s*$")
ENTRY = re.compile(r"([A-Za-z_*][\w, *.]*?): (.*)")
BOLD = re.compile(r"\*\*(?=\S)([^*`]+)(?<=\S)\*\*")
CODE = re.compile(r"\S.* {2,}# \S.*")  # a line of code with its comment
MARKUP = re.compile(r"([\\*_<>$\[\]#|~{}^!])")


def as_markdown(text: str) -> str:
    """The docstring `text`, already dedented, as Markdown."""
    lines, out, at = text.split("\n"), [], 0
    while at < len(lines):
        if SECTION.match(lines[at]):
            end = next((i for i in range(at + 1, len(lines)) if lines[i].strip() and lines[i][0] != " "), len(lines))
            out += ["", f"**{lines[at].strip().rstrip(':')}**", "", *entries(lines[at + 1 : end]), ""]
            at = end
        elif lines[at].startswith("    ") and (not at or not lines[at - 1].strip()):
            end = next((i for i in range(at, len(lines)) if lines[i].strip() and lines[i][0] != " "), len(lines))
            out += ["```text", *[line[4:].rstrip() for line in trimmed(lines[at:end])], "```", ""]
            at = end
        elif CODE.fullmatch(lines[at]) and (not at or not lines[at - 1].strip()):
            end = next((i for i in range(at, len(lines)) if not CODE.fullmatch(lines[i])), len(lines))
            out += ["```python", *lines[at:end], "```", ""]
            at = end
        else:
            out.append(escaped(lines[at]))
            at += 1
    return "\n".join(out).strip()


def entries(lines: list[str]) -> list[str]:
    """The entries of a section as a list; further lines of an entry are deeper in."""
    depth = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    out = []
    for line in filter(str.strip, lines):
        text, deeper = line.strip(), len(line) - len(line.lstrip()) > depth
        match = None if deeper else ENTRY.fullmatch(text)
        if match:
            out.append(f"- `{match[1]}`: {escaped(match[2])}")
        else:
            out.append(f"  {escaped(text)}" if deeper or out else f"- {escaped(text)}")
    return out


def trimmed(lines: list[str]) -> list[str]:
    """`lines` without empty ones at the end."""
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return lines


def escaped(line: str) -> str:
    """A line in which only backticks and words in bold, between pairs of asterisks, mean anything."""
    parts = re.split(r"(`[^`]+`|\*\*(?=\S)[^*`]+(?<=\S)\*\*)", line)
    plain = lambda part: not (part.startswith("`") and len(part) > 2 or BOLD.fullmatch(part))  # noqa: E731
    return "".join(MARKUP.sub(r"\\\1", part) if plain(part) else bold(part) for part in parts)


def bold(part: str) -> str:
    """Words in bold with what is no markup in them kept; anything else as it is."""
    return BOLD.sub(lambda m: "**" + MARKUP.sub(r"\\\1", m[1]) + "**", part)
