"""A committed notebook as a page of Markdown: words and code as they are, outputs as tables, boxes and figures."""

import itertools
import re

from nbformat import NotebookNode

from web import predictions
from web.cells import figures_of, measures, outputs, prints
from web.chapter import Chapter, row_address
from web.head import with_head
from web.markup import FIGURES
from web.predictions import Question, paragraphs

WHOLE = r"```.*?```|\$\$.*?\$\$"  # blocks of code and formulas, word for word
PERCENT = re.compile(rf"{WHOLE}|`[^`]*`|(?<=\d)\s+%(?!\w)", re.DOTALL)
TAKEN = re.compile(r"^(?:%|\+ |>)", re.MULTILINE)  # Markdown takes such a line for a comment, a list, a quotation


def page(chapter: Chapter) -> str:
    """The page. Raises ValueError, with the cell's id, for what cannot be shown as it should."""
    cells, answers = chapter.notebook.cells, answered(chapter)
    check_figures(chapter)
    first, *rest = cells
    numbers = f"{FIGURES}/{chapter.stem}.json"
    parts = [with_head(prose(first), chapter.notebook, chapter.results["provenance"], numbers)]
    for at, cell in enumerate(rest, start=1):
        if cell.cell_type == "code":
            echoes = [predictions.echo(name) for name, answer in answers.items() if answer == at]
            found = [html for html in outputs(cell, chapter) if html]
            parts += [fence(cell.source), raw("\n".join([*echoes, *found]), "output" if found else "")]
        elif cell.cell_type == "markdown":
            outcome, onward = at_heading(prose(cell)) if cell.metadata.get("rests_on") else (prose(cell), "")
            parts += [with_fields(outcome, chapter, answers), rests_on(cell), with_fields(onward, chapter, answers)]
    return "\n\n".join(part for part in parts if part) + "\n"


def prose(cell: NotebookNode) -> str:
    """A cell's words, with no break between a number and its %.

    Raises ValueError, with the cell's id, for a line that begins as something else: its words would be lost.
    """
    text = PERCENT.sub(lambda match: match[0] if match[0][0] in "`$" else "\u00a0%", cell.source)
    if found := TAKEN.search(re.sub(WHOLE, "", text, flags=re.DOTALL)):
        raise ValueError(f"cell {cell.id}: a line begins with {found[0]!r}; break the line elsewhere")
    return text


def with_fields(text: str, chapter: Chapter, answers: dict[str, int]) -> str:
    """A cell's words, with a text field after each paragraph that asks for a prediction which is answered."""
    parts = []
    for paragraph in paragraphs(text):
        question = predictions.question(paragraph, chapter.number)
        field = question and question.name in answers
        parts += [paragraph, raw(predictions.field(question))] if field else [paragraph]
    return "\n\n".join(parts)


def answered(chapter: Chapter) -> dict[str, int]:
    """{name of a question: the cell whose output answers it}, for every question of the chapter that is answered."""
    code = [(at, cell) for at, cell in enumerate(chapter.notebook.cells) if cell.cell_type == "code"]
    printing = [at for at, cell in code if prints(cell)]
    measuring = [at for at, cell in code if measures(cell)]
    found = {q.name: predictions.answered_at(at, q.waits, printing, measuring) for at, q in questions(chapter)}
    return {name: at for name, at in found.items() if at is not None}


def questions(chapter: Chapter) -> list[tuple[int, Question]]:
    """(cell, question) pairs, in order, of all that stands before the exercises."""
    texts = ((at, cell.source) for at, cell in enumerate(chapter.notebook.cells) if cell.cell_type == "markdown")
    all_of_them = ((at, paragraph) for at, text in texts for paragraph in paragraphs(text))
    before = itertools.takewhile(lambda found: not found[1].startswith("## Exercises"), all_of_them)
    found = ((at, predictions.question(paragraph, chapter.number)) for at, paragraph in before)
    return [(at, question) for at, question in found if question]


def rests_on(cell: NotebookNode) -> str:
    """A line that names the rows a paragraph rests on, each with its verdict and its place in the ledger."""
    entries = (entry.strip().split("=") for entry in cell.metadata.get("rests_on", "").split(",") if entry.strip())
    links = [f'<a href="{row_address(row.strip())}">{row.strip()}</a> {word.strip()}' for row, word in entries]
    return raw(f'<p class="rests-on">Rests on {", ".join(links)}</p>') if links else ""


def at_heading(text: str) -> tuple[str, str]:
    """What tells the outcome, and what comes after it: a heading, a question, or at the end what leads on to a cell.

    A cell that begins with the solution of an exercise tells its outcome at its end, so it stays in one piece.
    """
    found = paragraphs(text)
    heads = [at for at, p in enumerate(found) if at and (p.startswith("#") or predictions.question(p, ""))]
    heads += [len(found) - 1] if len(found) > 1 and found[-1].endswith(":") else []
    end = len(found) if text.startswith("<details") or not heads else heads[0]
    return "\n\n".join(found[:end]), "\n\n".join(found[end:])


def check_figures(chapter: Chapter) -> None:
    """Raise ValueError for a figure that the results hold and no cell shows: notebook and results disagree."""
    code = [cell for cell in chapter.notebook.cells if cell.cell_type == "code"]
    shown = {name for cell in code for name in figures_of(cell, chapter)}
    if missing := chapter.results["figures"].keys() - shown:
        raise ValueError(f"no cell shows {', '.join(sorted(missing))}, which the results record")


def fence(code: str) -> str:
    """A block of Python; its fence is longer than any in it."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall(r"`+", code)), default=0))
    return f"{ticks}python\n{code}\n{ticks}"


def raw(html: str, kind: str = "") -> str:
    """HTML as it is, in a box of the kind `kind`."""
    if not html.strip():
        return ""
    inside = f'<div class="{kind}">\n{html}\n</div>' if kind else html
    return f"```````{{raw}} html\n{inside}\n```````"
