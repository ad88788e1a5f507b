"""What the site makes of texts: mentions, links and pictures, docstrings and signatures, and what it finds wrong."""

import ast
import re
from pathlib import Path

import pytest

from web import check, documents, reference
from web.chapter import all_pages
from web.docstrings import as_markdown
from web.mentions import linked, pieces
from web.tests import small_book

ROOT = Path(__file__).resolve().parents[1]
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


def test_links_and_rows_of_a_text_lead_to_the_site_s_and_a_dead_link_is_named(tmp_path):
    root = small_book.make(tmp_path / "book")
    (root / "LICENSE").write_text("free")
    text = "[a](notebooks/00_first.ipynb#x) [b](figures/LEDGER.md) [c](LICENSE) [d](https://x.org) `[e](no.md)`"
    (root / "README.md").write_text(text)
    found = documents.page(root, "README.md", all_pages(root))
    assert found == "[a](00_first.md#x) [b](ledger.md) [c](files/LICENSE) [d](https://x.org) `[e](no.md)`"
    assert documents.files(found) == ["LICENSE"]
    text = "By `00.rank_one` and 00.rank_one, not 00.other or `x=00.rank_one`: [all](figures/LEDGER.md#00_first)"
    (root / "README.md").write_text(text)
    row = '<a href="ledger.html#row-00-rank_one">'
    assert documents.page(root, "README.md", all_pages(root)) == (
        f"By {row}<code>00.rank_one</code></a> and {row}00.rank_one</a>, not 00.other or `x=00.rank_one`: "
        '<a href="ledger.html#00_first">all</a>'
    )
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


def test_a_docstring_keeps_its_bold_words_and_its_lines_of_code():
    assert as_markdown("**Sum.** a_b, **kwargs and ** x **") == "**Sum.** a\\_b, \\*\\*kwargs and \\*\\* x \\*\\*"
    code = "model = quantize(model)   # the base\nmodel = add(model)        # on top"
    assert as_markdown(f"Words.\n\n{code}") == f"Words.\n\n```python\n{code}\n```"


def test_the_full_name_of_a_public_function_leads_to_the_reference_and_another_does_not(tmp_path):
    book = small_book.make(tmp_path / "book")
    (book / "figures" / "GUIDE.md").write_text(
        "# Choosing\n\n`lora_from_scratch.lora.scale` and `lora_from_scratch.no`\n"
    )
    text = documents.page(book, "figures/GUIDE.md", CHAPTERS)
    assert "{py:obj}`lora_from_scratch.lora.scale` and `lora_from_scratch.no`" in text


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
