"""Places where a chapter asks for a prediction, and where the measured value comes.

"**Write down your prediction**" is answered by the next table or verdict, "Predict: …" by the next cell that prints
anything. An exercise has its solution instead.
A page gets a text field at the question, and at the answer a line that shows again what was typed
(static/predictions.js). The browser keeps it under the words of the question: it outlives a new edition of the chapter,
and is not shown again once the question has changed.
"""

import hashlib
import re
from dataclasses import dataclass

WRITE = re.compile(r"\*\*Write down your predictions?")
ASK = re.compile(r"(?:^|[\s(*])Predict(?!ion|ed|s\b)")  # an imperative: it begins a sentence
HEAD = re.compile(r"\*\*What you will be able to do")


@dataclass(frozen=True)
class Question:
    """A paragraph that asks. `waits` says that a table or a verdict answers it, not just any output."""

    name: str
    waits: bool


def question(paragraph: str, chapter: str) -> Question | None:
    """The question that a paragraph of a chapter asks, or None."""
    if paragraph.startswith("```") or HEAD.search(paragraph) or not (WRITE.search(paragraph) or ASK.search(paragraph)):
        return None
    words = " ".join(paragraph.split())
    name = hashlib.sha256(words.encode()).hexdigest()[:8]
    return Question(f"prediction-{chapter}-{name}", bool(WRITE.search(paragraph)))


def paragraphs(text: str) -> list[str]:
    """A text in paragraphs. A block of code is one, blank lines and all."""
    parts = re.split(r"(^```.*?^```[^\n]*$)", text, flags=re.MULTILINE | re.DOTALL)
    split = (re.split(r"\n[ \t]*\n", part) if not part.startswith("```") else [part] for part in parts)
    return [paragraph.strip("\n") for some in split for paragraph in some if paragraph.strip()]


def answered_at(asked: int, waits: bool, printing: list[int], measuring: list[int]) -> int | None:
    """The cell that answers what cell `asked` asks, of those that print and of those that measure; None without one."""
    after = [[cell for cell in cells if cell > asked] for cells in (printing, measuring)]
    first = after[1] or after[0] if waits else after[0]
    return first[0] if first else None


def field(found: Question) -> str:
    """The text field at the question. Without JavaScript it is not shown, as it could keep nothing."""
    return (
        f'<div class="prediction" data-prediction="{found.name}" hidden>'
        f'<label for="{found.name}">Your prediction</label>'
        f'<textarea id="{found.name}" rows="2"></textarea>'
        '<span class="hint">It stays in this browser, and comes back beside what was measured.</span></div>'
    )


def echo(name: str) -> str:
    """The line at the answer."""
    return f'<p class="prediction-echo" data-prediction="{name}" hidden><a href="#{name}">You predicted</a> <q></q></p>'
