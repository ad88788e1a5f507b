# %% [markdown]
# # 06 · Memory
#
# **The question.** Where do the bytes of a training step go, and which of them does LoRA save? Will this model fit that
# card?
#
# **What you will be able to do.** Name the five parts of a training step and compute each on paper. Look at what
# autograd keeps. Find the moment at which a step needs most, and plan with it. Say of a model whether it fits a card,
# or that a count cannot tell.
#
# **What you need.** PyTorch, the LoRA layer of chapter 01, the 4-bit layer of chapter 05. The published figures, models
# of billions of weights, and the number of tokens from which on LoRA saves little are in appendix A2.
#
# **Units.** 1 MB is 10⁶ bytes, 1 GB is 10⁹. 1 MiB is 2²⁰ bytes, 1 GiB is 2³⁰ (7 % more than a GB).
#
# **The published claims.** QLoRA fine-tunes 65 billion weights on one 48 GB card (arXiv 2305.14314v1, abstract).
# Checkpointing costs one extra forward pass (1604.06174v2, abstract, which also says what it saves).
#
# Nothing here is random but the weights, and bytes do not depend on them. So a count has no seeds, and its interval is
# the number itself.

# %%
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lora_from_scratch import AdapterConfig, NF4Linear, add_adapters, quantize_model, trainable_parameters
from lora_from_scratch.analysis.counting import MODELS
from lora_from_scratch.analysis.memory import ADAPTERS32, STATE32, training_bytes
from lora_from_scratch.analysis.peaks import alive, logits_bytes, most, planned
from lora_from_scratch.analysis.simulate import checkpoint_blocks, measured_bytes, simulated_bytes
from lora_from_scratch.book import stats
from lora_from_scratch.book.estimates import Estimate
from lora_from_scratch.book.figures import ch06 as figures
from lora_from_scratch.book.results import Results
from lora_from_scratch.book.verdicts import AtLeast, AtMost, Identity
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama
from lora_from_scratch.lab.presets import preset

torch.set_num_threads(1)
size = preset()
results = Results("06_memory", size, scope={"seeds": "none", "bases": "none"})
METHODS, GB = ("full", "lora", "qlora"), 1e9

# %% [markdown]
# ## Five parts, by hand
#
# A training step holds
#
# 1. the **weights**, frozen or not;
# 2. the **constants** that decode them, if they are in 4 bits;
# 3. a **gradient** for each trained number;
# 4. the **optimizer's state**: AdamW keeps two numbers for each trained one;
# 5. the **activations**: what the forward pass keeps because the backward pass needs it.
#
# The first four depend on the model, the last on the batch as well. Predict for the book's Llama in float32, all
# weights trained: if the weights take one unit, how many units are the gradients, and how many the state?

# %%
config, rank, batch = size.model, 8, 2
length = config.max_position_embeddings
ids = torch.randint(config.vocab_size, (batch, length))
model = TinyLlama(config)
numbers = sum(p.numel() for p in model.parameters())
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
optimizer.step()
by_hand = {
    "weights": sum(p.nbytes for p in model.parameters()),
    "gradients": sum(p.grad.nbytes for p in model.parameters()),
    "optimizer": sum(s["exp_avg"].nbytes + s["exp_avg_sq"].nbytes for s in optimizer.state.values()),
}
for part, found in by_hand.items():
    print(f"{part:10} {found:12,} bytes = {found / numbers:.0f} a weight")

# %% [markdown]
# Sixteen bytes for every trained weight, before the first activation. Freeze a weight, and twelve of the sixteen are
# gone. That is what LoRA saves.
#
# Then the activations. Autograd tells what it keeps: `saved_tensors_hooks` calls our function for every tensor that
# forward puts aside. Two tensors may share one storage (a view does), so we count storages. Weights and the batch are
# there anyway, and do not count.


# %%
def kept_by_autograd(model, ids):
    """{address of a storage: its bytes} of what forward keeps, and the loss, which holds all of it."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), ids)}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor  # what autograd shall keep: the tensor as it is

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
    return kept, loss


# %% [markdown]
# Three models: everything trained, adapters on all linear layers, and adapters over a 4-bit base.


# %%
def made(method, config=config, rank=rank, checkpointed=False, **options):
    """The model that a method trains."""
    model = TinyLlama(config)
    if method == "qlora":
        quantize_model(model)
    if method != "full":
        add_adapters(model, AdapterConfig(rank=rank, alpha=32, **options))
    return checkpoint_blocks(model) if checkpointed else model


share = sum(p.numel() for p in trainable_parameters(made("lora"))) / numbers
print(f"LoRA trains {share:.1%} as many numbers as full fine-tuning")

# %% [markdown]
# Predict: by how much does that shrink the activations?

# %%
keeps = results.finding(
    "keeps",
    says="LoRA keeps most of full fine-tuning's activations",
    test=AtLeast(2 / 3, "if a third went, one would see it in the total"),
)

# %%
widths, kept_bytes = {}, {}
for method in METHODS:
    kept, _ = kept_by_autograd(made(method), ids)
    kept_bytes[method] = sum(kept.values())
    for nbytes in kept.values():
        each = f"{nbytes / 4 / ids.numel():g}"  # float32 numbers for each of the batch's tokens
        widths.setdefault(each, dict.fromkeys(METHODS, 0))[method] += 1
rows = [[each, *count.values()] for each, count in sorted(widths.items(), key=lambda item: -float(item[0]))]
print(stats.table(["numbers a token", *(f"{m}: tensors" for m in METHODS)], rows))
print(f"width {config.hidden_size}, MLP {config.intermediate_size}, rank {rank}; bytes together: {kept_bytes}")

# %%
keeps.measure((kept_bytes["lora"] / kept_bytes["full"], 0.0), chance=(share, 0.0))
results.record(kept=kept_bytes)

# %% [markdown] rests_on="06.keeps=holds"
# LoRA keeps {06.keeps.shown} of what full fine-tuning keeps (chance: what would be left if activations shrank as the
# trained numbers do). Why does a frozen base keep activations at all? It is the chain rule, twice.
#
# - The gradient must pass *through* the frozen layers to adapters further down. Through a frozen linear layer it
#   passes with `W` alone, which is there anyway. But attention, SiLU, the product of gate and up, the norms: each needs
#   its own inputs for that, frozen or not.
# - The gradient of `A` is a product with the layer's input `x`. So an adapted layer keeps `x`, as a trained one does.
#
# LoRA does spare the head's input, all that the first norm keeps (nothing below it is trained), and one tensor in each
# of the nine norms: a norm computes `weight · x / rms`. The gradient of `weight` needs `x / rms`; if `weight` is
# frozen, nobody does. LoRA adds `s · A x`, as wide as the rank, for each adapter. 4 bits change nothing: the base is
# decoded to the same widths.
#
# Attention weights would be heads · length numbers a token, 256 here, and there is no such line:
# `scaled_dot_product_attention` need not keep them, because it can compute them again in backward (FlashAttention,
# arXiv 2205.14135). Attention written out with a softmax keeps them, and grows with the square of the length.
#
# ## Three ways to count
#
# - **Closed form**: `training_bytes` adds up sizes on paper.
# - **Simulated**: `simulated_bytes` runs the real step on *fake* tensors. A fake tensor has a shape and a type but no
#   numbers, so it takes no memory, at any size. torch's `MemTracker` notes when each begins and ends.
# - **Real step**: `measured_bytes` runs the step and adds up the sizes of its tensors.
#
# All three count tensors by the same definitions of the parts. None asks an *allocator*, the piece of torch that
# fetches memory in large blocks and hands it out: what that rounds up or holds back is in none of them.

# %%
stored = results.identity("stored", "three counts agree on weights, constants, gradients, state", Identity(0.02))
activations = results.identity("activations", "three counts agree on the activations", Identity(0.001))

# %%
PARTS = ("weights", "constants", "gradients", "optimizer", "activations")
off, rows = dict.fromkeys(PARTS, 0.0), []
for method in METHODS:
    model = made(method)
    closed = vars(training_bytes(config, method, batch, length, rank))
    others = simulated_bytes(model, batch, length), measured_bytes(model, batch, length)
    for part in PARTS:
        rows.append([method, part, *(f"{way[part]:,}" for way in (closed, *others))])
        off[part] = max(off[part], *(abs(way[part] - closed[part]) / (way[part] or 1) for way in others))
print(stats.table(["method", "bytes of", "closed form", "simulated", "real step"], rows))
activations.measure(off.pop("activations"))
stored.measure(max(off.values()))
results.record(off=off)

# %% [markdown]
# What is left: the optimizer also keeps a step counter of 4 bytes for each tensor, a 4-bit layer its shape and block
# size, and the simulation counts one number more among the activations.
#
# ## Which step decides?
#
# Parts are not a peak. The question is how many bytes are there *at one time*. `alive` notes after every operation what
# exists at that moment. Two things to expect:
#
# - In the first step AdamW has no state yet: it makes it at the end, when the activations are gone. From the second
#   step on the state lies there all the time. A run that survives step 1 may die in step 2.
# - When backward begins, the loss makes two tensors as large as the logits in float32: its gradient at the
#   log-probabilities, and at the logits. That is `8 · vocabulary` bytes a token, and in none of the five parts.
#
# The book's vocabulary is 128, and real ones are 32,000 and more. So we also look at a vocabulary of 4096. Predict: is
# the sum of the five parts a safe figure to plan with?

# %%
later = results.finding(
    "later",
    says="the second step needs more than the first, whatever is trained, with checkpointing and without",
    test=AtLeast(1.05, "5 % of a 24 GB card is more than a GB"),
    scope={"vocabulary": "128", "precision": "float32"},
)
plan = results.finding(
    "plan",
    says="the five parts and 8 · vocabulary · tokens bytes fall short of the second step's peak by at most 5 %",
    test=AtMost(0.05, "what one would leave free anyway"),
    scope={"vocabulary": "128 and 4096", "checkpointing": "with and without", "precision": "float32"},
)

# %%
peaks, rows = {}, []
for vocabulary in (config.vocab_size, 4096):
    wide = LlamaConfig(**vars(config) | {"vocab_size": vocabulary})
    for method in METHODS:
        for again in (False, True):
            steps = alive(lambda: made(method, wide, checkpointed=again), batch, length, steps=3)  # noqa: B023
            parts = training_bytes(wide, method, batch, length, rank, checkpoint=again)
            first, peak, third = map(most, steps)
            guess = planned(parts, vocabulary, batch * length)
            peaks[vocabulary, method, again] = first, peak, third, parts.total, guess, steps[:2]
            signed = [f"{100 * (value / peak - 1):+.1f}" for value in (first, parts.total, guess)]
            rows.append([vocabulary, method, "yes" if again else "no", f"{peak / 1e6:.2f}", *signed])
head = ["vocabulary", "method", "checkpointing", "peak of step 2, MB", "step 1, %", "sum, %", "sum and logits, %"]
print(stats.table(head, rows))

# %%
ours = {c: [peaks[config.vocab_size, method, c] for method in METHODS] for c in (False, True)}
least = {c: min(peak / first for first, peak, *_ in own) for c, own in ours.items()}
last = max(third / peak for own in ours.values() for _, peak, third, *_ in own)
told = f"{least[False]:.3f} times without checkpointing, {least[True]:.3f} with it"
later.measure((min(least.values()), 0.0), chance=(last, 0.0), shown=told)
short = [max(1 - p[place] / p[1] for p in peaks.values()) for place in (4, 3)]
plan.measure((short[0], 0.0), chance=(short[1], 0.0))
results.record(peaks={f"{v} {m} {c}": p[:5] for (v, m, c), p in peaks.items()})

# %%
runs = {f"LoRA, vocabulary {v}": peaks[v, "lora", False] for v in (config.vocab_size, 4096)}
fig = figures.two_steps({name: (p[5], p[3], p[4]) for name, p in runs.items()})
results.figure(
    fig,
    "two_steps",
    "Bytes alive in the first two steps of LoRA. The dots are the peaks.",
    alt="Two panels of jagged hills, one hill a step. In both the second hill is higher than the first, because the "
    "optimizer's state is there from its beginning. With the small vocabulary the second peak reaches the sum of the "
    "parts. With the large one a spike stands on top of each hill, far above that sum and just below the sum with the "
    "logits' term.",
)

# %% [markdown] rests_on="06.later=does not hold, 06.plan=holds"
# At our small vocabulary the second step needs more than the first in all six lines. The least, as a multiple of the
# first: {06.later.shown}. Our line was 1.05, and one of the six (full, checkpointed) is below it; so the sentence with
# "whatever is trained" does not hold. (Chance: the third over the second.) At 4096 it is 0 to 5.5 % more, above the
# line in one of six. With adapters the logits' term, 4.2 MB, then outweighs the state, 0.6 MB: which is larger depends
# on width, rank and vocabulary. In full fine-tuning the state is still the larger, 14.8 MB, but there the first step
# has a peak of its own.
#
# Full fine-tuning has a third moment: AdamW's own step, when gradients and state are complete and it needs two or three
# more tensors as large as the largest weight. In its first step that is its peak; at 4096 with checkpointing, in every
# step.
#
# The sum is **not** safe: it falls short by 7 % of the peak in one line at 128 (QLoRA, checkpointed), and by up to 32 %
# at 4096. With the logits' term, in these twelve lines, what is missing is at most {06.plan.shown} of the peak. The
# test asks for too little only: any plan that is too large would pass, and in ten of the twelve ours is too large. For
# giants in bfloat16 (appendix A2) it is off by up to 6.3 %, too much.
#
# So plan with **all parts and `8 · vocabulary · tokens`**. For LoRA and QLoRA that is close at both vocabularies.
# (In between it may be too much, where the inside of a block and the logits are about as large: with checkpointing the
# two do not come together.) For full fine-tuning it is
# over a fifth too much in one line, because the gradients are complete only when the activations are gone. The little
# that is still missing lives inside one block: gradients on their way, a decoded slice of a 4-bit weight.
#
# Here AdamW takes one tensor at a time. torch's default on a GPU is `foreach=True`, which works on a copy as large as
# one of the two states: for LLaMA-7B in full 27 GB more, for adapters next to nothing. `fused=True` makes no such copy.
# (`alive` takes another optimizer, so you can see it.)
#
# ## Breaking it on purpose
#
# Three mistakes that raise no error. Predict which part grows, and to how much.
#
# 1. **Nothing frozen.** The adapters are in, but the base still requires gradients.
# 2. **The decoded weight is kept**: a 4-bit layer without a backward of its own.
# 3. **No `no_grad`**: losses of an evaluation are collected with their graphs.


# %%
class Naive(nn.Module):
    """A 4-bit layer that lets autograd do what it likes."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return F.linear(x, self.inner.weight)  # decoded here, and kept until backward


naive = made("qlora")
for module in list(naive.modules()):
    for name, child in list(module.named_children()):
        if isinstance(child, NF4Linear):
            setattr(module, name, Naive(child))

# %%
broken = {"LoRA": made("lora"), "nothing frozen": made("lora").requires_grad_(True)}
broken |= {"QLoRA": made("qlora"), "decoded kept": naive}
broken = {name: measured_bytes(model, batch, length) for name, model in broken.items()}
print(stats.table(["bytes", *broken], [[p, *(f"{b[p]:,}" for b in broken.values())] for p in PARTS]))
losses, held = [], 0
for _ in range(3):
    kept, loss = kept_by_autograd(made("lora"), ids)
    losses.append(loss)  # a loss holds its graph, and the graph holds the activations
    held += sum(kept.values())
print(f"{len(losses)} losses in a list hold {held:,} bytes")

# %% [markdown]
# **1** costs what full fine-tuning costs, and a little more. Print the trainable parameters, always. **2** keeps the
# decoded weights as activations: 3.0 MB, more than the 2.8 that 4 bits had saved, so that it needs more than LoRA
# without them. (All but q, k and v of the first block: below them nothing is trained, so no gradient passes through.)
# Use a layer that decodes twice, as chapter 05 does. **3** goes away with `loss.item()` or `torch.no_grad()`.
#
# ## Gradient checkpointing
#
# The cure for large activations, and nothing to do with files: keep only the input of each block, and run the block
# again when backward arrives there. In raw lines it is one call around each block:


# %%
class Again(nn.Module):
    """A block whose inside is forgotten after forward, and computed again in backward."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, *inputs):
        return checkpoint(self.block, *inputs, use_reentrant=False)


plain = made("lora")
F.cross_entropy(plain(ids).flatten(0, 1), ids.flatten()).backward()
wanted = [p.grad.clone() for p in trainable_parameters(plain)]
plain.zero_grad()
plain.model.layers = nn.ModuleList(Again(block) for block in plain.model.layers)
F.cross_entropy(plain(ids).flatten(0, 1), ids.flatten()).backward()
apart = max((a - p.grad).abs().max().item() for a, p in zip(wanted, trainable_parameters(plain), strict=True))
print(f"largest difference between the gradients: {apart:g}")

# %% [markdown]
# The bytes now have a largest moment: all the inputs, and the inside of the *one* block that backward is in. Then the
# price, in multiplications of the linear layers. (The counter does not see attention's two products; here they are a
# twelfth of a forward pass, and their share grows with the length.) Predict: what does the step of LoRA cost, if full
# fine-tuning's is 1? And the checkpointed ones?

# %%
extra = results.claim(
    "extra",
    says="checkpointing costs at most one extra forward pass",
    source="arXiv 1604.06174v2, abstract",
    read="abstract",
    published="an extra forward pass per mini-batch",
    test={name: AtMost(1.0, "one pass, as published") for name in ("full", "lora")},
)


def multiplications(model):
    """(forward, the whole step)"""
    with FlopCounterMode(display=False) as counter:
        loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        forward = counter.get_total_flops()
        loss.backward()
    return forward, counter.get_total_flops()


# %%
flops = {(m, c): multiplications(made(m, checkpointed=c)) for m in ("full", "lora") for c in (False, True)}
rows = []
for (method, again), (_, step) in flops.items():
    bytes_ = training_bytes(config, method, batch, length, rank, checkpoint=again).activations
    rows.append([method, "yes" if again else "no", f"{bytes_:,}", f"{step / flops['full', False][1]:.2f}"])
print(stats.table(["method", "checkpointing", "activations at most", "multiplications, full = 1"], rows))
passes = {m: (flops[m, True][1] - flops[m, False][1]) / flops[m, False][0] for m in ("full", "lora")}
extra.measure(
    {m: (value, 0.0) for m, value in passes.items()},
    chance="none: multiplications are counted. Starting every block from the embedding would take (layers + 1) / 2",
)
results.record(flops={f"{m} {c}": step for (m, c), (_, step) in flops.items()})

# %% [markdown] rests_on="06.extra=reproduced"
# In forward passes, checkpointing adds {06.extra.shown}. It is less than one because the head does not run again, and
# because torch stops a block at the last tensor that backward needs. That it is at most one had to come out: each block
# runs once more, and no more. The paper's other half, memory that grows with the root of the depth, is not tested: one
# checkpoint a block keeps one input a block. LoRA without checkpointing spares the gradients of the frozen weights, one
# of three products; the adapters' own products take some of it back at this width. (Multiplications are not time.)
#
# ## What fits on a card?
#
# First, what is a card's GB? `nvidia-smi` lists 23,028 MiB for cards sold as 24 GB (A10), 46,068 MiB for 48 GB (L40S,
# A40, with error correction) and 81,559 MiB for 80 GB (H100).
#
# Second, how much does a real run take beyond a count? There is one figure from a GPU that we can compare with: PEFT's
# own comparison of June 2025 (Llama-3.2-3B in bfloat16, AdamW, LoRA of rank 32 on q and v, batch 4, at most 768 tokens,
# on an L40S) reports 22.27 GB as the most that was *reserved*: held by the allocator, used or not. Its adapters are in
# float32 (appendix A2). How many tokens its longest batch had is not told; we count 4 × 768, the most there can be, so
# the factor is the least it can have been.

# %%
cards = {name: mib * 2**20 / GB for name, mib in (("24", 23_028), ("48", 46_068), ("80", 81_559))}
print("GB of 10⁹ bytes:", {name: round(gb, 2) for name, gb in cards.items()})
llama_3b = LlamaConfig(128256, 3072, 8192, 28, 24, 8, 131072, tie_word_embeddings=True)
parts = training_bytes(llama_3b, "lora", 4, 768, 32, ("q_proj", "v_proj"), precision=ADAPTERS32)
ours, there = planned(parts, llama_3b.vocab_size, 4 * 768) / GB, 22.27
print(f"sum of the parts {parts.total / GB:.2f}, with the logits' term {ours:.2f}, reserved there {there} GB")
print(f"more there: {there - ours:.2f} GB, or a factor of {there / ours:.3f}")
factor = max(1.1, there / ours)
gap = (factor - 1) * ours

# %% [markdown]
# One figure, and a least one, cannot tell whether what comes on top is so many GB or such a share. We take a tenth,
# which is more than this run shows, and take it both ways. And the CUDA context, some hundred MB, is not in it. We say
#
# - **yes** if our figure times that factor fits,
# - **no** if our figure alone does not,
# - **open** in between: try it.
#
# Every yes below would bear a factor of 1.19; a larger one takes back 33B by LoRA on 80 GB first. A no for full
# fine-tuning is a no for the *plan*, which without checkpointing is too large there by up to the gradients. In the
# table such a no is never a near one.
#
# STATE32 holds weights and gradients in 16 bits and AdamW's state in float32, as the QLoRA paper counts it. It is not
# what plain torch does: there AdamW's state has the type of the weights, so a model in bfloat16 takes 4 bytes less for
# each trained number.

# %%
one_card = results.claim(
    "one_card",
    says="QLoRA fine-tunes a 65B model on one 48 GB GPU: room that is left, in GB (counted; no GPU was used)",
    source="arXiv 2305.14314v1, abstract",
    read="abstract",
    published="65B on a single 48 GB GPU",
    test=AtLeast(0.0, "the card is not full"),
    scope={"model": "LLaMA-65B", "width": 8192, "setting": "rank 64, batch 1, 512 tokens, checkpointing"},
)

# %%
needs, rows = {}, []
for name in ("7B", "13B", "33B", "65B"):
    for method in METHODS:
        for again in (False, True):
            shape = MODELS[f"LLaMA-{name}"]
            parts = training_bytes(shape, method, 1, 512, 64, precision=STATE32, checkpoint=again)
            needs[name, method, again] = gb = planned(parts, shape.vocabulary, 512) / GB
            told = ["yes" if factor * gb <= card else "open" if gb <= card else "no" for card in cards.values()]
            rows.append([name, method, "yes" if again else "no", f"{gb:.1f}", *told])
print("one sequence of 512 tokens, rank 64")
print(stats.table(["LLaMA", "method", "checkpointing", "GB", *(f"“{card} GB”" for card in cards)], rows))

# %%
gb, card = needs["65B", "qlora", True], cards["48"]
llama = MODELS["LLaMA-65B"]
wider = planned(
    training_bytes(llama, "qlora", 1, 512, 64, precision=ADAPTERS32, checkpoint=True), llama.vocabulary, 512
)
print(f"65B, QLoRA, checkpointing: {gb:.2f} GB, with adapters in float32 {wider / GB:.2f}; the card has {card:.2f}")
left = Estimate(card - gb - gap, card - factor * gb, card - gb)
one_card.measure(left, chance=(card - needs["65B", "lora", True], 0.0))
results.record(cards=cards, factor=factor, gap=gap, needs={" ".join(map(str, k)): v for k, v in needs.items()})

# %% [markdown] rests_on="06.one_card=not settled"
# On the 48 GB card, 65B by QLoRA leaves {06.one_card.shown} GB. The upper end adds nothing to our count, the value adds
# a tenth of that run's bytes, the lower end a tenth of its own. (Chance is LoRA over 16 bits, which cannot fit.) (These
# ends are assumptions about what comes on top, not the scatter of a measurement.) The answer hangs on the type of the
# adapters: in float32, as this book and PEFT make them, it is **no**, by 0.03 GB; with weights and state all in
# bfloat16 the count is 41.8 GB, and it is **yes**. The authors ran it on a GPU, and they had paged optimizers for the
# moments when memory runs out. Under STATE32 a count alone does not settle it: that is what the factor teaches. Nor
# does it settle 7B in full on 80 GB under STATE32 (with a state in bfloat16 it takes 57 GB, and fits), which a count
# with cards of "80 · 10⁹ bytes" would call impossible; and there AdamW must be fused.
#
# ## The stack of bytes
#
# The picture to keep: LLaMA-7B, STATE32, rank 16, four sequences of 512 tokens. The bars are plans. Full's without
# checkpointing is more than is there at one time.

# %%
bars, llama, tokens = {}, MODELS["LLaMA-7B"], 4 * 512
for again in (False, True):
    for method, name in zip(METHODS, ("full", "LoRA", "QLoRA"), strict=True):
        parts = vars(training_bytes(llama, method, 4, 512, 16, precision=STATE32, checkpoint=again))
        parts = parts | {"weights": parts["weights"] + parts["constants"]}
        parts |= {"logits": logits_bytes(llama.vocabulary, tokens)}
        bar = {p: parts[p] / GB for p in ("weights", "gradients", "optimizer", "activations", "logits")}
        bars[name + ", checkpointing" * again] = bar
fig = figures.stack(bars, cards, "LLaMA-7B, 4 × 512 tokens")
results.record(stack=bars)
results.figure(
    fig,
    "stack",
    "In brackets the GB in all. LoRA takes away gradients and state, QLoRA most of the weights, checkpointing most of "
    "the activations. 4-bit weights come with their constants. Dashed: what the cards hold.",
    alt="Six bars, each a stack of parts. The two of full fine-tuning are several times as long as the others, and "
    "most of them is optimizer state. LoRA's are weights and activations, QLoRA's a short piece of weights and the "
    "same activations. With checkpointing only a sliver of activations is left.",
)

# %% [markdown]
# ## Your own model
#
# `training_bytes` takes sizes, a `transformers` config, or a model that has one, as long as it is built like a Llama: a
# gated MLP, no experts (Llama, Mistral, Qwen2, Qwen3). For any other it raises an error. Given a model, it compares its
# count of the weights with those that are there. This runs alone:

# %%
from lora_from_scratch.analysis.memory import STATE32, training_bytes
from lora_from_scratch.analysis.peaks import planned
from lora_from_scratch.lab.llama import LlamaConfig

mine = LlamaConfig(128256, 4096, 14336, 32, 32, 8, 8192)  # or AutoConfig.from_pretrained("...")
parts = training_bytes(mine, "qlora", batch=8, length=2048, rank=16, precision=STATE32, checkpoint=True)
print(parts)
print(f"with the logits' term {planned(parts, mine.vocab_size, 8 * 2048) / 1e9:.1f} GB")

# %% [markdown]
# In the last line the logits of a large vocabulary are nearly half, 16.8 of 36.0 GB; their log-probabilities, half as
# much again, are among the activations. Programs that compute the loss in slices spare
# most of it.
#
# ## Exercises
#
# **1. Bytes by hand.** A base of `base` weights, frozen, in 2 bytes. Adapters with `added` weights, trained by AdamW:
# weights and gradients in 2 bytes, each state in 4. How many bytes without activations?


# %%
from lora_from_scratch.book.checks import ch06 as check


def my_bytes(base, added):
    """Weights, gradients and state of a LoRA step, in bytes."""
    return None  # your code here


print(check.check_bytes(my_bytes))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_bytes(base, added):
#     return 2 * base + (2 + 2 + 2 * 4) * added
# ```
#
# </details>
#
# **2. What does one layer keep?** A frozen linear layer of shape (d_out, d_in) has a LoRA adapter of rank `r`. Its
# input has N rows and needs a gradient itself. How many *numbers* does autograd keep for this layer, weights not
# counted?


# %%
def my_kept(N, d_in, d_out, r):
    """Numbers kept for backward by one adapted layer."""
    return None  # your code here


print(check.check_kept(my_kept))  # it counts what autograd really keeps

# %% [markdown]
# <details><summary>Solution</summary>
#
# The gradient of `A` needs `x`, that of `B` needs `s · A x`. The gradient of `x` needs only weights.
#
# ```python
# def my_kept(N, d_in, d_out, r):
#     return N * (d_in + r)
# ```
#
# </details>
#
# **3. A longer context.** You train LLaMA-7B by LoRA: rank 64, all linear layers, STATE32, batch 1, on a card of
# 23,028 MiB. `planned` times 1.1 must fit. What is the longest sequence without checkpointing, and with it, to the 64
# tokens below?

# %%
my_lengths = {"plain": None, "checkpointing": None}  # your numbers here
print(check.check_lengths(my_lengths))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def longest(again):
#     n, llama = 64, MODELS["LLaMA-7B"]
#     while True:
#         parts = training_bytes(llama, "lora", 1, n + 64, 64, precision=STATE32, checkpoint=again)
#         if 1.1 * planned(parts, llama.vocabulary, n + 64) > 23028 * 2**20:
#             return n
#         n += 64
#
# my_lengths = {"plain": longest(False), "checkpointing": longest(True)}
# ```
#
# LLaMA-7B was trained on 2,048 positions: what fits in memory is not what the model can use.
#
# </details>
#
# **4. Adapters in the upper half only.** Which parts shrink? Think first. Then write a regular expression that matches
# the whole name of each linear layer in the upper half of a model of twelve blocks, and of no other.

# %%
print([name for name, module in TinyLlama(check.CONFIG).named_modules() if name.endswith("down_proj")][-1])
my_upper = None  # your regular expression here
print(check.check_upper(my_upper))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# my_upper = r".*layers\.([6-9]|10|11)\..*_proj"
# ```
#
# Gradients and state halve with the adapters. And so do the activations, nearly: below the lowest adapter nothing needs
# a gradient, so the lower blocks keep nothing. It is the largest way in which LoRA can save activations. Compare:
#
# ```python
# for targets in ("all-linear", r".*layers\.[23]\..*_proj"):  # the book's model has four blocks
#     print(targets, measured_bytes(made("lora", targets=targets), batch, length)["activations"])
# ```
#
# </details>
#
# ## The same with PEFT and transformers
#
# ```python
# import torch
# from peft import LoraConfig, get_peft_model
#
# model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
# model.enable_input_require_grads()  # needed with reentrant checkpointing: else no gradient reaches the adapters
# model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
# model.print_trainable_parameters()  # is the base frozen?
#
# for step in range(2):  # the second one counts
#     torch.cuda.reset_peak_memory_stats()
#     ...  # forward, backward, optimizer.step(), optimizer.zero_grad()
#     print(torch.cuda.max_memory_allocated())  # of tensors; max_memory_reserved() is what the allocator holds
# ```
#
# `nvidia-smi` shows what is reserved, and the CUDA context on top.

# %%
results.save()
