"""Sentences about appointments, and the JSON that they mean: a task that a small pretrained model can learn.

A sentence has a *shape*, a template, and *values*: names, things, places, days and times. Both have a part that is
seen in training and a part that is held out, so an exact answer on the held-out part is no memory. Some things have to
be worked out: "quarter to five in the afternoon" is 16:45, "the day after Tuesday" is Wednesday, who has cancelled
does not come, and what a sentence does not say is null.

Everything is drawn from a seed. The same seed, split and count give the same records on every machine.
"""

import json
import random
from dataclasses import dataclass

FIELDS = ("who", "what", "where", "day", "time")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# {who} names, {gone} one who does not come, {what}, {where}, {day} and {time}; {was_day} and {was_time} no longer hold.
SEEN_SHAPES = (
    "{who}: {what} on {day} at {time}, {where}.",
    "On {day} at {time} {who} will be in {where} for the {what}.",
    "Please note the {what} with {who}, {day}, {time}.",
    "The {what} is in {where} on {day}. {who} will be there at {time}.",
    "Can you tell {who} that the {what} begins at {time} on {day}?",
    "The {what} with {who} has moved from {was_day} to {day}, {time}, {where}.",
    "{who} asked for the {what} at {time} on {day}; {gone} cannot come.",
    "Not at {was_time} but at {time}: {what} for {who} on {day} in {where}.",
    "We meet in {where}. It is the {what}, {day}, {time}, and {who} will join.",
    "{gone} is ill, so {who} will do the {what} on {day} at {time}.",
    "Reminder for {day}: {what}, {who}, {time}.",
    "At {time} on {day} the {what} takes place in {where}, and {who} must not miss it.",
    "I have put {who} down for the {what} in {where}, {day}, {time}.",
    "{day}, {time}, {where}: {who}, {what}. {gone} has cancelled.",
    "The {what} of {day} starts at {time} instead of {was_time}. {who} knows.",
    "For the {what}, {who} should come to {where} at {time} on {day}.",
)
HELD_OUT_SHAPES = (
    "{who} will come to the {what} in {where} at {time}, on {day}.",
    "There will be no {what} on {was_day}; {who} will have it on {day} at {time}.",
    "{day} at {time} suits {who} for the {what}.",
    "Without {gone}, but with {who}: {what}, {where}, {day}, {time}.",
    "It was to be at {was_time}. Now the {what} is at {time} on {day}, in {where}, for {who}.",
    "Let {who} know: {day}, {time}, the {what}.",
    "In {where}, {who} will wait for the {what} at {time} on {day}.",
    "The {what} needs {who} at {time}. Make it {day}.",
)
VALUES = {
    "seen": {
        "names": "Anna Ben Clara David Emma Felix Grace Henry Irene Jonas Karen Leo Maria Noah Olga Paul".split(),
        "what": ["meeting", "lunch", "interview", "rehearsal", "check-up", "lesson", "inspection", "workshop"],
        "where": ["the library", "room 12", "the main hall", "the garden", "office 4", "the studio", "the old mill"],
        "hours": (1, 2, 4, 5, 7, 8, 10, 11),
        "before": ("Tuesday", "Thursday", "Saturday", "Sunday"),  # X in "the day before X"
        "after": ("Monday", "Tuesday", "Wednesday", "Friday"),
    },
    "held out": {
        "names": "Vera Walter Yusuf Zoe Rosa Simon Tina Hugo".split(),
        "what": ["dinner", "briefing", "audition", "tasting"],
        "where": ["the museum", "room 31", "the harbour", "office 9"],
        "hours": (3, 6, 9),
        "before": ("Monday", "Wednesday", "Friday"),
        "after": ("Thursday", "Saturday", "Sunday"),
    },
}
SPLITS = {  # which shapes, which values
    "train": (SEEN_SHAPES, "seen"),
    "new values": (SEEN_SHAPES, "held out"),
    "new shapes": (HELD_OUT_SHAPES, "seen"),
    "both new": (HELD_OUT_SHAPES, "held out"),
}


@dataclass(frozen=True)
class Record:
    """A sentence, and what it means: {field: value}, a list of names for "who", None for what it does not say."""

    sentence: str
    meaning: dict[str, object]

    @property
    def answer(self) -> str:
        """The meaning as JSON in one line, the fields in order."""
        return json.dumps(self.meaning)


def records(split: str, count: int, seed: int = 0) -> list[Record]:
    """`count` records of a split (SPLITS), drawn from `seed`. Raises ValueError for an unknown split or count < 0."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    if count < 0:
        raise ValueError(f"count is {count!r}; it is how many to draw, so 0 or more")
    draw = random.Random(f"{split} {seed}")
    return [_record(draw, *SPLITS[split]) for _ in range(count)]


def _record(draw: random.Random, shapes: tuple[str, ...], part: str) -> Record:
    values, shape = VALUES[part], draw.choice(shapes)
    *who, gone = draw.sample(values["names"], draw.choice((1, 1, 2)) + 1)
    day, was_day = draw.sample(DAYS, 2)
    (time, time_said), (_, was_said) = _time(draw, values["hours"]), _time(draw, values["hours"])
    what, where = draw.choice(values["what"]), draw.choice(values["where"])
    said = {
        "who": " and ".join(who),
        "gone": gone,
        "what": what,
        "where": where,
        "day": _day(draw, day, values),
        "time": time_said,
        "was_day": was_day,
        "was_time": was_said,
    }
    sentence = shape.format(**said)
    where = where if "{where}" in shape else None
    return Record(sentence[0].upper() + sentence[1:], dict(zip(FIELDS, (who, what, where, day, time), strict=True)))


def _day(draw: random.Random, day: str, values: dict) -> str:
    """A day as it is, or in a third of the cases by its neighbour, where the values of this part have that one."""
    before, after = DAYS[(DAYS.index(day) + 1) % 7], DAYS[DAYS.index(day) - 1]
    ways = [f"the day before {before}"] * (before in values["before"]) + [f"the day after {after}"] * (
        after in values["after"]
    )
    return draw.choice(ways) if ways and draw.random() < 1 / 3 else day


def _time(draw: random.Random, hours: tuple[int, ...]) -> tuple[str, str]:
    """("16:45", "quarter to five in the afternoon"): the time, and how it is said."""
    hour, way = draw.choice(hours), draw.choice(("o'clock", "half past", "quarter past", "quarter to", "digits"))
    morning = draw.random() < 0.5 if 7 <= hour <= 11 else False
    part = "in the morning" if morning else "in the afternoon" if hour < 6 else "in the evening"
    at = hour if morning else hour + 12
    minute = {
        "o'clock": 0,
        "half past": 30,
        "quarter past": 15,
        "quarter to": 45,
        "digits": draw.choice((5, 20, 40, 50)),
    }[way]
    exact = f"{at - (way == 'quarter to'):02d}:{minute:02d}"
    if way == "digits":
        return exact, exact
    return exact, f"{WORDS[hour]} o'clock {part}" if way == "o'clock" else f"{way} {WORDS[hour]} {part}"


WORDS = dict(enumerate("twelve one two three four five six seven eight nine ten eleven".split()))


def score(answer: str, record: Record) -> dict[str, float]:
    """How right an answer is: `exact` (its JSON is the record's), `valid` (it is JSON at all), `fields` (the share of
    the five that are right). What stands around the JSON counts: only blanks may."""
    try:
        given = json.loads(answer)
    except (json.JSONDecodeError, RecursionError):
        return {"exact": 0.0, "valid": 0.0, "fields": 0.0}
    right = [isinstance(given, dict) and field in given and given[field] == record.meaning[field] for field in FIELDS]
    return {"exact": float(given == record.meaning), "valid": 1.0, "fields": sum(right) / len(FIELDS)}
