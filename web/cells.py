"""What a code cell gave, as HTML: printed text, tables, verdicts, and figures with their recorded captions."""

import ast
import re
from collections.abc import Iterator

from nbformat import NotebookNode

from web import markup
from web.chapter import Chapter
from web.outputs import WORDS, Block, Table, Text, Verdict, blocks

SAVED = re.compile(r"(?:Posix|Windows)Path\('figures/\w+/(\w+\.json)'\)")
NOT_YET = "Not yet:"  # book.checks says so of an answer that is missing


def outputs(cell: NotebookNode, chapter: Chapter) -> list[str]:
    """The outputs of a code cell, in order.

    Raises ValueError, naming the cell, for a picture whose caption the chapter's results do not hold, and for an error.
    """
    try:
        return list(_outputs(cell, chapter))
    except ValueError as error:
        raise ValueError(f"cell {cell.id}: {error}") from None


def judges(cell: NotebookNode) -> bool:
    """Whether a cell has printed a verdict."""
    return any(isinstance(block, Verdict) for text in _texts(cell) for block in blocks(text))


def measures(cell: NotebookNode) -> bool:
    """Whether a cell has printed a table or a verdict."""
    return any(isinstance(block, Table | Verdict) for text in _texts(cell) for block in blocks(text))


def prints(cell: NotebookNode) -> bool:
    """Whether a cell has printed or drawn something, other than that an exercise is not done yet."""
    return bool(cell.outputs) and not any(text.startswith(NOT_YET) for text in _texts(cell))


def figures_of(cell: NotebookNode, chapter: Chapter) -> set[str]:
    """The files of the recorded figures whose captions a cell has printed."""
    captions = {name: figure["caption"] for name, figure in chapter.results["figures"].items()}
    return {name for name, caption in captions.items() if any(_holds(text, caption) for text in _texts(cell))}


def _outputs(cell: NotebookNode, chapter: Chapter) -> Iterator[str]:
    picture = False  # one was drawn, and its caption has not come yet
    for output in cell.outputs:
        if output.output_type == "error":
            raise ValueError(f"the committed notebook holds an error: {output.ename}: {output.evalue}")
        if "image/png" in output.get("data", {}):
            if picture:
                break
            picture = True
        elif output.output_type == "stream":
            for found in _with_figure(output.text, chapter) if picture else blocks(output.text):
                yield found if isinstance(found, str) else _block(found, chapter)
            picture = False
        else:
            yield _value(output["data"]["text/plain"], cell)
    if picture:
        raise ValueError("it shows a picture that no results.figure recorded (or whose caption has changed)")


def _with_figure(text: str, chapter: Chapter) -> Iterator[Block | str]:
    """The blocks of a text that follows a picture, with the figure in place of its caption."""
    for name, figure in chapter.results["figures"].items():
        if _holds(text, figure["caption"]):
            before, _, after = f"\n{text}\n".partition(f"\n{figure['caption']}\n")
            yield from blocks(before)
            yield markup.figure(chapter.figures / name, figure["caption"], figure["alt"], chapter.pages)
            yield from blocks(after)
            return
    raise ValueError("it shows a picture that no results.figure recorded (or whose caption has changed)")


def _block(found: Block, chapter: Chapter) -> str:
    row = chapter.row_of(found) if isinstance(found, Verdict) else ""
    return markup.block(found, chapter.pages, row)


def _value(text: str, cell: NotebookNode) -> str:
    """What the last line of a cell gave: the saved results as a link; a verdict that a box shows, not again."""
    if saved := SAVED.fullmatch(text):
        address = f"{markup.FIGURES}/{saved[1]}"
        return f'<p class="saved">Saved: <a href="{address}">{saved[1]}</a>, every number of this chapter.</p>'
    if text.startswith("'") and ast.literal_eval(text) in WORDS and judges(cell):
        return ""
    return markup.printed(Text(text))


def _texts(cell: NotebookNode) -> list[str]:
    return [output.text for output in cell.outputs if output.output_type == "stream"]


def _holds(text: str, caption: str) -> bool:
    return f"\n{caption}\n" in f"\n{text}\n"
