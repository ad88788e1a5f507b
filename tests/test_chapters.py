"""What holds for the source of every chapter and appendix: it can be read in an hour, and tells what it shows."""

import ast
import re
import statistics
from pathlib import Path

import pytest

from lora_from_scratch.book import chapters
from lora_from_scratch.lab.cache import ROOT

SOURCES = chapters.sources(ROOT)


def cells_of(source: Path, kind: str) -> list[str]:
    return [cell.source for cell in chapters.read_source(source).cells if cell.cell_type == kind]


def calls(source: Path, name: str) -> list[ast.Call]:
    """The calls of `results.<name>(…)` in a chapter."""
    tree = ast.parse(source.read_text("utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    return [call for call in found if call.func.attr == name and ast.unparse(call.func.value) == "results"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_chapter_is_an_hour(source):
    """At most 35 code cells of 25 lines, half of them of 10 lines or fewer, 450 lines of code and 3,000 words."""
    code, words = cells_of(source, "code"), sum(len(text.split()) for text in cells_of(source, "markdown"))
    lines = [cell.count("\n") + 1 for cell in code]
    assert len(code) <= 35 and sum(lines) <= 450 and words <= 3000
    assert statistics.median(lines) <= 10 and max(lines) <= 25


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_figure_has_a_text_for_those_who_cannot_see_it(source):
    """An alt text that is not the caption again."""
    for call in calls(source, "figure"):
        caption, alt = call.args[2], next((k.value for k in call.keywords if k.arg == "alt"), None)
        assert alt is not None, ast.unparse(call)[:80]
        assert ast.unparse(alt) != ast.unparse(caption)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_chapter_s_rows_carry_tests_and_its_sentences_stand_in_text(source):
    """No judge of its own, no placeholder left, and no sentence about an outcome chosen by the code that prints it."""
    text = source.read_text("utf-8")
    assert "judge=" not in text and "OUTCOME" not in text and "on_one_base" not in text
    printed_either_way = re.findall(
        r"^if [^\n]*:\n    print\(\"[A-Z][^\n]*\n(?:elif|else)[^\n]*:\n    print\(", text, re.M
    )
    assert not printed_either_way


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_chapter_saves_its_results_once(source):
    assert sum("results.save()" in cell for cell in cells_of(source, "code")) == 1
