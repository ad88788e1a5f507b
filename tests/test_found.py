"""The README's lines about what was found: held to the rows that they name."""

import copy
import shutil

import pytest

from lora_from_scratch.book import found, paragraphs
from lora_from_scratch.lab.cache import ROOT

ROWS = paragraphs.committed(ROOT / "figures" / "full")
NAMES = sorted({name for _, rests_on in found.FOUND for name in paragraphs.rests_on(rests_on)})


def test_the_committed_readme_says_what_the_rows_say():
    assert found.check(ROOT) == []
    readme = (ROOT / "README.md").read_text("utf-8")
    assert all(line in readme and paragraphs.rests_on(rests_on) for line, rests_on in found.FOUND)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_comes_out_otherwise_is_told(name):
    chapter, _, row = name.partition(".")
    rows = copy.deepcopy(ROWS)
    rows[chapter][row]["verdict"] = "another"
    told = found.contradicted(rows)
    assert told and all(f"{name}=" in line and "another" in line for line in told)
    del rows[chapter][row]
    assert all("missing from the results" in line for line in found.contradicted(rows))


def test_a_line_edited_by_hand_is_found_and_renewed(tmp_path):
    shutil.copytree(ROOT / "figures" / "full", tmp_path / "figures" / "full", ignore=shutil.ignore_patterns("*.png"))
    readme = (ROOT / "README.md").read_text("utf-8")
    (tmp_path / "README.md").write_text(readme.replace(found.FOUND[0][0], "LoRA always wins."), "utf-8")
    assert "found.py" in found.check(tmp_path)[0]
    assert found.main(tmp_path) == 0 and (tmp_path / "README.md").read_text("utf-8") == readme


def test_a_readme_without_the_marks_is_refused():
    with pytest.raises(ValueError, match="has not both marks"):
        found.renewed("# A title\n")
