"""Nothing that a chapter says is lost on its page."""

import html
import re
from collections import Counter

import nbformat
import pytest

from web.chapter import all_pages
from web.tests.conftest import SITE

ROOT = SITE.parents[1]
NO_WORDS = r"```.*?```|\$\$.*?\$\$|\$[^$\n]+\$|<[^>]+>|(?<=\])\([^)]*\)"  # code, formulas, tags, what a link leads to


def words(text: str) -> Counter:
    """How often each word stands in a text."""
    return Counter(re.findall(r"[^\W\d_]{2,}", text))


@pytest.mark.parametrize("stem", all_pages(ROOT).values())
def test_every_word_of_a_chapter_stands_on_its_page(site, stem):
    """Markdown swallows what it takes for a comment, a target, or an attribute."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4)
    said = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    article = re.search(r"<article.*</article>", (site / f"{stem}.html").read_text("utf-8"), re.DOTALL)[0]
    shown = html.unescape(re.sub(r"<[^>]+>", " ", article))
    assert words(re.sub(NO_WORDS, "", said, flags=re.DOTALL)) - words(shown) == Counter()
