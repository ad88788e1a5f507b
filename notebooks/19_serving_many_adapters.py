# %% [markdown]
# # 19 · Serving many adapters
#
# **The question.** You have one base and thirty adapters, for thirty customers. Their requests come mixed. Thirty
# merged models? Swap the adapter for each request? Or all of them in one batch?
#
# **What you will be able to do.** Run a batch in which every row has an adapter of its own. Say what an adapter takes
# in memory, and how many fit. Say from which number of tokens on a merge pays. Read vLLM's knobs.
#
# **What you need.** The layer of chapter 01, the count of chapter 02, the merge of chapter 03.
#
# **The published claims.** LoRA's authors name the gap: once an adapter is merged, "it is not straightforward to batch
# inputs to different tasks with different A and B in a single forward pass"; one can leave it unmerged "where latency
# is not critical" (arXiv 2106.09685v2, section 4.2). Punica closed it and saw "negligible performance differences
# between batching the same LoRA models and batching different LoRA models" (MLSys 2024, section 1). S-LoRA compares
# with merging: better with one adapter; then its performance "declines with more than 2 adapters" (MLSys 2024, section
# 7.5). Both on GPUs, with kernels of their own. Here it is plain torch on one CPU thread.
#
# What an adapter has learnt does not matter to a clock or to a count, so the adapters here are random (`B` is not
# zero). Times are processor time. A ratio is a mean of five sessions in one process, each in orders of its own; its
# 95 % interval says how steady the clock was, and a second run of the chapter may lie outside of it.

# %%
import copy
import functools
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lora_from_scratch import AdapterConfig, add_adapters
from lora_from_scratch.analysis.counting import ALL_LINEAR, MODELS, Transformer, lora_parameters
from lora_from_scratch.analysis.serving import (
    adapters_beside,
    cache_bytes,
    fill,
    keep_memory,
    path_share,
    take_turns,
    tokens_to_repay,
)
from lora_from_scratch.bank import AdapterBank
from lora_from_scratch.book import stats
from lora_from_scratch.book.figures import ch19 as figures

# %%
from lora_from_scratch.book.results import Results
from lora_from_scratch.book.verdicts import AtLeast, AtMost, Equal, Figures, Identity
from lora_from_scratch.lab.checkpoint import load_checkpoint
from lora_from_scratch.lab.llama import TinyLlama
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.peft_format import save_adapter
from lora_from_scratch.targets import find_targets, replace_modules

torch.set_num_threads(1)
torch.manual_seed(0)
keep_memory()  # else the clock counts how the system hands out memory for large tensors
size = preset()
machine = "one GPU" if size.device == "cuda" else f"one thread of a shared {platform.machine()} CPU"
results = Results("19_serving_many_adapters", size, scope={"machine": machine, "seeds": "none", "bases": "none"})
base = TinyLlama(size.model).to(size.device).eval().requires_grad_(False)

# %% [markdown]
# ## By hand
#
# One linear layer, six rows of five tokens, three adapters. `whose[i]` is the adapter of row i; its scaling is in `B`.
# Before you read on, write it: first in the slowest way there is.

# %%
rows, tokens, d_in, d_out, rank, adapters = 6, 5, 48, 32, 4, 3
W, x = torch.randn(d_out, d_in), torch.randn(rows, tokens, d_in)
A, B = torch.randn(adapters, rank, d_in), torch.randn(adapters, d_out, rank)  # (S, r, d_in), (S, d_out, r)
whose = torch.tensor([2, 0, 2, 1, 0, 2])


def row_by_row(x):
    """(rows, T, d_in) -> (rows, T, d_out): each row as if it were alone."""
    return torch.stack([x_i @ W.T + (x_i @ A[a].T) @ B[a].T for x_i, a in zip(x, whose, strict=True)])


# %% [markdown]
# Two things are wasted. `W` is the costly product, and it is the same for all rows: **the base can run once, for the
# whole batch.** And rows with one adapter can go together:


# %%
def by_adapter(x):
    """The base once; then each adapter on its own rows."""
    y = x @ W.T
    for a in whose.unique():
        own = (whose == a).nonzero()[:, 0]
        y[own] += (x[own] @ A[a].T) @ B[a].T
    return y


# %% [markdown]
# This loop is what PEFT does when it is given `adapter_names`. With 32 adapters it makes 32 rounds in every layer, each
# of two thin products. Its documentation says so: the batch size is "effectively reduced to the number of samples per
# adapter" (LoRA reference page, section on inference with different adapters in one batch).
#
# The last step removes the loop. Copy each row's own `A` and `B` together, and multiply all pairs by two *batched*
# products:


# %%
def batched(x):
    """The base once; then two batched products for all rows."""
    y = x @ W.T
    z = torch.bmm(x, A[whose].mT)  # (rows, T, r)
    return y.baddbmm_(z, B[whose].mT)  # (rows, T, d_out), into the base's own output


for way in (by_adapter, batched):
    print(f"{way.__name__}: largest difference {(way(x) - row_by_row(x)).abs().max().item():.1e}")

# %% [markdown]
# That is all of `bank_linear.py` but four details. An adapter of a smaller rank is filled up with zeros, which add
# nothing. Rows without an adapter are left out of the two products. Rows that all have one adapter are one long row.
# And short rows of one adapter are put side by side, so that it is copied once for all of them: moving a row of one
# token is cheaper than copying an adapter for it.
#
# ## The bank
#
# `AdapterBank` does it for a whole model and reads saved adapters. Three kinds, of different ranks, scalings and
# places:

# %%
alone = results.identity(
    "alone", "each row has what its adapter gives alone, in float32, over the largest logit", Identity(1e-5)
)
untouched = results.identity(
    "untouched", "rows without an adapter have the base's logits, to the bit: how many differ", Identity(0)
)
KINDS = {
    "wide": AdapterConfig(rank=16, alpha=32),
    "rslora": AdapterConfig(rank=4, alpha=8, rslora=True),
    "narrow": AdapterConfig(rank=2, alpha=4, targets=["q_proj", "v_proj"]),
}

# %%
bank, single = AdapterBank(copy.deepcopy(base), capacity=4), {}
with tempfile.TemporaryDirectory() as folder:
    for name, config in KINDS.items():
        single[name] = add_adapters(copy.deepcopy(base), config)
        for parameter in (p for p in single[name].parameters() if p.requires_grad):
            nn.init.normal_(parameter, std=0.05)  # A and B: no B is zero
        save_adapter(single[name], Path(folder) / name)
        bank.load(name, Path(folder) / name)

names = ["wide", None, "narrow", "rslora", None, "wide", "narrow", "wide"]
ids = torch.randint(size.model.vocab_size, (len(names), 16), device=size.device)
with torch.no_grad():
    mixed, plain = bank(ids, adapters=names), base(ids)
    each = torch.stack([(single[n] if n else base)(ids)[i] for i, n in enumerate(names)])
alone.measure(((mixed - each).abs().max() / each.abs().max()).item())
untouched.measure(sum((mixed[i] != plain[i]).sum().item() for i, n in enumerate(names) if n is None))
moved = [(mixed[i] - plain[i]).abs().max().item() for i, n in enumerate(names) if n]
print(f"what the adapters do to a logit, at most, row by row: {', '.join(f'{m:.2f}' for m in moved)}")

# %% [markdown]
# ## Breaking it on purpose
#
# A kernel likes rows of one adapter side by side: Punica groups them "consecutively" (section 4). So a server sorts the
# batch by adapter. Sort, run, return:

# %%
order = sorted(range(len(names)), key=lambda i: str(names[i]))
with torch.no_grad():
    answers = bank(ids[order], adapters=[names[i] for i in order])  # and back to the customers
close = [torch.allclose(answers[i], mixed[i], atol=1e-4) for i in range(len(names))]
print(f"{answers.shape}, all finite: {bool(answers.isfinite().all())}; rows with their own answer: {sum(close)} of 8")

# %% [markdown]
# Nothing raised, the shapes agree, every answer is a good one, and most customers have somebody else's. Only a look at
# whose answer it is shows it. Exercise 1 is the line that is missing.
#
# ## What an adapter takes
#
# `r · (d_in + d_out)` numbers for each adapted layer (chapter 02), times the bytes of a number. Predict for a 7B model:
# rank 16 on all linear layers, 2 bytes. How many MB? And how many thousandths of the base?

# %%
HOSTS = {
    "the book's Llama": Transformer(4, 128, mlp=352, vocabulary=128),
    "SmolLM2-135M": Transformer(30, 576, kv=192, mlp=1536, vocabulary=49152, tied=True),
    "Llama-2-7B": MODELS["LLaMA-7B"],  # the same sizes
    "Llama-2-70B": Transformer(80, 8192, kv=1024, mlp=28672, vocabulary=32000),
}
PLACES = {"q, v": ("q_proj", "v_proj"), "attention": ALL_LINEAR[:4], "all linear": ALL_LINEAR}


def megabytes(host, rank, places="all linear", bytes_each=2):
    """MB of an adapter on `host`."""
    return bytes_each * lora_parameters(host.shapes(PLACES[places]), rank) / 1e6


lines = [
    [name, f"{2 * host.parameters() / 1e6:,.1f}", place, *(f"{megabytes(host, r, place):,.2f}" for r in (4, 8, 16, 64))]
    for name, host in HOSTS.items()
    for place in PLACES
]
print("MB at 2 bytes a number")
print(stats.table(["model", "base", "adapted", "rank 4", "rank 8", "rank 16", "rank 64"], lines))

# %% [markdown]
# "An adapter is about 50 MB" goes round. No paper that we read has it. In the table the same 7B model has adapters from
# 4 to 320 MB, and twice that in float32: our own are kept in float32 over a 16-bit base. 50 MB are 25 million numbers
# at 2 bytes. Runs of rank 16 on Qwen3.5-4B print 21.2 million: 42 MB at 2 bytes, and 85 MB at 4. So an adapter has no
# size: **a model, a rank, the places and a number format have one.**
#
# Two figures that are published. Punica: an adapter "only adds 0.1% to 1% of the model weight"; its evaluation has rank
# 16 on all dense layers. And a post on Hugging Face's server names an adapter of Mistral-7B that "is 13.6MB", without
# its rank.

# %%
share = results.claim(
    "share",
    says="an adapter of rank 16 on all linear layers adds 0.1 % to 1 % of the model's weights",
    source="Punica (MLSys 2024), section 2.2; the rank from section 7",
    read="full text",
    published="0.1% to 1%",
    test={"at 7B": AtMost(0.01, "the upper figure"), "at 70B": AtLeast(0.001, "the lower figure")},
    scope={"model": "Llama-2", "width": "4096 and 8192", "machine": "counted"},
)
post = results.arithmetic(
    "post",
    says="13.6 MB can be rank 16 on q and v of Mistral-7B at 2 bytes a number, or rank 8 there at 4 bytes",
    source="TGI Multi-LoRA: Deploy Once, Serve 30 Models (Hugging Face, 2024), section Multi-LoRA Serving",
    read="full text",
    published="13.6MB",
    test=Figures(13.6, 1),
)


# %%
def part(name, rank):
    """(share of the model's weights, nothing to either side of it)."""
    return lora_parameters(HOSTS[name].shapes(ALL_LINEAR), rank) / HOSTS[name].parameters(), 0.0


share.measure(
    {"at 7B": part("Llama-2-7B", 16), "at 70B": part("Llama-2-70B", 16)},
    chance={"at 7B": part("Llama-2-7B", 64), "at 70B": part("Llama-2-70B", 4)},
)
post.measure(megabytes(Transformer(32, 4096, kv=1024, mlp=14336), 16, "q, v"))  # Mistral-7B's sizes

# %% [markdown]
# (The nulls of the share are rank 64 and rank 4; ranks 6 to 26 pass at both ends.) How many fit beside the base? A card
# sold as 80 GB has 81,559 MiB (chapter 06). But memory that adapters take is taken from the cache of keys and values
# that a server keeps for every token of every text that it is writing, so look at the last column: one adapter of rank
# 16 takes as much as the cache of so many tokens.

# %%
card, lines = 81_559 * 2**20, []
for name, host in HOSTS.items():
    for rank in (16, 64):
        each, cache = 1e6 * megabytes(host, rank), cache_bytes(host.layers, host.kv or host.width)
        fits = adapters_beside(card, 2 * host.parameters(), each)
        lines.append([name, rank, f"{each / 1e6:.2f}", f"{fits:,}", f"{each / cache:.0f}"])
print("all linear layers, base and adapters at 2 bytes, an 80 GB card")
print(stats.table(["model", "rank", "MB", "fit beside the base", "tokens of cache"], lines))

# %% [markdown]
# (None beside 70B: the base alone does not fit.) A rank is worth some ten tokens of cache on the 7B. S-LoRA keeps both
# in one pool of pages: a cache of S tokens takes S pages, a weight of rank R takes R (section 5.1); a layer of the 7B
# has seven such weights of two sides each, 19 widths in all, since three sides are the MLP's of 2.7 widths; the cache
# has one key and one value: 19 / 2, hence the ten. Where heads share keys it is more: 79 on the 70B.
#
# ## What an adapter costs in time, on paper
#
# For one layer, in operations: the base takes `2 · d_in · d_out` a token, the adapter beside it `2 · r · (d_in +
# d_out)` a token, a merge `2 · r · d_in · d_out` once. So a merge is repaid after
#
#     h = d_in · d_out / (d_in + d_out)     tokens,
#
# and the rank cancels: a larger rank makes path and merge dearer alike. The same h is the rank at which the path costs
# as much as the base (chapter 02 met it as the rank at which A and B hold as many numbers as W). A square layer of
# width d has h = d / 2.

# %%
lines = []
for name, host in HOSTS.items():
    shapes = host.shapes(ALL_LINEAR)
    lines.append([name, f"{tokens_to_repay(shapes):,.0f}", *(f"{path_share(shapes, r):.1%}" for r in (8, 16, 64))])
print(stats.table(["model", "h, tokens", "path, rank 8", "rank 16", "rank 64"], lines))

# %% [markdown]
# So on paper: on the 7B an adapter of rank 16 adds under a hundredth of the base's operations. And a server that merges
# whenever another customer comes must then run some 2,600 tokens for that customer, or it had better not merge. A
# decode step makes *one* token a row: to write, a model reads the prompt in one pass, then makes one token a pass.
#
# ## On the clock: five ways to serve 64 rows, and the base
#
# Each row has one of n adapters, of rank 8, in mixed order.
#
# - **plain base**: no adapters. What all others pay on top of it is the question. It is timed twice.
# - **bank**: base once, two batched products.
# - **loop**: base once, in every layer one adapter after the other (as `by_adapter`, and as PEFT).
# - **one by one**: adapter after adapter, each with its own rows through the whole model. Base n times, on fewer rows.
# - **merge, then run**: the same, each time merged first, into a copy of the weights. Rows then pay nothing.
# - **merged copies**: n whole models, merged beforehand. The memory is n bases.


# %%
class Loop(nn.Module):
    """base(x), then each adapter on its own rows; `plan` is {slot: rows}."""

    def __init__(self, layer, plan):
        super().__init__()
        self.base, self.A, self.B, self.plan = layer.base, layer.A, layer.B, plan

    def forward(self, x):
        y = self.base(x)
        for slot, rows in self.plan.items():
            y.index_add_(0, rows, (x.index_select(0, rows) @ self.A[slot].T) @ self.B[slot].T)
        return y


# %%
def merge_into(model, bank, slot):
    """Overwrite the adapted weights of `model` by the base's with the adapter in `slot`; the base stays as it is."""
    for name, layer in bank.layers.items():
        torch.addmm(layer.base.weight, layer.B[slot], layer.A[slot], out=model.get_submodule(name).weight)
    return model


def twin(model):
    """The same model with modules of its own, and the very same weights: no memory."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


# %%
def ways_to_serve(model, adapters, rank, tokens, batch, copies=False):
    """{name: function that gives the logits of all rows in order}, and {slot: rows}."""
    bank = fill(AdapterBank(twin(model), capacity=adapters), rank)
    whose = (torch.arange(batch) % adapters)[torch.randperm(batch)]
    ids = torch.randint(model.config.vocab_size, (batch, tokens), device=size.device)
    plan = {a: (whose == a).nonzero()[:, 0].to(size.device) for a in range(min(adapters, batch))}
    names, back = [str(a) for a in whose.tolist()], torch.cat(list(plan.values())).argsort()
    looped, scratch = twin(model), copy.deepcopy(model)
    replace_modules(looped, {looped.get_submodule(n): Loop(layer, plan) for n, layer in bank.layers.items()})
    merged = {a: merge_into(copy.deepcopy(model), bank, a) for a in plan} if copies else {}
    ways = {
        "plain base": lambda: model(ids),
        "bank": lambda: bank(ids, adapters=names),
        "loop": lambda: looped(ids),
        "one by one": lambda: torch.cat([bank(ids[r], adapters=[str(a)] * len(r)) for a, r in plan.items()])[back],
        "merge, then run": lambda: torch.cat([merge_into(scratch, bank, a)(ids[r]) for a, r in plan.items()])[back],
    }
    if copies:
        ways["merged copies"] = lambda: torch.cat([merged[a](ids[r]) for a, r in plan.items()])[back]
    return ways


# %% [markdown]
# All ways take turns within a session. First: do they compute the same?

# %%
small, full = size.name == "smoke", size.name in ("full", "gpu")
batch, ranks, lengths = (8 if small else 64), (8, 64), (1, 8, 32)
counts = (1, 2, 4, 8, 16, 32) if full else (1, 8) if small else (1, 8, 32)
most, repeats = counts[-1], 3 if full else 1
same = results.identity("same", "every way gives the same logits, over the largest logit", Identity(1e-4))
with torch.no_grad():
    logits = {way: f() for way, f in ways_to_serve(base, 8, 8, 8, batch, copies=True).items()}
apart = {way: (found - logits["bank"]).abs().max() for way, found in logits.items()}
off = {way: (error / logits["bank"].abs().max()).item() for way, error in apart.items()}
same.measure(max(error for way, error in off.items() if way != "plain base"))

# %% [markdown]
# Then the clock. Predict for 32 adapters: which way is fastest at one token a row, a decode step? Which at 32 tokens a
# row, as when prompts are read? And does the bank care whether the 64 rows have one adapter or 32?

# %%
negligible = results.claim(
    "negligible",
    says=f"a batch of {most} adapters takes hardly longer than a batch of one: what is added",
    source="Punica (MLSys 2024), section 1 (GPU, kernels of their own)",
    read="full text",
    published="negligible performance differences",
    test=AtMost(0.1, "a tenth is not negligible"),
    scope={"rank": 8, "rows": f"{batch} of 1 token", "way": "bank"},
)
long_rows = results.finding(
    "long_rows",
    says=f"with 32 tokens a row a batch of {most} adapters takes less than a tenth more than a batch of one",
    test=AtMost(0.1, "a tenth is not negligible"),
    scope={"rank": 8, "rows": f"{batch} of 32 tokens", "way": "bank"},
)

# %%
merging = results.claim(
    "merging",
    says="merging is faster than adapters beside the base with one adapter, and slower with 8: time over the bank's",
    source="S-LoRA (MLSys 2024), section 7.5 (GPU, kernels of their own)",
    read="full text",
    published="better with just one adapter; declines with more than 2",
    test={
        "1 adapter, merged beforehand": AtMost(0.9, "a tenth is worth the trouble"),
        "8 adapters": AtLeast(1.1, "a tenth is worth the trouble"),
    },
    scope={"rank": 8, "rows": f"{batch} of 1 token"},
)
beats_loop = results.finding(
    "beats_loop",
    says="at 32 tokens a row and 8 adapters the bank is faster than the loop by a tenth: its time over the loop's",
    test=AtMost(0.9, "a tenth is worth the code"),
    scope={"rank": 8, "rows": batch},
)
beats_swap = results.finding(
    "beats_swap",
    says=f"at 1 token a row and {most} adapters the bank takes less than half of one by one: its time over the other's",
    test=AtMost(0.5, "half"),
    scope={"rank": 8, "rows": batch},
)
# %%
clock = time.perf_counter if size.device == "cuda" else time.process_time  # other work costs us no processor time


def sessions(ways, repeats, count=5):
    """{way: [median seconds, one a session]}; the first turn of all warms up."""
    if size.device == "cuda":
        ways = {name: (lambda way=way: (way(), torch.cuda.synchronize())) for name, way in ways.items()}
    with torch.no_grad():
        held = [take_turns(ways, repeats, warm_up=int(i == 0), clock=clock, seed=i) for i in range(count)]
    return {name: [h[name] for h in held] for name in ways}


def timed(model, tokens, cells, repeats, leave_out=(), copies=False, count=5):
    """{(adapters, rank, way): [seconds]} of all cells (adapters, rank) in turns, "base" and "again" among them."""
    ways = {}
    for adapters, rank in cells:
        made = ways_to_serve(model, adapters, rank, tokens, batch, copies)
        ways["base"] = ways["again"] = made.pop("plain base")
        ways |= {(adapters, rank, way): f for way, f in made.items() if way not in leave_out}
    return sessions(ways, repeats, count)


# %%
def over(times, way, other="base"):
    """Time of a way over another's, session by session."""
    return [a / b for a, b in zip(times[way], times[other], strict=True)]


WAYS = ("bank", "loop", "one by one", "merge, then run", "merged copies")
served = {t: timed(base, t, [(n, 8) for n in counts], repeats, copies=True) for t in (1, 32)}
for t, times in served.items():
    speed = batch * t / np.mean(times["base"])
    print(f"\nTokens a row: {t}. Time over the plain base's, which makes {speed:,.0f} tokens a second", end="; ")
    print(f"the base timed twice: {stats.shown(over(times, 'again'))}")
    lines = [[n, *(stats.shown(over(times, (n, 8, way)), 2) for way in WAYS)] for n in counts]
    print(stats.table(["adapters", *WAYS], lines))
results.record(served={t: {str(way): over(times, way) for way in times} for t, times in served.items()})

# %%
again = {t: over(served[t], "again") for t in served}
more = {t: [v - 1 for v in over(served[t], (most, 8, "bank"), (1, 8, "bank"))] for t in served}
loops = {t: [v - 1 for v in over(served[t], (most, 8, "loop"), (1, 8, "loop"))] for t in served}
for row, t in ((negligible, 1), (long_rows, 32)):
    row.measure(stats.interval(more[t]), chance=stats.interval(loops[t]))
first = over(served[1], (1, 8, "merged copies"), (1, 8, "bank"))
later = over(served[1], (8, 8, "merge, then run"), (8, 8, "bank"))
by_part = lambda *values: dict(zip(merging.parts, map(stats.interval, values), strict=True))  # noqa: E731
merging.measure(by_part(first, later), chance=by_part(again[1], again[1]))
beats_loop.measure(stats.interval(over(served[32], (8, 8, "bank"), (8, 8, "loop"))), chance=stats.interval(again[32]))
swap = stats.interval(over(served[1], (most, 8, "bank"), (most, 8, "one by one")))
beats_swap.measure(swap, chance=stats.interval(again[1]))

# %%
curves = {t: {w: {n: over(times, (n, 8, w)) for n in counts} for w in WAYS} for t, times in served.items()}
ends = {t: sorted((np.mean(by_way[way][most]), way) for way in WAYS) for t, by_way in curves.items()}
told = {t: f"Tokens a row {t}: " + ", ".join(f"{way} {value:.1f}" for value, way in end) for t, end in ends.items()}
results.figure(
    figures.ways(curves, again, counts),
    "ways",
    f"Time of a forward pass of {batch} rows over the plain base's. Rank 8, {machine}; bars are 95 % intervals, the "
    "grey band is the base timed twice.",
    alt=f"Two panels of curves over the number of adapters. At {most}: {told[1]}. {told[32]}.",
)

# %% [markdown] rests_on="19.negligible=not reproduced, 19.long_rows=holds, 19.beats_swap=holds"
# (The null of the first two rows is the loop, on the same test. Of the others it is the base timed twice.)
#
# One token a row is a decode step. There the bank's curve climbs by more than half, and the others by far more. With
# one adapter its path takes half the base's time again, where operations say a tenth. At 32 adapters the bank takes
# {19.beats_swap.shown} of the time of one by one, and a third of the loop's. (With 1 and 2 adapters the loop is faster,
# by 5 and 11 %: its rows are worked out beforehand, the bank's within the clock.) Even merged copies, which compute
# nothing but the base, are slower than the bank from 4 adapters on (see the table): 32 batches of two rows waste what a
# batch is for.
#
# Is a mixed batch as cheap as one with a single adapter? With one token a row, which is Punica's case, 32 adapters add
# {19.negligible.shown}: not negligible. With 32 tokens a row, which the quoted sentence does not single out, they add
# {19.long_rows.shown}: less than a tenth, at rank 8. At rank 64 it is 18 % (from the table of the next section; no row
# tests it).

# %% [markdown] rests_on="19.merging=reproduced, 19.beats_loop=does not hold"
# And merging, in the time of the bank, at one token a row: {19.merging.shown}. One adapter, merged beforehand, is
# faster than an adapter beside the base, and with 8 merging anew is slower, as S-LoRA has it. (The two parts time two
# ways, as a server would: it merges one adapter once, and several again and again. Merged anew, one adapter gains
# nothing: 0.98.) ("With more than 2", it says; here merging anew loses from 2 on, copies merged beforehand from 4 on.)
# With 32 tokens a row (the sentence does not mention length) and 8 adapters, merging anew and the bank are close: level
# in this table, the bank 5 % faster in the next. With 4 a merge wins, with 16 and 32 it loses. Copies merged beforehand
# win up to 8.
#
# At 32 tokens a row and 8 adapters the bank takes {19.beats_loop.shown} of its time: less, and not by the tenth that we
# had asked for.
#
# ## Where the bank pays
#
# The same over tokens a row, rank and number of adapters. We draw the bank's time over that of the faster one of two
# others that need no more than a second copy of the weights: the loop, and merge, then run.

# %%
others = ("loop", "merge, then run")
cells = [(n, r) for n in counts if n in (1, 8, 32) for r in ranks]
grid = {t: timed(base, t, cells, repeats, leave_out=("one by one",)) for t in lengths}


def against_best(times, n, r):
    """The bank's time over the faster other's, session by session, and which that is by its mean."""
    best = min(others, key=lambda way: np.mean(times[n, r, way]))
    return over(times, (n, r, "bank"), (n, r, best)), best


lines = [
    [t, r, n, stats.shown(over(times, (n, r, "bank")), 2), stats.shown(ratios, 2), best]
    for t, times in grid.items()
    for n, r in sorted(cells, key=lambda cell: cell[::-1])
    for ratios, best in [against_best(times, n, r)]
]
head = ["tokens a row", "rank", "adapters", "bank over base", "bank over the faster other", "which is"]
print(stats.table(head, lines))
results.record(grid={t: {str(way): times[way] for way in times} for t, times in grid.items()})


# %%
def of_ranks(times):
    """{rank: {adapters: ratios}}."""
    return {r: {n: against_best(times, n, r)[0] for n, k in cells if k == r} for r in ranks}


# %%
pays = {t: of_ranks(times) for t, times in grid.items()}
points = [np.mean(against_best(times, n, r)[0]) for times in grid.values() for n, r in cells]
below = f"{sum(p < 1 for p in points)} of {len(points)} points lie below 1, the lowest at {min(points):.2f}"
results.figure(
    figures.pays(pays),
    "pays",
    f"The bank's time over the faster of a loop and a merge. Below 1 the bank is faster. {batch} rows, {machine}.",
    alt=f"Three panels, one a number of tokens a row, a curve a rank: {below}.",
)

# %% [markdown]
# (No row of the ledger tests this table.) 32 adapters: the bank is faster than both others at every length and rank
# here, most clearly at one token a row. (Merged copies were not timed again. They cost the same at any rank: 1.57 at 32
# tokens in the table above, against the bank's 1.96 at rank 64. Who has the memory for them wins there.) One adapter:
# the bank has nothing to win: 1.06 to 1.58 of the faster other. Between them it is a question of length and rank: at 32
# tokens a row and rank 64 merge and loop both beat the bank with 8 adapters.
#
# ## When does a merge pay?
#
# On paper after h tokens, whatever the rank. On the clock: the seconds of a merge of all layers, over the seconds that
# the bank with one adapter takes more than the base, a token. Predict whether the paper is right within a factor of
# two: with 8 rows of one token, with many, and with long ones. The null of *repaid* is a merge that takes as long as
# one pass of the path, whatever it is; of *rank free*, one that takes the same time at every rank.

# %%
shapes_repaid = {"few": (8, 1), "1": (batch, 1), "32": (batch, 32)}  # rows, tokens a row
shape_told = {name: f"{rows} of {t} token{'s' * (t > 1)}" for name, (rows, t) in shapes_repaid.items()}
repaid = {
    name: results.finding(
        f"repaid_{name}",
        says="a merge is repaid after h tokens, within a factor of two: octaves between the clock's number and h",
        test=Equal(1.0, "a factor of two"),
        scope={"rank": 8, "rows": shape_told[name]},
    )
    for name in shapes_repaid
}
rank_free = {
    name: results.finding(
        f"rank_free_{name}",
        says="the number of tokens does not depend on the rank, within a factor of two: octaves from rank 8 to rank 64",
        test=Equal(1.0, "a factor of two"),
        scope={"rows": shape_told[name]},
    )
    for name in shapes_repaid
}


# %%
def repays(model, rows, tokens, repeats):
    """{rank: [(seconds of a merge, seconds of the path) a session]}, one adapter: the path is bank less base."""
    ways, bank = {}, {}
    for r in ranks:
        made, bank[r] = ways_to_serve(model, 1, r, tokens, rows), fill(AdapterBank(twin(model), capacity=1), r)
        ways |= {"base": made["plain base"], (r, "bank"): made["bank"]}
        ways[r, "merge"] = functools.partial(merge_into, copy.deepcopy(model), bank[r], 0)
    times = sessions(ways, repeats)
    turns = {r: zip(times[r, "merge"], times[r, "bank"], times["base"], strict=True) for r in ranks}
    return {r: [(merge, max(b - a, 1e-9)) for merge, b, a in turns[r]] for r in ranks}


# %%
h = tokens_to_repay([(layer.out_features, layer.in_features) for layer in find_targets(base, "all-linear").values()])
lines, found = [], {name: repays(base, *shape, 3 * repeats) for name, shape in shapes_repaid.items()}
for name, by_rank in found.items():
    at_once = np.prod(shapes_repaid[name])
    tokens_of = {r: [at_once * merge / path for merge, path in by_rank[r]] for r in ranks}
    path = {r: np.log2([path for _, path in by_rank[r]]) for r in ranks}
    octaves = {r: np.log2(np.divide(tokens_of[r], h)).tolist() for r in ranks}
    repaid[name].measure(stats.interval(octaves[8]), chance=(float(np.log2(at_once / h)), 0.0))
    rank_free[name].measure(stats.paired(octaves[64], octaves[8]), chance=stats.interval((path[8] - path[64]).tolist()))
    for r in ranks:
        each = 1e6 * np.divide(by_rank[r], (1, at_once)).T  # microseconds: of a merge, of the path a token
        lines.append([shape_told[name], r, stats.shown(tokens_of[r], 0), *(stats.shown(list(v), 1) for v in each)])
print(f"on paper {h:.0f} tokens")
print(stats.table(["rows", "rank", "tokens that repay", "a merge, µs", "the path, µs a token"], lines))
results.record(repaid=found, h=h)

# %% [markdown] rests_on="19.repaid_few=does not hold, 19.repaid_1=not settled, 19.repaid_32=does not hold"
# The count on paper is wrong at both ends. Eight tokens at once repay a merge after 8, three octaves (factors of two)
# below h: that is one pass, and just what the null gives. 2,048 at once repay it after 315, two octaves above h.
# Between them lies a size at which the count is right: with 64 at once it is within a factor of two. But that is near h
# by our choice of 64, and a merge that takes as long as one pass of the path would pass there too, so the row settles
# nothing.
#
# Why? The count is of operations. A merge is the same operations whatever follows it (on the clock 0.69 ms, and 0.94
# beside large passes). The path gets cheaper a token where a pass has more of them: 84 µs at 8 tokens, 14 at 64, 3 at
# 2,048. So a small pass repays a merge at once, and a large one late.

# %% [markdown] rests_on="19.rank_free_few=not settled, 19.rank_free_1=not settled, 19.rank_free_32=does not hold"
# Does the rank cancel? With 2,048 tokens at once not within a factor of two, though only just; with fewer the rows are
# open. From rank 8 to 64 the number changes by {19.rank_free_few.shown} octaves with 8 tokens, by
# {19.rank_free_1.shown} with 64, and by {19.rank_free_32.shown} with 2,048. (On paper merge and path both grow
# eightfold. Measured, the merge grows 2.3-, 2.4- and 2.0-fold, the path 1.3-, 1.9- and 4.3-fold. In the first two even
# a merge of constant time would stay within a factor of two, so these rows settle nothing.)
#
# On paper it is thousands of tokens at width 4096; that we have not timed.
#
# ## The real model
#
# The same on SmolLM2-135M (chapter 12).

# %%
checkpoint = load_checkpoint()
real = checkpoint.model.to(size.device).requires_grad_(False)
there = {"model": checkpoint.source.partition(" (")[0], "width": real.config.hidden_size}
beats_real = results.finding(
    "beats_real",
    says="on the real model the bank is faster than the loop by a tenth: 8 adapters, 1 token a row, time over the "
    "loop's",
    test=AtMost(0.9, "a tenth is worth the code"),
    scope=there | {"rank": 8, "rows": batch},
)

# %%
dear, truly = ("one by one",) if full else ("one by one", "merge, then run"), {}
work = {1: (1, 8, 32), 32: (8,)} if full else {1: (8,)}
for t, some in work.items():
    left_out = dear if t == 1 else ("one by one", "merge, then run")
    truly[t] = timed(real, t, [(n, 8) for n in some], 1, leave_out=left_out, count=5 if t == 1 else 3)
lines = [
    [t, n, *(stats.shown(over(times, (n, 8, w)), 2) if (n, 8, w) in times else "" for w in WAYS[:2] + others[1:])]
    for t, times in truly.items()
    for n in work[t]
]
print("time over the plain base's")
print(stats.table(["tokens a row", "adapters", "bank", "loop", "merge, then run"], lines))
print(f"the base timed twice: {stats.shown(over(truly[1], 'again'))}, {stats.shown(over(truly[max(work)], 'again'))}")
twice = stats.interval(over(truly[1], "again"))
beats_real.measure(stats.interval(over(truly[1], (8, 8, "bank"), (8, 8, "loop"))), chance=twice)
results.record(real={t: {str(way): times[way] for way in times} for t, times in truly.items()})

# %% [markdown] rests_on="19.beats_real=does not hold"
# {19.beats_real.shown}: with 8 adapters the bank and the loop are nearly alike on the real model. (There a session is
# one call, and at 32 tokens a row there are three sessions.) Where the base is large, it is most of the work in either
# way. From 1 to 32 adapters the bank takes a sixth longer here, more than half on the tiny model. The loop takes two
# fifths longer (by a fifth to three fifths: one session was slow), with 32 rounds in each of 210 layers; so at 32
# adapters the bank takes 0.78 of its time, which no row tests. At one token a row a merge for every two tokens is out
# of the question; at 32, where it might pay, we did not time it.
#
# ## How servers do it
#
# Our bank copies adapters, or moves rows, before it multiplies. Punica calls the first way Gather-BMM (section 7.1).
# Its own kernel, SGMV, reads each adapter where it lies, once for all rows that have it. Behind "12x higher throughput
# … while only adding 2ms latency per token" (abstract) stand baselines that can batch only requests for the same
# adapter; with an adapter for each request they "run with a batch size of 1" (section 7.2). The paper's text derives
# neither number. S-LoRA's "up to 4 times" is over merged copies packed on one GPU, five of them; over PEFT, which
# switches adapters between batches, it is up to 30 times (section 1; table 3).
#
# vLLM's knobs (documentation of v0.22.1), beside ours:
#
# | here | vLLM | its default | what it means |
# |---|---|---|---|
# | `capacity` | `max_loras` | 1 | "Max number of LoRAs in a single batch."; others wait |
# | the largest rank loaded | `max_lora_rank` | 16 | an adapter of a larger rank is refused |
# | none | `max_cpu_loras` | as `max_loras` | adapters kept in the host's memory, to be swapped in |
#
# The memory of a slot is taken at `max_lora_rank`, and smaller adapters are filled up with zeros (pull request 22782);
# "using a value much larger than needed wastes memory and can cause performance issues". Our bank does the same with
# the largest rank it has met. With the defaults, one adapter is in a batch, and a rank of 64 is refused: two first
# surprises.
#
# ## Exercises
#
# **1. The missing line.** `answers` are the logits of rows that were sorted: `answers[j]` belongs to row `order[j]` of
# the batch as it came. Put them back.

# %%
from lora_from_scratch.book.checks import ch19 as check


def my_rows(answers, order):
    """answers (rows, ...), order a tensor of (rows,) -> the answers in the order in which the rows came."""
    return None  # your code here


print(check.check_rows(my_rows))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_rows(answers, order):
#     return answers[order.argsort()]  # or: out = torch.empty_like(answers); out[order] = answers
# ```
#
# `answers[order]` sorts a second time. It is right by luck where the permutation is its own inverse, as for two rows.
#
# </details>
#
# **2. A swap in place.** A server keeps one copy of the weights. When another customer comes, it subtracts the update
# of the old adapter, of rank `old`, and adds that of the new one, of rank `new`. How many tokens must follow until both
# together took no more operations than the new adapter's path beside the base would have? One layer, (d_out, d_in).


# %%
def my_tokens(d_out, d_in, old, new):
    """Tokens after which the swap is repaid."""
    return None  # your code here


print(check.check_tokens(my_tokens))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_tokens(d_out, d_in, old, new):
#     return (old + new) * d_out * d_in / (new * (d_out + d_in))
# ```
#
# Two merges are made, of two ranks, and one path is spared. Now the rank does not cancel: to put a small adapter in the
# place of a large one is dear. And the weights drift (chapter 03).
#
# </details>
#
# **3. One large tenant.** A bank has 32 slots. 31 adapters have rank 8, then one of rank 64 is loaded. How many times
# the memory does the bank take that the adapters need?

# %%
my_times = None  # your number here
print(check.check_times(my_times))

# %% [markdown]
# <details><summary>Solution</summary>
#
# `32 · 64 / (31 · 8 + 64) = 2048 / 312 = 6.56`. All slots have the largest rank. It is what `max_lora_rank=64` does on
# a server, from its start.
#
# </details>
#
# ## The same with PEFT and vLLM
#
# ```python
# from peft import PeftModel
#
# model = PeftModel.from_pretrained(base, "adapters/french", adapter_name="french").eval()
# model.load_adapter("adapters/german", adapter_name="german")
# model.generate(**inputs, adapter_names=["french", "__base__", "german"])  # one name a row
# ```
#
# ```python
# from vllm import LLM
# from vllm.lora.request import LoRARequest
#
# llm = LLM(model="…", enable_lora=True, max_loras=4, max_lora_rank=64)
# llm.generate(prompts, sampling, lora_request=LoRARequest("french", 1, "adapters/french"))
# ```
#
# PEFT's documentation itself sends those who have many adapters to servers made for it. `make bench` has our bank
# beside PEFT's `adapter_names`.

# %%
results.save()
