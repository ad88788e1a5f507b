"""Texts of the repository that become pages as they are: the README, how the book is made, the guide.

Their links and pictures point into the repository. Here each is turned to where the site has the same thing; a link to
what the site does not have is an error, so none is dead. The name of a row, as `07.better`, leads into the ledger.
"""

import posixpath
import re
from collections.abc import Callable, Container, Mapping
from pathlib import Path

from web import markup
from web.chapter import row_address, row_names
from web.reference import names

PAGES = {  # where a text lies in the repository, and what its page is called; those that are not there are left out
    "README.md": "index",
    "figures/GUIDE.md": "guide",
    "figures/NULLS.md": "nulls",
    "NULLS.md": "nulls",
    "figures/TIMES.md": "times",
    "CONTRIBUTING.md": "how_it_is_made",
}
LINK = re.compile(r"(?<!\!)\]\(([^)\s]+)\)")
MARKDOWN_IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
LEDGER_LINK = re.compile(r"\[([^\[\]]*)\]\(([^)\s#]*LEDGER\.md)#([^)\s]+)\)")  # to a chapter's part of it
ROW = re.compile(r"(?:(?<=^)|(?<=[\s(]))(?:\d\d|A\d)\.[a-z]\w*", re.MULTILINE)
HTML_IMAGE = re.compile(r"<img\s[^>]*>")


def present(root: Path) -> dict[str, str]:
    """{page: path in the repository} of the texts that there are."""
    return {page: path for path, page in PAGES.items() if (root / path).exists()}


def page(root: Path, path: str, chapters: Mapping[str, str]) -> str:
    """The text at `path` with its links and pictures turned to the site's.

    Raises ValueError for a link to what the site does not have, and for a picture that is not there or has no alt.
    """
    text, rows, public = (root / path).read_text("utf-8"), row_names(root), names(root)
    try:
        folder = posixpath.dirname(path)
        return outside_code(
            text, lambda words: turned(words, root, folder, chapters, rows), lambda code: span(code, rows, public)
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def turned(words: str, root: Path, folder: str, chapters: Mapping[str, str], rows: Container[str] = ()) -> str:
    """Words without code, their links and pictures turned."""
    words = ROW.sub(lambda m: row(m[0], rows), words)
    words = LEDGER_LINK.sub(r'<a href="ledger.html#\3">\1</a>', words)
    words = HTML_IMAGE.sub(lambda m: image(root, folder, attribute(m[0], "src"), attribute(m[0], "alt"),
                                           attribute(m[0], "width")), words)  # fmt: skip
    words = MARKDOWN_IMAGE.sub(lambda m: image(root, folder, m[2], m[1]), words)
    return LINK.sub(lambda m: f"]({target(root, folder, m[1], chapters)})", words)


def target(root: Path, folder: str, link: str, chapters: Mapping[str, str]) -> str:
    """Where the site has what `link` points to, seen from `folder`."""
    if "://" in link or link.startswith(("#", "mailto:")):
        return link
    path, hash_, anchor = link.partition("#")
    path = posixpath.normpath(posixpath.join(folder, path))
    if path == "figures/LEDGER.md":
        return f"ledger.md{hash_}{anchor}"
    if path in PAGES and (root / path).exists():
        return f"{PAGES[path]}.md{hash_}{anchor}"
    if path.startswith("notebooks/") and Path(path).stem in chapters.values():
        return f"{Path(path).stem}.md{hash_}{anchor}"
    if (root / path).is_file() and not path.endswith(".md"):
        return f"files/{path}"  # to be taken along: build.py copies it
    raise ValueError(f"it links to {link}, which the site does not have")


def image(root: Path, folder: str, source: str, alt: str, width: str = "") -> str:
    """A picture of the repository's figures as the site shows it; never one from outside."""
    path = root / posixpath.normpath(posixpath.join(folder, source))
    if path.parent not in (root / "figures", root / "figures" / "full"):
        raise ValueError(f"it shows {source}; the site shows pictures of figures/ and figures/full/ alone")
    return markup.picture(path, alt, width=int(width or 0))


def attribute(tag: str, name: str) -> str:
    """An attribute of an HTML tag, or ""."""
    found = re.search(rf'\b{name}="([^"]*)"', tag)
    return found[1] if found else ""


def files(text: str) -> list[str]:
    """The files of the repository that a page's links take along."""
    return [link.removeprefix("files/") for link in LINK.findall(text) if link.startswith("files/")]


def row(name: str, rows: Container[str]) -> str:
    """The name of a row, in backticks or not, as a link into the ledger; anything else as it is."""
    plain = name.strip("`")
    if plain not in rows:
        return name
    return f'<a href="{row_address(plain)}">' + (plain if plain == name else f"<code>{plain}</code>") + "</a>"


def span(code: str, rows: Container[str], public: Container[str]) -> str:
    """A code span: the name of a row leads into the ledger, that of a public function, in full, to the reference."""
    return f"{{py:obj}}{code}" if code.strip("`") in public else row(code, rows)


def outside_code(text: str, change: Callable[[str], str], span: Callable[[str], str] = str) -> str:
    """`text` with `change` applied to its words and `span` to its code spans; blocks of code stay as they are."""
    parts = re.split(r"(^```.*?^```[^\n]*$|`[^`\n]+`)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(p if p.startswith("```") else span(p) if p.startswith("`") else change(p) for p in parts)
