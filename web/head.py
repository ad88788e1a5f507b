"""What stands at the head of a chapter: what you will be able to do, minutes, what to know before, how it was run.

The first and the third are paragraphs of the chapter's first cell. Minutes are counted from its words and lines, and
how it was run is what its results say of themselves.
"""

import re

from nbformat import NotebookNode

ABLE = re.compile(r"\*\*What you will be able to do\.?\*\*")
NEED = re.compile(r"\*\*What you need\.?\*\*")
WORDS_A_MINUTE, LINES_A_MINUTE = 200, 15  # how fast prose and code are read; both counts are printed beside


def with_head(first: str, notebook: NotebookNode, provenance: dict, numbers: str) -> str:
    """The first cell with its box: its title and question, the box, and the other paragraphs.

    `numbers` is the address of the chapter's JSON file. Raises ValueError where the cell does not say what the reader
    will be able to do.
    """
    title, *paragraphs = re.split(r"\n\s*\n", first.strip())
    able = next((p for p in paragraphs if ABLE.match(p)), None)
    if able is None:
        raise ValueError("the first cell has no paragraph **What you will be able to do.**")
    need = next((p for p in paragraphs if NEED.match(p)), None)
    before = paragraphs[: paragraphs.index(able)]
    after = [p for p in paragraphs[paragraphs.index(able) + 1 :] if p != need]
    box = [able, minutes(notebook), *([need] if need else []), how_it_was_run(provenance, numbers)]
    return "\n\n".join([title, *before, ":::{container} chapter-head", *box, ":::", *after])


def minutes(notebook: NotebookNode) -> str:
    """How long a chapter takes to read, with the counts that it comes from."""
    words = sum(len(cell.source.split()) for cell in notebook.cells if cell.cell_type == "markdown")
    lines = sum(cell.source.count("\n") + 1 for cell in notebook.cells if cell.cell_type == "code")
    total = words / WORDS_A_MINUTE + lines / LINES_A_MINUTE
    return (
        f"**Minutes.** About {max(5, 5 * round(total / 5))} to read: {words:,} words and {lines:,} lines of code "
        f"({WORDS_A_MINUTE} and {LINES_A_MINUTE} a minute). The exercises come on top."
    )


def how_it_was_run(provenance: dict, numbers: str) -> str:
    """Preset, device, versions, seeds and time behind the numbers of the page."""
    p, seeds = provenance, provenance["seeds"]
    trained = p["training_seconds"]
    runs = f" Its training runs took {duration(trained)}, one after the other." if trained else ""
    return (
        f"**How it was run.** At the preset `{p['preset']}` on a {p['device']}, with torch {p['torch']}, Python "
        f"{p['python']}, {'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}.{runs} "
        f'Text `{p["corpus_sha256"][:12]}`, code `{p["code"][:12]}`. <a href="{numbers}">All its numbers</a>.'
    )


def duration(seconds: float) -> str:
    """Seconds in words: "50 seconds", "56 minutes", "1 h 47 min"."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest} min" if hours else f"{rest} minutes"
