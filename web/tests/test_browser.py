"""The site in a real browser: every page from file://, narrow and wide, light and dark; search from a server too."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe

from web.chapter import NAME
from web.tests.conftest import SITE

PAGES = sorted(path.name for path in SITE.glob("*.html")) or ["index.html"]
CHAPTER = next((name for name in PAGES if name.startswith("01_")), "index.html")
RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa"]}}
COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}  # the one rule that the dark page can break alone
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


def faults(page, rules: dict) -> list[str]:
    """What axe-core finds: contrast, names of controls, headings, alt texts."""
    found = Axe().run(page, options=rules).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:150]} ({len(v['nodes'])} times)" for v in found]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_nobody_and_says_nothing_and_fits_a_phone(browser, site, name):
    """From file://, every picture loaded: no outside request, nothing on the console, no scrolling sideways."""
    with opened(browser, (site / name).as_uri()) as (page, wrong):
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.evaluate("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
        page.wait_for_function("[...document.images].every(i => i.complete)")
        assert page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)") == []
        assert overflow(page) <= 0
        assert wrong == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_by_all(browser, site, name):
    """Contrast of text, names of controls, alt texts: nothing that axe-core finds, in light and in dark."""
    with opened(browser, (site / name).as_uri(), width=1280) as (page, _):
        for scheme, rules in (("light", RULES), ("dark", COLOURS)):
            page.emulate_media(color_scheme=scheme)
            assert faults(page, rules) == [], scheme


@pytest.mark.parametrize("way", ["file", "server"])
@pytest.mark.parametrize(
    "words, first",
    [("NF4", "04_nf4"), ("double quantization", "04_nf4"), ("intruder", "10_"), ("rslora", "07_"), ("merge", "03_")],
)
def test_the_search_finds_the_chapter(browser, site, server, way, words, first):
    """Its chapter is among the first four found."""
    address = site.as_uri() if way == "file" else server
    with opened(browser, f"{address}/search.html?q={words}") as (page, wrong):
        page.wait_for_selector("ul.search li a")
        found = page.eval_on_selector_all("ul.search li a", "links => links.map(a => a.getAttribute('href'))")
        assert any(first in link for link in found[:4]), found[:6]
        assert wrong == []


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
        assert any(line.startswith("color-contrast") for line in faults(page, COLOURS))
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=\"https://example.org/x.png\">')")
        page.wait_for_timeout(300)
        assert any("outside" in line for line in wrong)
