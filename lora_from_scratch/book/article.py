"""An article's advice as data, line by line in our words, each with the rows that ask the same (see advices.py)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A line of an article's advice in our words, and the rows that ask the same; none where nothing was measured."""

    says: str
    rests_on: str = ""


ARTICLE = [  # LoRA Without Regret (Thinking Machines, 2025), read second hand: the article itself could not be read
    Line(
        "Where the data do not exceed what the rank can hold, LoRA ends level with full fine-tuning",
        "13.on_par=reproduced, 12.on_par=not settled, 01.on_par=partly",
    ),
    Line(
        "Its best rate is about ten times full fine-tuning's",
        "13.ten_times=not settled, 13.higher_rate=holds, 01.higher_rate_far=not settled, 01.higher_rate_near=not "
        "settled",
    ),
    Line("One rate serves all ranks, under alpha / r", "07.shared=partly, 13.shared=not settled"),
    Line("Adapt the MLP: attention alone does worse", "13.placement=reproduced, 02.placement=not settled"),
    Line("Attention on top of the MLP adds nothing", "02.nothing_more=not settled"),
    Line("The counts of parameters that it prints", "02.regret=does not add up, 02.regret_head=adds up"),
    Line("LoRA bears large batches less well than full fine-tuning"),
    Line("In reinforcement learning rank 1 is enough"),
    Line("A step of LoRA takes about two thirds of the operations"),
]
