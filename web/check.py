"""Looks at every page of the built site: python -m web.check FOLDER.

Wrong is: a link or anchor that leads nowhere, an id used twice, an image that is not there, has no alt or no size, and
anything that a browser would fetch from outside while the page is read. (A link that a reader may click is not that.)
"""

import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {  # by tag, the attributes whose address a browser fetches by itself
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "object": ("data",),
    "use": ("href", "xlink:href"),
    "image": ("href", "xlink:href"),
} | {tag: ("src",) for tag in ("script", "iframe", "audio", "embed", "track", "input")}
NO_FETCH = {"next", "prev", "index", "search", "canonical", "author", "copyright"}  # <link rel=…> that are only links
OUTSIDE = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
IN_STYLE = re.compile(r"""(?:url\(\s*|@import\s+)['"]?\s*((?:https?:)?//[^'")\s]+)""", re.IGNORECASE)


@dataclass
class Page:
    """What a page holds: ids, links, images and addresses that are fetched."""

    ids: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    images: list[dict[str, str]] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)


class Reader(HTMLParser):
    """Fills a Page."""

    def __init__(self) -> None:
        super().__init__()
        self.page, self.in_style = Page(), False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note what the tag has and asks for."""
        has, page = {name: value or "" for name, value in attributes}, self.page
        self.in_style = tag == "style"
        page.ids += [has["id"]] if "id" in has else []
        page.styles += [has["style"]] if "style" in has else []
        page.fetched += [has[name] for name in FETCHED.get(tag, ()) if has.get(name)]
        if tag == "link" and not NO_FETCH & set(has.get("rel", "").split()):
            page.fetched.append(has.get("href", ""))
        if tag == "a" and has.get("href"):
            page.links.append(has["href"])
        if tag == "img":
            page.images.append(has)

    def handle_endtag(self, tag: str) -> None:
        """A style sheet in the page ends."""
        self.in_style = self.in_style and tag != "style"

    def handle_data(self, data: str) -> None:
        """Keep what stands in a style sheet."""
        if self.in_style:
            self.page.styles.append(data)


def read(path: Path) -> Page:
    """The page in a file."""
    reader = Reader()
    reader.feed(path.read_text("utf-8"))
    return reader.page


def problems(site: Path) -> list[str]:
    """All that is wrong with the site in a folder, a line each."""
    site = site.resolve()
    pages = {path.relative_to(site).as_posix(): read(path) for path in sorted(site.rglob("*.html"))}
    wrong = [f"{name}: {line}" for name, page in pages.items() for line in of_page(site, name, page, pages)]
    for path in sorted(site.rglob("*.css")):
        found = IN_STYLE.findall(path.read_text("utf-8"))
        wrong += [f"{path.relative_to(site)}: fetches {address} from outside" for address in found]
    return wrong


def of_page(site: Path, name: str, page: Page, pages: dict[str, Page]) -> list[str]:
    """What is wrong with one page."""
    wrong = [f"the id {i} is used {n} times" for i, n in Counter(page.ids).items() if n > 1]
    wrong += [f"fetches {address} from outside" for address in page.fetched if OUTSIDE.match(address)]
    wrong += [f"fetches {address} from outside" for style in page.styles for address in IN_STYLE.findall(style)]
    wrong += [f"the link {link} leads nowhere" for link in page.links if not leads(site, name, link, pages)]
    wrong += [line for image in page.images for line in of_image(site, name, image)]
    inside = [address for address in page.fetched if not OUTSIDE.match(address) and address[:1] != "#"]
    files = [address for address in inside if not address.startswith("data:")]
    return wrong + [f"{address} is not there" for address in files if not file_of(site, name, address).is_file()]


def of_image(site: Path, name: str, image: dict[str, str]) -> list[str]:
    """What an image lacks."""
    source = image.get("src", "")
    lacks = [what for what in ("alt", "width", "height") if not image.get(what, "").strip()]
    return [f"the image {source} has no {what}" for what in lacks]


def leads(site: Path, name: str, link: str, pages: dict[str, Page]) -> bool:
    """Whether a link of page `name` leads somewhere. One to the outside is taken at its word."""
    if OUTSIDE.match(link) or link.startswith(("mailto:", "data:")):
        return True
    parts = urlsplit(link)
    path = file_of(site, name, link) if parts.path else site / name
    path = path / "index.html" if path.is_dir() else path
    if not path.is_file():
        return False
    there = pages.get(path.relative_to(site).as_posix()) if path.is_relative_to(site) else None
    return not parts.fragment or there is None or unquote(parts.fragment) in there.ids


def file_of(site: Path, name: str, address: str) -> Path:
    """The file that an address on page `name` means."""
    return ((site / name).parent / unquote(urlsplit(address).path)).resolve()


def named(site: Path, folder: str) -> set[str]:
    """The files of a folder that pages show or link to."""
    pages = [read(path) for path in site.glob("*.html")]
    addresses = {address for page in pages for address in (*page.fetched, *page.links)}
    return {address.removeprefix(f"{folder}/") for address in addresses if address.startswith(f"{folder}/")}


def summary(site: Path) -> str:
    """How large the site is."""
    files = [path for path in site.rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    return f"{sum(path.suffix == '.html' for path in files)} pages, {total / 1e6:.1f} MB"


if __name__ == "__main__":
    found = problems(Path(sys.argv[1]).resolve())
    print("\n".join(found) or "nothing is wrong")
    sys.exit(bool(found))
