"""Chapters and papers that a text mentions, as links.

"chapters 10 and 11", "appendix A1" and "arXiv 2106.09685v2" become links; the words stay as they were.
"""

import html
import re
from collections.abc import Iterator, Mapping

NUMBER = r"(?:\d\d|A\d)\b"
NEXT = r"(?:,\s+and\s+|,\s+|\s+and\s+|\s+to\s+)"
CHAPTERS = re.compile(rf"\b(?:chapters?|appendix|appendices)\s+{NUMBER}(?:{NEXT}{NUMBER})*", re.IGNORECASE)
PAPER = re.compile(r"(?:\barXiv[:\s]\s*)?(?<![\d.])(\d\d(?:0[1-9]|1[0-2])\.\d{5}(?:v\d+)?)(?!\d|\.\d)")


def pieces(text: str, pages: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """`text` in pieces, each with where it leads: a page of the site, a paper's address, or "" for plain words.

    `pages` maps a chapter's number ("07", "A1") to its page; a chapter that is not there is no link.
    """
    end = 0
    for start, stop, target in sorted(_found(text, pages)):
        if start > end:
            yield text[end:start], ""
        yield text[start:stop], target
        end = stop
    if text[end:]:
        yield text[end:], ""


def _found(text: str, pages: Mapping[str, str]) -> Iterator[tuple[int, int, str]]:
    """(from, to, target) of every mention. Of "chapter 07" all is the link, of "chapters 10 and 11" the numbers are."""
    for mention in CHAPTERS.finditer(text):
        numbers = list(re.finditer(NUMBER, mention[0]))
        for number in numbers:
            start = mention.start() + (0 if len(numbers) == 1 else number.start())
            if number[0] in pages:
                yield start, mention.start() + number.end(), pages[number[0]]
    for paper in PAPER.finditer(text):
        yield paper.start(), paper.end(), f"https://arxiv.org/abs/{paper[1]}"


def linked(text: str, pages: Mapping[str, str]) -> str:
    """`text` as HTML, with its mentions as links and what stands in backticks as code."""
    plain_and_code = enumerate(re.split(r"`([^`]+)`", text))
    return "".join(
        f'<code class="literal">{html.escape(part, quote=False)}</code>' if at % 2 else _links(part, pages)
        for at, part in plain_and_code
    )


def _links(text: str, pages: Mapping[str, str]) -> str:
    """Pages lie side by side, so a page's name and .html is its address."""
    parts = []
    for piece, target in pieces(text, pages):
        address = target if "://" in target else f"{target}.html"
        words = html.escape(piece, quote=False)
        parts.append(f'<a href="{html.escape(address)}">{words}</a>' if target else words)
    return "".join(parts)
