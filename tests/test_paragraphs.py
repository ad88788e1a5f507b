"""Paragraphs that tell an outcome: filled with numbers, and caught when the numbers left them behind."""

import pytest

from lora_from_scratch.book import chapters, paragraphs
from lora_from_scratch.book.rows import Row
from lora_from_scratch.book.verdicts import Lower

SOURCE = """\
# %% [markdown]
# # A chapter

# %% [markdown] rests_on="03.better=reproduced, 08.ratio=not settled"
# It ends lower, by {03.better.shown}, and which
# ratio is best is open.

# %%
x = {"03.better.shown": 1}
"""
ROWS = {
    "03": {"better": {"verdict": "reproduced", "shown": "0.03 ± 0.01"}},
    "08": {"ratio": {"verdict": "not settled", "shown": "8"}},
}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "notebooks" / "03_made_up.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    return path


def test_a_paragraph_that_its_rows_bear_out_is_not_named(source):
    """Verdicts are compared by their words."""
    assert paragraphs.contradicted(source, ROWS) == []


@pytest.mark.parametrize("verdict", ["partly", "not settled", "not reproduced"])
def test_a_row_with_another_verdict_is_told_with_both(source, verdict):
    """So that `make sync-check` fails when the numbers have left the words behind."""
    rows = ROWS | {"03": {"better": {"verdict": verdict}}}
    (told,) = paragraphs.contradicted(source, rows)
    assert "03.better=reproduced" in told and told.endswith(verdict)


def test_a_row_that_is_missing_contradicts(source):
    """Words that rest on nothing are no better than words that rest on something else."""
    told = paragraphs.contradicted(source, {})
    assert len(told) == 2 and all("missing" in line for line in told)


@pytest.mark.parametrize("head", ["8.better=reproduced", "08.better", "08.better=", "better=reproduced", "08.a=b=c"])
def test_a_head_that_cannot_be_read_is_an_error(head):
    """And not a paragraph that rests on nothing."""
    with pytest.raises(ValueError, match="rests_on has"):
        paragraphs.rests_on(head)


def test_numbers_are_filled_in_text_and_left_in_code(source):
    """In the notebook's markdown, from the rows; the head stays as the cell's metadata."""
    notebook = chapters.read_source(source)
    chapters.fill(notebook, ROWS)
    assert "by 0.03 ± 0.01, and which" in notebook.cells[1].source
    assert notebook.cells[1].metadata == {"rests_on": "03.better=reproduced, 08.ratio=not settled"}
    assert "{" in notebook.cells[2].source and notebook.cells[0].metadata == {}


def test_a_number_of_no_row_is_an_error_in_the_book_and_stays_in_a_readers_run(source):
    """What is committed has no braces left over."""
    with pytest.raises(ValueError, match="no row 03.better"):
        chapters.fill(chapters.read_source(source), {})
    notebook = chapters.read_source(source)
    chapters.fill(notebook, {}, strict=False)
    assert "{03.better.shown}" in notebook.cells[1].source


def measured(value: object) -> Row:
    row = Row("better", "finding", "it ends lower", {"": Lower(0.02)}, {})
    row.measure(value, chance=(0.0, 0.01))
    return row


@pytest.mark.parametrize(
    ("value", "listed"), [((-0.1, 0.01), 0), ((0.1, 0.01), 1), (-0.1, 0), (0.1, 1), ((-0.02, 0.01), 1)]
)
def test_a_readers_run_lists_the_paragraphs_that_it_does_not_bear_out(source, value, listed):
    """One seed counts by the side that it leans to; rows of other chapters are not this run's."""
    source.write_text(SOURCE.replace("reproduced", "holds"))
    lines = paragraphs.not_borne_out(source, {"better": measured(value)})
    assert len(lines) == 2 * listed
    assert not lines or ("It ends lower" in lines[1] and "03.better=holds" in lines[1])
