"""The clinic: every broken run shows its symptom and is named; not a word is said of a healthy one, its twin first."""

import pytest

from lora_from_scratch.book.figures.ch20 import eyes
from lora_from_scratch.diagnose import Finding
from lora_from_scratch.lab.broken import guises, healthy, unseen
from lora_from_scratch.lab.broken.case import Case, Seen
from lora_from_scratch.lab.broken.ward import CASES, QUESTIONS
from lora_from_scratch.lab.cache import ROOT

SEEN: dict[str, Seen] = {}


def seen(name: str) -> Seen:
    if name not in SEEN:
        SEEN[name] = CASES[name].run(0)
    return SEEN[name]


@pytest.mark.parametrize("name", CASES)
def test_a_broken_run_is_named_where_it_can_be_seen_and_its_healthy_twin_is_not(name):
    """The finding that belongs to it and no other, or none where nothing in the four arguments shows it."""
    case, found = CASES[name], seen(name)
    assert case.right(found), [str(f) for f in (*found.findings, *found.silent)]
    assert found.names == ({case.finding} if case.finding else set())
    for finding in found.findings:
        assert finding.evidence and all(isinstance(v, (int, float)) for v in finding.evidence.values())
        assert finding.mend and "\n" not in finding.mend and str(finding).startswith(finding.name)


@pytest.mark.parametrize("name", CASES)
def test_a_broken_run_shows_its_symptom(name):
    """The number is far from the healthy run's: by a third of the larger one at least."""
    found = seen(name)
    assert abs(found.broken - found.healthy) > max(abs(found.broken), abs(found.healthy)) / 3


def test_what_stands_in_the_folder_is_told_by_the_folder():
    for name, words in (("another engine reads alpha otherwise", "computes something else"),
                        ("the server refuses it", "--max-lora-rank of at least 32")):  # fmt: skip
        assert words in seen(name).elsewhere


def test_not_a_word_is_said_of_healthy_runs():
    """Every kind of adapter, before a step, after some, taken up again, and at use."""
    alarms = {(name, when): [str(f) for f in found] for name, when, found in healthy.said(0) if found}
    assert alarms == {} and len(healthy.TRAINING) + len(healthy.AT_USE) == 48


def test_what_the_guises_get_is_what_the_chapter_prints():
    """Silence, or another fault's name: if a rule learns one of them, it is no gap any more, and leaves this list."""
    said = dict(guises.said(0))
    known = {"the labels are not shifted", "the labels are shifted twice"}
    assert {name for name, found in said.items() if found} <= known | {"the rate is 1, after 20 steps"}
    assert all(said[name] for name in known)


def test_the_kinds_that_were_not_seen_before_keep_their_two_false_alarms():
    """They stand as they came out. If a rule is mended for one, it belongs in healthy.py, and another here."""
    said = healthy.said(0, unseen.TRAINING, unseen.AT_USE)
    alarms = {(name, finding.name) for name, _, found in said for finding in found}
    alarms = {pair for pair in alarms if pair[0] != "a random half of the tokens"}  # it may miss most ends by chance
    told, everywhere = "the loss counts the prompt", "a little of log Z everywhere"
    alarms -= {(everywhere, "the loss counts the padding")}  # the same kind, by a rule that came later
    assert alarms == {(everywhere, told), ("the prompt's places held back", told)}
    assert not set(healthy.TRAINING | healthy.AT_USE) & set(unseen.TRAINING | unseen.AT_USE)


def test_the_picture_marks_a_run_under_diagnose_for_its_own_finding_alone():
    name = "nothing is trainable"
    of = seen(name)
    assert eyes(CASES[name], of) == ["an error", "diagnose"]
    assert eyes(CASES[name], Seen(0, 1, [Finding("another", {}, "")])) == []
    assert eyes(CASES["another template at use"], Seen(0, 1)) == ["comparing"]
    assert eyes(CASES["why isn't it faster?"], Seen(0, 1)) == []


def test_all_questions_have_a_case_and_each_case_a_chapter_a_mend_and_a_thread():
    chapters = {path.name[:2] for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py")}
    assert len(QUESTIONS) == 27 and sum(map(len, QUESTIONS.values()), 0) == len(CASES)
    assert sum(not case.fault for case in CASES.values()) == 5
    for case in CASES.values():
        assert case.chapter in chapters and case.mend and case.threads and case.slip and case.number


def test_a_case_says_what_shows_it_or_why_nothing_does():
    plain = dict(name="x", group="lost", asks="?", slip="", mend="", number="", run=lambda seed: Seen(0, 1))
    with pytest.raises(ValueError, match="the finding that shows it, or the reason"):
        Case(**plain)
    with pytest.raises(ValueError, match="the group is 'elsewhere'"):
        Case(**(plain | {"group": "elsewhere", "finding": "y"}))
    case = Case(**plain, unseen="it stands in a file")
    assert case.right(Seen(0, 1)) and not case.right(Seen(0, 1, silent=["a false alarm"]))
