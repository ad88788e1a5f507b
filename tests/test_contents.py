"""The README's table of chapters, and the minutes in it: what chapters print becomes a machine's entry."""

import json
import re

import pytest

from lora_from_scratch.book import contents, run, times
from lora_from_scratch.lab.cache import ROOT

PRINTED = """\
make[1]: nothing to be done
pretrained bases                   210.0 s
00_why_low_rank                    165.8 s  ok
01_lora_layer                       96.3 s  FAILED
12_a_real_model                      0.0 s  NOT RUN
A1_nf4_outliers                     12.0 s  ok
at preset quick, in all            472.1 s
"""


def test_the_committed_table_and_times_are_what_their_sources_give():
    assert contents.check(ROOT) == []


def test_every_chapter_was_timed_on_the_first_machine():
    """A `?` in the table: run the chapters there, and add them: make times."""
    missing = [n for part in contents.PARTS.values() for n in part if times.minutes(n, times.read()) == "?"]
    assert not missing, f"no minutes for chapters {', '.join(missing)} in {times.DATA}"


def test_titles_and_links_are_those_of_the_chapters():
    """The title in the table is the chapter's own heading, or for an appendix names the same."""
    for part in contents.PARTS.values():
        for number, (title, question) in part.items():
            (source,) = (ROOT / "notebooks").glob(f"{number}_*.py")
            heading = re.search(r"(?m)^# # \w\d · (.*)$", source.read_text("utf-8"))[1]
            assert number.startswith("A") or heading == title
            assert question.endswith("?") and f"notebooks/{source.stem}.ipynb" in contents.as_markdown()


def test_a_chapter_without_a_line_and_a_line_without_a_chapter_are_told(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for source in (ROOT / "notebooks").glob("*.py"):
        (tmp_path / "notebooks" / source.name).touch()
    assert contents.as_markdown(tmp_path)
    (tmp_path / "notebooks" / "99_new.py").touch()
    with pytest.raises(ValueError, match=r"^99: in notebooks/ or in PARTS"):
        contents.as_markdown(tmp_path)
    (tmp_path / "notebooks" / "99_new.py").unlink()
    next((tmp_path / "notebooks").glob("07_*.py")).unlink()
    (tmp_path / "README.md").write_text(f"{contents.BEGIN}\n{contents.END}\n")
    assert contents.check(tmp_path)[0].startswith("README.md: 07: in notebooks/")


def test_a_table_edited_by_hand_is_found_and_renewed():
    readme = (ROOT / "README.md").read_text("utf-8")
    other = readme.replace("| chapter | its question | minutes |", "| chapter | question | hours |")
    assert other != readme and contents.renewed(other) == readme
    with pytest.raises(ValueError, match="has not both marks"):
        contents.renewed("# A title\n")


def test_what_make_notebooks_prints_becomes_an_entry_without_what_failed():
    assert times.entry(" a laptop ", PRINTED) == {
        "machine": "a laptop",
        "preset": "quick",
        "seconds": {"bases": 210.0, "00": 165.8, "A1": 12.0},
    }


def test_the_lines_are_those_that_a_run_prints(tmp_path, monkeypatch, capfd):
    """One chapter through book/run.py itself, without a kernel."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "03_made_up.py").write_text("# %%\n1\n")
    monkeypatch.setattr(run, "run_chapter", lambda *arguments: None)
    monkeypatch.setattr(run, "make_bases", lambda *arguments: None)
    run.pretrain("smoke")
    run.run(tmp_path, "smoke")
    found = times.entry("here", capfd.readouterr().out)
    assert found["preset"] == "smoke" and set(found["seconds"]) == {"bases", "03"}


def test_another_run_of_a_machine_adds_to_its_entry_and_another_preset_is_another():
    first = times.entry("here", PRINTED)
    later = {"machine": "here", "preset": "quick", "seconds": {"00": 1.0, "02": 2.0}}
    (joined,) = times.added([first], later)
    assert joined["seconds"] == {"bases": 210.0, "00": 1.0, "A1": 12.0, "02": 2.0}
    assert len(times.added([first], later | {"preset": "full"})) == 2
    assert times.minutes("00", [first]) == "2.8" and times.minutes("05", [first]) == "?"
    assert times.minutes("A3", [first]) == "" and times.minutes("00", []) == "?"


@pytest.mark.parametrize(
    ("machine", "printed", "words"),
    [
        (" ", PRINTED, "has no name"),
        ("here", "nothing", "no chapter's line"),
        ("here", PRINTED.rpartition("at preset")[0], "no last line"),
        ("here", PRINTED.replace("preset quick", "preset vast"), "'vast'; it must be one of"),
    ],
)
def test_what_cannot_be_read_is_told(machine, printed, words):
    with pytest.raises(ValueError, match=words):
        times.entry(machine, printed)


def test_a_stale_table_of_times_is_found_and_a_repository_without_times_is_fine(tmp_path):
    (tmp_path / "figures").mkdir()
    assert times.check(tmp_path) == []
    times.main(["here"], PRINTED, tmp_path)
    assert times.check(tmp_path) == [] and "| 00 | 166 |" in (tmp_path / times.NAME).read_text("utf-8")
    (tmp_path / times.DATA).write_text(json.dumps([times.entry("there", PRINTED)]))
    assert times.check(tmp_path) == [
        f"{times.NAME} is not what {times.DATA} gives: python -m lora_from_scratch.book.times"
    ]
