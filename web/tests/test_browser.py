"""The site in a real browser: every page from file://, narrow and wide, light and dark; search from a server too."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe

from web.chapter import NAME
from web.tests.conftest import SITE

PAGES = sorted(path.name for path in SITE.glob("*.html")) or ["index.html"]
CHAPTER = next((name for name in PAGES if name.startswith("01_")), "index.html")
RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa"]}, "rules": {"color-contrast": {"enabled": False}}}
COLOURS = {
    "runOnly": {"type": "rule", "values": ["color-contrast"]}
}  # the slow rule, and the one that hangs on the mode
# What has text of its own, one of each kind: its colours hang on its tag, classes and style, and those it stands in.
SAMPLE = """() => {
  const kind = (e) => e ? `${kind(e.parentElement)}>${e.tagName}.${e.className}[${e.getAttribute('style')}]` : '';
  const seen = new Set();
  for (const e of document.body.querySelectorAll('*')) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.getClientRects().length) continue;
    if (seen.size < seen.add(kind(e)).size) e.setAttribute('data-sample', '');
  }
}"""
ERRORS = ("error", "warning")


@contextmanager
def opened(browser, address: str, width: int = 390) -> Iterator:
    """A page and a list of what went wrong in it: words on the console, and requests to the outside."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    page, wrong = context.new_page(), []
    page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type in ERRORS else None)
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
    page.on("request", lambda r: wrong.append(f"outside: {r.url}") if not inside(r.url) else None)
    page.goto(address)
    yield page, wrong
    context.close()


def inside(url: str) -> bool:
    """Whether an address is of this machine."""
    return url.startswith(("file://", "data:", "blob:", "http://127.0.0.1:"))


def overflow(page) -> int:
    """By how many pixels a page is wider than its window, or what it holds wider than its column."""
    boxes = "[document.documentElement, ...document.querySelectorAll('.main, .content')]"
    return page.evaluate(f"Math.max(...{boxes}.map(box => box.scrollWidth - box.clientWidth))")


def faults(page, rules: dict, within: str | None = None) -> list[str]:
    """What axe-core finds on the page, or in the elements `within`: names of controls, headings, alt texts."""
    found = Axe().run(page, context=within, options=rules).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:150]} ({len(v['nodes'])} times)" for v in found]


def pale(page) -> list[str]:
    """Texts of too little contrast, one of each kind that the page has."""
    page.evaluate(SAMPLE)
    return faults(page, COLOURS, "[data-sample]")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_nobody_and_says_nothing_and_fits_a_phone_and_can_be_read_by_all(browser, site, name):
    """One visit from file://, narrow first: no outside request, nothing on the console, every picture loaded, no
    scrolling sideways; then, wide, nothing that axe-core finds, and contrast in light and in dark."""
    with opened(browser, (site / name).as_uri()) as (page, wrong):
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.evaluate("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
        page.wait_for_function("[...document.images].every(i => i.complete)")
        assert page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)") == []
        assert overflow(page) <= 0
        assert wrong == []  # before axe-core, which asks for style sheets again
        page.set_viewport_size({"width": 1280, "height": 900})
        assert faults(page, RULES) == []
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert pale(page) == [], scheme


@pytest.mark.parametrize("way", ["file", "server"])
@pytest.mark.parametrize(
    "words, first",
    [
        ("NF4", "04_nf4"),
        ("double quantization", "04_nf4"),
        ("intruder", "10_"),
        ("rslora", "07_"),
        ("merge", "03_"),
        ("which rank", "guide.html#which-rank"),  # a heading that says it
        ("loss does not go down", "20_what_goes_wrong.html#nothing-learns"),
        ("why is QLoRA slower", "05_"),  # no page but the ledger and the glossary has both words
    ],
)
def test_the_search_finds_the_chapter(browser, site, server, way, words, first):
    """Its chapter is among the first four found."""
    address = site.as_uri() if way == "file" else server
    with opened(browser, f"{address}/search.html?q={words}") as (page, wrong):
        page.wait_for_selector("ul.search li a")
        found = page.eval_on_selector_all("ul.search li a", "links => links.map(a => a.getAttribute('href'))")
        assert any(first in link for link in found[:4]), found[:6]
        assert wrong == []


def test_the_search_asks_before_it_finds_and_keeps_the_words(browser, site):
    with opened(browser, (site / "search.html").as_uri()) as (page, wrong):
        page.fill(".search-again input", "intruder")
        page.locator(".search-again button").click()
        page.wait_for_selector("ul.search li a")
        assert page.locator(".search-again input").input_value() == "intruder" and wrong == []


def test_a_phone_has_the_first_rows_of_the_ledger_and_the_others_on_demand(browser, site):
    """Filters and sorting see all rows; a link opens one that stands later."""
    shown = "[...document.querySelectorAll('table.ledger tbody tr')].filter(r => r.getClientRects().length)"
    address = (site / "ledger.html").as_uri()
    with opened(browser, address) as (page, wrong):
        assert page.evaluate(f"{shown}.length") == 25
        page.select_option("select[name=sort]", "verdict")
        words = page.evaluate(f"{shown}.map(r => r.dataset.verdict)")
        assert words == sorted(words) and words[0] == "adds up"
        page.select_option("select[name=chapter]", "13")
        assert page.evaluate(f"new Set({shown}.map(r => r.dataset.chapter)).size") == 1
        page.select_option("select[name=chapter]", "")
        page.locator("button.more").click()
        assert page.evaluate(f"{shown}.length") == page.locator("table.ledger tbody tr").count() > 25
        page.goto("about:blank")
        page.goto(f"{address}#row-13-on_par")
        assert page.locator("#row-13-on_par dl").is_visible() and wrong == []


def test_a_phone_shows_the_guide_s_rows_as_cards_whose_texts_have_the_page_s_width(browser, site):
    with opened(browser, (site / "guide.html").as_uri()) as (page, _):
        widths = page.evaluate("[...document.querySelectorAll('table.rows td:nth-child(3)')].map(c => c.clientWidth)")
        assert len(widths) > 20 and min(widths) > 300


def test_a_folded_solution_opens(browser, site):
    with opened(browser, (site / CHAPTER).as_uri()) as (page, _):
        solution = page.locator("details", has_text="Solution").first
        assert not solution.locator("pre").first.is_visible()
        solution.locator("summary").click()
        assert solution.locator("pre").first.is_visible()


def test_a_prediction_comes_back_at_the_answer_and_after_a_reload(browser, site):
    with opened(browser, (site / CHAPTER).as_uri()) as (page, wrong):
        field = page.locator(".prediction textarea").first
        name = field.get_attribute("id")
        answer = page.locator(f'.prediction-echo[data-prediction="{name}"]')
        assert not answer.is_visible()
        field.fill("20, <b>I guess</b>")
        for _ in range(2):
            assert answer.is_visible() and answer.locator("q").text_content() == "20, <b>I guess</b>"
            assert answer.bounding_box()["y"] > field.bounding_box()["y"]
            page.reload()
            assert page.locator(".prediction textarea").first.input_value() == "20, <b>I guess</b>"
        page.locator(".prediction textarea").first.fill("")
        assert not answer.is_visible() and wrong == []


def test_the_ledger_is_sorted_and_filtered(browser, site):
    with opened(browser, (site / "ledger.html").as_uri(), width=1280) as (page, wrong):
        cells = "[...document.querySelectorAll('table.ledger tbody tr:not([hidden]) td.{}')].map(c => c.textContent)"
        total = len(page.evaluate(cells.format("verdict")))
        for button in ("verdict", "chapter"):
            for order in (False, True):
                page.locator("table.ledger th button", has_text=button).click()
                found = page.evaluate(cells.format(button))
                assert found == sorted(found, reverse=order) and len(found) == total
        page.select_option("select[name=kind]", "claim")
        assert set(page.evaluate(cells.format("kind"))) == {"claim"}
        page.select_option("select[name=verdict]", "not settled")
        page.fill("input[name=words]", "rank 64")
        shown = page.evaluate(cells.format("verdict"))
        assert set(shown) == {"not settled"} and 0 < len(shown) < total
        assert page.locator(".ledger-filters output").text_content() == f"{len(shown)} of {total} rows"
        assert wrong == []


def test_a_link_into_the_ledger_opens_its_row_even_where_a_filter_hides_it(browser, site):
    address = (site / "ledger.html").as_uri() + "?kind=identity#row-01-on_par"
    with opened(browser, address, width=1280) as (page, _):
        row = page.locator("#row-01-on_par")
        assert row.is_visible() and row.locator("dl").is_visible()


def test_a_table_that_is_wider_than_a_phone_says_so_until_its_end_is_seen(browser, site):
    with opened(browser, (site / CHAPTER).as_uri()) as (page, _):
        box = page.locator(".printed-table.goes-on").first
        assert box.evaluate("box => getComputedStyle(box).boxShadow") != "none"
        index = box.evaluate("box => [...document.querySelectorAll('.printed-table')].indexOf(box)")
        page.locator(".printed-table").nth(index).evaluate("box => box.scrollTo(9999, 0)")
        page.wait_for_function(f"!document.querySelectorAll('.printed-table')[{index}].classList.contains('goes-on')")
        page.set_viewport_size({"width": 1600, "height": 900})
        page.wait_for_function("!document.querySelector('.printed-table.goes-on')")


def test_a_copy_button_copies_the_code(browser, site):
    with opened(browser, (site / CHAPTER).as_uri()) as (page, _):
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        block = page.locator("div.highlight").first
        block.locator("button.copy").click()
        page.wait_for_function("document.querySelector('button.copy').textContent === 'Copied'")
        assert page.evaluate("navigator.clipboard.readText()") == block.locator("pre").text_content()


def test_next_goes_through_all_chapters_in_their_order(browser, site):
    chapters = [name for name in PAGES if NAME.fullmatch(name.removesuffix(".html"))]
    with opened(browser, (site / "index.html").as_uri()) as (page, wrong):
        seen = []
        while page.locator("a.next-page").count():
            page.goto(page.evaluate("document.querySelector('a.next-page').href"))
            seen.append(page.url.rsplit("/", 1)[1])
        assert seen[: len(chapters)] == chapters and len(seen) == len(set(seen))
        assert wrong == []


def test_a_page_that_is_too_wide_or_too_pale_would_be_seen(browser, site):
    """The checks themselves can fail."""
    with opened(browser, (site / CHAPTER).as_uri()) as (page, wrong):
        page.evaluate(
            "document.querySelector('article').insertAdjacentHTML('beforeend', '<div style=width:900px>x</div>')"
        )
        assert overflow(page) > 0
        page.evaluate("document.querySelector('article p').style.color = '#ddd'")
        assert any(line.startswith("color-contrast") for line in pale(page))
        page.evaluate("document.querySelector('article p').style.color = ''")
        for words in ("table.rows td", ".verdict dd", ".highlight span"):  # a rule for a kind of text, not one text
            if page.locator(words).count():
                page.add_style_tag(content=f"{words} {{ color: #ddd !important }}")
                assert any(line.startswith("color-contrast") for line in pale(page)), words
                page.evaluate("document.head.lastElementChild.remove()")
        page.evaluate("document.querySelector('article').insertAdjacentHTML('beforeend', '<input>')")
        assert any(line.startswith("label") for line in faults(page, RULES))
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=\"https://example.org/x.png\">')")
        page.wait_for_timeout(300)
        assert any("outside" in line for line in wrong)
