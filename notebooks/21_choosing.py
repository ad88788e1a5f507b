# %% [markdown]
# # 21 · Choosing
#
# **The question.** LoRA, QLoRA, DoRA or full? Which rank, alpha, rate, layers, batch? Merge or not? One adapter or
# many? And how do you know?
#
# **What you will be able to do.** Say of each answer which measurements it stands on, where they were made, and how
# sure it is. Notice when a measurement changes under an answer. Plan a fine-tuning for your machine.
#
# **What you need.** Nothing is trained here. The verdicts are those of chapter 01 ("reproduced", "not settled"); the
# bytes are those of chapter 06.
#
# **What is read.** The *committed* results, `figures/full/*.json`: those that the book's words rest on. Near the end
# your own results of this preset are set beside them, as far as there are any.
#
# **The published findings.** *LoRA Without Regret* (Thinking Machines, 2025) reports: all weight matrices, above all
# the MLP; about ten times full fine-tuning's rate; a rank large enough for the data; less tolerance of large batches in
# some settings. Its lines are set beside our rows below.

# %%
import copy
import functools
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from lora_from_scratch.analysis.activations import Sizes, kept
from lora_from_scratch.analysis.advise import ROOM, advise
from lora_from_scratch.analysis.counting import ALL_LINEAR, MODELS, Transformer, lora_parameters
from lora_from_scratch.analysis.memory import ADAPTERS32, FLOAT32, training_bytes
from lora_from_scratch.book import evidence, guide, here, paragraphs, standing, stats
from lora_from_scratch.book.advices import ADVICES
from lora_from_scratch.book.article import ARTICLE
from lora_from_scratch.book.figures import ch21 as figures
from lora_from_scratch.book.results import Results
from lora_from_scratch.book.verdicts import AtLeast, AtMost, Identity
from lora_from_scratch.lab.cache import ROOT, build_folder
from lora_from_scratch.lab.llama import LlamaConfig
from lora_from_scratch.lab.presets import preset

# %%
size = preset()
results = Results("21_choosing", size, scope={"seeds": "none", "bases": "none"})
rows = paragraphs.committed(ROOT / "figures" / "full")
print(f"{sum(map(len, rows.values()))} rows of {len(rows)} chapters and appendices")

# %% [markdown]
# ## An advice by hand
#
# An advice is a sentence. What makes it more than an opinion is the list of measurements that it stands on, with what
# each has to say for the sentence to stand. Take "not attention alone: the MLP at least, or all linear layers":

# %%
says = {"13.placement": "reproduced", "02.placement": "not settled", "02.qv": "not reproduced"}
for name, verdict in says.items():
    chapter, row = name.split(".")
    now = rows[chapter][row]
    print(f"{name:14}{now['scope']['model'][:12]:14}{now['verdict']:16}{now['shown']}")
    print(f"{'':14}{'as the advice says' if now['verdict'] == verdict else 'OTHERWISE: read the advice again'}")

# %% [markdown]
# Each row has a sentence, a test, a scope; an interval where something is random, and what chance scores where there is
# a chance. Most tests were written down before the measurement; a row that was seen first says so. The verdict is
# computed. So there are three ways to be unsure, and they are not the same:
#
# - **open**: the interval touches the line of the test; or some parts are settled and others not; or the interval is
#   clear, but chance passes the test too, so what was seen does not need that reason. None is evidence of "no effect";
# - **settled elsewhere**: on the tiny Llama alone, say, and your model is another;
# - **never measured**: no row.
#
# ## All of them
#
# `book/advices.py` holds the advices as data, and `figures/GUIDE.md` is made from it: with each advice the rows, their
# verdicts, their numbers. Here are the answers in one place, and how sure each is, counted from its rows alone.
#
# **Write down your prediction.** How many of these questions stand on settled rows only, of the rows that their
# author named?

# %%
for advice in ADVICES:
    named = [evidence.row_of(name, rows) for name in paragraphs.rests_on(advice.rests_on)]
    print(f"{advice.question}\n    {advice.do}\n    how sure: {standing.sureness(named)}\n")

# %% [markdown]
# And the same as a picture: a mark for each row, in the column of the model on which it is settled.

# %%
stands = {advice.question: evidence.stands_on(advice.rests_on, rows) for advice in ADVICES}
totals = Counter(place for by in stands.values() for place, verdicts in by.items() for _ in verdicts)
settled = [q for q, by in stands.items() if any(by.values()) and not by["open"]]
results.record(standing=stands, totals=totals, settled=settled)
results.figure(
    figures.standing(stands),
    "standing",
    "What each advice stands on: a mark for each row, by where it is settled. A cross is a row that came out otherwise "
    "than was claimed, which is as good a reason for an advice as one that came out as claimed.",
    alt="A line for each question of the guide, with a mark for each row it stands on in one of four columns: settled "
    "on the pretrained model, on the tiny model, counted or exact, or open. "
    + "; ".join(f"{q} {', '.join(f'{len(v)} {p}' for p, v in by.items() if v) or 'none'}" for q, by in stands.items()),
)
print(", ".join(f"{place}: {totals[place]}" for place in evidence.PLACES))
alone = ", ".join(settled) or "none"
print(f"{len(settled)} of {len(ADVICES)} stand on settled rows only, of those their author named: {alone}")

# %% [markdown]
# Read the picture by lines. A grey ring is an open row: it was asked, and is not settled, by too few seeds, by a grid
# too coarse, in some parts, or because chance passes too. Rings are no evidence that it does not matter. A line with
# marks in the second column only speaks of a model of less than a million weights.
#
# ## One question closely
#
# Here is what stands behind one answer. Take another question by its words.


# %%
def show(words):
    """The rows behind the advices whose question has these words."""
    for advice in (a for a in ADVICES if words.lower() in a.question.lower()):
        print(advice.question, "\n", paragraphs.filled(advice.text, rows))
        for name in paragraphs.rests_on(advice.rests_on):
            row = evidence.row_of(name, rows)
            print(f"\n  {name}: {row['says']}\n    {row['verdict']}; {row['shown']}; {row['scope'].get('model', '')}")


# %%
show("which rank")

# %% [markdown] rests_on="01.rank_one_far=reproduced, 01.rank_one=not reproduced, 13.rank_one=not settled"
# On the tiny model rank 1 was too small on the far task, and on the near one as well. On the pretrained model it is
# open: {13.rank_one.shown} nats. These rows compare 1 with 64 or with 16; what
# bears "begin with 16" is 13.on_par alone: it bears that 16 is enough, not 16 rather than 8. For a larger model they do
# not contradict "rank 1 is enough". If an adapter must be small, rank 1 beside rank 16 is *your*
# measurement to make.
#
# ## Breaking it on purpose
#
# Suppose that somebody repeats chapter 13 with more seeds and attention alone comes out level with the MLP. The JSON
# file changes. The advice still says "not attention alone", in the same firm voice. What would notice?

# %%
planted = copy.deepcopy(rows)
planted["13"]["placement"]["verdict"] = "not reproduced"
for line in guide.contradicted(planted):
    print(line)

# %% [markdown]
# That is what `make sync-check` prints, with exit status 1; and until somebody has read the advice and changed its
# words *or* its rows, `make book` leaves the guide as it is. The same for a chapter's paragraphs and the README's
# lines. Is there a row whose change would go unnoticed? Plant another verdict under every one, and take every one away.

# %%
unseen = results.identity(
    "unseen", "verdicts planted, or rows taken away, under the guide that its check lets pass", Identity(0)
)

# %%
passed = []
for name in sorted({name for name, _ in evidence.named()}):
    chapter, _, row = name.partition(".")
    other, gone = copy.deepcopy(rows), copy.deepcopy(rows)
    other[chapter][row]["verdict"] = "another"
    del gone[chapter][row]
    passed += [name for changed in (other, gone) if not any(f"{name}=" in w for w in guide.contradicted(changed))]
unseen.measure(len(passed))
print(f"{2 * len({name for name, _ in evidence.named()})} changes planted")
results.record(evidence=evidence.fingerprint(rows))

# %% [markdown]
# A check that looks at open rows only, or at rows of one chapter, fails this at once. What it cannot see: another
# number under the same verdict (the guide prints it anew, and this chapter's mark asks for a new run, but no advice is
# read again); a row that nobody named; and a sentence that its rows never bore. That takes a reader.
#
# ## Beside the article
#
# Its lines, in our words, and the rows that ask the same:

# %%
for line in ARTICLE:
    found = [f"{n} {evidence.row_of(n, rows)['verdict']}" for n in paragraphs.rests_on(line.rests_on)]
    print(f"{line.says}\n    {'; '.join(found) or 'nothing measured here'}")

# %% [markdown]
# Where it says "nothing", no row asks it: do not read our silence as doubt. And an article that measured models of
# billions of weights on real data may know what a tiny Llama cannot show.
#
# ## A plan by hand
#
# Whether it *fits* needs no experiment. Chapter 06 found the sum to plan with: weights, gradients, state, activations,
# and 8 bytes for each entry of the logits; then a tenth to spare. For a 7B model, one sequence of 512 tokens, LoRA of
# rank 16 on all linear layers, the base in bfloat16, A and B in float32:

# %%
by_hand = results.identity("by_hand", "the calculator's bytes are those of six lines, in bytes", Identity(0))
model, tokens, rank = MODELS["LLaMA-7B"], 512, 16
trained = lora_parameters(model.shapes(ALL_LINEAR), rank)
weights = 2 * model.parameters() + 4 * trained
gradients, state = 4 * trained, 8 * trained
llama = Sizes(32, 4096, 11008, 32000, heads=32, head=128, q=4096, kv=4096, tied=False)
activations = kept(llama, 2, tokens, tokens, set(ALL_LINEAR), rank, wide=4)
logits = 8 * model.vocabulary * tokens
need = round(1.1 * (weights + gradients + state + activations + logits))
plan = advise(model, memory=24e9, tokens=tokens)
by_hand.measure(plan.need - need)

# %% [markdown]
# The calculator gives the plan with the bytes of each part and a reason for each number; a reason that rests on a row
# names it, and is held to its verdict as an advice is.

# %%
card = advise(MODELS["LLaMA-7B"], memory=24e9, tokens=16 * 512)
print(card)

# %% [markdown]
# It takes the first that fits of: LoRA with all tokens at once; split into smaller batches whose gradients are summed
# up; one of these checkpointed; QLoRA in the same order. What costs no pass comes first, then what costs a forward
# pass, then what costs some loss (05.recovers).
#
# ## Three machines
#
# **Write down your prediction.** For each model and machine: LoRA, QLoRA, or does it not fit? Sixteen sequences of 512
# tokens a step. (A laptop's 16 GB are shared with all else that runs on it: 12 are left.)

# %%
SMOL = LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, tie_word_embeddings=True,
)  # fmt: skip
SHAPES = {  # billions of weights: model
    0.135: ("SmolLM2 135M", SMOL),
    1.24: ("Llama-3.2 1B", MODELS["Llama-3.2-1B"]),
    8.03: ("Llama-3 8B", MODELS["Llama-3-8B"]),
    13.0: ("LLaMA 13B", MODELS["LLaMA-13B"]),
    32.5: ("LLaMA 33B", MODELS["LLaMA-33B"]),
    70.6: ("Llama-3 70B", Transformer(80, 8192, kv=1024, mlp=28672, vocabulary=128256)),
}
MACHINES = {"laptop, 12 GB free": 12e9, "24 GB card": 24e9, "80 GB card": 80e9}


# %%
def in_words(shapes, memory):
    """What advise says, in a few words."""
    try:
        plan = advise(shapes, memory, 16 * 512)
    except ValueError:
        return "does not fit"
    again = ", ckpt." if plan.checkpoint else ""
    return f"{plan.method}, {plan.batch} x {plan.accumulate}{again}: {plan.need / 1e9:.1f} GB"


# %%
plans = {name: [in_words(shapes, memory) for memory in MACHINES.values()] for name, shapes in SHAPES.values()}
print("method, sequences at once x batches a step, ckpt.: checkpointed; GB to plan with")
print(stats.table(["model", *MACHINES], [[name, *found] for name, found in plans.items()]))
results.record(plans=plans)


# %% [markdown]
# And where the lines cross the cards, whatever the machine:


# %%
def needed(shapes, sequences, method="lora", checkpoint=False, length=512, **more):
    """The plan of so many sequences at once, with checkpointing or without, whatever the memory."""
    asked = functools.partial(advise, shapes, tokens=sequences * length, length=length, methods=(method,), **more)
    plan = asked(memory=1e18)  # everything at once
    if not checkpoint:
        return plan
    parts = training_bytes(
        shapes, method, sequences, length, plan.rank, precision=more.get("precision", ADAPTERS32), checkpoint=True
    )
    return replace(plan, checkpoint=True, parts=parts, need=plan.need + round(ROOM * (parts.total - plan.parts.total)))


WAYS = {
    "LoRA, 16 sequences at once": dict(sequences=16),
    "LoRA, one, checkpointed": dict(sequences=1, checkpoint=True),
    "QLoRA, one, checkpointed": dict(sequences=1, checkpoint=True, method="qlora"),
}

# %%
curves = {way: {b: needed(s, **how).need for b, (_, s) in SHAPES.items()} for way, how in WAYS.items()}
results.figure(
    figures.needs(curves, MACHINES, {b: name for b, (name, _) in SHAPES.items()}),
    "needs",
    "Memory to plan with by size of the model, rank 16 on all linear layers. Below a dashed line it fits that machine. "
    "Counted, not measured.",
    alt="Gigabytes against weights of the model, both logarithmic, for three ways: LoRA with 16 sequences at once "
    "needs most, LoRA with one checkpointed sequence less, QLoRA likewise least. Dashed lines mark 12, 24 and 80 GB.",
)

# %% [markdown]
# Between the first line and the second lie activations, and the logits over the vocabulary: smaller batches save both,
# checkpointing the first. Between the second
# and the third lie weights: 4 bits save them (not the embedding and head: those of a large vocabulary stay in 16 bits,
# which is the kink). Look at your model which of the two gaps is the wider (on this axis a gap is a
# ratio), before you choose which to close.
#
# ## Is it right?
#
# The calculator's bytes are worth what they are beside measured ones. There are thirteen committed peaks of LoRA and
# QLoRA: eight of chapter 06 (bytes alive in the second step, two vocabularies, checkpointed or not), four of chapter 12
# (what a process took for SmolLM2) and one of A2 (LLaMA-7B in bfloat16 on fake tensors). Left out: four more of A2,
# which it keeps as shares of its plan alone (A2.plan_close: off by 6.3 %, too much), TinyLlama there, and DoRA, which
# is not planned: a plan of LoRA is a fifth too little for it in chapter 12. Two rows. **close**: what it sums up is
# within 10 % of the peak. **enough**: what it says to plan with, the tenth included, is never too little. The null is
# what one might leave out: the logits' term. A rule of thumb, 4 bytes a weight, is in the table.

# %%
where = {"model": "tiny Llama, SmolLM2-135M, LLaMA-7B", "width": "128, 576, 4096", "precision": "float32, bfloat16"}
close = results.finding(
    "close",
    says="advise's sum is within 10 % of committed peaks of LoRA and QLoRA, chapters 06, 12, A2: the most it is off",
    test=AtMost(0.10, "the room that advise leaves on top"),
    scope=where,
    asks_again="06.plan",
)
enough = results.finding(
    "enough",
    says="what advise says to plan with covers each of these peaks: the least of it over the peak",
    test=AtLeast(1.0, "one byte too little ends a run"),
    scope=where,
)
same = results.identity(
    "same", "advise gives the bytes that chapter 12 planned with, rank 64 and QLoRA, but for rounding", Identity(1)
)

# %% [markdown]
# Chapter 12's file keeps its plans and peaks, not the length of its sequences. One length gives the plan for rank 8 to
# the byte; the other two plans must then come out by themselves, which is the row *same*.


# %%
def numbers(stem, key):
    """What the committed results of a chapter hold under `key`."""
    return json.loads((ROOT / "figures" / "full" / f"{stem}.json").read_text("utf-8"))["numbers"][key]


# %%
took, planned = numbers("12_a_real_model", "took"), numbers("12_a_real_model", "planned")
there = {"LoRA rank 8": ("lora", 8), "LoRA rank 64": ("lora", 64), "QLoRA rank 8": ("qlora", 8)}


def there_planned(name, length):
    """The plan of one of chapter 12's three, eight sequences of this length."""
    method, rank = there[name]
    return needed(SMOL, 8, method, length=length, rank=rank, precision=FLOAT32)


length = next(
    n for n in range(16, 513) if abs(there_planned("LoRA rank 8", n).need - ROOM * planned["LoRA rank 8"]) < 1
)
off = [abs(there_planned(name, length).need - ROOM * planned[name]) for name in list(there)[1:]]
same.measure(max(off))
print(f"length {length}")

# %%
there["LoRA rank 1"] = ("lora", 1)
beside = {f"12 {name}": (there_planned(name, length), SMOL, took[name]) for name in there}
for key, (_, peak, *_) in numbers("06_memory", "peaks").items():
    vocabulary, method, again = key.split()
    if method != "full":
        config = LlamaConfig(vocab_size=int(vocabulary))
        how = {"length": 64, "rank": 8, "precision": FLOAT32}
        beside[f"06 {key}"] = needed(config, 2, method, again == "True", **how), config, peak
giant, n = (
    LlamaConfig(32000, 4096, 11008, 32, 32, 32),
    numbers("A2_published_memory", "room")["('on_a_card_lean_wide', False)"],
)
beside["A2 LLaMA-7B"] = needed(giant, n // 512), giant, numbers("A2_published_memory", "peaks_7b")[1]


def weights_of(c):
    """How many weights a model of these sizes has."""
    kv, heads = c.hidden_size // c.num_attention_heads * c.num_key_value_heads, 1 if c.tie_word_embeddings else 2
    sizes = Transformer(c.num_hidden_layers, c.hidden_size, kv, c.intermediate_size, c.vocab_size, heads == 1)
    return sizes.parameters()


# %%
lines, ratios = [], {"advise": [], "without logits": [], "4 bytes a weight": []}
for name, (planned_here, config, peak) in beside.items():
    guesses = planned_here.need / ROOM, planned_here.parts.total, 4 * weights_of(config)
    for found, guess in zip(ratios.values(), guesses, strict=True):
        found.append(guess / peak)
    lines.append([name, f"{peak / 1e6:,.1f}", *(f"{100 * (guess / peak - 1):+.1f}" for guess in guesses)])
print(stats.table(["chapter, what", "peak, MB", *(f"{name}, %" for name in ratios)], lines))
off = {name: max(abs(r - 1) for r in found) for name, found in ratios.items()}
close.measure((off["advise"], 0.0), chance=(min(off["without logits"], off["4 bytes a weight"]), 0.0))
enough.measure((ROOM * min(ratios["advise"]), 0.0), chance=(ROOM * min(ratios["without logits"]), 0.0))
results.record(ratios=ratios)

# %% [markdown]
# Chance is the better of the two wrong rules, with the same tenth to spare in the second row. (The logits matter most
# where the vocabulary is large beside the model: in 6 of the 13 cases, the four of vocabulary 128 among them, the sum
# without them is within a tenth as well.) This asks again what `06.plan` and `12.fits` asked, of the calculator instead
# of the formula. The peaks are the same, so it is a check that nothing got lost on the way, and no new evidence about
# cards; and *enough* follows from *close* where no plan is short by more than 9 %.

# %% [markdown] rests_on="21.close=holds, 21.enough=holds"
# The sum is off by {21.close.shown} at most, and too low on the smallest of them, QLoRA with checkpointing at the
# book's vocabulary. The tenth on top covers that: the least of the plans is {21.enough.shown} times its peak. Four
# bytes a weight is short of every one of them.

# %% [markdown]
# ## Your own results
#
# If you have run chapters at this preset, their files lie beside this one's. How do your rows under the guide stand to
# the committed ones? (`make agree` says it of every row, and explains the words.)

# %%
own_folder = Path(os.environ.get("LORA_OUT", build_folder() / size.name / "figures"))
own, states = paragraphs.committed(own_folder), {}
for name in sorted({name for name, _ in evidence.named()}):
    chapter, _, row = name.partition(".")
    if row in own.get(chapter, {}):
        try:
            states[name] = here.row_state(own[chapter][row], rows[chapter][row])
        except ValueError:
            states[name] = "other parts"
print(f"{len(states)} of the guide's rows were measured here: {dict(Counter(states.values())) or 'none yet'}")
print(
    "to be looked at:", ", ".join(name for name, state in states.items() if state in (here.WRONG, "other parts")) or "-"
)

# %% [markdown]
# (In the committed notebook the two folders are one, so all rows are "inside". At `smoke` everything is too small to
# mean anything.) The advices above stay those of the committed rows either way: one seed of `quick` settles nothing.
#
# ## What these tests cannot say
#
# - Whether an advice is *good*. The check sees that its rows have not moved, not that its words follow from them.
# - Anything of your model. The rows are of a tiny Llama and of one pretrained model of 135 million weights, on made-up
#   tasks and documentation. For a model of billions they say where to begin a comparison.
# - How large an open effect is, beyond its interval. Read it: some are wide and exclude little, others are narrow or
#   clear of zero, and only the line or the reason is open.
# - What memory a GPU's allocator and kernels take beyond the count. The peaks of 06 and 12 are of a CPU in float32,
#   those of A2 of fake tensors. The plans above are in bfloat16 and NF4, for which chapter 06 has counts and not peaks.
#   Try two steps before you trust a night to it; the second step is the one that needs most.
# - Which batch is best for your clock. Chapter 14 compares batches at equal tokens and at equal steps, on the tiny
#   model; the calculator splits one for its memory alone.
#
# ## Exercises
#
# **1. Your situation.** You trained an adapter over an NF4 base. To serve it without a second path you want to merge it
# into the 16-bit weights from which the NF4 ones were made. Which row asks whether that is better or worse than to
# keep base and adapter as trained, and is it "settled" or "open"? (`show("merge")` helps.)

# %%
from lora_from_scratch.book.checks import ch21 as check

my_row = None  # ("13.on_par", "settled"), say
print(check.check_row(my_row))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# my_row = ("05.keep_together", "open")
# ```
#
# The other merge rows are of adapters over a base that was not in NF4. There the merge is exact, or loses what 16 bits
# cannot hold. Here the base itself changes under the adapter: it was trained beside the rounding errors of NF4, and
# after the merge they are gone. On all seeds that made the model worse, past the margin. It is open because a blind
# move of the same size costs as much: so it is not shown that the adapter had learnt to make up for NF4's errors. What
# to do is less open: merge into the NF4 weights, written out in 16 bits (chapter 05 lost nothing that shows by that),
# do not quantize again, and measure on your held-out data.
#
# </details>
#
# **2. The refusal.** Write the check. `says` is {row: verdict that the advice needs}, `rows` is {row: {"verdict": …}}
# as it is now; a row may be missing. Give the names of the rows because of which the advice must be read again.


# %%
def my_stale(says, rows):
    """The names under `says` that are not as it says."""
    return None  # your code here


print(check.check_stale(my_stale))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_stale(says, rows):
#     return [name for name, verdict in says.items() if rows.get(name, {}).get("verdict") != verdict]
# ```
#
# A verdict that became *better* is a change too: an advice that calls a thing open is as wrong when it is settled.
#
# </details>
#
# **3. On paper.** LLaMA-7B has 6,738,415,616 weights, and rank 16 on all its linear layers 39,976,960. The base is
# frozen in bfloat16, A and B are in float32, the optimizer is AdamW. Weights, gradients and state together: how many
# GB?

# %%
my_gb = None  # your number here
print(check.check_gb(my_gb))

# %% [markdown]
# <details><summary>Solution</summary>
#
# `2 · 6,738,415,616 + (4 + 4 + 8) · 39,976,960` bytes are 14.12 GB. The adapter's part is 0.64: of what does not depend
# on the batch, the frozen base is nearly all. So 4 bits help a card that is too small for the base, and nothing else
# that you could do to the adapter does.
#
# </details>
#
# ## The same with PEFT and transformers
#
# The plan for the 24 GB card above, `card`, as settings for a base that is loaded in bfloat16:
#
# ```python
# from peft import LoraConfig
# from transformers import TrainingArguments
#
# config = LoraConfig(r=card.rank, lora_alpha=card.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
# arguments = TrainingArguments(
#     per_device_train_batch_size=card.batch,
#     gradient_accumulation_steps=card.accumulate,
#     gradient_checkpointing=card.checkpoint,
#     bf16=True,
# )
# ```
#
# For `qlora` the base is loaded with `BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
# bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16)`. The defaults differ from ours: without
# `bnb_4bit_quant_type` it is FP4.
#
# ## What to take along
#
# Ask of every advice, ours too: which measurement, on which model, how wide an interval, what would chance have scored,
# and who notices when it changes?

# %%
results.save()
