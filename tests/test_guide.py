"""The guide: rendered from rows, and found out when a verdict under an advice changes and the advice does not."""

import copy
import json
import re
import shutil

import pytest

from lora_from_scratch.analysis import advise
from lora_from_scratch.book import agree, guide, paragraphs, standing
from lora_from_scratch.book.advices import ADVICES, Advice
from lora_from_scratch.book.article import ARTICLE
from lora_from_scratch.lab.cache import ROOT

ROWS = paragraphs.committed(ROOT / "figures" / "full")


@pytest.fixture
def book(tmp_path):
    """The committed results and guide, in a folder of its own."""
    shutil.copytree(ROOT / "figures" / "full", tmp_path / "figures" / "full", ignore=shutil.ignore_patterns("*.png"))
    shutil.copy(ROOT / guide.NAME, tmp_path / guide.NAME)
    (tmp_path / "notebooks").mkdir()
    for end in ("py", "ipynb"):
        shutil.copy(ROOT / "notebooks" / f"13_toy_or_real.{end}", tmp_path / "notebooks")
    return tmp_path


def plant(book, chapter: str, name: str, **changed) -> None:
    """Change a row of a committed result."""
    path = next((book / "figures" / "full").glob(f"{chapter}_*.json"))
    content = json.loads(path.read_text("utf-8"))
    content["rows"][name] |= changed
    path.write_text(json.dumps(content))


def test_committed_guide_agrees(book):
    """The guide that is committed is what advices and rows give."""
    assert guide.check(ROOT) == guide.check(book) == []


@pytest.mark.parametrize("advice", [a for a in ADVICES if a.rests_on], ids=lambda a: a.question)
def test_changed_verdict_is_found(book, advice):
    """Whichever row under an advice comes out otherwise, the check names the advice and the row; nothing is written."""
    before = (book / guide.NAME).read_text("utf-8")
    for name in paragraphs.rests_on(advice.rests_on):
        rows = copy.deepcopy(ROWS)
        rows[name[:2]][name[3:]]["verdict"] = "another"
        found = [line for line in guide.contradicted(rows) if repr(advice.question) in line]
        assert found and all(f"rests on {name}=" in line and "that row is another" in line for line in found)
    plant(book, name[:2], name[3:], verdict="another")
    assert guide.write(book) == guide.check(book) != []
    assert (book / guide.NAME).read_text("utf-8") == before


def test_sync_check_asks_the_guide(book):
    """`make sync-check` reports a changed verdict, where there is a guide."""
    plant(book, "13", "placement", verdict="not reproduced")
    assert any("'Which layers?' rests on 13.placement=reproduced" in line for line in agree.check(book))


def test_changed_number_is_found_and_renewed(book):
    """Another number under the same verdict makes the text stale; writing renews it."""
    plant(book, "13", "placement", shown="0.0123 [0.01, 0.02]")
    assert guide.check(book) == [
        f"{guide.NAME} is not what the advices and rows give: python -m lora_from_scratch.book.guide"
    ]
    assert guide.write(book) == guide.check(book) == []
    assert "0.0123 [0.01, 0.02]" in (book / guide.NAME).read_text("utf-8")


def test_missing_row_and_missing_file_are_found(book):
    """A row that is gone is told, and a guide that is."""
    assert "missing from the results" in guide.contradicted({})[0]
    (book / guide.NAME).unlink()
    assert len(guide.check(book)) == 1


def test_calculator_s_reasons_rest_on_rows():
    """Every row that a reason of `advise` names is among those that it says it rests on, and is held to its verdict."""
    text = (ROOT / "lora_from_scratch" / "analysis" / "advise.py").read_text("utf-8")
    assert set(re.findall(r"\(((?:\d\d|A\d)\.[a-z]\w+)\)", text)) <= set(paragraphs.rests_on(advise.RESTS_ON))
    rows = copy.deepcopy(ROWS)
    rows["12"]["fits"]["verdict"] = "does not hold"
    assert any(
        line.startswith(f"{guide.NAME}: analysis/advise.py rests on 12.fits") for line in guide.contradicted(rows)
    )


def test_numbers_of_an_advice_are_of_its_rows():
    """An advice shows the numbers of no row but those it rests on, and has no number of its own written in."""
    for advice in ADVICES:
        assert guide.unnamed(advice) == [], advice.question
        assert not re.search(r"\d\.\d", paragraphs.NUMBER.sub("", advice.text + advice.do)), advice.question
    assert guide.unnamed(Advice("?", "", "{01.on_par.shown} {02.qv.shown}", "01.on_par=partly")) == ["02.qv"]


def test_sureness_tells_where_rows_are_settled_and_why_others_are_open():
    """By the interval, by parts, or by chance; what only names a model that nothing ran on is counted."""

    def at(verdict, model, low=-1.0, high=1.0, *more):
        part = {"kind": "Lower", "by": 0.1, "verdict": verdict, "estimate": {"low": low, "high": high}}
        parts = {"": part} | {word: part | {"verdict": word} for word in more}
        return {"verdict": verdict, "scope": {"model": model}, "parts": parts}

    settled = [at("holds", "tiny Llama"), at("holds", "SmolLM2-135M"), at("reproduced", "Llama-2")]
    assert standing.sureness(settled) == (
        "of 3 rows 1 settled on the pretrained model, 1 settled on the tiny model, 1 counted or exact"
    )
    assert standing.why_open(at("not settled", "tiny Llama")) == standing.LINE
    assert standing.why_open(at("not settled", "tiny Llama", -2.0, -1.0)) == standing.CHANCE
    assert standing.why_open(at("not settled", "tiny Llama", -1.0, 1.0, "no")) == standing.PARTS
    assert standing.sureness([at("not settled", "tiny Llama")]).endswith("1 open (1: the interval touches the line)")
    assert standing.why_open(ROWS["05"]["keep_together"]) == standing.CHANCE


def test_every_line_of_the_article_is_answered():
    """Each line stands in the table, with its rows or with "nothing"."""
    text = guide.as_markdown(ROWS)
    for line in ARTICLE:
        answer = next(row for row in text.split("\n") if row.startswith(f"| {line.says} |"))
        assert all(f"`{name}`" in answer for name in paragraphs.rests_on(line.rests_on))
        assert answer.endswith("| nothing |") == (not line.rests_on)


def test_counted_numbers_have_no_interval():
    """An interval of one number is left out, a real one stays."""
    text = guide.as_markdown(ROWS)
    assert "0.8953 [" not in text and "0.8953" in text
    assert ROWS["13"]["placement"]["shown"] in text and "[" in ROWS["13"]["placement"]["shown"]


def test_advice_without_rows_says_that_nothing_was_measured():
    """It is not called counted or exact, it shows no number, and the guide has no empty table for it."""
    text = guide.as_markdown(ROWS)
    for advice in (a for a in ADVICES if not a.rests_on):
        part = text.partition(f"## {advice.question}\n")[2].partition("\n## ")[0]
        assert "*How sure*: not measured in this book yet." in part and "|" not in part
        assert not paragraphs.NUMBER.search(advice.text)
    assert standing.sureness([]) == "not measured in this book yet"
