"""All broken runs by name, and the questions that they answer: two have two runs. Five are without a fault."""

import textwrap

from lora_from_scratch.lab.broken import costs, lost, merged, nothing, start_and_use, steps, wrong
from lora_from_scratch.lab.broken.case import Case, Seen

CASES: dict[str, Case] = {
    case.name: case for module in (nothing, steps, wrong, start_and_use, lost, merged, costs) for case in module.CASES
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


def told(case: Case, seen: Seen) -> str:
    """A case as a chapter prints it: the wrong line, the number, what sees it, the mend, where to read on."""
    numbers = ", its twin ".join(map(_short, (seen.broken, seen.healthy)))
    lines = [
        ("wrong", case.slip),
        ("number", f"{case.number}: {numbers}"),
        ("raises", seen.raised),
        *[("diagnose", str(finding)) for finding in seen.findings],
        ("diagnose", "" if seen.findings else f"says nothing: {case.unseen}"),
        ("compare", case.compare),
        ("folder", " ".join(seen.elsewhere.split())),
        ("mend", f"{case.mend} (chapter {case.chapter})"),
    ]
    head = f"{case.name.upper()}   ({', '.join(case.threads)})"
    wrapped = (textwrap.wrap(f"  {word:9} {text}", 110, subsequent_indent=" " * 12) for word, text in lines if text)
    return "\n".join([head, *(line for part in wrapped for line in part)])


def _short(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
