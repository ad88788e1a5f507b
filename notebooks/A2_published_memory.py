# %% [markdown]
# # A2 · Published memory
#
# **The question.** Papers print how much memory LoRA saves: 3 times, 780 GB against 48, twelve sizes in a table. Which
# of these figures can be worked out again? And when does LoRA save next to nothing?
#
# **What you will be able to do.** Work out a printed figure, and say which set-up it belongs to. Check a count for
# seven billion weights without a GPU. Compute the *crossover*: the tokens a step at which activations have caught up
# with all that LoRA saves.
#
# **What you need.** Chapter 06.
#
# **The published claims.** LoRA cuts GPT-3's training memory from 1.2 TB to 350 GB (arXiv 2106.09685v2, section 4.2).
# NF4 takes 4.127 bits a weight (2305.14314v1, section 3). A user reports that with a long context the memory with and
# without LoRA is "kind of same" (PEFT, issue 1514).
#
# Nothing here is random, so counts have no seeds: the interval of a count is the number itself. 1 GB is 10⁹ bytes.

# %%
from dataclasses import replace

import torch

from lora_from_scratch import AdapterConfig, add_adapters, nf4
from lora_from_scratch.analysis.counting import ALL_LINEAR, MODELS, lora_parameters, prints_as
from lora_from_scratch.analysis.memory import ADAPTERS32, BFLOAT16, FLOAT32, MIXED, STATE32, training_bytes
from lora_from_scratch.analysis.peaks import alive, most, planned
from lora_from_scratch.analysis.simulate import checkpoint_blocks, measured_bytes
from lora_from_scratch.book import stats
from lora_from_scratch.book.figures import chA2 as figures
from lora_from_scratch.book.results import Results
from lora_from_scratch.book.verdicts import AtLeast, AtMost, Equal, Figures
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama
from lora_from_scratch.lab.presets import preset

torch.set_num_threads(1)
size = preset()
results = Results("A2_published_memory", size, scope={"seeds": "none", "bases": "none"})
QV, GB, small = ("q_proj", "v_proj"), 1e9, size.name == "smoke"

# %% [markdown]
# ## What do "16 bits" mean?
#
# Four ways to hold a trained number are usual. MIXED keeps a second copy of what is trained, in float32: a bfloat16
# number has 8 significant bits, so an update below a 256th of it would be lost in rounding. The copy takes the update,
# and the 16-bit weights are made from it (arXiv 1710.03740, section 3.1). Lion is an optimizer with one state a number.

# %%
PRECISIONS = {"FLOAT32": FLOAT32, "BFLOAT16": BFLOAT16, "STATE32": STATE32, "MIXED": MIXED}
rows = [
    [name, p.weight, p.gradient, p.master, f"2 · {p.state}", p.trained("adamw"), p.trained("lion")]
    for name, p in PRECISIONS.items()
]
print(stats.table(["bytes", "weight", "gradient", "copy", "AdamW's state", "sum", "sum with Lion"], rows))
print(f"780 GB over 65 billion weights are {780 / 65:g} bytes a weight")

# %% [markdown]
# QLoRA says that 16-bit fine-tuning of 65B takes more than 780 GB (section 1). That is what STATE32 gives, without
# activations. But how the authors counted we only infer from the figure itself, so it is no test of ours.
#
# ## Figures worked out again
#
# A figure *adds up* if ours, rounded or cut off to the digits printed, is that figure. It says nothing about a machine.

# %%
qlora = {"source": "arXiv 2305.14314v1, section 3", "read": "full text"}
bits = results.arithmetic(
    "bits", "NF4, double quantized: bits a weight", published="4.127", test=Figures(4.127, 3), **qlora
)
saved = results.arithmetic(
    "saved", "double quantization saves at 65B, GB", published="3 GB", test=Figures(3, 0), **qlora
)
tables = results.arithmetic(
    "tables",
    "sizes of weights, gradients and state with Adam and Lion that add up",
    source="arXiv 2405.09673v2, tables S14 to S16",
    read="full text",
    published="twelve sizes in GB",
    test=Figures(12, 0),
)

# %% [markdown]
# Bits: we read them off a real quantized matrix. The tables: 16 bytes a trained number with Adam and 12 with Lion, as
# the paper states; for LoRA 2 bytes for every frozen weight, and those 16 or 12 for one in a hundred.

# %%
weight = torch.randn(1024, 4096).numpy()
single, double = (nf4.quantize(weight, double=d).bits_per_parameter for d in (False, True))
bits.measure(double)
saved.measure((single - double) / 8 * 65)
results.record(bits=[single, double])

# %%
printed = {
    7: ("112", "84", "15.12", "14.84"),
    70: ("1120", "840", "151.2", "148.4"),
    405: ("6480", "4860", "874.8", "858.6"),
}
adam, lion = MIXED.trained("adamw"), MIXED.trained("lion")
good = 0
for billions, figures_ in printed.items():
    ours = [round(billions * each, 6) for each in (adam, lion, 2 + 0.01 * adam, 2 + 0.01 * lion)]
    good += sum(prints_as(value, figure) for value, figure in zip(ours, figures_, strict=True))
    print(f"{billions}B, Adam, Lion, LoRA with Adam, with Lion: ours {ours}, printed {', '.join(figures_)}")
tables.measure(good)
results.record(add_up=good)

# %% [markdown] rests_on="A2.bits=adds up, A2.saved=adds up, A2.tables=adds up"
# All of these add up. Mind the one in a hundred: a frozen weight of 2 bytes outweighs its adapter by far.
#
# **GPT-3.** 1.2 TB for fine-tuning with Adam, 350 GB for LoRA, "3 times" in the abstract, and 35 MB for the file of the
# adapters of rank 4 on q and v. We try every usual way of counting. Predict which one gives 1.2 TB.

# %%
lora = {"source": "arXiv 2106.09685v2, section 4.2", "read": "full text"}
gpt3 = {
    "frozen": results.arithmetic("frozen", "GPT-3 in 16 bits, GB", published="350 GB", test=Figures(350), **lora),
    "full": results.arithmetic("full", "fine-tuning GPT-3, TB", published="1.2 TB", test=Figures(1.2, 1), **lora),
    "times": results.arithmetic("times", "1.2 TB over 350 GB", published="3 times", test=Figures(3), **lora),
    "file": results.arithmetic("file", "GPT-3's adapters, MB", published="35 MB", test=Figures(35), **lora),
}

# %%
ways = {"weights and two states of 2 bytes, no gradients": 6}
ways |= {name: p.trained() for name, p in PRECISIONS.items()}
print("TB at 175 billion:", {name: round(0.175 * each, 2) for name, each in ways.items()})
gpt3["full"].measure(min((0.175 * each for each in ways.values()), key=lambda tb: abs(tb - 1.2)))
gpt3["frozen"].measure(175 * 2.0)
gpt3["times"].measure(1200 / 350)
gpt3["file"].measure(2 * lora_parameters(MODELS["GPT-3 175B"].shapes(QV), 4) / 1e6)
results.record(gpt3_ways=ways)

# %% [markdown] rests_on="A2.frozen=adds up, A2.full=does not add up, A2.times=adds up, A2.file=does not add up"
# LoRA's 350 GB are the frozen weights in 16 bits, and nothing else. The 1.2 TB are no usual way of counting; the
# nearest gives {A2.full.shown} TB. The adapters' file is {A2.file.shown} MB; 35 MB is 350 GB over the paper's round
# 10,000. That 1.2 TB is 3 times 350 GB, of course, holds. The paper also says where the saving comes from: the
# optimizer's states go.
#
# ## A giant that is not there
#
# Chapter 06 found what to plan with: all five parts and `8 · vocabulary · tokens`. Does that hold for billions of
# weights? On fake tensors their step runs on any machine and takes no memory, so we can follow the second step of
# LLaMA-7B (vocabulary 32,000) and of Llama-3-8B (128,256), operation by operation.

# %%
plan_giant = results.finding(
    "plan_giant",
    says="five parts and the logits' term fall short of the second step's peak by at most 5 %, for giants too",
    test=AtMost(0.05, "as in chapter 06; chance is the sum of the parts alone"),
    scope={"model": "LLaMA-7B, Llama-3-8B", "width": 4096, "setting": "bfloat16, LoRA, 16 × 512 tokens, fake tensors"},
    seen_first="tiny Llama, chapter 06",
    tested_on="giants on fake tensors",
    asks_again="06.plan",
)
layers = 2 if small else 32
giants = {
    "LLaMA-7B": LlamaConfig(32000, 4096, 11008, layers, 32, 32, 512),
    "Llama-3-8B": LlamaConfig(128256, 4096, 14336, layers, 32, 8, 512),
}


# %%
def fake_giant(config, checkpointed):
    torch.set_default_dtype(torch.bfloat16)
    model = TinyLlama(config)
    torch.set_default_dtype(torch.float32)
    add_adapters(model, AdapterConfig(rank=16, alpha=32))  # in float32, as PEFT has them too
    return checkpoint_blocks(model) if checkpointed else model


# %%
short, rows = [], []
for name, config in giants.items():
    for again in (False, True):
        peak = most(alive(lambda: fake_giant(config, again), 16, 512, fake=True)[1])  # noqa: B023
        parts = training_bytes(config, "lora", 16, 512, 16, precision=ADAPTERS32, checkpoint=again)
        plan = planned(parts, config.vocab_size, 16 * 512)
        short.append((1 - plan / peak, 1 - parts.total / peak))
        rows.append([name, "yes" if again else "no", *(f"{n / GB:.2f}" for n in (parts.total, plan, peak))])
print(stats.table(["LoRA", "checkpointing", "sum of the parts, GB", "with logits", "peak of step 2"], rows))
worst, null = (max(column) for column in zip(*short, strict=True))
plan_giant.measure((worst, 0.0), chance=(null, 0.0))
results.record(short=short)

# %% [markdown] rests_on="A2.plan_giant=holds"
# It holds: the plan is never short (the worst of four is {A2.plan_giant.shown}; below zero means too much). With
# checkpointing it is too much by a few per cent: the logits and the inside of a block are not there at the same time.
# The sum alone falls short, by far where the vocabulary is large.
#
# ## When LoRA saves next to nothing
#
# LoRA saves gradients and state. They do not grow with the batch; activations do. Call `a` the bytes of activations a
# token, and `S` all the bytes that LoRA saves. At
#
# `tokens = S / a`
#
# activations are as large as the saving: the **crossover**. LoRA does not stop saving there. Full fine-tuning holds the
# weights, `S`, and activations of about `S` again; LoRA the weights and activations. So the ratio is below 2, and above
# 1.5 as long as the weights are below `S`. By *next to nothing* this appendix means a ratio of 1.25.
#
# Predict how the crossover depends on the width `d`. `S` goes with layers · d², `a` with layers · d.


# %%
def both(config, tokens, length, precision, rank, checkpoint=False):
    """The parts of full fine-tuning, and those of LoRA on all linear layers."""
    options = {"precision": precision, "checkpoint": checkpoint}
    return [training_bytes(config, m, tokens // length, length, rank, **options) for m in ("full", "lora")]


# %%
def crossover(config, precision, rank, length, checkpoint=False):
    """S / a, in tokens."""
    full, lora = both(config, length, length, precision, rank, checkpoint)
    saved = full.total - full.activations - (lora.total - lora.activations)
    return saved / (lora.activations / length)


def ratio(config, tokens, length, precision, rank, checkpoint=False):
    """Bytes of full fine-tuning over LoRA's."""
    full, lora = both(config, tokens, length, precision, rank, checkpoint)
    return full.total / lora.total


# %% [markdown]
# Small models reach it with few tokens, so we can run them: real steps in float32 at growing batches, whose tensors are
# added up. From them we get a counted crossover, to hold the predicted one against.

# %%
crossing = results.finding(
    "crossing",
    says="the predicted crossover is off by at most 5 % at every width",
    test=AtMost(0.05, "a twentieth of the tokens; chance is twice the width, twice the crossover"),
    scope={"width": "64, 128 and 256", "model": "tiny Llama, float32"},
)

# %%
widths, batches = ((32, 64), (1, 4, 16)) if small else ((64, 128, 256), (1, 2, 4, 8, 16, 32))
shapes = {w: LlamaConfig(128, w, 11 * w // 4, 4, max(1, w // 32), max(1, w // 32), 512) for w in widths}
predicted = {w: crossover(shape, FLOAT32, 8, 64) for w, shape in shapes.items()}
dots, counted = {}, {}
for w, shape in shapes.items():
    full, lora = TinyLlama(shape), add_adapters(TinyLlama(shape), AdapterConfig(rank=8, alpha=32))
    steps = [[measured_bytes(model, b, 64) for model in (full, lora)] for b in batches]
    dots[w] = [(64 * b, sum(f.values()) / sum(k.values())) for b, (f, k) in zip(batches, steps, strict=True)]
    low, high = steps[0][1]["activations"], steps[-1][1]["activations"]
    slope = (high - low) / (64 * (batches[-1] - batches[0]))  # bytes of activations a token
    stored = [sum(n for part, n in found.items() if part != "activations") for found in steps[0]]
    counted[w] = 64 * batches[0] + (stored[0] - stored[1] - low) / slope

# %%
rows = [
    [w, f"{predicted[w]:.0f}", f"{counted[w]:.0f}", f"{predicted[w] / w:.2f}", f"{dots[w][-1][1]:.2f}"] for w in widths
]
head = ["width", "predicted", "counted", "predicted / width", f"ratio at {64 * batches[-1]:,} tokens"]
print(stats.table(head, rows))
first = widths[0]
errors = [
    max(abs(guess[w] / counted[w] - 1) for w in widths)
    for guess in (predicted, {w: predicted[first] * w / first for w in widths})
]
crossing.measure((errors[0], 0.0), chance=(errors[1], 0.0))
results.record(crossover={"predicted": predicted, "counted": counted})

# %% [markdown] rests_on="A2.crossing=holds"
# The formula is off by at most {A2.crossing.shown}. The rule of thumb, twice the width and twice the crossover, is not
# good here: it more than doubles. The adapters, and a token's log-probabilities, weigh more in a narrow model.
#
# ## The giants, and the cards
#
# Now the question that matters: can one *reach* that number of tokens? LoRA's own bytes must fit the card.

# %%
on_a_card = results.finding(
    "on_a_card",
    says="full over LoRA for LLaMA-7B at the most tokens that fit an 80 GB card, with checkpointing or without",
    test=AtLeast(1.5, "half as much again; chance is 65,536 tokens without checkpointing, on no card"),
    scope={"model": "LLaMA-7B", "width": 4096, "setting": "STATE32, rank 16, sequences of 512"},
)
CARD = 81_559 * 2**20  # an H100's, in bytes


# %%
def fits(config, checkpoint, length=512):
    """The most tokens at which what is planned for LoRA fits the card."""
    n = length
    while planned(both(config, n + length, length, STATE32, 16, checkpoint)[1], config.vocabulary, n + length) <= CARD:
        n += length
    return n


def falls_to(target, config, checkpoint, length=512):
    """The tokens at which full is `target` times LoRA: bytes grow by as much with each sequence."""
    (f1, l1), (f2, l2) = ([b.total for b in both(config, n * length, length, STATE32, 16, checkpoint)] for n in (1, 2))
    return length * (1 + (f1 - target * l1) / (target * (l2 - l1) - (f2 - f1)))


# %%
rows, llama = [], MODELS["LLaMA-7B"]
for name in ("LLaMA-7B", "LLaMA-13B", "LLaMA-65B"):
    for again in (False, True):
        shape = MODELS[name]
        cross, low = crossover(shape, STATE32, 16, 512, again), falls_to(1.25, shape, again)
        needs = [both(shape, round(n), 1, STATE32, 16, again)[1].total / GB for n in (cross, low)]
        there = ratio(shape, round(cross), 1, STATE32, 16, again)
        rows.append([name, "yes" if again else "no", f"{cross:,.0f}", f"{there:.2f}", f"{needs[0]:,.0f}"])
        rows[-1] += [f"{low:,.0f}", f"{needs[1]:,.0f}"]
head = [
    "STATE32",
    "checkpointing",
    "crossover, tokens",
    "ratio there",
    "LoRA's GB there",
    "1.25 at, tokens",
    "LoRA's GB",
]
print(stats.table(head, rows))

# %%
room = {again: fits(llama, again) for again in (False, True)}
ends = {again: ratio(llama, n, 512, STATE32, 16, again) for again, n in room.items()}
print("7B on an 80 GB card:", "; ".join(f"{n:,} tokens, ratio {ends[again]:.2f}" for again, n in room.items()))
on_a_card.measure((min(ends.values()), 0.0), chance=(ratio(llama, 65_536, 512, STATE32, 16), 0.0))
results.record(room=room, ends=ends)

# %% [markdown] rests_on="A2.on_a_card=holds"
# 7B gets to the crossover just where an 80 GB card is full, and the ratio does not fall below {A2.on_a_card.shown}. A
# ratio of 1.25 would take several such cards. So "LoRA saves next to nothing" is **not** the fate of a 7B model on one
# card. It is a matter of small models, of a base that was not frozen, or of a tool that shows reserved memory.
# Checkpointing moves everything to far more tokens.

# %%
curves = {}
for name, config, precision, rank, length in (
    *((f"width {w}", shapes[w], FLOAT32, 8, 64) for w in widths),
    *((name, MODELS[name], STATE32, 16, 512) for name in ("LLaMA-7B", "LLaMA-65B")),
):
    cross = crossover(config, precision, rank, length)
    at = [max(1, round(cross * 10 ** (k / 8))) for k in range(-8, 10)]
    curves[name] = [(n / cross, ratio(config, n, 1, precision, rank)) for n in at]
points = {f"width {w}": [(n / predicted[w], r) for n, r in dots[w]] for w in widths}
card = {"LLaMA-7B": (room[False] / crossover(llama, STATE32, 16, 512), ends[False])}

# %%
results.figure(
    figures.falling(curves, points, card),
    "falling",
    "The more tokens in a step, the less LoRA saves. Dots are real steps of small models. The cross marks where LoRA "
    "on LLaMA-7B fills the card, without checkpointing.",
    alt="Five curves fall from left to right, the giants' from higher up. At the crossover all of them are between one "
    "and a half and two, and only at several times as many tokens do they come near no saving. The 7B model fills an "
    "80 GB card at about the crossover.",
)

# %% [markdown]
# ## The user's question
#
# Issue 1514 is about TinyLlama (1.1 billion weights) in 16 bits with contexts up to 8,192. The user prints 50,462,720
# trained numbers, which are rank 64 on all linear layers. "With long context length the difference in memory usage is
# kind of same." We count that model, one sequence a step. Predict the ratio at 8,192 tokens.

# %%
as_much = results.claim(
    "as_much",
    says="with a context of 8,192 LoRA takes as much memory as full fine-tuning, without checkpointing (counted)",
    source="PEFT, issue 1514, § comment of 2024-03-06",
    read="second hand",
    published="the difference is kind of same",
    test=AtMost(1.1, "as much, within 10 %; chance is the same model at 512 tokens"),
    scope={"model": "TinyLlama-1.1B", "width": 2048, "setting": "BFLOAT16, rank 64, batch 1"},
)

# %%
tinyllama = replace(MODELS["LLaMA-7B"], layers=22, width=2048, kv=256, mlp=5632)
assert lora_parameters(tinyllama.shapes(ALL_LINEAR), 64) == 50_462_720
for n in (512, 2048, 8192):
    gb = [planned(parts, 32000, n) / GB for parts in both(tinyllama, n, n, BFLOAT16, 64)]
    print(f"{n:5} tokens: full {gb[0]:.1f} GB, LoRA {gb[1]:.1f} GB, ratio {gb[0] / gb[1]:.2f}")
    if n == 512:
        null = gb[0] / gb[1]
as_much.measure((gb[0] / gb[1], 0.0), chance=(null, 0.0))
results.record(tinyllama=gb)

# %% [markdown] rests_on="A2.as_much=not reproduced"
# By our count LoRA still saves at 8,192 tokens (a ratio of {A2.as_much.shown}), but far less than at 512. What the user
# saw beyond that, a count cannot tell. If it happens to you, ask in this order.
#
# 1. Is the base frozen? `print_trainable_parameters()`.
# 2. How many tokens are in one pass? Beyond the crossover, switch checkpointing on, or take fewer tokens at a time and
#    add up the gradients of several passes.
# 3. Does the tool show what is *reserved*? The allocator keeps blocks that nobody uses, and the CUDA context is on top.
#
# ## Beside a measurement on a GPU
#
# PEFT's own comparison publishes a result file for each method, here of June 2025: Llama-3.2-3B in bfloat16, AdamW,
# batch 4, at most 768 tokens, rank 32 on q and v, one L40S. It gives what was *allocated* on average after a step (by
# tensors that exist), which should be weights, gradients and state, and the most that was *reserved*. The adapters are
# in float32 there.
#
# The base alone is most of LoRA's figure, so any count would come near it. We test what LoRA has *beyond the base*.

# %%
peft = results.claim(
    "peft",
    says="between steps, weights, gradients and state are what PEFT measured (counted; share off)",
    source="PEFT's method comparison, result files of June 2025",
    read="full text",
    published="26.07 GB full, 6.92 GB LoRA",
    test=dict.fromkeys(("full", "LoRA beyond the base"), Equal(0.1, "an allocator rounds up; a tenth is no rounding")),
    scope={"model": "Llama-3.2-3B", "width": 3072, "setting": "one L40S"},
)

# %%
llama_3b = LlamaConfig(128256, 3072, 8192, 28, 24, 8, 131072, tie_word_embeddings=True)
kinds = (("full", BFLOAT16), ("lora", ADAPTERS32))
full, lora = (training_bytes(llama_3b, m, 4, 768, 32, QV, precision=p) for m, p in kinds)
stored = [(parts.total - parts.activations) / GB for parts in (full, lora)]
base = full.weights / GB
print(f"base {base:.2f} GB; stored, ours: full {stored[0]:.2f}, LoRA {stored[1]:.2f}")
logits = 840 * llama_3b.vocab_size * 2 / GB
print(f"beyond the base: ours {stored[1] - base:.2f}, theirs {6.92 - base:.2f}")
print(f"logits in 16 bits of 840 tokens, the mean batch there: {logits:.2f} GB")

# %%
shares = {"full": stored[0] / 26.07 - 1, "LoRA beyond the base": (stored[1] - base) / (6.92 - base) - 1}
null = {"full": base / 26.07 - 1, "LoRA beyond the base": -1.0}
peft.measure({k: (v, 0.0) for k, v in shares.items()}, chance={k: (v, 0.0) for k, v in null.items()})
results.record(peft={"stored": stored, "base": base, "logits": logits})

# %% [markdown] rests_on="A2.peft=partly"
# Full fine-tuning's figure agrees. What LoRA has beyond the base does not: we count less than a third of it. Their
# script still holds a batch's logits when it looks, and these are more than the adapters. With them most of the rest is
# there, and not all. (Chance is the base alone.)
#
# ## Exercises
#
# **1. The ratio.** The frozen weights take `frozen` GB, LoRA saves `saved` GB, activations take `each` GB a token, with
# LoRA as without. Adapters are too small to count. How many times LoRA's bytes does full fine-tuning take, at `tokens`
# a step?


# %%
from lora_from_scratch.book.checks import chA2 as check


def my_ratio(frozen, saved, each, tokens):
    """Bytes of full fine-tuning over LoRA's."""
    return None  # your code here


print(check.check_ratio(my_ratio))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_ratio(frozen, saved, each, tokens):
#     return (frozen + saved + each * tokens) / (frozen + each * tokens)
# ```
#
# </details>
#
# **2. Next to nothing.** With the same letters: at how many tokens has the ratio fallen to `target`?


# %%
def my_tokens(frozen, saved, each, target):
    """Tokens a step at which full fine-tuning takes `target` times LoRA's bytes."""
    return None  # your code here


print(check.check_tokens(my_tokens))

# %% [markdown]
# <details><summary>Solution</summary>
#
# `saved` must be a share `target - 1` of LoRA's bytes:
#
# ```python
# def my_tokens(frozen, saved, each, target):
#     return (saved / (target - 1) - frozen) / each
# ```
#
# For 7B (13.5, 67, 0.006) and 1.25 that is about 42,000 tokens, against 11,000 at the crossover. The table above has
# 75,000: full fine-tuning keeps somewhat more a token than LoRA does, and near a ratio of 1 that counts.
#
# </details>
#
# ## The same with PEFT
#
# ```python
# import torch
#
# torch.cuda.reset_peak_memory_stats()
# trainer.train()  # at least two steps
# print(torch.cuda.max_memory_allocated() / 1e9, "GB in tensors")
# print(torch.cuda.max_memory_reserved() / 1e9, "GB held by the allocator")
# print(torch.cuda.get_device_properties(0).total_memory / 1e9, "GB on the card")
# ```
#
# Run it with LoRA and without, at two lengths: two lines through two points each give you `S`, `a` and the crossover.

# %%
results.save()
