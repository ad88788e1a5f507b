"""The pages of the site as text, of the small book and of all committed chapters. (Sphinx is not needed here.)"""

import json
import re
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell

from web import check, ledger, notebook, predictions
from web.chapter import all_pages, read
from web.head import duration
from web.tests import small_book

ROOT = Path(__file__).resolve().parents[1]
PAGES = all_pages(ROOT)


@pytest.mark.parametrize("stem", PAGES.values())
def test_a_chapter_says_at_its_head_what_minutes_what_before_and_how_it_was_run(stem):
    chapter = read(ROOT, stem, PAGES)
    head = notebook.page(chapter).split(":::")[1]
    for part in ("What you will be able to do", "Minutes", "What you need", "How it was run"):
        assert f"**{part}" in head, part
    p = chapter.results["provenance"]
    assert p["torch"] in head and p["device"] in head and p["code"][:12] in head


@pytest.mark.parametrize("stem", PAGES.values())
def test_a_chapter_shows_its_recorded_figures_with_their_texts_and_sizes(stem):
    chapter = read(ROOT, stem, PAGES)
    page, reader = notebook.page(chapter), check.Reader()
    reader.feed(page)
    shown = {image["src"]: image for image in reader.page.images}
    assert set(shown) == {f"figures/{name}" for name in chapter.results["figures"]}
    for name, figure in chapter.results["figures"].items():
        image = shown[f"figures/{name}"]
        assert image["alt"] == figure["alt"] and image["loading"] == "lazy" and int(image["width"]) > 100


@pytest.mark.parametrize("stem", PAGES.values())
def test_every_request_for_a_prediction_has_a_field_and_an_answer_after_it(stem):
    """ "Write down" is answered at a verdict, and each name stands once at the question and once at the answer."""
    chapter = read(ROOT, stem, PAGES)
    page, asked = notebook.page(chapter), notebook.questions(chapter)
    sources = "\n".join(cell.source for cell in chapter.notebook.cells if cell.cell_type == "markdown")
    assert sources.count("**Write down your prediction") == sum(question.waits for _, question in asked)
    for at, question in asked:
        answer = notebook.answered(chapter).get(question.name)
        if question.waits:
            assert answer is not None and answer > at
        places = [match.start() for match in re.finditer(f'data-prediction="{question.name}"', page)]
        assert len(places) == (2 if answer else 0)


@pytest.mark.parametrize(
    "text, waits",
    [
        ("**Write down your prediction:** a loss", True),
        ("**Write down your predictions.** Two", True),
        ("Predict: how many?", False),
        ("It is so. Predict the order.", False),
        ("**Predict:** from which", False),
        ("Prediction, on paper: 12", None),
        ("Predicted losses. It predicts the next", None),
        ("**What you will be able to do.** Predict the rise of a loss", None),
        ("```python\n# Predict\n```", None),
    ],
)
def test_a_paragraph_asks_for_a_prediction_or_it_does_not(text, waits):
    found = predictions.question(text, "07")
    assert (found and found.waits) == waits


@pytest.mark.parametrize(
    "source, shown",
    [
        ("by 1 % and by 2\n% more", "by 1\u00a0% and by 2\u00a0% more"),
        ("`7 % 2` and\n```\n7 % 2\n% 3\n```\n", "`7 % 2` and\n```\n7 % 2\n% 3\n```\n"),
        ("no break in 7 %d", "no break in 7 %d"),
        ("$$\na\n+ b\n$$", "$$\na\n+ b\n$$"),
    ],
)
def test_a_number_and_its_percent_sign_stay_together_and_code_as_it_is(source, shown):
    assert notebook.prose(new_markdown_cell(source)) == shown


def test_what_leads_on_to_the_next_cell_comes_after_what_the_outcome_rests_on():
    assert notebook.at_heading("It holds.\n\nSo does this.\n\nThe code:") == ("It holds.\n\nSo does this.", "The code:")
    assert notebook.at_heading("It holds:") == ("It holds:", "")


def test_a_prediction_s_name_hangs_on_the_words_of_its_question_alone():
    one, other = (predictions.question(text, "07") for text in ("Predict: a\n b?", "Predict: a b?"))
    assert one == other != predictions.question("Predict: a c?", "07")


@pytest.mark.parametrize("waits, at", [(True, 5), (False, 2)])
def test_a_prediction_is_answered_by_the_next_table_or_verdict_or_the_next_output(waits, at):
    assert predictions.answered_at(1, waits, printing=[0, 2, 5], measuring=[0, 5]) == at
    assert predictions.answered_at(1, waits, printing=[0, 2, 5], measuring=[0]) == 2
    assert predictions.answered_at(5, waits, printing=[0, 2, 5], measuring=[0, 5]) is None


def test_a_prediction_that_nothing_answers_gets_no_field(tmp_path):
    """That an exercise is not done yet is no answer."""
    root = small_book.make(tmp_path / "book")
    small_book.write(
        root, "14_new", [new_markdown_cell("Predict: how many?"), exercise := new_code_cell("check()")], {}, {}
    )
    assert "data-prediction" not in notebook.page(read(root, "14_new", {}))
    for text, found in (("Not yet: write your answer.\n", 0), ("7\n", 2)):
        exercise.outputs = [small_book.stream(text)]
        small_book.write(root, "14_new", [new_markdown_cell("Predict: how many?"), exercise], {}, {})
        assert notebook.page(read(root, "14_new", {})).count("data-prediction") == found


def test_an_exercise_has_its_solution_and_no_field(tmp_path):
    root = small_book.make(tmp_path / "book")
    cells = [new_markdown_cell("Predict: a?\n\n## Exercises\n\n**1.** Predict: b?"), told := new_code_cell("print(7)")]
    told.outputs = [small_book.stream("7\n")]
    small_book.write(root, "14_new", cells, {}, {})
    page = notebook.page(read(root, "14_new", {}))
    assert page.count("data-prediction") == 2  # the field of the first, and the line at its answer


def test_a_block_of_code_is_one_paragraph_blank_lines_and_all():
    text = "one\n\n```python\na\n\nb\n```\n\ntwo"
    assert predictions.paragraphs(text) == ["one", "```python\na\n\nb\n```", "two"]


def test_the_ledger_has_every_row_once_and_can_be_filtered_by_what_it_holds():
    page = ledger.page(ROOT, PAGES)
    rows = [row for path in ROOT.glob("figures/full/*.json") for row in json.loads(path.read_text())["rows"].values()]
    tags = re.findall(r'<tr id="row-([^"]+)" data-kind="([^"]+)" data-verdict="([^"]+)" data-model="([^"]+)"', page)
    assert len(tags) == len({tag[0] for tag in tags}) == len(rows)
    assert sorted((kind, verdict) for _, kind, verdict, _ in tags) == sorted((r["kind"], r["verdict"]) for r in rows)
    for kind, verdict, model in {tag[1:] for tag in tags}:
        assert all(f'<option value="{value}">' in page for value in (kind, verdict, model))


def test_a_row_that_is_asked_again_leads_to_the_other_and_back():
    page = ledger.page(ROOT, PAGES)
    first, second = (
        re.search(rf'<tr id="row-{row}".*?</tr>', page, re.DOTALL)[0] for row in ("09-better", "12-dora_better")
    )
    assert "#row-12-dora_better" in first and "#row-09-better" in second
    twice = re.search(r'<tr id="row-01-on_par".*?</tr>', page, re.DOTALL)[0]
    assert "#row-12-on_par" in twice and "#row-13-on_par" in twice


@pytest.mark.parametrize(
    "seconds, words", [(7.1, "7 seconds"), (3376, "56 minutes"), (6434, "1 h 47 min"), (3585, "1 h 0 min")]
)
def test_a_duration_in_words(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    "text, outcome, onward",
    [
        ("It fell.\n\n## Exercises\n\n**1.** Do it.", "It fell.", "## Exercises\n\n**1.** Do it."),
        ("It fell.\n\nPredict: by how much?", "It fell.", "Predict: by how much?"),
        ("## Rates\n\nIt fell.", "## Rates\n\nIt fell.", ""),
        (
            "<details>42</details>\n\n## To take along\n\nIt fell.",
            "<details>42</details>\n\n## To take along\n\nIt fell.",
            "",
        ),
        ("It fell.\n\n```\n# a comment\n```", "It fell.\n\n```\n# a comment\n```", ""),
    ],
)
def test_what_an_outcome_rests_on_stands_below_it_and_not_below_the_next_matter(text, outcome, onward):
    assert notebook.at_heading(text) == (outcome, onward)


def test_a_ledger_s_long_text_shows_its_first_part_and_says_how_many_there_are():
    parts = "; ".join(f"rank {r}, rot13: 0.1201 [-0.05354, 0.2937]" for r in (1, 4, 16))
    assert ledger.short(parts) == "rank 1, rot13: 0.1201 [-0.05354, 0.2937]; and 2 more"
    assert ledger.short("1; 2") == "1; 2" and ledger.short("x" * 200) == "x" * 200
