"""A site with something wrong is not built: each fault is planted into a small book, and the build has to name it."""

from pathlib import Path

import pytest

from web import build, chapter, check
from web.tests import small_book
from web.tests.small_book import CELLS, change_cell, change_results


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return small_book.make(tmp_path / "book")


def words(book: Path, text: str) -> None:
    """Put a text into the chapter."""
    change_cell(book, CELLS["words"], "A formula", f"{text} A formula")


def appended(book: Path, name: str, text: str) -> None:
    """Put a text at the end of a file."""
    path = book / name
    path.write_text(path.read_text() + text)


PICTURE = Path("figures") / "full" / "00_first_pixel.png"
FAULTS = {
    "an image from outside": (lambda b: words(b, "![x](https://example.org/x.png)"), "x.png from outside"),
    "an image from outside in HTML": (lambda b: words(b, '<img src="//example.org/x.png" alt="x">'), "from outside"),
    "a script from outside": (lambda b: words(b, '<script src="https://example.org/x.js"></script>'), "from outside"),
    "a style from outside": (lambda b: words(b, '<b style="background: url(https://example.org/x)">x</b>'), "outside"),
    "a deleted image": (lambda b: (b / PICTURE).unlink(), "00_first_pixel.png is not in full/"),
    "an image that is none": (lambda b: (b / PICTURE).write_text("no picture"), "is no PNG picture"),
    "an image that a text shows and is not there": (lambda b: words(b, "![x](figures/none.png)"), "none.png"),
    "an empty alt": (
        lambda b: change_results(b, lambda r: r["figures"]["00_first_pixel.png"].update(alt=" ")),
        "00_first_pixel.png has no alt text",
    ),
    "an image without alt in a text": (lambda b: words(b, '<img src="_static/x.png" width="1" height="1">'), "no alt"),
    "an unrecorded picture": (lambda b: change_results(b, lambda r: r["figures"].clear()), "no results.figure"),
    "a caption that has changed": (
        lambda b: change_results(b, lambda r: r["figures"]["00_first_pixel.png"].update(caption="Another.")),
        "00_first",
    ),
    "a dead link": (lambda b: words(b, "[x](nowhere.md)"), "nowhere.md"),
    "a dead link in HTML": (lambda b: words(b, '<a href="nowhere.html">x</a>'), "nowhere.html leads nowhere"),
    "a dead link in the README": (lambda b: appended(b, "README.md", "\n[x](nowhere.md)\n"), "nowhere.md"),
    "a dead anchor": (lambda b: words(b, "[x](#nowhere)"), "nowhere"),
    "a dead anchor on another page": (
        lambda b: words(b, '<a href="ledger.html#row-no">x</a>'),
        "#row-no leads nowhere",
    ),
    "a row that the ledger does not have": (
        lambda b: change_results(b, lambda r: r["rows"].clear()),
        "ledger.html#row-00-rank_one leads nowhere",
    ),
    "a line that Markdown takes for a list": (lambda b: words(b, "of `a\n+ b`, and"), "begins with '+ '"),
    "a line that Markdown takes for a quotation": (lambda b: words(b, "where a\n> b, and"), "begins with '>'"),
    "a line that Markdown takes for a comment": (lambda b: words(b, "of\n% and"), "begins with '%'"),
    "bad TeX": (lambda b: words(b, r"$\nosuchthing{x}$"), "nosuchthing"),
    "bad TeX on a line of its own": (lambda b: words(b, "\n\n$$\\frac{1}{$$\n\n"), "frac"),
    "an id used twice": (lambda b: words(b, '<i id="twice"></i><i id="twice"></i>'), "twice is used 2 times"),
    "a verdict without a colour": (
        lambda b: change_results(b, lambda r: r["rows"]["rank_one"].update(verdict="maybe")),
        "maybe",
    ),
    "results that are not committed": (lambda b: (b / "figures" / "full" / "A1_more.json").unlink(), "A1_more.json"),
    "a head that promises nothing": (lambda b: change_cell(b, 0, "**What you will", "**What we will"), "able to do"),
    "a page that Sphinx warns about": (lambda b: words(b, "\n\n```{nosuchdirective}\n```\n\n"), "nosuchdirective"),
}


def test_the_small_book_is_built(book):
    assert build.build(book) == []
    page = (book / "build" / "web" / "00_first.html").read_text()
    for part in ("<math>", "verdict-no", 'loading="lazy"', "<details>", "ledger.html#row-00-rank_one"):
        assert part in page, part
    assert (book / "build" / "web" / "figures" / "00_first_pixel.png").exists()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_stops_the_build_and_is_named(book, fault, capsys):
    plant, named = FAULTS[fault]
    plant(book)
    assert build.main(["--root", str(book)]) == 1
    assert named in capsys.readouterr().err
    assert not (book / "build" / "web").exists()


def test_a_missing_search_index_and_a_style_sheet_from_outside_are_seen(book):
    assert build.build(book) == []
    site = book / "build" / "web"
    (site / "searchindex.js").unlink()
    (site / "_static" / "book.css").write_text(
        "@import 'https://example.org/x.css'; b {background: url(//example.org/x)}"
    )
    found = "\n".join(check.problems(site))
    assert "search.html: searchindex.js is not there" in found
    assert "fetches https://example.org/x.css from outside" in found and "fetches //example.org/x from" in found


def test_after_a_fault_the_site_of_before_still_stands(book):
    assert build.build(book) == []
    words(book, "[x](nowhere.md)")
    assert build.build(book)
    assert (book / "build" / "web" / "index.html").exists()


def test_a_new_chapter_and_a_guide_are_taken_up_by_themselves(book):
    small_book.write(book, "14_new", [], {}, {})
    (book / "figures" / "GUIDE.md").write_text("# Choosing\n\n[All](LEDGER.md#00_first), `00.rank_one`, chapter 14.\n")
    assert chapter.all_pages(book)["14"] == "14_new"
    assert build.build(book) == []
    site = book / "build" / "web"
    index, guide = ((site / name).read_text() for name in ("index.html", "guide.html"))
    assert 'href="14_new.html"' in index and 'href="guide.html"' in index
    for link in ("14_new.html", "ledger.html#00_first", "ledger.html#row-00-rank_one"):
        assert f'href="{link}"' in guide, link
