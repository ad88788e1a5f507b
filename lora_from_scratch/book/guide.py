"""figures/GUIDE.md: what to choose, rendered from the ledger's rows and the advices that rest on them (advices.py).

python -m lora_from_scratch.book.guide          renew figures/GUIDE.md; fails if a row says otherwise than an advice
"""

import re
import sys
from pathlib import Path

from lora_from_scratch.analysis import advise
from lora_from_scratch.book import paragraphs
from lora_from_scratch.book.advices import ADVICES, Advice
from lora_from_scratch.book.article import ARTICLE
from lora_from_scratch.book.standing import sureness
from lora_from_scratch.lab.cache import ROOT, save_atomically

NAME = "figures/GUIDE.md"
SCOPE = "model task rank ranks rate rates method full machine setting seeds bases".split()
HEAD = """\
# Choosing

Each advice rests on rows of [the ledger](LEDGER.md), which it names with their verdicts; its numbers are theirs. When
a verdict changes, the check of the repository fails until the advice has been read again. They speak of a tiny Llama
and of one pretrained model of 135 million weights, on made-up tasks and documentation. For another model they are
where to begin a comparison, and no more.

*How sure* counts the rows that the author of the advice named, and no others: on which models they are settled, and why
the rest is open. A row is open where its interval touches the line of its test, where some of its parts are, or where
chance passes the test too; then its interval may still be clear of zero. "Counted or exact" is arithmetic or algebra.
"""
ARTICLE_HEAD = """\
## Beside an article's advice

*LoRA Without Regret* (Thinking Machines, 2025), in our words. To the right, the rows that ask the same; where none
stands, no row does.

| it says | measured here |
|---|---|"""


def contradicted(rows: paragraphs.Committed) -> list[str]:
    """What the advices, the article's lines and the calculator say of rows that came out otherwise or are missing."""
    said = [(f"the advice {a.question!r}", a.rests_on) for a in ADVICES]
    said += [(f"the article's line {line.says!r}", line.rests_on) for line in ARTICLE]
    said += [("analysis/advise.py", advise.RESTS_ON)]
    wrong = []
    for who, rests_on in said:
        for name, verdict in paragraphs.rests_on(rests_on).items():
            row = _row(name, rows)
            is_now = row["verdict"] if row else "missing from the results"
            if is_now != verdict:
                wrong.append(f"{NAME}: {who} rests on {name}={verdict}, and that row is {is_now}: read it again")
    return wrong


def unnamed(advice: Advice) -> list[str]:
    """The rows whose numbers an advice shows without resting on them."""
    shown = {f"{chapter}.{name}" for chapter, name, _ in paragraphs.NUMBER.findall(advice.text)}
    return sorted(shown - set(paragraphs.rests_on(advice.rests_on)))


def as_markdown(rows: paragraphs.Committed) -> str:
    """The guide. Raises ValueError for a row that is not there."""
    lines = [HEAD]
    for advice in ADVICES:
        names = paragraphs.rests_on(advice.rests_on)
        text = _counted(paragraphs.filled(advice.text, rows))
        lines += [f"## {advice.question}", "", f"**{advice.do}** {text}", ""]
        lines += [f"*How sure*: {sureness([_row(name, rows) for name in names])}.", ""]
        if names:
            head = ["| row | verdict | measured | where |", "|---|---|---|---|"]
            lines += [*head, *(_line(name, rows) for name in names), ""]
    lines.append(ARTICLE_HEAD)
    for line in ARTICLE:
        names = paragraphs.rests_on(line.rests_on)
        found = "; ".join(f"`{name}` **{verdict}**: {_row(name, rows)['shown']}" for name, verdict in names.items())
        lines.append(f"| {line.says} | {_cell(found or 'nothing')} |")
    return "\n".join(lines) + "\n"


def check(root: Path) -> list[str]:
    """What is wrong with a repository's guide: an advice that a row contradicts, or another text than the rows'."""
    rows, path = paragraphs.committed(root / "figures" / "full"), root / NAME
    wrong = contradicted(rows)
    if not wrong and (not path.exists() or path.read_text("utf-8") != as_markdown(rows)):
        wrong.append(f"{NAME} is not what the advices and rows give: python -m lora_from_scratch.book.guide")
    return wrong


def write(root: Path) -> list[str]:
    """Renew the guide, unless a row contradicts an advice; then it stays, and what is contradicted comes back."""
    rows = paragraphs.committed(root / "figures" / "full")
    wrong = contradicted(rows)
    if not wrong:
        save_atomically(root / NAME, lambda temporary: temporary.write_text(as_markdown(rows), "utf-8"))
    return wrong


def _row(name: str, rows: paragraphs.Committed) -> dict | None:
    chapter, _, row = name.partition(".")
    return rows.get(chapter, {}).get(row)


def _line(name: str, rows: paragraphs.Committed) -> str:
    row = _row(name, rows)
    scope = ", ".join(f"{n} {v}" for n, v in row["scope"].items() if n in SCOPE and v != "none")
    return f"| `{name}` | {row['verdict']} | {_cell(row['shown'])} | {_cell(scope or row['kind'])} |"


def _cell(text: str) -> str:
    return " ".join(_counted(text).split()).replace("|", "\\|")


def _counted(text: str) -> str:
    """`text` with each interval that is one number, as a count has, left out: 0.5 [0.5, 0.5] is 0.5.

    An interval that leaves everything open, 10 [0, inf], is "not known".
    """
    return re.sub(r"\S+ \[0, inf\]", "not known", text) if "inf]" in text else re.sub(r"(\S+) \[\1, \1\]", r"\1", text)


if __name__ == "__main__":
    problems = write(ROOT)
    print("\n".join(problems), end="\n" * bool(problems), file=sys.stderr)
    sys.exit(1 if problems else 0)
