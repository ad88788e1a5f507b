"""What chapters print, read by the site: tables, verdicts and captions, on drawn tables and on all committed ones."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_from_scratch.book import stats
from web import markup
from web.chapter import all_pages, read
from web.outputs import Case, Table, Text, Verdict, blocks

ROOT = Path(__file__).resolve().parents[1]
PAGES = all_pages(ROOT)
WORD = st.text("abzα→ é√²%", min_size=1, max_size=8).map(lambda text: " ".join(text.split())).filter(bool)
NUMBER = st.floats(-1e3, 1e3).map(lambda value: f"{value:.2f}")


def printed(stem: str) -> list[str]:
    """Every text that a committed chapter has printed."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4)
    code = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [output.text for cell in code for output in cell.outputs if output.output_type == "stream"]


@given(st.lists(st.tuples(WORD, NUMBER, NUMBER), min_size=1, max_size=5), st.tuples(WORD, WORD, WORD))
def test_a_printed_table_comes_back_as_it_was(rows, header):
    """What stats.table prints is read as its header and rows, and which columns stand to the right."""
    rows = [list(row) for row in rows]
    (found,) = blocks(f"\n{stats.table(header, rows)}\n")
    assert isinstance(found, Table) and (found.header, found.rows) == (list(header), rows)
    assert found.right[1:] == [True, True]


def test_words_before_and_after_a_table_are_no_part_of_it():
    table = stats.table(["method", "loss"], [["full", 1.5], ["rank 1", 2.25]])
    before, found, after = blocks(f"rot13\n{table}\nthe bend is at rank 8\n\n")
    assert (before, after) == (Text("rot13"), Text("the bend is at rank 8"))
    assert found.rows == [["full", "1.5"], ["rank 1", "2.25"]] and found.right == [False, True]


def test_amounts_stand_to_the_right_where_one_of_them_is_a_factor_or_a_share():
    """stats.table sets a column to the left as soon as one cell is no bare number."""
    (found,) = blocks(stats.table(["block", "error", "note"], [["64", "9.2 %", "one"], ["4096", "× 1.20", "2"]]))
    assert found.right == [True, True, False]


@pytest.mark.parametrize("line", [" no    1.00", "full  1.00 and more", "nothing fits here", "full   1.0 "])
def test_a_line_that_does_not_keep_to_the_columns_ends_the_table(line):
    """A cell in the middle of its column, a line that is too long, words between the columns."""
    found, rest = blocks(f"name   loss\n----  -----\nfull   1.50\n{line}")
    assert isinstance(found, Table) and found.rows == [["full", "1.50"]] and rest.text == line.rstrip()


@pytest.mark.parametrize("text", ["a - b\n- - -\nx", "one\n---", "heading\n-----\n\nwords", "a  b\n-  -\n1 2 3 4"])
def test_what_only_looks_like_a_table_stays_text(text):
    assert [type(block) for block in blocks(text)] == [Text]


def test_a_verdict_is_its_word_its_sentence_and_its_lines():
    text = "HOLDS: it does: yes\n  measured:  0.1 [0, 0.2]\n  rot13, reproduced: the interval: below 0\nnext"
    found, rest = blocks(text)
    assert found == Verdict(
        "holds", "it does: yes", [("measured", "0.1 [0, 0.2]"), ("rot13, reproduced", "the interval: below 0")]
    )
    assert rest == Text("next")


@pytest.mark.parametrize("stem", PAGES.values())
def test_every_committed_table_comes_back_as_it_was(stem):
    for text in printed(stem):
        lines = "\n".join(line.rstrip() for line in text.split("\n"))
        tables = [block for block in blocks(text) if isinstance(block, Table)]
        assert all(stats.table(table.header, table.rows) in lines for table in tables)
        assert len(tables) == len(re.findall(r"^-+(?:  -+)+$", lines, re.MULTILINE))


@pytest.mark.parametrize("stem", PAGES.values())
def test_every_row_of_the_results_has_a_box_that_leads_to_it(stem):
    """Of all rows of a chapter, each is printed once as a verdict, with the verdict that the JSON file holds."""
    chapter = read(ROOT, stem, PAGES)
    boxes = [block for text in printed(stem) for block in blocks(text) if isinstance(block, Verdict)]
    rows = json.loads((ROOT / "figures" / "full" / f"{stem}.json").read_text())["rows"]
    found = {chapter.row_of(box): box.word for box in boxes}
    assert found == {f"{stem[:2]}.{name}": row["verdict"] for name, row in rows.items()}


def test_what_a_cell_prints_below_a_verdict_is_no_part_of_it_though_it_is_indented():
    found, rest = blocks("HOLDS: so\n  measured:  1\n  the test: below 2\n  16: 2.2 nats\n 256: 1.9 nats")
    assert found.lines == [("measured", "1"), ("the test", "below 2")] and rest.text == "  16: 2.2 nats\n 256: 1.9 nats"


def test_a_verdict_on_parts_is_a_table_and_a_test_that_all_share_is_said_once():
    text = (
        "PARTLY: so\n  measured:  far: 1 [0, 2]; near: 3\n  chance:    far: 5; near: 6; by its value alone that passes "
        "too, so this shows nothing\n  far, reproduced: below 2\n  near, not settled: below 2"
    )
    (found,) = blocks(text)
    page = re.sub(r"\s*<[^>]+>\s*", "|", markup.verdict(found, {}, "01.x"))
    cells = [cell for cell in page.split("|") if cell]
    assert cells[:2] == ["partly", "so"] and cells[2] == "01.x"
    assert cells[3:7] == ["part", "verdict", "measured", "chance"]
    assert cells[7:15] == ["far", "reproduced", "1 [0, 2]", "5", "near", "not settled", "3", "6"]
    assert cells[15:] == ["chance", "by its value alone that passes too, so this shows nothing", "the test", "below 2"]


def test_a_case_of_the_clinic_is_its_title_and_its_lines_joined_again():
    text = (
        "A LAYER, BROKEN?   (peft#1)\n  wrong     a = b\n  diagnose  two (1): three\n            four\n\nnext  words\n"
    )
    case, rest = blocks(text)
    assert case == Case("A LAYER, BROKEN?   (peft#1)", [("wrong", "a = b"), ("diagnose", "two (1): three four")])
    assert rest == Text("next  words")


@pytest.mark.parametrize("text", ["A TITLE\nwords", "A TITLE\n  1  2", "Not so\n  wrong  a", "A TITLE"])
def test_what_only_looks_like_a_case_stays_text(text):
    assert [type(block) for block in blocks(text)] == [Text]
