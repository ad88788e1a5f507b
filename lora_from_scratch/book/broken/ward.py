"""All broken runs by name, and the questions that they answer: two have two runs."""

from lora_from_scratch.book.broken import costs, lost, merged, nothing, start_and_use, wrong
from lora_from_scratch.book.broken.case import Case

CASES: dict[str, Case] = {
    case.name: case for module in (nothing, wrong, start_and_use, lost, merged, costs) for case in module.CASES
}
TWICE = {  # {a second run: the one whose question it answers too}
    "the prompt is learnt too": "the mask reaches one token too far",
    "on another base": "merged into 4 bits",
}
QUESTIONS: dict[str, list[Case]] = {
    name: [case, *(CASES[other] for other, first in TWICE.items() if first == name)]
    for name, case in CASES.items()
    if name not in TWICE
}
