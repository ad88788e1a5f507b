"""What the book found, in ten lines of the README, each held to the ledger's rows that it rests on.

python -m lora_from_scratch.book.found          renew the lines in README.md; fails if a row came out otherwise
"""

import sys
from pathlib import Path

from lora_from_scratch.book import paragraphs
from lora_from_scratch.lab.cache import ROOT, save_atomically

BEGIN, END = "<!-- what was found: lora_from_scratch/book/found.py writes these lines -->", "<!-- end -->"

FOUND = (  # a line, and its rows with their verdicts
    (
        "On the real model LoRA of rank 16 ends as low as full fine-tuning of the same layers, within 0.02 nats, on "
        "Python's documentation; on records it is not settled for ranks 1, 8 and 64. On the tiny model rank 64, "
        "four fifths of full's numbers, ends lower on a near task and higher on a far one.",
        "13.on_par=reproduced, 12.on_par=not settled, 01.on_par=partly",
    ),
    (
        "LoRA wants a higher rate than full fine-tuning: on tiny models of width 64 to 256 not ten times as high, "
        "on the real one our grid leaves it open. On the tiny one of width 64, in runs of 400 steps, LoRA's best "
        "rate goes about as 1 / √alpha.",
        "13.higher_rate=holds, 13.ten_times=not settled, 14.ten=not reproduced, 14.s_long_far=holds, "
        "14.s_long_near=holds",
    ),
    (
        "On the real model, on records, LoRA of rank 8 forgets more than full fine-tuning of all weights, at the "
        "same loss; at the ends, each at its own best rate, ranks 8 and 64 do, and rank 1 is open. On the tiny one "
        "less forgetting is not settled; trained in full, a larger rate forgets more there.",
        "13.less=not reproduced, 12.forgets_less=not settled, 11.less=not settled, 11.larger_rate=reproduced",
    ),
    (
        "At equal parameters adapters on attention alone do worse than on the MLP alone, on the real model.",
        "13.placement=reproduced, 02.placement=not settled",
    ),
    (
        "rsLoRA is LoRA at another alpha, exactly. On the tiny model it does not make one rate serve every rank.",
        "07.same=holds, 07.one_rate=does not hold",
    ),
    (
        "On the tiny model, on the far task, LoRA+ leads by more at one low rate for both than at own rates. At own "
        "rates it is not as fast as published there; that it predicts better is not settled, and on the near task "
        "it predicts worse.",
        "08.trap=holds, 08.faster=not reproduced, 08.better=not settled",
    ),
    (
        "Without NF4, DoRA over LoRA at equal rank is not settled on either model; of five pairs on the tiny one "
        "two say no. There, on the far task, it ends a little lower over NF4 at rank 4, and at rank 16 suffers less "
        "from a rate that is too high.",
        "09.better=not settled, 12.dora_better=not settled, 09.quantized=holds, 09.safer=holds",
    ),
    (
        "On the tiny model training over NF4 brings back a part of what 4 bits took, half in the mean, a quarter to "
        "three quarters by the interval; double quantization costs nothing that shows.",
        "05.recovers=not reproduced, 04.free=reproduced",
    ),
    (
        "On the tiny model ranks 1 and 4 make no more intruder dimensions, by our margin, than random updates of "
        "the same spectrum. At rank 1 those leave hardly room for more. For ranks 16 and 64 and full fine-tuning it "
        "is not settled.",
        "10.beyond_rank_1_far=does not hold, 10.beyond_rank_4_far=does not hold, 10.beyond_rank_1_near=does not "
        "hold, 10.beyond_rank_4_near=does not hold, 10.beyond_full_far=not settled, 10.beyond_rank_16_far=not "
        "settled",
    ),
    (
        "On the tiny model a sum of two adapters keeps far less than one adapter that learnt both tasks; TIES is no "
        "better than the sum.",
        "18.keeps=not reproduced, 18.beats_mixing=does not hold, 18.ties_better=not reproduced",
    ),
)


def contradicted(rows: paragraphs.Committed) -> list[str]:
    """The lines whose rows came out otherwise, or are missing."""
    wrong = []
    for line, rests_on in FOUND:
        for name, said in paragraphs.rests_on(rests_on).items():
            chapter, _, row = name.partition(".")
            is_now = rows.get(chapter, {}).get(row, {}).get("verdict", "missing from the results")
            if is_now != said:
                wrong.append(f"README.md: {line!r} rests on {name}={said}, and that row is {is_now}: read it again")
    return wrong


def as_markdown() -> str:
    """The lines, each with its rows."""
    return "\n".join(f"- {line} ({', '.join(f'`{n}`' for n in paragraphs.rests_on(on))})" for line, on in FOUND)


def renewed(readme: str) -> str:
    """`readme` with the lines between the two marks. Raises ValueError where it has not both."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has not both marks, {BEGIN} and {END}; put them where the lines are to stand")
    return f"{before}{BEGIN}\n{as_markdown()}\n{END}{after}"


def check(root: Path) -> list[str]:
    """What is wrong with the README's lines."""
    wrong, readme = (
        contradicted(paragraphs.committed(root / "figures" / "full")),
        (root / "README.md").read_text("utf-8"),
    )
    if not wrong and renewed(readme) != readme:
        wrong.append("README.md: what was found is not what found.py says: python -m lora_from_scratch.book.found")
    return wrong


def main(root: Path = ROOT) -> int:
    """Renew the README, unless a row contradicts a line; gives the exit status."""
    wrong, path = contradicted(paragraphs.committed(root / "figures" / "full")), root / "README.md"
    if not wrong:
        text = renewed(path.read_text("utf-8"))
        save_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))
    print("\n".join(wrong), end="\n" * bool(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
