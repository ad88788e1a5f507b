"""The pages of the site as text, of the small book and of all committed chapters. (Sphinx is not needed here.)"""

import ast
import json
import re
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell

from web import check, documents, ledger, notebook, predictions, reference
from web.chapter import all_pages, read
from web.docstrings import as_markdown
from web.head import duration
from web.mentions import linked, pieces
from web.tests import small_book

ROOT = Path(__file__).resolve().parents[1]
PAGES = all_pages(ROOT)
CHAPTERS = {"07": "07_rslora", "10": "10_intruder", "11": "11_forgetting", "A1": "A1_nf4"}


def links(text):
    return [(words, target) for words, target in pieces(text, CHAPTERS) if target]


@pytest.mark.parametrize(
    "text, found",
    [
        ("see chapter 07.", [("chapter 07", "07_rslora")]),
        ("Chapters 10\nand 11", [("10", "10_intruder"), ("11", "11_forgetting")]),
        ("chapters 07, 10, and 11", [("07", "07_rslora"), ("10", "10_intruder"), ("11", "11_forgetting")]),
        ("Appendix A1", [("Appendix A1", "A1_nf4")]),
        ("chapter 99 and chapter 100", []),
        ("at 07 and 10", []),
        ("(arXiv 2106.09685v2, table 6)", [("arXiv 2106.09685v2", "https://arxiv.org/abs/2106.09685v2")]),
        ("2305.14314v1", [("2305.14314v1", "https://arxiv.org/abs/2305.14314v1")]),
        ("a loss of 2106.0968, 1399.12345, 12106.09685, 2106.096851 and 0.2106.09685", []),
    ],
)
def test_mentions_of_chapters_and_papers_are_links_and_nothing_else_is(text, found):
    assert links(text) == found
    assert "".join(words for words, _ in pieces(text, CHAPTERS)) == text


def test_what_a_chapter_has_printed_is_escaped():
    assert linked("<b> & chapter 07", CHAPTERS) == '&lt;b&gt; &amp; <a href="07_rslora.html">chapter 07</a>'


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


def test_a_prediction_s_name_hangs_on_the_words_of_its_question_alone():
    one, other = (predictions.question(text, "07") for text in ("Predict: a\n b?", "Predict: a b?"))
    assert one == other != predictions.question("Predict: a c?", "07")


@pytest.mark.parametrize("waits, at", [(True, 5), (False, 2)])
def test_a_prediction_is_answered_by_the_next_verdict_or_the_next_output(waits, at):
    assert predictions.answered_at(1, waits, printing=[0, 2, 5], judging=[0, 5]) == at
    assert predictions.answered_at(1, waits, printing=[0, 2, 5], judging=[0]) == 2
    assert predictions.answered_at(5, waits, printing=[0, 2, 5], judging=[0, 5]) is None


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


def test_links_of_a_text_are_turned_to_the_site_s_and_a_dead_one_is_named(tmp_path):
    root = small_book.make(tmp_path / "book")
    (root / "LICENSE").write_text("free")
    text = "[a](notebooks/00_first.ipynb#x) [b](figures/LEDGER.md) [c](LICENSE) [d](https://x.org) `[e](no.md)`"
    (root / "README.md").write_text(text)
    found = documents.page(root, "README.md", all_pages(root))
    assert found == "[a](00_first.md#x) [b](ledger.md) [c](files/LICENSE) [d](https://x.org) `[e](no.md)`"
    assert documents.files(found) == ["LICENSE"]
    for dead in ("[x](nowhere.md)", "[x](notebooks/99_none.ipynb)"):
        (root / "README.md").write_text(dead)
        with pytest.raises(ValueError, match="README.md: it links to"):
            documents.page(root, "README.md", all_pages(root))


@pytest.mark.parametrize("words, told", [
    ('<img src="https://example.org/x.png" alt="x">', "alone"),
    ('<img src="figures/full/00_first_pixel.png" alt="">', "no alt text"),
    ("![x](figures/full/none.png)", "is not in full/"),
])  # fmt: skip
def test_a_picture_of_a_text_is_one_of_the_book_s_with_an_alt(tmp_path, words, told):
    root = small_book.make(tmp_path / "book")
    (root / "README.md").write_text(words)
    with pytest.raises(ValueError, match=told):
        documents.page(root, "README.md", all_pages(root))


def test_the_reference_names_every_public_function_and_class_of_the_methods():
    page = reference.pages(ROOT)["reference_methods"]
    for path in (ROOT / "lora_from_scratch").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert re.search(rf"\{{py:(function|class)\}} {node.name}\b", page), (path.name, node.name)


def test_a_signature_is_that_of_the_source():
    source = "class A:\n    def __init__(self, x: int, *, y=(1, 2)): ...\ndef f(a, *b, c: str = 'd') -> int: ..."
    made, function = ast.parse(source).body
    assert reference.signature(made) == "(x: int, *, y=(1, 2))"
    assert reference.signature(function) == "(a, *b, c: str='d') -> int"
    data = ast.parse("@dataclass(frozen=True)\nclass D:\n    a: int\n    b: list = field(default_factory=list)").body[0]
    assert reference.signature(data) == "(a: int, b: list = …)"


def test_a_docstring_keeps_its_words_its_equations_and_its_arguments():
    equation, arguments = "    h = W0 x\n      + B", "Args:\n    a, b: numbers $1\n        or more\n    c: one"
    text = f"Sum *a_b* of `x*y`.\n\n{equation}\n\n{arguments}\n\nEnd."
    assert as_markdown(text) == (
        "Sum \\*a\\_b\\* of `x*y`.\n\n```text\nh = W0 x\n  + B\n```\n\n\n**Args**\n\n"
        "- `a, b`: numbers \\$1\n  or more\n- `c`: one\n\nEnd."
    )


@pytest.mark.parametrize(
    "seconds, words", [(7.1, "7 seconds"), (3376, "56 minutes"), (6434, "1 h 47 min"), (3585, "1 h 0 min")]
)
def test_a_duration_in_words(seconds, words):
    assert duration(seconds) == words


def test_what_is_wrong_with_a_page_is_named(tmp_path):
    (tmp_path / "a.html").write_text(
        '<i id="x"></i><i id="x"></i><a href="#y">y</a><a href="b.html#z">z</a><a href="none.html">n</a>'
        '<img src="p.png"><link rel="stylesheet" href="https://example.org/a.css"><link rel="canonical" href="https://example.org/a">'
        "<style>b {background: url(//example.org/i)}</style><script>'url(http://example.org/no-style)'</script>"
        '<a href="b.html#here">h</a><a href="https://example.org/">out</a>'
    )
    (tmp_path / "b.html").write_text('<p id="here">')
    assert check.problems(tmp_path) == [
        f"a.html: {line}"
        for line in (
            "the id x is used 2 times",
            "fetches https://example.org/a.css from outside",
            "fetches //example.org/i from outside",
            "the link #y leads nowhere",
            "the link b.html#z leads nowhere",
            "the link none.html leads nowhere",
            "the image p.png has no alt",
            "the image p.png has no width",
            "the image p.png has no height",
            "p.png is not there",
        )
    ]
