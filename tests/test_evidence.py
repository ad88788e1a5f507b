"""What the guide stands on, counted from rows; and a chapter 21 that read other rows is found out."""

import copy
import json

import pytest

from lora_from_scratch.book import evidence, paragraphs
from lora_from_scratch.book.advices import ADVICES
from lora_from_scratch.lab.cache import ROOT

ROWS = paragraphs.committed(ROOT / "figures" / "full")


def row(verdict: str, model: str = "") -> dict:
    return {"verdict": verdict, "shown": "0.1", "scope": {"model": model} if model else {}}


def changed(name: str, **what: str) -> dict:
    """The committed rows with one of them changed."""
    rows = copy.deepcopy(ROWS)
    rows[name[:2]][name[3:]] |= what
    return rows


@pytest.mark.parametrize(
    ("verdict", "model", "wanted"),
    [
        ("not settled", "tiny Llama", "open"),
        ("holds", "tiny Llama", "tiny model"),
        ("not reproduced", "SmolLM2-135M-Instruct.Q4_1.gguf", "pretrained model"),
        ("holds", "", "counted, exact"),
        ("reproduced", "Llama-2", "counted, exact"),
    ],
)
def test_a_row_stands_where_it_is_settled_and_an_open_one_nowhere(verdict, model, wanted):
    assert evidence.place(row(verdict, model)) == wanted


def test_each_row_of_an_advice_stands_in_one_place():
    for advice in ADVICES:
        found = evidence.stands_on(advice.rests_on, ROWS)
        assert tuple(found) == evidence.PLACES
        assert sum(map(len, found.values())) == len(paragraphs.rests_on(advice.rests_on))


def test_a_row_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"no row '99.nothing'; write chapter.row"):
        evidence.row_of("99.nothing", ROWS)


def test_the_fingerprint_changes_with_verdicts_and_numbers_under_the_guide_and_with_no_other_row():
    before, names = evidence.fingerprint(ROWS), {name for name, _ in evidence.named()}
    for name in ("13.placement", "02.regret", "12.fits"):  # of an advice, of the article, of the calculator
        assert evidence.fingerprint(changed(name, verdict="another")) != before
        assert evidence.fingerprint(changed(name, shown="0.5")) != before
        assert evidence.fingerprint(changed(name, says="another sentence")) != before
    other = next(f"{c}.{n}" for c, found in ROWS.items() for n in found if f"{c}.{n}" not in names)
    assert evidence.fingerprint(changed(other, verdict="another")) == before


def test_a_chapter_that_read_other_rows_is_found_out(tmp_path):
    folder = tmp_path / "figures" / "full"
    folder.mkdir(parents=True)
    for path in (ROOT / "figures" / "full").glob("*.json"):
        (folder / path.name).write_text(json.dumps({"rows": json.loads(path.read_text("utf-8"))["rows"]}))
    own = folder / f"{evidence.CHAPTER}.json"
    own.unlink(missing_ok=True)
    assert evidence.check(tmp_path) == []
    own.write_text(json.dumps({"rows": {}, "numbers": {"evidence": evidence.fingerprint(ROWS)}}))
    assert evidence.check(tmp_path) == []
    there = next(folder.glob("13_*.json"))
    content = json.loads(there.read_text())
    content["rows"]["placement"]["shown"] = "0.5"
    there.write_text(json.dumps(content))
    assert evidence.check(tmp_path) == [
        "figures/full/21_choosing.json: it read other rows than are committed; make book N=21 renews it"
    ]
