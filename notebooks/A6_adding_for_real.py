# %% [markdown]
# # A6 · Adding for real
#
# **The question.** Chapter 18 added adapters of a model with 0.8 million parameters, whose weights move far for a task.
# A real model of 135 million moves little. Do its adapters add up?
#
# **What you will be able to do.** Merge two adapters of a real model, and judge the merge by its control. Say by how
# much a ratio of accuracies and a share of the gain differ. Read a verdict beside the one of another scale.
#
# **What you need.** Chapter 18, for the ways to merge and the rows; chapters 12 and 13, for the model and its lessons.
#
# **The two tasks.** *Records*: a sentence to JSON, the answers alone learnt. *Documents*: windows of Python's
# documentation, every token learnt. The one is a new skill with a form of its own, the other a nudge to a kind of text.
#
# **Words.** Losses are in nats a token. An answer is *exact*, or a *field* of it is right, if every token is the
# likeliest one after the question and the right answer so far; no text is generated, and that is the kinder way.
# There is one base. A seed draws batches and starts, so `a ± b`, a mean over seeds with its 95 % interval, speaks of
# this model alone, and of one set of held-out records and windows.

# %%
import functools
import json
from dataclasses import replace

import numpy as np
import torch

from lora_from_scratch import AdapterConfig
from lora_from_scratch.arithmetic import dare
from lora_from_scratch.book import stats
from lora_from_scratch.book.figures import chA6 as figures
from lora_from_scratch.book.results import Results
from lora_from_scratch.book.verdicts import AtLeast, Equal, Higher, Lower

# %%
from lora_from_scratch.lab import adapt, merging
from lora_from_scratch.lab import adding_real as real
from lora_from_scratch.lab.adapt import Lesson
from lora_from_scratch.lab.cache import ROOT
from lora_from_scratch.lab.checkpoint import load_checkpoint
from lora_from_scratch.lab.marks import marks
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.sweep import Tuned, best_rate, bracketed

# %%
torch.set_num_threads(adapt.THREADS)
size, checkpoint = preset(), load_checkpoint()
checkpoint.model.to(size.device)
base = checkpoint.model
scope = {"model": checkpoint.source.partition(" (")[0], "width": base.config.hidden_size, "bases": 1}
scope |= {"task": "records and documents", "method": "LoRA rank 8"}
results = Results("A6_adding_for_real", size, scope=scope)
full = size.name in ("full", "gpu")
seeds = list(range(1, (size.seeds if full else 1) + 1))
steps = {"smoke": 1, "quick": 2}.get(size.name, 20)
tasks = ("records", "documents")

# %% [markdown]
# ## Four ways to two tasks
#
# *Apart*: an adapter of rank 8 for each task, of 20 steps, with a start of its own. *Together*, the control: one
# adapter of rank 16, as large as their sum, of 40 steps, each with half a batch of records and half of documents. So it
# reads as many tokens as the two. *In turn*: one task, a merge, the other task, both ways round. *Merged*: the two that
# were trained apart, and no training.
#
# Chapters 12 and 13 have found the rates of the two tasks (documents at rank 16: at alpha / r the rate hardly hangs on
# the rank, and there all within a factor of 1.8 were ties). The control's is the best of three, on seed 0.


# %%
def rate(chapter, sweep, label):
    """A learning rate that the committed results of a chapter hold."""
    return json.loads((ROOT / "figures" / "full" / f"{chapter}.json").read_text())["sweeps"][sweep][label]["rate"]


eight = Lesson(adapter=AdapterConfig(rank=8, alpha=32), steps=steps, judged=False, held=4, windows=1)
lessons = {
    "records": replace(eight, batch=6, lr=rate("12_a_real_model", "records", "LoRA rank 8")),
    "documents": replace(eight, task="documents", batch=4, lr=rate("13_toy_or_real", "documents", "LoRA rank 16")),
}
wide = AdapterConfig(rank=16, alpha=32)
print({task: f"{lesson.lr:.2g}" for task, lesson in lessons.items()})


# %%
def lesson(task, seed):
    """A task's own lesson; its two lessons of one seed begin from two starts."""
    return replace(lessons[task], seed=seed + 100 * tasks.index(task))


# %%
@functools.cache
def adapters(seed):
    """The adapters of both tasks, {layer: (A, B, scaling)} each."""
    return [real.learnt(lesson(task, seed), checkpoint) for task in tasks]


def together(seed, lr):
    """The base with the adapter that was trained on both tasks."""
    both = [replace(lessons[task], adapter=wide, seed=seed, lr=lr) for task in tasks]
    return merging.with_one(base, real.learnt_together(both, checkpoint))


# %%
count, windows = {"smoke": (2, 1), "quick": (4, 2)}.get(size.name, (24, 8))
judged = functools.partial(marks, checkpoint=checkpoint, half="judge", count=count, windows=windows)
few = functools.partial(marks, checkpoint=checkpoint, half="tune", count=-(-count // 3), windows=-(-windows // 2))
mean_loss = lambda found: (found["records"] + found["documents"]) / 2  # noqa: E731
start = judged(base)
print("the base:", {name: f"{value:.2f}" for name, value in start.items()})

# %% [markdown]
# ## What would count
#
# These are chapter 18's rows, with its lines and its kinds of chance, written down before anything was measured here.
# What differs:
#
# - The mean of the two losses is in nats a token, and one base has taken the place of three.
# - *Keeps* is a mean of two shares. On documents little can be gained (0.25 nats in chapter 13) and much can be lost,
#   so its share may fall far below nothing. *Answers* is new: it asks of records the published kind of number, a ratio
#   of accuracies, here of right fields. A merge can pass it by leaving documents alone, so it asks for those too.
# - Chance of the differences, *re-paired*: the sum of this seed's adapter for records and *another* seed's for
#   documents, minus the sum. It draws one half anew and costs no training; a full second pair would spread more.
# - *Negation* takes records away, whose gain is large enough to lose half a nat; from rank 16, as the control has it.
# - The tiny model's DARE had entries above 0.1. The printed sizes say how near these are to DARE's 0.002.

# %%
margin, why = 0.05, "chapter 18's line: below it we would not call two models different"
keeps = results.claim(
    "keeps",
    says="the sum of two adapters keeps nine tenths, in the mean of the two tasks, of what each has gained on its own",
    source="arXiv 2212.04089v3, section 4.1, figure 2",
    read="second hand",
    published="98.9 % of the accuracy of the models fine-tuned on each, for pairs of image tasks",
    test=AtLeast(0.9, "a tenth lost is what one would notice"),
    asks_again="18.keeps",
)
# %%
answers = results.claim(
    "answers",
    says="the sum has nine tenths of the right fields that the adapter for records has, and of the gain on documents",
    source="arXiv 2212.04089v3, section 4.1, figure 2",
    read="second hand",
    published="98.9 % of the accuracy of the models fine-tuned on each, for pairs of image tasks",
    test={"fields": AtLeast(0.9, "a tenth lost"), "documents": AtLeast(0.9, "a tenth lost")},
)

# %%
beats = results.finding(
    "beats_mixing",
    says="a sum of two adapters is better than one adapter of its size that was trained on both, in the mean loss",
    test=Lower(margin, why),
    source="arXiv 2410.13025v2, abstract, of problems that need both skills",
    scope={"method": "weighted sum, rank 16, minus together, rank 16"},
    asks_again="18.beats_mixing",
)
# %%
better = results.claim(
    "ties_better",
    says="TIES is better than the weighted sum",
    source="arXiv 2306.01708v2, abstract",
    read="abstract",
    published="outperforms several existing methods in diverse settings",
    test=Lower(margin, why),
    asks_again="18.ties_better",
)
# %%
drops = results.claim(
    "dare",
    says="90 or 99 % of an update's entries can be dropped at random, if the others are scaled up",
    source="arXiv 2311.03099v3, abstract",
    read="abstract",
    published="90 % or even 99 % are eliminated effortlessly, of entries within 0.002",
    test={f"{share:.0%} dropped": Equal(margin, why) for share in (0.9, 0.99)},
    asks_again="18.dare",
)

# %%
cut = results.finding(
    "compressed",
    says="the weighted sum, of rank 16, cut back to rank 8, loses at most 0.05 nats",
    test=Equal(margin, why),
    asks_again="18.compressed",
)
# %%
crossed = results.finding(
    "crossed",
    says="adding the factors instead of the products is worse, at its own best weight",
    test=Higher(margin, why),
    asks_again="18.crossed",
)
# %%
chained = results.finding(
    "sequence",
    says="the weighted sum is better than learning the two tasks in turn",
    test=Lower(margin, why),
    asks_again="18.sequence",
)
# %%
negated = results.finding(
    "negation",
    says="subtracting the update for records from a model that does both, as far as documents lose at most 0.1 nats, "
    "raises the loss on records by half a nat more",
    source="arXiv 2212.04089v3, abstract, of models that were not trained on the control",
    test=Higher(0.5, "half a nat on records, beyond what documents have lost"),
    scope={"method": "together, rank 16, minus the update for records"},
    asks_again="18.negation",
)

# %% [markdown]
# **Write down your predictions.** On the tiny model the sum kept 70 and 55 %, and half was the best weight.
# LoRA's updates in chapter 13, of lessons a little longer, were 0.008 (documents) and 0.025 (records) of the weights:
# does a sum keep more? Is a weight of 1 nearer to the best? Which of the two tasks pays for the merge?
#
# ## The control's rate

# %%
known = None if full else (results.known_rates("together") or {"together, rank 16": lessons["documents"].lr})
tried = {} if known else {lr: mean_loss(few(together(0, lr))) for lr in (0.001, 0.0018, 0.0032)}
lr = best_rate(tried) if tried else known["together, rank 16"]
print(f"together: rate {lr:.2g}; tried", {f"{one:.2g}": f"{loss:.3f}" for one, loss in tried.items()})

# %% [markdown]
# ## The weight
#
# Chosen on the adapters of seed 0, on other records and windows than those that judge. Each way is proportional to its
# weight, so its update is made once.

# %%
ways = {
    "sum": merging.added,  # w (ΔW1 + ΔW2), as one adapter of rank 16
    "sum, cut to rank 8": merging.cut_back,
    "TIES": real.by_ties,  # the largest fifth of either
    "DARE": merging.by_dare(0),  # a random tenth of either, ten times as large
    "factors added": merging.factors_added,  # w s (B1 + B2)(A1 + A2)
}
# %%
tried_weights = {"smoke": [0.5, 1.0], "quick": [0.35, 0.7]}.get(size.name, [0.25, 0.35, 0.5, 0.7, 1.0, 1.4])
chosen = {}
for label, way in ways.items():
    deltas = real.updates(adapters(0), way)
    chosen[label] = {w: mean_loss(few(real.weighted(base, deltas, w))) for w in tried_weights}
best = {label: min(of, key=of.get) for label, of in chosen.items()}
print(figures.table_of_weights(chosen, best))
results.record(chosen=chosen, best=best, rates_tried=tried)

# %%
results.figure(
    figures.weights(chosen),
    "weights",
    "The mean loss on both tasks by the weight of the merge, on the adapters of seed 0, for five ways to merge.",
    alt="Five curves over the weight of the merge, one for each way to merge.",
)

# %% [markdown]
# ## Judged
#
# Other seeds, other records, other windows. *Eight at random* is the chance of the cut.


# %%
def in_turn(seed):
    """The marks of both orders of learning one task after the other, their mean."""
    found = []
    for first, then in (tasks, tasks[::-1]):
        two = real.learnt_after(lesson(first, seed), lesson(then, seed), checkpoint)
        found.append(judged(real.weighted(base, real.updates(two, merging.added), 1.0)))
    return {name: (found[0][name] + found[1][name]) / 2 for name in found[0]}


# %%
measured, at_w, w = {}, {}, best["sum"]
for i, seed in enumerate(seeds):
    two, found = adapters(seed), {"base": start}
    for task, own in zip(tasks, two, strict=True):
        found[f"{task} alone"] = judged(merging.with_one(base, own))
        at_w[seed, task] = judged(merging.with_one(base, own, w), only=[task])[task]
    for label, way in (ways | {"eight at random": real.eight_at_random(seed)}).items():
        at = best[{"eight at random": "sum, cut to rank 8"}.get(label, label)]
        found[label] = judged(real.weighted(base, real.updates(two, way), at))
    other = adapters([*seeds[1:], 0][i])[1]  # another seed's documents
    found["sum, w = 1"] = judged(merging.merged(base, two, merging.added, 1.0))
    found["sum, re-paired"] = judged(merging.merged(base, [two[0], other], merging.added, w))
    found["together, rank 16"] = judged(together(seed, lr))
    found["in turn"] = in_turn(seed)
    measured[seed] = found

# %%
print(figures.table_of_marks(measured, seeds, best))
ends = [measured[s]["together, rank 16"] for s in seeds]
parts = {"task_loss": [mean_loss(one) for one in ends], "text_loss": [one["documents"] for one in ends]}
trained = sum(A.numel() + B.numel() for A, B, _ in adapters(0)[0].values()) * 2  # rank 16 for rank 8
per_seed = [{"trained": trained} | {n: v[i] for n, v in parts.items()} for i in range(len(seeds))]
run = replace(lessons["records"], adapter=wide, lr=lr)
tuned = Tuned("together, rank 16", run, tried, not tried or bracketed(tried), per_seed)
results.record_sweep("together", {tuned.label: tuned})
results.record(losses={f"seed {seed}": found for seed, found in measured.items()})


# %%
def shares(label):
    """Of each adapter's gain on its task, the share that a model has: {task: one value a seed}."""
    return {task: [merging.gain_kept(measured[s], label, task) for s in seeds] for task in tasks}


def kept(label):
    """The mean of the two, one value a seed."""
    return np.mean(list(shares(label).values()), axis=0).tolist()


# %%
def minus(first, second):
    """The paired difference of the mean losses of two models."""
    return stats.paired(*([mean_loss(measured[s][label]) for s in seeds] for label in (first, second)))


def of_fields(label):
    """The right fields of a model over those of the adapter for records, one value a seed (1 % at least)."""
    return [measured[s][label]["fields"] / max(measured[s]["records alone"]["fields"], 0.01) for s in seeds]


# %%
alone = np.max([kept(f"{task} alone") for task in tasks], axis=0).tolist()
keeps.measure(stats.interval(kept("sum")), chance=stats.interval(alone))
answers.measure(
    {"fields": stats.interval(of_fields("sum")), "documents": stats.interval(shares("sum")["documents"])},
    chance={
        "fields": stats.interval(of_fields("documents alone")),
        "documents": stats.interval(shares("records alone")["documents"]),
    },
)
for seed in seeds:  # each adapter alone, on its own task, at the sum's weight
    measured[seed]["w of its own"] = {task: at_w[seed, task] for task in tasks}
some = ("w of its own", "sum", "sum, w = 1", "TIES", "DARE", "in turn", "together, rank 16")
rows = [[label, *(stats.shown(v, 2) for v in (*shares(label).values(), kept(label)))] for label in some]
print(stats.table(["share of the gain kept", *tasks, "mean"], rows))
print("w of its own: each adapter alone on its task, at the sum's weight, before the other comes in")
cosines = [merging.cosine(*adapters(seed)) for seed in seeds]
print(f"cosine of the two updates: {stats.shown(cosines, 4)}")

# %%
redrawn = minus("sum, re-paired", "sum")
beats.measure(minus("sum", "together, rank 16"), chance=redrawn)
better.measure(minus("TIES", "sum"), chance=redrawn)
cut.measure(minus("sum, cut to rank 8", "sum"), chance=minus("eight at random", "sum"))
crossed.measure(minus("factors added", "sum"), chance=redrawn)
chained.measure(minus("sum", "in turn"), chance=redrawn)

# %%
results.figure(
    figures.plane(measured, seeds),
    "plane",
    "Each point is a model: across its loss on records, upwards its loss on documents (means over seeds). Grey lines: "
    "each adapter alone on its own task.",
    alt="A point for each model in the plane of the two losses: the base, each adapter alone, six merges, together "
    "and in turn.",
)

# %% [markdown]
# ## Dropping entries
#
# Each adapter by itself, 90 or 99 % of its update's entries dropped and the rest scaled up: the rise of the loss on its
# own task. Chance drops all of it: the base.


# %%
def rise(seed, task, p):
    """What dropping entries of a task's own update adds to its loss."""
    own, draw = adapters(seed)[tasks.index(task)], torch.Generator().manual_seed(seed)
    rest = {n: dare(merging.delta(adapter), p, draw) for n, adapter in own.items()}
    return judged(real.weighted(base, rest, 1.0), only=[task])[task] - measured[seed][f"{task} alone"][task]


rises = {p: [[rise(seed, task, p) for task in tasks] for seed in seeds] for p in (0.9, 0.99)}
rows = [[f"{p:.0%}", *(stats.shown(list(v), 2) for v in zip(*of, strict=True))] for p, of in rises.items()]
print(stats.table(["dropped", *tasks], rows))
gained = [np.mean([start[t] - measured[s][f"{t} alone"][t] for t in tasks]).item() for s in seeds]
parts = {f"{p:.0%} dropped": stats.interval(np.mean(of, axis=1).tolist()) for p, of in rises.items()}
drops.measure(parts, chance=dict.fromkeys(parts, stats.interval(gained)))
for task, own in zip(tasks, adapters(1), strict=True):
    large = np.mean([merging.delta(a).abs().flatten()[::50].quantile(0.99).item() for a in own.values()])
    print(f"{task}: one entry in a hundred is larger than {large:.4f}, in the mean of the layers")

# %% [markdown]
# ## Subtracting
#
# From the model that does both, w times the update for records. The weight is the largest at which documents lose at
# most 0.1 nats, on seed 0 and the data that choose; chance is a random update with the same singular values, by the
# same rule.


# %%
def rises_of(seed, at, random, look, before):
    """By how much the losses rise, of records and of documents, when w times the update for records is taken away."""
    own = real.twin(adapters(seed)[0], seed) if random else adapters(seed)[0]
    model = together(seed, lr)
    after = [look(merging.with_one(model, own, -one)) for one in at]
    return [[one[task] - before[task] for task in tasks] for one in after]


rows, net, at_first = [], {}, few(together(0, lr))
for random in (False, True):
    of = dict(zip(tried_weights, rises_of(0, tried_weights, random, few, at_first), strict=True))
    at = max((one for one, (_, documents) in of.items() if documents <= 0.1), default=tried_weights[0])
    ends = {seed: measured[seed]["together, rank 16"] for seed in seeds}
    found = np.array([rises_of(seed, [at], random, judged, ends[seed])[0] for seed in seeds])
    rows.append(["a twin" if random else "records", at, *(stats.shown(column.tolist(), 2) for column in found.T)])
    net[random] = stats.interval((found[:, 0] - found[:, 1]).tolist())
print(stats.table(["taken away", "w", "records rise by", "documents rise by"], rows))
negated.measure(net[False], chance=net[True])

# %% [markdown]
# ## The same question, twice
#
# Chapter 18's verdicts beside these. A row with parts has a verdict where all of them agree; two verdicts are the same
# answer, or the other way round, only where both are settled.

# %%
results.forest("rows", "Every row, its interval against its line; what lies beyond the axis is drawn at its edge.")

# %%
tiny = json.loads((ROOT / "figures" / "full" / "18_adding_adapters.json").read_text())["rows"]


def answer(parts):
    """One word for the verdicts of parts: yes or no if all agree."""
    said = {part["verdict"] for part in parts.values()}
    return said.pop() if len(said) == 1 else "not settled"


rows = []
for row in (row for row in results.rows.values() if row.asks_again):
    data, before = row.as_data(), tiny[row.asks_again.partition(".")[2]]
    both = [answer(before["parts"]), answer(data["parts"])]
    values = [", ".join(f"{p['estimate']['value']:.2f}" for p in of["parts"].values()) for of in (before, data)]
    so = "not settled" if "not settled" in both else "the same" if both[0] == both[1] else "the other way"
    rows.append([row.name, *values, *both, so])
print(stats.table(["row", "tiny", "real", "tiny says", "real says", "so"], rows))

# %% [markdown] rests_on="A6.keeps=not reproduced, A6.answers=partly, A6.beats_mixing=does not hold"
# **What a sum keeps.** In the mean of the two shares it keeps {A6.keeps.shown}. The tiny model's far pair kept 0.70,
# which lies in this interval; its near pair kept 0.55, which lies below it. (Seeds are bases there, and draws here.)
# The verdict turns on how tasks are weighed. Records keep 0.98 ± 0.01 and documents 0.49 ± 0.21, but documents had 0.31
# nats to gain and records 2.00. Counted in nats, the sum has 0.92 ± 0.02 of all that was gained: that interval ends at
# our line of 0.9, so it would not be settled. (The adapter for records alone has 0.54.) Documents pay most, 0.16 ± 0.05
# nats; records pay 0.03 ± 0.03, a fifth of the loss that was left.
#
# Of the right fields: {A6.answers.shown}. That is close: one right field fewer of 120, on the second or the third seed,
# and it is not settled. The base has none right, so here the ratio is the share of the gain as well. A rule that copies
# (chapter 12) has 93 of the 120 right on these very records, more than any model here; none to three of the 24 are
# exact. A part of what documents lose, 0.07 of 0.16 nats, is the weight alone, as *w of its own* shows; what a random
# update beside it would cost was not measured.
#
# One adapter that has read both ends lower than the sum on all three seeds, by {A6.beats_mixing.shown}. Its rate was
# chosen on both tasks, the adapters' each on its own, and that favours it; that its rate was the lowest tried
# (UNFINISHED) does not. The update for records is the longer one, and a gentler rate might change all three rows.

# %% [markdown] rests_on="A6.ties_better=not reproduced, A6.compressed=holds, A6.crossed=does not hold"
# **Ways to merge.** TIES is not better than the sum at its weight, and worse on each seed by 0.01 to 0.02. DARE is
# worse on each seed, by 0.06 ± 0.06: whether by our line is not settled. A cut back to rank 8 costs a hundredth of a
# nat; eight directions at random cost 0.10 to 0.22, and with three seeds that interval still holds 0. Adding the
# *factors*, a mistake that cost a quarter of a nat on the tiny model's far pair, costs nothing at a weight of one half.
# At a weight of 1 it cost 0.08, on the one seed that chose and its data. Why it is harmless was not measured: the cross
# terms need not be small.

# %% [markdown] rests_on="A6.dare=not settled, A6.negation=holds, A6.sequence=not settled"
# **Dropping, subtracting, one after the other.** With nine of ten entries dropped the loss rises, and by about our
# line: {A6.dare.shown}. It is not free. Documents lose 0.07 ± 0.04, about a quarter of their gain, records 0.02. With
# 99 of a hundred dropped documents end above the base. One entry in a hundred is larger than 0.0097 (records) or 0.0047
# (documents), of the tiny model's than 0.1; DARE speaks of 0.002. Half the update for records, subtracted from the
# model that does both, raises the loss on records by {A6.negation.shown} nats more than that on documents, to about the
# base's. A random update at 1.4, the largest weight tried, moves neither by more than 0.02 in the mean. Whether it
# takes the task or only breaks the form of the answers was not asked. The tiny model's row is a mean over four tasks at
# rank 8, and this one task was chosen since it can lose half a nat.
#
# The sum is lower than learning in turn by more than 0.05 on each seed, but the interval reaches within our line: not
# settled. Its weight was chosen; learning in turn has none. At a weight of 1 the difference is 0.01 ± 0.16, which says
# nothing. And the line itself, 0.05 nats, is of characters there and of tokens here: as a share of what was gained, the
# tiny model's rows and these lie nearer than the words "the same" and "the other way" have it.

# %% [markdown]
# ## What these tests cannot say
#
# One model, one pair of tasks, 20 steps each: of a trend with size nothing, and nothing of models that were trained for
# long. The intervals are over batches and starts; another base may answer otherwise, and so may other records. The
# adapters' rates were chosen for each task alone, in lessons of other lengths. Eight records and four windows of 128
# tokens chose weights and rates, 24 records and eight windows judge. DARE and TIES were not made for LoRA. And no text
# asks for both tasks at once.
#
# ## Exercises
#
# **1. Two ways to count.** A base gets 60 % of its answers right. An adapter gets 90 %, and a merge that holds it 84 %.
# What is the ratio of accuracies, which papers print, and what is the share of the gain that is kept? Both in percent.

# %%
from lora_from_scratch.book.checks import chA6 as check

my_numbers = (0, 0)  # change this: (the ratio, the share of the gain)
print(check.check_kept(my_numbers))

# %% [markdown]
# <details><summary>Solution</summary>
#
# The ratio is 84 / 90 = 93.3 %. Of the 30 points that were gained, 24 are left: 80 %. The base by itself has a ratio of
# 67 %, and a share of 0.
#
# </details>
#
# ## The same with PEFT
#
# ```python
# model.add_weighted_adapter(["records", "documents"], [0.5, 0.5], "both", combination_type="cat")
# ```
#
# Chapter 18 says what the other types do, and where they err.
#
# ## What to take along
#
# - Do they add up? Here for records, by half for documents; and one adapter trained on both is better on both.
# - Ask on the model you use: a verdict from another scale is a prediction.
# - Choose a merge's weight on other data than what judges it, and train the control before you believe the merge.
# - Print both: a share of the gain, and the ratio of accuracies that papers have.

# %%
results.save()
