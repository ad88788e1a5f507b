"""The guide's advices as data: the question, what to do, the rows it rests on with their verdicts.

`make sync-check` fails when a row comes out otherwise than an advice says: then read the advice again, and change both.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """One question of the guide. `text` takes numbers as {NN.row.shown}; `rests_on` is as in a chapter's paragraph.

    Where nothing was measured yet `rests_on` is empty, and the guide says so. A chapter that measures it adds its rows.
    """

    question: str
    do: str
    text: str
    rests_on: str


@dataclass(frozen=True)
class Line:
    """A line of an article's advice in our words, and the rows that ask the same; none where nothing was measured."""

    says: str
    rests_on: str = ""


ADVICES = [
    Advice(
        "LoRA or full fine-tuning?",
        "Begin with LoRA on all linear layers, for memory. Do not choose it to forget less.",
        "On the pretrained model LoRA of rank 16 ended as low as full fine-tuning of the same layers, a difference "
        "of {13.on_par.shown} nats; on its other task the question is open, and on the tiny model it is level on "
        "the near task alone ({01.on_par.shown}). LoRA saves the gradients and the optimizer's state of the frozen "
        "weights, but keeps {06.keeps.shown} of the activations. That it forgets less was not found where it was "
        "measured on the pretrained model.",
        "13.on_par=reproduced, 12.on_par=not settled, 01.on_par=partly, 06.keeps=holds, 13.less=not reproduced, "
        "12.forgets_less=not reproduced, 11.less=not settled",
    ),
    Advice(
        "16 bits or QLoRA?",
        "Take 4 bits when 16 do not fit, not before. Keep double quantization on.",
        "Training the adapter does not quite bring back what NF4 lost: {05.recovers.shown} nats stay. Whether an "
        "adapter learns a new task as well over NF4 is open. Double quantization costs nothing that could be "
        "measured. A start that knows the quantization error is not shown to be better by enough at 4 bits.",
        "05.recovers=not reproduced, 05.as_good=not settled, 04.free=reproduced, 05.loftq_NF4=not settled",
    ),
    Advice(
        "DoRA?",
        "Not by default. Try it over a 4-bit base, or where the rate cannot be searched.",
        "At equal rank, and at equal parameters, it is open whether DoRA is better; on the pretrained model too "
        "({12.dora_better.shown}). It ended lower than LoRA when the rate was two grid steps too high "
        "({09.safer.shown}), and over NF4, by little ({09.quantized.shown}). All but one of these are of the tiny "
        "model.",
        "09.better=not settled, 09.equal_parameters=not settled, 12.dora_better=not settled, 09.safer=holds, "
        "09.quantized=holds",
    ),
    Advice(
        "Which rank?",
        "Begin with 16. Do not take 1 unless you have compared.",
        "On the tiny model rank 1 ended above rank 64, by {01.rank_one_far.shown} nats on the far task and "
        "{01.rank_one.shown} on the near one. On the pretrained model rank 1 against 16 is open "
        "({13.rank_one.shown}), and rank 16 was enough to end level with full fine-tuning.",
        "01.rank_one_far=reproduced, 01.rank_one=not reproduced, 13.rank_one=not settled, 13.on_par=reproduced",
    ),
    Advice(
        "Which alpha? rsLoRA?",
        "Fix alpha, and search the rate anew when you change the rank. rsLoRA changes no result that is searched for.",
        "rsLoRA is LoRA at alpha · √r, exactly. Each at its own best rate, it is not lower on the near task and "
        "open on the far one. One rate for all ranks was not found under it: the best rate went as the rank to the "
        "power {07.one_rate.shown}. At one shared rate the claim came out in part, and on the pretrained model it "
        "is open.",
        "07.same=holds, 07.own_rate_near=does not hold, 07.own_rate_far=not settled, 07.one_rate=does not hold, "
        "07.shared=partly, 13.shared=not settled",
    ),
    Advice(
        "Which learning rate?",
        "Search it, above full fine-tuning's. A larger one may forget more.",
        "On the pretrained model LoRA at full fine-tuning's best rate ended {13.higher_rate.shown} nats above LoRA "
        "at its own. How many times higher is open: the grids are too coarse. Under full fine-tuning of the tiny "
        "model a larger rate forgot more at the same loss ({11.larger_rate.shown}); under LoRA on the pretrained "
        "one it is open.",
        "13.higher_rate=holds, 13.ten_times=not settled, 01.higher_rate_far=not settled, 01.higher_rate_near=not "
        "settled, 11.larger_rate=reproduced, 13.larger_rate=not settled",
    ),
    Advice(
        "LoRA+?",
        "Only if you cannot search the rate of plain LoRA.",
        "Each at its own rate, whether ratio 16 is better is open (difference in the share of characters that are "
        "right: {08.better.shown}). At one low rate for both its lead is larger than at own rates (a difference of "
        "{08.trap.shown} nats): a comparison at one rate shows the rate. It was not faster by as much as published.",
        "08.better=not settled, 08.trap=holds, 08.faster=not reproduced, 08.ratio=not settled",
    ),
    Advice(
        "Which layers?",
        "All linear layers, or the MLP alone. Not attention alone.",
        "At equal parameters, attention alone ended {13.placement.shown} nats above the MLP alone on the pretrained "
        "model; on the tiny one the same is open in one of three parts. q and v alone did worse than q, k, v and o. "
        "Whether all layers are level with the MLP alone is open.",
        "13.placement=reproduced, 02.placement=not settled, 02.qv=not reproduced, 02.nothing_more=not settled",
    ),
    Advice(
        "Which batch?",
        "No advice yet: the largest that fits is a habit.",
        "No chapter has compared batches at equal tokens and at equal steps, each at its own rate. Until one has, take "
        "a batch for its memory, and search the rate at that batch.",
        "",
    ),
    Advice(
        "Will it fit?",
        "Plan with five parts and 8 · vocabulary · tokens bytes; then checkpoint, then split the batch.",
        "The plan fell short of the peak of the second step by at most {06.plan.shown} of it, and on the pretrained "
        "model it was off by {12.fits.shown}. Checkpointing cost at most one forward pass more. "
        "`lora_from_scratch.analysis.advise.advise` gives the plan for a model and a card.",
        "06.plan=holds, 12.fits=holds, 06.extra=reproduced",
    ),
    Advice(
        "How to start A and B?",
        "B zero, A random.",
        "B zero and A random ended below the reverse, both by Kaiming's rule (difference in nats: "
        "{01.b_zero.shown}). Both random at full size did not recover: it ended above rank 1, by "
        "{01.both_random.shown} nats.",
        "01.b_zero=reproduced, 01.both_random=holds",
    ),
    Advice(
        "Merge or not?",
        "Merge one adapter that stays; test the merged model if it is stored in 16 bits.",
        "A merge is exact in float64, and a merged model is as fast as its base. Into bfloat16 a small update loses "
        "part of its gain on the tiny model (left: {03.hazard.shown}); the pretrained model's update of rank 16 did "
        "not. Whether to merge an adapter that was trained over NF4 into 16 bits is open.",
        "03.exact=holds, 12.merges=holds, 03.no_latency=reproduced, 03.hazard=holds, 13.hazard=does not hold, "
        "05.keep_together=not settled",
    ),
    Advice(
        "One adapter for two tasks, or two?",
        "Train one on both. Where you have two already, serve them side by side; a sum loses much.",
        "The sum of two adapters kept only a share of each one's gain ({18.keeps.shown}), and was "
        "{18.beats_mixing.shown} nats worse than one trained on both; TIES was not better than the sum. It was "
        "better than learning the tasks in turn. An adapter is small (share of the weights: {19.share.shown}). A "
        "batch with 32 adapters took longer by a share of {19.negligible.shown} at 1 token a row, and of "
        "{19.long_rows.shown} at 32.",
        "18.keeps=not reproduced, 18.beats_mixing=does not hold, 18.ties_better=not reproduced, 18.sequence=holds, "
        "19.share=reproduced, 19.negligible=not reproduced, 19.long_rows=holds",
    ),
]

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
