"""What a rule can do on records that copies and works nothing out: the null of a task whose answers mostly stand there.

Most of an answer stands in its sentence, word for word. A model that has learnt the form, and to copy, has most fields
right without having understood a time or a day. So understanding is measured against this rule, and on those fields
alone that have to be worked out.
"""

import json
import re

from lora_from_scratch.lab.records import DAYS, FIELDS, SPLITS, VALUES, Record


def copied(sentence: str) -> str:
    """An answer as JSON: all names in the order in which they stand, the thing, the place, the first day, digits."""
    known = {name: [word for part in VALUES.values() for word in part[name]] for name in ("names", "what", "where")}
    text = sentence[0].lower() + sentence[1:]  # "The library …" at the head
    first = {name: next((word for word in known[name] if word in text), None) for name in ("what", "where")}
    names = sorted((n for n in known["names"] if re.search(rf"\b{n}\b", sentence)), key=sentence.index)
    day = min((d for d in DAYS if d in sentence), key=sentence.index, default=None)
    time = re.search(r"\d\d:\d\d", sentence)
    return json.dumps(dict(zip(FIELDS, (names, first["what"], first["where"], day, time and time[0]), strict=True)))


def worked_out(record: Record) -> list[str]:
    """The fields whose value does not stand in the sentence: a day that is told by its neighbour, a time in words."""
    return [name for name in ("day", "time") if record.meaning[name] not in record.sentence]


def worked_out_right(answers: list[str], drawn: list[Record]) -> float:
    """Of all such fields of these records, the share that an answer has right. NaN where there are none."""
    pairs = zip(map(_given, answers), drawn, strict=True)
    right = [given.get(name) == record.meaning[name] for given, record in pairs for name in worked_out(record)]
    return sum(right) / len(right) if right else float("nan")


def right_by_field(answers: list[str], drawn: list[Record]) -> dict[str, float]:
    """{field: the share of these records that an answer has it right of}. Raises ValueError for no records."""
    if not drawn:
        raise ValueError("no records; give one at least")
    pairs = list(zip(map(_given, answers), drawn, strict=True))
    right = lambda name: [name in given and given[name] == record.meaning[name] for given, record in pairs]  # noqa: E731
    return {name: sum(right(name)) / len(pairs) for name in FIELDS}


def _given(answer: str) -> dict:
    """The fields that an answer gives; none, if it is no JSON or no object."""
    try:
        given = json.loads(answer)
    except (json.JSONDecodeError, RecursionError):
        return {}
    return given if isinstance(given, dict) else {}


def shape_of(record: Record, split: str) -> str:
    """The template that a record of this split was made from."""
    for shape in SPLITS[split][0]:
        pattern = re.sub(r"\\\{\w+\\\}", ".+", re.escape(shape))
        if re.fullmatch(pattern, record.sentence, re.IGNORECASE):
            return shape
    raise ValueError(f"no shape of {split!r} gives the sentence {record.sentence!r}; name the split it was drawn from")
