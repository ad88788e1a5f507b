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


ADVICES = [
    Advice(
        "LoRA or full fine-tuning?",
        "Begin with LoRA on all linear layers where full fine-tuning does not fit. Do not choose it to forget less.",
        "Planned for LLaMA-7B on a full 80 GB card, full fine-tuning takes {A2.on_a_card.shown} times LoRA's memory "
        "with the state in float32 and adapters in 16 bits, and {A2.on_a_card_lean_wide.shown} times in bfloat16 with "
        "adapters in float32. For TinyLlama at a context of 8,192, rank 64, without checkpointing, full over LoRA is "
        "{A2.as_much.shown}: below 1 LoRA takes more. On the tiny model it keeps {06.keeps.shown} of the activations. "
        "On the pretrained model rank 16 ended within the margin, a twelfth of the gain, of full fine-tuning of the "
        "same layers on documentation ({13.on_par.shown}); on records, beside full fine-tuning of all weights, it is "
        "open. On the tiny model rank 64, four fifths of full's numbers, ended lower on the near task and higher on "
        "the far one ({01.on_par.shown}). At the same loss on records LoRA of rank 8 on its layers forgot more than "
        "full fine-tuning of all weights, on the pretrained model ({13.less.shown}); on the tiny one, beside full "
        "fine-tuning of the same layers, ranks 1, 4, 16 and 64 forgot more after the near task; after the far one all "
        "four are open. With both at the rate that is best for rank 16, and at the same loss, rank 16 forgot less "
        "than full on the far task ({11.same_rate_far.shown}): compare at own rates and at one. After three tasks in "
        "turn rank 4 kept more of the earlier ones than full fine-tuning did where the tasks are far, and less where "
        "they are near. At the ends of their lessons on records, each at its own best rate, ranks 8 and 64 had lost "
        "more of held-out documentation than full fine-tuning of all weights, and rank 1 is open "
        "({12.forgets_less.shown}); rank 8 scatters too much between two runs for the sizes to count.",
        "13.on_par=reproduced, 12.on_par=not settled, 01.on_par=partly, 06.keeps=holds, A2.on_a_card=holds, "
        "A2.on_a_card_lean_wide=does not hold, A2.as_much=partly, 13.less=not reproduced, 12.forgets_less=not "
        "settled, 11.less=not settled, 11.worse=partly, 11.same_rate_far=does not hold, A4.sequence=partly",
    ),
    Advice(
        "16 bits or QLoRA?",
        "Take 4 bits when 16 do not fit, not before. Keep double quantization on.",
        "These rows are of the tiny model. Training the adapter brings back about half of what NF4 lost: "
        "{05.recovers.shown} nats stay. Whether an adapter learns a new task as well over NF4 is open. Double "
        "quantization costs nothing that could be measured. A start that knows the quantization error ended lower; "
        "whether by more than the margin is open ({05.loftq_NF4.shown}), and on a task it is not by 2 % of the loss "
        "({17.nf4_better.shown}).",
        "05.recovers=not reproduced, 05.as_good=not settled, 04.free=reproduced, 05.loftq_NF4=not settled, "
        "17.nf4_better=not reproduced",
    ),
    Advice(
        "DoRA?",
        "Not by default.",
        "At equal rank, of five pairs on the tiny model two are a no, one of them by a rule made later, and three are "
        "open. At equal parameters it is open: DoRA lies within the margin, but so, by its mean, does DoRA at equal "
        "rank. At half of LoRA's rank it ended higher at 4 against 8, and is open at 64 against 128. On the "
        "pretrained model it is open too ({12.dora_better.shown}). Two rows speak for it, each of one rank and one "
        "task of the tiny model: over NF4 it ended lower, by little ({09.quantized.shown}), and at a rate two grid "
        "steps too high by much ({09.safer.shown}).",
        "09.better=not settled, 09.equal_parameters=not settled, 09.half_rank=not settled, 12.dora_better=not settled, "
        "09.safer=holds, 09.quantized=holds",
    ),
    Advice(
        "Which rank?",
        "Begin with 16. Compare a smaller one before you rely on it.",
        "One row bears that 16 is enough: on the pretrained model it ended within the margin, a twelfth of the gain, "
        "of full fine-tuning of the same layers ({13.on_par.shown}). One speaks against it: on the tiny model's far "
        "task even rank 64 ended above full fine-tuning ({01.on_par.shown}). None bears 16 rather than 8. On the tiny "
        "model rank 1 ended above rank 64, by {01.rank_one_far.shown} nats on the far task and {01.rank_one.shown} on "
        "the near one; 16 is in neither row. On the pretrained model rank 1 against 16 is open ({13.rank_one.shown}), "
        "and on records each of ranks 1, 8 and 64 is open beside full fine-tuning ({12.on_par.shown}); no row "
        "compares them with each other. Under a policy gradient, on the tiny model, rank 1 beside full fine-tuning is "
        "open too ({16.rank_1.shown}). On text that exceeds it, met once, rank 1 ends above rank 64 on the tiny "
        "model, and has no floor ({15.full_wins.shown} nats). How much text that is, chapter 15 counts in bits.",
        "13.on_par=reproduced, 01.on_par=partly, 01.rank_one_far=reproduced, 01.rank_one=not reproduced, "
        "13.rank_one=not settled, 12.on_par=not settled, 16.rank_1=not settled, 15.full_wins=reproduced",
    ),
    Advice(
        "Which alpha? rsLoRA?",
        "Begin with 32, as most chapters do: no row says which is best. Do not raise it with the rank at the old rate; "
        "search the rate anew. rsLoRA is another alpha.",
        "At the rate that is right for rank 4, rank 64 with alpha raised beside it ended {20.alpha_raised.shown} nats "
        "above rank 64 with alpha kept, on a Llama of two layers and 30 steps; that alpha kept needs no new rate is "
        "open, and so is which alpha is best once the rate is searched. On the tiny model the best rate went as s to a "
        "power of about -½ in 400 steps ({14.s_long_far.shown} from it), so alpha times c wants the rate over √c. At "
        "alpha 32 it changed by less than a factor of 2 from rank 4 to 64 in 400 steps; in 25 that is open "
        "({14.rank_free.shown} octaves). rsLoRA is LoRA at alpha · √r, exactly; and another alpha is another result: "
        "at rank 64, each at its own rate, it ended higher on the near task ({07.own_rate_near.shown}) and lower on "
        "the far one, where it is open whether by more than the margin ({07.own_rate_far.shown}). One rate for all "
        "ranks was not found under it: the best rate went as the rank to the power {07.one_rate.shown}. At one rate "
        "rsLoRA was to fall further with the rank and LoRA to stay: on the tiny model one of four parts came out "
        "({07.shared.shown}); on the pretrained one rsLoRA did not fall further, and whether LoRA stays is open.",
        "20.alpha_raised=holds, 20.alpha_kept=not settled, 07.same=holds, 07.own_rate_near=does not hold, "
        "07.own_rate_far=not settled, 07.one_rate=does not hold, 07.shared=partly, 13.shared=not settled, "
        "14.s_long_far=holds, 14.s_long_near=holds, 14.rank_free=not settled",
    ),
    Advice(
        "Which learning rate?",
        "Search it, a factor of 2 apart, above full fine-tuning's, until the loss has risen on both sides. A larger "
        "one may forget more.",
        "On the pretrained model LoRA at full fine-tuning's best rate ended {13.higher_rate.shown} nats above LoRA at "
        "its own; how many times higher its best rate is, is open. (Chapter 13 prints the rates that tied there; for "
        "a model of billions we have no number.) On the tiny model, at widths 64 to 256, rank 16, alpha 32 and 100 "
        "steps, it was less than twice to less than four times as high by its means, and not ten ({14.ten.shown} "
        "octaves off 10). Where alpha changes, 1 / √alpha tells its own best rate better than the best single rate "
        "does ({14.law_6_r.shown} octaves of miss, alpha = r). Whether it is higher in short runs is open. Under full "
        "fine-tuning of the tiny model a larger rate forgot more at the same loss ({11.larger_rate.shown}); under "
        "LoRA on the pretrained one it is open.",
        "13.higher_rate=holds, 13.ten_times=not settled, 14.ten=not reproduced, 14.law_6_r=holds, "
        "14.higher_in_short=not settled, 11.larger_rate=reproduced, 13.larger_rate=not settled",
    ),
    Advice(
        "LoRA+?",
        "Not by default. With it, search the rate anew, below plain LoRA's.",
        "All of this is the tiny model. The best rate falls as the ratio grows (as its power {08.rate.shown}; one "
        "sweep, and two random rates pass in 3 of 25 cases), so plain LoRA's rate is too high for ratio 16. Each at "
        "its own rate, ratio 16 got fewer characters right on the near task; on the far one it is open whether more by "
        "half a point (share: {08.better.shown}). The ratio that one base picks ended lower on the far task by "
        "little, which is not settled, and on the near one it picked none ({08.ratio.shown} nats). At the grid's "
        "lowest rate for both its lead is larger than at own rates (a difference of {08.trap.shown} nats): a "
        "comparison at one rate shows the rate. On the far task it was not faster by as much as published.",
        "08.rate=holds, 08.better=not settled, 08.trap=holds, 08.faster=not reproduced, 08.ratio=not settled",
    ),
    Advice(
        "Which layers?",
        "Not attention alone: the MLP at least, or all linear layers.",
        "At equal parameters, attention alone ended {13.placement.shown} nats above the MLP alone on the pretrained "
        "model; on the tiny one the same is open in one of three parts. There q and v alone did worse than q, k, v and "
        "o, and whether all layers are level with the MLP alone is open, at as many parameters "
        "({02.nothing_more.shown} nats). All layers beside attention alone was not asked. After a hundred meetings a "
        "parameter in the tiny model's MLPs had stored more of random pairs than one in attention, by "
        "{15.by_place.shown} bits.",
        "13.placement=reproduced, 02.placement=not settled, 02.qv=not reproduced, 02.nothing_more=not settled, "
        "15.by_place=reproduced",
    ),
    Advice(
        "Which batch?",
        "A small one, if its steps are not too dear. Search the rate at that batch.",
        "On the tiny model, at equal tokens and each at its own rate, a batch of 64 windows ended above one of 4, "
        "under LoRA and under full fine-tuning ({14.smaller_is_better.shown} nats): it has a sixteenth of the steps. "
        "Whether LoRA pays more for a large batch than full fine-tuning does is open ({14.gap_grows.shown}), and so "
        "are the rank's part in it and the reasons that are given. What a larger batch saves in time on your machine "
        "no row says.",
        "14.smaller_is_better=reproduced, 14.gap_grows=not settled, 14.whatever_rank=not settled, 14.steps_far=not "
        "settled, 14.steps_near=not settled",
    ),
    Advice(
        "Will it fit?",
        "Plan with five parts, 8 · vocabulary · tokens bytes, and a tenth; then split the batch, then checkpoint.",
        "In float32 on a CPU the plan fell short of the second step's peak by at most {06.plan.shown} of it on the "
        "tiny model, and was off by {12.fits.shown} on the pretrained one. For LLaMA-7B and Llama-3-8B in bfloat16, "
        "on tensors without memory, it was off by up to {A2.plan_close.shown}, on the side of too much, and never "
        "short (shortfall at most {A2.plan_giant.shown}: below zero is too much). DoRA needs more than it says, by "
        "chapter 12's table. A split costs no pass, by what it is; checkpointing at most one forward pass more. "
        "Whether 65B fits 48 GB under QLoRA is open (GB left: {06.one_card.shown}). "
        "`lora_from_scratch.analysis.advise.advise` plans for a model and a card.",
        "06.plan=holds, 12.fits=holds, A2.plan_close=does not hold, A2.plan_giant=holds, 06.extra=reproduced, "
        "06.one_card=not settled",
    ),
    Advice(
        "How to start A and B?",
        "B zero, A random.",
        "On the tiny model, at rank 4: B zero and A random ended below the reverse, both by Kaiming's rule (difference "
        "in nats: {01.b_zero.shown}). Both random at full size did not recover: it ended above rank 1, by "
        "{01.both_random.shown} nats. The size of B is part of it: beside A zero a small B ended lower "
        "({01.smaller_b.shown}); whether small ones end where B zero does is open. Starts from an SVD, each at its own "
        "rate: PiSSA was not lower by 2 %, and on the near task it ended higher (percent of the loss: "
        "{17.same.shown}).",
        "01.b_zero=reproduced, 01.both_random=holds, 01.smaller_b=holds, 01.a_zero_small=not settled, "
        "01.both_random_small=not settled, 17.pissa_better=not reproduced, 17.same=partly",
    ),
    Advice(
        "Merge or not?",
        "Merge one adapter that stays; test the merged model. One trained over NF4: merge into the NF4 weights.",
        "A merge is exact in float64; saved, loaded and merged in float32 it is off by {12.merges.shown} of the "
        "largest logit, on the pretrained model, and on one CPU thread a merged tiny model is as fast as its base. "
        "Into bfloat16 an update scaled down keeps {03.hazard.shown}, on the tiny model; updates as large as trained "
        "kept theirs, on the pretrained model. An adapter that was trained over NF4 did worse beside the 16-bit "
        "weights, past the margin on all seeds ({05.keep_together.shown} nats); the row is open because chance passes "
        "too: a blind move of that size costs as much, so open is why. In chapter 05's table a merge into the NF4 "
        "weights, written out in bfloat16, loses nothing that shows, and to quantize again loses more than that.",
        "03.exact=holds, 12.merges=holds, 03.no_latency=reproduced, 03.hazard=holds, 13.hazard=does not hold, "
        "05.keep_together=not settled",
    ),
    Advice(
        "One adapter for two tasks, or two?",
        "Do not add two up. Train one on both, or serve two side by side.",
        "On the tiny model the sum of two adapters kept only a share of the gain, in the mean of the two tasks "
        "({18.keeps.shown}), and was {18.beats_mixing.shown} nats worse than one trained on both. On the pretrained "
        "model it kept {A6.keeps.shown}, and was {A6.beats_mixing.shown} nats worse; there it had about as many right "
        "fields as the adapter for records has alone, and half of the gain on documents (shares: {A6.answers.shown}). "
        "TIES was not better than the sum on either. On the tiny model's far pair the sum was better than learning in "
        "turn; on the pretrained one that is open ({A6.sequence.shown}). No row compares one trained on both with two "
        "apart. An adapter is small (counted for rank 16 on all linear layers of Llama-2-7B: {19.share.shown}), and "
        "merged models took, over the bank's time with one token a row: {19.merging.shown}. On one CPU thread a batch "
        "with 32 adapters took longer by a share of {19.negligible.shown} at 1 token a row, and of "
        "{19.long_rows.shown} at 32; the bank (all adapters beside one base, in one pass) took {19.beats_swap.shown} "
        "of the time of one adapter after another at 32, and was not faster than a loop over adapters by a tenth at "
        "8; and the formula for how many tokens repay a merge missed the clock by more than a factor of two in two of "
        "three cases; the third is open.",
        "18.keeps=not reproduced, 18.beats_mixing=does not hold, 18.ties_better=not reproduced, 18.sequence=holds, "
        "19.share=reproduced, 19.negligible=not reproduced, 19.long_rows=holds, 19.merging=reproduced, "
        "19.beats_loop=does not hold, 19.beats_swap=holds, 19.beats_real=does not hold, 19.repaid_few=does not hold, "
        "19.repaid_1=not settled, 19.repaid_32=does not hold, A6.keeps=not reproduced, A6.beats_mixing=does not hold, "
        "A6.answers=partly, A6.ties_better=not reproduced, A6.sequence=not settled",
    ),
]
