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
    text = f"Sum a_b * c of `x*y`.\n\n{equation}\n\n{arguments}\n\nEnd."
    assert as_markdown(text) == (
        "Sum a\\_b \\* c of `x*y`.\n\n```text\nh = W0 x\n  + B\n```\n\n\n**Args**\n\n"
        "- `a, b`: numbers \\$1\n  or more\n- `c`: one\n\nEnd."
    )


def test_a_docstring_keeps_its_bold_words_and_its_lines_of_code():
    assert as_markdown("**Sum.** a_b, **kwargs and ** x **") == "**Sum.** a\\_b, \\*\\*kwargs and \\*\\* x \\*\\*"
    code = "model = quantize(model)   # the base\nmodel = add(model)        # on top"
    assert as_markdown(f"Words.\n\n{code}") == f"Words.\n\n```python\n{code}\n```"


def test_a_property_is_no_call_and_class_and_static_methods_are_marked():
    source = """
class A:
    @property
    def size(self) -> "int | None":
        "Its size."
    @functools.cached_property
    def parts(self):
        "Its parts."
    @classmethod
    def of(cls, x: "A") -> "A":
        "One of x."
    @staticmethod
    def add(a, b):
        "The sum."
    def plain(self): "Neither."
"""
    page = reference.definition("m", ast.parse(source).body[0], {})
    assert "{py:property} A.size\n:module: m\n:type: int | None\n" in page
    assert "{py:property} A.parts\n:module: m\n\n" in page
    assert "{py:method} A.of(x: A) -> A\n:module: m\n:classmethod:\n" in page
    assert "{py:method} A.add(a, b)\n:module: m\n:staticmethod:\n" in page
    assert "{py:method} A.plain()\n:module: m\n\n" in page


def test_a_signature_has_neither_quotes_round_annotations_nor_a_blank_behind_lambda():
    function, data = ast.parse(
        "def f(a: 'A | None', b: list['B'], c: Literal['x'], d=lambda: None, e: str = 'E') -> 'A': ...\n"
        "@dataclass\nclass D:\n    a: Callable[['D'], int] = lambda: 0"
    ).body
    words = "(a: A | None, b: list[B], c: Literal['x'], d=lambda: None, e: str='E') -> A"
    assert reference.signature(function) == words
    assert reference.signature(data) == "(a: Callable[[D], int] = lambda: 0)"


def test_fields_are_those_of_a_named_tuple_and_of_bases_in_the_same_module():
    source = """
class Pair(NamedTuple):
    a: int
    b: str = "x"
@dataclass
class Base:
    x: float
    y: str = ""
@dataclass
class Plain(Base):
    def f(self): ...
@dataclass
class More(Base):
    y: int = 1
    z: int = 2
class Bare(Base): ...
class Own(Base):
    def __init__(self, n): ...
class Nothing: ...
"""
    classes = {node.name: node for node in ast.parse(source).body}
    found = {name: reference.signature(node, classes) for name, node in classes.items()}
    both = "(x: float, y: str = '')"
    assert found == {
        "Pair": "(a: int, b: str = 'x')",
        "Base": both,
        "Plain": both,
        "More": "(x: float, y: int = 1, z: int = 2)",
        "Bare": both,
        "Own": "(n)",
        "Nothing": "",
    }
    page = reference.pages(ROOT)
    assert "{py:class} AtMost(x: float, because: str = '')" in page["reference_book"]
    assert "{py:class} Episodes(ids: Tensor, " in page["reference_lab"]


def test_command_lines_of_a_docstring_are_a_block_and_a_sentence_is_none():
    commands = "python -m a.b --keep [x]   renew it,\n                           and `all` of it\nmake c             d"
    assert (
        as_markdown(f"Words.\n\n{commands}\n\nmore") == f"Words.\n\n```text\n{commands.replace('`', '')}\n```\n\n\nmore"
    )
    assert as_markdown("They\nmake no --x") == "They\nmake no --x"
    for name in ("contents", "found", "guide", "here", "ledger", "run"):
        command = f"python -m lora_from_scratch.book.{name} "
        assert f"```text\n{command}" in reference.pages(ROOT)["reference_book"], name


def test_a_doctest_is_a_block_of_python():
    test = '>>> f(1, "`x`"), g_h\n(True, *)'
    for text in (test, "\n".join(f"    {line}" for line in test.split("\n"))):
        assert as_markdown(f"Words.\n\n{text}\n\nEnd.").split() == f"Words. ```python {test} ``` End.".split()


@pytest.mark.parametrize("text, made", [
    ("it is *so*, and *a b_c\nd*.", "it is *so*, and *a b\\_c\nd*."),
    ("a * b, c*d*e, * f *, *.py and (*.txt)", "a \\* b, c\\*d\\*e, \\* f \\*, \\*.py and (\\*.txt)"),
    ("`*code*` and `a\nb_c` *of*", "`*code*` and `a\nb_c` *of*"),
    ("**all** of *it*", "**all** of *it*"),
    ("f(*a, **k)", "f(\\*a, \\*\\*k)"),
])  # fmt: skip
def test_words_between_asterisks_are_emphasized_and_an_operator_stays(text, made):
    assert as_markdown(text) == made


def test_results_told_under_a_sentence_are_a_list():
    text = "Gives\n    a, b: one_of\n        them\n    c: {x}\nEnd."
    assert as_markdown(text) == "Gives\n\n- `a, b`: one\\_of\n  them\n- `c`: \\{x\\}\n\nEnd."
    page = reference.pages(ROOT)["reference_lab"]
    for name in ("exact", "path", "likeness"):
        assert f"\n- `{name}`: " in page


def test_a_sentence_behind_a_list_or_a_section_is_none_of_its_entries():
    assert as_markdown("Two:\n- a\n  b\n- c\nRaises it.") == "Two:\n\n- a\n  b\n- c\n\nRaises it."
    assert as_markdown("Args:\n    a: b\nRaises it.") == "**Args**\n\n- `a`: b\n\nRaises it."


@pytest.mark.parametrize("code, language", [
    ("model = add(model)\n...\nfor x in y:\n\n    print(x)", "python"),
    ("import x", "python"),
    ("h = W0 x\n  + s", "text"),
    ("# only a remark", "text"),
    ("a, b", "text"),
])  # fmt: skip
def test_an_indented_block_is_python_where_it_parses_and_does_something(code, language):
    block = "\n".join(f"    {line}" if line else "" for line in code.split("\n"))
    assert as_markdown(f"Words.\n\n{block}\n") == f"Words.\n\n```{language}\n{code}\n```"


def test_text_and_code_in_one_indented_block_are_two():
    assert as_markdown("    file   what\n\n    save(it)\n\n    load(it)") == (
        "```text\nfile   what\n```\n\n```python\nsave(it)\n\nload(it)\n```"
    )


def test_a_block_shows_no_backticks_of_words_but_those_of_code():
    assert as_markdown("    one   of `full` and `a b`") == "```text\none   of full and a b\n```"
    assert as_markdown('    f("`x`")  # as `g`') == '```python\nf("`x`")  # as g\n```'


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
