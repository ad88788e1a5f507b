"""An article's advice as data, line by line in our words, each with the rows that ask the same (see advices.py)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A line of an article's advice in our words, and the rows that ask the same; none where nothing was measured."""

    says: str
    rests_on: str = ""


ARTICLE = [  # LoRA Without Regret (Thinking Machines, 29 September 2025), read in full
    Line(
        "Where the data do not exceed what the rank can hold, LoRA ends level with full fine-tuning",
        "13.on_par=reproduced, 12.on_par=not settled, 01.on_par=partly",
    ),
    Line("Where they do, it learns less efficiently, without a distinct floor", "15.full_wins=reproduced"),
    Line(
        "Its best rate is about ten times full fine-tuning's",
        "13.ten_times=not settled, 13.higher_rate=holds, 14.ten=not reproduced, 14.same_power=not settled",
    ),
    Line(
        "In runs under some 100 steps it is about 15 times (called anecdotal)",
        "14.fifteen=not reproduced, 14.higher_in_short=not settled",
    ),
    Line(
        "Under alpha / r the best rate changes by less than a factor of 2 from rank 4 to 512",
        "14.rank_free=not settled",
    ),
    Line("Rank 1 has a lower best rate than higher ranks", "14.rank_one=partly"),
    Line(
        "Adapt all layers, above all the MLP: attention alone does worse, at as many parameters too",
        "13.placement=reproduced, 02.placement=not settled",
    ),
    Line(
        "Attention on top of the MLP adds nothing, at one rank (our row is at one count)", "02.nothing_more=not settled"
    ),
    Line(
        "The counts of parameters that it prints (they add up with an adapter on the head)",
        "02.regret_head=adds up, 02.regret=does not add up, 16.math_bits=adds up, 16.llama_rank_1=adds up, "
        "16.r1_zero=adds up",
    ),
    Line(
        "In some settings LoRA pays more for large batches, whatever its rank; both are best at smaller ones",
        "14.gap_grows=not settled, 14.whatever_rank=not settled, 14.smaller_is_better=reproduced",
    ),
    Line("Under a policy gradient LoRA matches full fine-tuning, even at rank 1", "16.rank_1=not settled"),
    Line("A pass of LoRA takes slightly more than two thirds of full fine-tuning's operations, attention not counted"),
]
