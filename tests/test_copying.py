"""The rule that copies: right where an answer stands in its sentence, wrong where it has to be worked out."""

import json
import math

import pytest

from lora_from_scratch.lab.copying import copied, right_by_field, shape_of, worked_out, worked_out_right
from lora_from_scratch.lab.records import FIELDS, SPLITS, Record, records, score

EASY = Record(
    "Leo and Anna: lunch on Friday at 16:45, the garden.",
    dict(zip(FIELDS, (["Leo", "Anna"], "lunch", "the garden", "Friday", "16:45"), strict=True)),
)
HARD = Record(
    "The main hall: lunch, Vera, the day after Tuesday, quarter to five in the afternoon.",
    dict(zip(FIELDS, (["Vera"], "lunch", "the main hall", "Wednesday", "16:45"), strict=True)),
)


def test_what_stands_in_the_sentence_is_copied():
    assert json.loads(copied(EASY.sentence)) == EASY.meaning and worked_out(EASY) == []


def test_what_has_to_be_worked_out_is_not():
    assert json.loads(copied(HARD.sentence)) == HARD.meaning | {"day": "Tuesday", "time": None}
    assert worked_out(HARD) == ["day", "time"]


@pytest.mark.parametrize("split", SPLITS)
def test_the_rule_has_most_fields_right_and_nothing_of_what_must_be_worked_out(split):
    """Over many records; it never leaves JSON, and no sentence makes it raise."""
    drawn = records(split, 500, seed=4)
    answers = [copied(record.sentence) for record in drawn]
    scores = [score(answer, record) for answer, record in zip(answers, drawn, strict=True)]
    assert all(one["valid"] for one in scores)
    assert 0.6 < sum(one["fields"] for one in scores) / len(scores) < 0.85
    assert worked_out_right(answers, drawn) == 0
    assert worked_out_right([record.answer for record in drawn], drawn) == 1


def test_the_share_counts_fields_not_records_and_broken_answers_as_wrong():
    half = json.dumps(HARD.meaning | {"time": "04:45"})
    assert worked_out_right([half, EASY.answer], [HARD, EASY]) == 0.5
    for answer in ("no JSON", "[1]", "null", '{"day": "Wednesday"', "[" * 100_000):
        assert worked_out_right([answer], [HARD]) == 0
    assert math.isnan(worked_out_right([EASY.answer], [EASY]))


def test_the_shares_by_field_are_those_of_the_score():
    """Their mean is the score's `fields`; a null counts where it is given, not where the field is missing."""
    drawn = records("both new", 100, seed=6)
    answers = [copied(r.sentence) for r in drawn[:60]] + ["no JSON"] * 20 + ['{"where": null}'] * 20
    found = right_by_field(answers, drawn)
    scores = [score(answer, record)["fields"] for answer, record in zip(answers, drawn, strict=True)]
    assert sum(found.values()) / len(found) == pytest.approx(sum(scores) / len(scores))
    assert right_by_field(["{}"], [Record("x", dict.fromkeys(FIELDS))]) == dict.fromkeys(FIELDS, 0)
    with pytest.raises(ValueError, match="no records; give one at least"):
        right_by_field([], [])


@pytest.mark.parametrize("split", SPLITS)
def test_the_shape_is_the_one_that_gives_the_sentence(split):
    """Put what the sentence says back into the shape's places: its literal words stand in the sentence, in order."""
    for record in records(split, 200, seed=5):
        literal = [
            part for part in "".join(c if c not in "{}" else "\n" for c in shape_of(record, split)).split("\n")[::2]
        ]
        place = 0
        for part in literal:
            place = record.sentence.lower().index(part.lower(), place) + len(part)
        assert set(record.meaning) == set(FIELDS)


def test_a_sentence_of_another_split_has_no_shape_here():
    record = records("new shapes", 1, seed=0)[0]
    with pytest.raises(ValueError, match="no shape of 'train' gives the sentence"):
        shape_of(record, "train")
