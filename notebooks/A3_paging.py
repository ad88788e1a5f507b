# %% [markdown]
# # A3 · The paged optimizer
#
# **The question.** AdamW keeps two numbers for each trained one. They are used once a step and idle otherwise. Can they
# wait elsewhere, and what does it cost?
#
# **What you will be able to do.** Say what QLoRA's paged optimizer does and what it does not do. Predict how many pages
# move in a step, for any budget, and why "least recently used" is the worst rule for a circle.
#
# **What you need.** Chapter 05, and chapter 06 for what a step holds.
#
# **The published idea.** QLoRA (arXiv 2305.14314v1, section 3) lets the state lie in CUDA's unified memory: pages move
# to the host when the GPU is full, and back when they are touched. Nobody sets a budget; the driver decides. The reason
# given is memory *spikes*, from batches with long sequences. That needs a GPU, and is not measured here. What is
# measured is our `PagedAdamW`, which makes the idea explicit: the state is kept in pages, at most `resident_bytes` of
# them on the device, the others on the host; the least recently used go out. (On a CPU both places are the same memory.
# The moves and the bookkeeping are real, the saving is not.)

# %%
import random
import time

import torch
from torch import nn

from lora_from_scratch import AdapterConfig, PagedAdamW, add_adapters, quantize_model, trainable_parameters
from lora_from_scratch.book import stats
from lora_from_scratch.book.estimates import Estimate
from lora_from_scratch.book.figures import chA3 as figures
from lora_from_scratch.book.results import Results
from lora_from_scratch.book.verdicts import AtLeast, Identity
from lora_from_scratch.lab import tasks, train
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.pretrain import pretrained

size = preset()
results = Results("A3_paging", size)

# %% [markdown]
# ## The numbers must not change
#
# We train the same adapter with `torch.optim.AdamW` (`foreach=False`) and with a budget of a quarter of the state: one
# base, five steps, of which the last three losses come after pages have been out and back. Both rows are properties of
# our own code, not claims of the paper. The second takes the optimizer's own count of bytes, not the device's.

# %%
same = results.identity("same", says="paging the state changes no loss, to the last bit", test=Identity(0.0))
within = results.identity(
    "within", says="at every move at most the budget is resident (what is above it)", test=Identity(0.0)
)


# %%
def train_with(make, steps=5):
    """(losses, optimizer) of a few steps on rot13, an adapter over NF4."""
    torch.manual_seed(0)
    model = add_adapters(quantize_model(pretrained(size, 1)), AdapterConfig(rank=16, alpha=32))
    optimizer, losses = make(trainable_parameters(model)), []
    batches = train.Batches(tasks.task_ids("rot13", "task"), size.batch, size.model.max_position_embeddings, seed=0)
    for _, windows in zip(range(steps), batches, strict=False):
        optimizer.zero_grad()
        loss = train.loss_of(model, windows.to(size.device))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, optimizer


# %%
trace = []
plain, _ = train_with(lambda ps: torch.optim.AdamW(ps, lr=1e-3, foreach=False))
_, roomy = train_with(lambda ps: PagedAdamW(ps, lr=1e-3))
budget = roomy.bytes_resident // 4


# %%
def tight(parameters):
    optimizer = PagedAdamW(parameters, lr=1e-3, resident_bytes=budget)
    optimizer.on_move = lambda self: trace.append(self.bytes_resident)
    return optimizer


# %%
squeezed, optimizer = train_with(tight)
same.measure(max(abs(a - b) for a, b in zip(squeezed, plain, strict=True)))
within.measure(max(0, max(trace) - budget))
print(f"state: {roomy.bytes_resident:,} bytes in pages of {roomy.page_bytes}; budget: {budget:,}")
print(f"pages brought in over 5 steps: {optimizer.page_ins} (without a limit: {roomy.page_ins})")

# %%
results.figure(
    figures.trace(trace, budget, roomy.bytes_resident),
    "trace",
    "What is on the device, move by move. It fills up to the budget in the first step; then pages go out for others "
    "to come in, and before a large parameter those of several small ones go.",
    alt="A line that climbs to the dashed budget, a quarter of all the state, and then runs along below it in small "
    "teeth.",
)

# %% [markdown]
# ## What does a budget cost?
#
# Each page that is not there must be brought in. **Predict the curve:** page-ins a step against the budget, from a
# tenth of the state to all of it. Think about the order in which a step visits the parameters, and about which pages
# are the least recently used.

# %%
everything = results.finding(
    "everything_moves",
    says="with nine tenths of the state resident, the share of all pages that each step brings in",
    test=AtLeast(0.9, "nearly all of them"),
    scope={"model": "100 parameters of 64 × 64", "width": 64, "seeds": 0, "bases": 0},
)

# %%
shares, moved, milliseconds = [0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0], [], []
whole = 100 * 2 * 64 * 64 * 4  # bytes of state
for share in shares:
    parameters = [nn.Parameter(torch.zeros(64, 64)) for _ in range(100)]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = PagedAdamW(parameters, page_bytes=4096, resident_bytes=round(share * whole))
    optimizer.step()  # makes the state
    before, taken = optimizer.page_ins, []
    for _ in range(9):
        start = time.process_time()
        optimizer.step()
        taken.append(1e3 * (time.process_time() - start))
    moved.append((optimizer.page_ins - before) / 9 / (whole / 4096))
    milliseconds.append(taken)

# %%
rows = [
    [f"{share:.0%}", f"{m:.0%}", stats.shown(ms, 1)] for share, m, ms in zip(shares, moved, milliseconds, strict=True)
]
print(stats.table(["resident", "of all pages brought in, each step", "ms a step (nine steps)"], rows))


# %%
def at_random(pages=100, fit=90, rounds=50):
    """The share of pages brought in by a round when the page that goes is drawn by lot."""
    draw, resident, missed = random.Random(0), list(range(fit)), 0
    for page in list(range(pages)) * rounds:
        if page not in resident:
            resident[draw.randrange(fit)] = page
            missed += 1
    return missed / rounds / pages


at = moved[shares.index(0.9)]
everything.measure(Estimate(at, at, at), chance=at_random(), shown=f"{at:.0%}")
results.record(moved=dict(zip(map(str, shares), moved, strict=True)), milliseconds=milliseconds)

# %%
results.figure(
    figures.cost(shares, moved, milliseconds),
    "cost",
    "Left: the pages that each step brings in, over the budget. Dashed: what a rule that throws out the most "
    "recently used would need. Right: what a step costs, with 95 % intervals over nine steps.",
    alt="Left, the share of pages brought in stays at all of them until the whole state fits, where it drops to "
    "none; the dashed line of the better rule falls straight. Right, milliseconds a step over the budget.",
)

# %% [markdown] rests_on="A3.everything_moves=holds, A3.same=holds, A3.within=holds"
# (Chance is a rule that throws out a page by lot: with nine tenths resident it brings in about a fifth.) Wherever pages
# move, the optimizer's step takes two to three times as long as where none do. That is the optimizer alone, on a CPU,
# where a move is a copy within one memory. It says nothing of a GPU's bus, or of a whole training step, and
# `torch.optim.AdamW` is not timed beside it. The smaller differences we do not explain.
#
# The share of pages does not fall at all until everything fits. A step visits the parameters in a circle. Of what is
# resident, the page used longest ago is the one needed soonest, and "least recently used goes first" throws out just
# that one. So each page is gone when its turn comes. The page to throw out would be the one used *most* recently: it is
# needed last. (That rule is computed in the figure, not run.)
#
# So paging by this rule is no way to train with half of the memory for free. (The CUDA driver has its own rule, which
# we have not measured.) QLoRA's is meant as an insurance: as long as all fits, no page moves, and when a rare long
# batch needs the room, the driver makes it, and the step gets slow instead of failing. Ours is no such insurance: its
# budget is fixed, and does not shrink for a long batch.
#
# ## Exercise
#
# **The better rule.** A step visits 100 pages in a circle, and 75 fit. The rule throws out the page used most recently.
# How many pages does a step bring in, once it runs steadily?

# %%
from lora_from_scratch.book.checks import chA3 as check

my_pages = 100  # change this
print(check.check_pages(my_pages))

# %% [markdown]
# <details><summary>Solution</summary>
#
# 74 pages stay where they are for a round, and the other 26 take turns in the one remaining place. Each page that comes
# in was out before, so a step brings in about the 25 that do not fit, 25 or 26: the least that any rule can do.
#
# </details>
#
# ## The same with transformers
#
# ```python
# from transformers import TrainingArguments
#
# arguments = TrainingArguments("out", optim="paged_adamw_32bit")  # bitsandbytes' AdamW in unified memory
# ```

# %%
results.save()
