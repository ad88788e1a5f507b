# %% [markdown]
# # 03 · Merging
#
# **The question.** During training the adapter is a second path beside the frozen layer. Afterwards we can add it
# into the weight and have one matrix again. Is that the same model? To which digit? And what is gained?
#
# **What you will be able to do.** Merge an adapter by hand. Say how large a difference between merged and unmerged
# is normal in each number format, and why. Explain why a merge into a 16-bit base loses part of a small update, and
# predict how much. Tell when "no extra latency" is true.
#
# **What you need.** PyTorch, and the LoRA layer of chapter 01: `h = W0 x + s · B A x`.
#
# **The published claims.** "When deployed in production, we can explicitly compute and store W = W0 + BA and perform
# inference as usual", so that LoRA brings no additional latency (arXiv 2106.09685, section 4.1). Bottleneck
# adapters, which stand *in* the path and not beside it, slow a GPT-2 medium at batch size 1 by 20.7 % to 30.3 %
# (table 1).

# %%
import copy
import random
import statistics
import time

import torch
from torch import nn

from lora_from_scratch import AdapterConfig, LoRALinear, count_parameters, merge_adapters
from lora_from_scratch.book import plots, stats
from lora_from_scratch.book.results import Results
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab import train
from lora_from_scratch.lab.finetune import Run, measure, prepare
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.sweep import compare
from lora_from_scratch.lab.tasks import fixed_windows, task_ids

size = preset().on_one_base()
results = Results("03_merging", size)
base = pretrained(size)

# %% [markdown]
# ## What would count as success
#
# The criteria, before any measurement. A merge is rarely bit-equal in floating point: the same sum in another order
# rounds differently. So the first criterion names a tolerance: in float64, a hundred times its rounding step (2e-16)
# times the largest logit and the number of layers.

# %%
depth = size.model.num_hidden_layers
exact = results.claim(
    "merge_is_exact",
    says="the merged model computes what the adapted one does",
    source="2106.09685, §4.1",
    published="equal, by algebra",
    criterion="largest logit difference in float64, over the largest logit, below 100 · 2.2e-16 · layers",
    judge=lambda relative: relative < 100 * torch.finfo(torch.float64).eps * depth,
)
no_latency = results.claim(
    "no_latency",
    says="a merged model is as fast as the base",
    source="2106.09685, §4.1 and table 1",
    published="no additional inference latency",
    criterion="median time of a forward pass within 3 % of the base's, at batch 1 and at the largest batch",
    judge=lambda ratios: all(abs(ratio - 1) <= 0.03 for ratio in ratios),
)
bottleneck_slower = results.claim(
    "bottleneck",
    says="a bottleneck adapter slows inference at batch 1, and less at a large batch",
    source="2106.09685, table 1 (GPT-2 medium)",
    published="+20.7 % to +30.3 % at batch 1, +2.2 % to +3.0 % at batch 32",
    criterion="at least 10 % at batch 1, and at most half of that at the largest: reproduced; one of the two: partly",
    judge=lambda more: [False, "partly", "reproduced"][(more[0] >= 0.1) + (more[1] <= more[0] / 2)],
)

# %% [markdown]
# ## By hand
#
# By the distributive law `W0 x + s · B (A x) = (W0 + s · B A) x`. So the merged weight is `W0 + s · B A`, and the
# bias stays what it was. In raw lines, and then by the package. `B` is not zero here, there is a bias, and the layer
# is not square: at `B` = 0 a merge that forgets the update would pass.

# %%
torch.manual_seed(0)
layer = LoRALinear(nn.Linear(48, 32), rank=4, alpha=8).double()
nn.init.normal_(layer.B)
x = torch.randn(5, 7, 48, dtype=torch.float64)

by_hand = nn.Linear(48, 32).double()
with torch.no_grad():
    by_hand.weight.copy_(layer.base.weight + layer.scaling * layer.B @ layer.A)
    by_hand.bias.copy_(layer.base.bias)
packaged = layer.merge()
print("by hand against the adapted layer:", (by_hand(x) - layer(x)).abs().max().item())
print("the package against the adapted layer:", (packaged(x) - layer(x)).abs().max().item())
print("what merge() gives back:", packaged)

# %% [markdown]
# `merge()` gives back a *fresh* `nn.Linear` and leaves the adapted layer as it was. Many libraries add the update to
# the base in place, remember that with a flag, and subtract it again later. The section after next shows what that
# costs.
#
# ## The whole network, in four number formats
#
# We fine-tune adapters on a task (rot13: every letter moved 13 places on), then convert the whole adapted model to
# each format, and compare it with its own merge.
#
# Predict the largest difference of the logits for float64, float32, bfloat16 and float16. The rounding steps are
# about 2e-16, 1e-7, 8e-3 and 1e-3, and the logits are of the order of ten.

# %%
run = Run(adapter=AdapterConfig(rank=4, alpha=32), keep=True)
tuned = compare({"LoRA rank 4": run}, size, known=results.known_rates("lora"))["LoRA rank 4"]
results.record_sweep("lora", {"LoRA rank 4": tuned})
adapted = pretrained(size)
prepare(adapted, run)
adapted.load_state_dict(tuned.results[0]["state"])
adapted.eval()
windows = fixed_windows(task_ids("rot13", "held_out"), 16, size.model.max_position_embeddings).to(size.device)
before, after = measure(base, "rot13", size)["task_loss"], measure(adapted, "rot13", size)["task_loss"]
print(f"loss on rot13: {before:.3f} before, {after:.3f} with adapters")

# %% [markdown]
# `truth` below is the adapted model in float64, so its own row there is zero by definition. For every format we ask
# three things: how far merged and unmerged are from *each other*, and how far each of them is from the truth. If the
# merged model were worse, its distance to the truth would be larger.


# %%
@torch.no_grad()
def logits(model, dtype):
    """The logits (B, T, V) of a model converted to `dtype`, as float64."""
    return copy.deepcopy(model).to(dtype)(windows[:, :-1]).double()


truth = logits(adapted, torch.float64)
rows, by_dtype = [], {}
for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
    converted = copy.deepcopy(adapted).to(dtype)
    unmerged, merged = logits(converted, dtype), logits(merge_adapters(copy.deepcopy(converted)), dtype)
    apart = (merged - unmerged).abs().max().item()
    flipped = (merged.argmax(-1) != unmerged.argmax(-1)).double().mean().item()
    far = [(side - truth).abs().mean().item() for side in (unmerged, merged)]
    name = str(dtype).removeprefix("torch.")
    by_dtype[name] = {"apart": apart, "flipped": flipped, "unmerged_to_truth": far[0], "merged_to_truth": far[1]}
    rows.append([name, f"{apart:.1e}", f"{flipped:.2%}", f"{far[0]:.1e}", f"{far[1]:.1e}"])
print(
    stats.table(["format", "largest difference", "other best guess", "unmerged to truth (mean)", "merged (mean)"], rows)
)
results.record(by_dtype=by_dtype)
relative = by_dtype["float64"]["apart"] / truth.abs().max().item()
exact.measure(relative, f"{relative:.1e} of the largest logit in float64")

# %% [markdown]
# The differences grow with the format's rounding step. That is no sign of a wrong merge: compare the last two
# columns. If the merged model is about as far from the truth as the unmerged one, neither is better. When someone
# reports "merged and unmerged outputs differ", first ask for the format. ("Other best guess" is the share of
# positions at which the two models would have guessed another next character.)
#
# ## A hundred merges and unmerges, in place
#
# Now the other way of doing it: add the update to the weight, later subtract it, and so on, as a server might that
# switches between adapters. In exact arithmetic the weight always comes back. We try it with one adapter, again and
# again, and with a hundred different ones. (The different ones are the same update with its rows moved along: other
# matrices of the same size.)
#
# Predict for each format: does the weight come back? Is the error after a hundred rounds a hundred times that of the
# first round, ten times, or the same?


# %%
def after_rounds(dtype, rounds, different):
    """The base in `dtype` after merging and unmerging in place, and how far its weights moved, over their size."""
    model, moved = copy.deepcopy(base).to(dtype), []
    for name, delta in deltas.items():
        weight = model.get_submodule(name).weight.data
        start = weight.clone()
        for i in range(rounds):
            update = delta.roll(i, dims=0).to(dtype) if different else delta.to(dtype)
            weight += update  # in place: this is the line that the package does not have
            weight -= update
        moved.append(((weight - start).double().norm() / start.double().norm()).item())
    return model, statistics.fmean(moved)


# %% [markdown]
# Each format, after one round, after a hundred of one adapter, and after a hundred of different ones:


# %%
wide = copy.deepcopy(adapted).double()
deltas = {name: m.delta_weight().detach() for name, m in wide.named_modules() if is_adapter(m)}
rows, drift = [], {}
for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
    name = str(dtype).removeprefix("torch.")
    start = measure(copy.deepcopy(base).to(dtype).float(), "text", size)["text_loss"]
    drift[name] = [after_rounds(dtype, n, d)[1] for n, d in ((1, False), (100, False), (100, True))]
    end = measure(after_rounds(dtype, 100, True)[0].float(), "text", size)["text_loss"]
    rows.append([name, *(f"{d:.1e}" for d in drift[name]), f"{start:.4f}", f"{end:.4f}"])
head = ["format", "moved by 1 round", "100, one adapter", "100, different ones", "English before", "after those"]
print(stats.table(head, rows))
results.record(drift=drift)
growth = {name: far[2] / far[0] for name, far in drift.items() if far[0] > 0}
print("a hundred different adapters against one round:", ", ".join(f"{n} {g:.1f} times" for n, g in growth.items()))

# %% [markdown]
# One adapter, merged again and again, does no more harm than once: after the first round the weight lies where
# adding and subtracting *this* update brings it back to itself. A different adapter is rounded differently each
# time. Errors that are independent of one another add up like a random walk, as the square root of their number:
# hold the printed factors against √100 = 10. (float64 starts from weights that came from float32 and end in zeros,
# so its first round is cheaper.)
#
# A weight that is kept untouched cannot drift. That is why `merge()` never writes into the base.
#
# ## What a low-precision base loses
#
# A bfloat16 number keeps 8 bits of precision. Between two neighbours around `w` lies a gap of about `|w| / 128` to
# `|w| / 256`; whatever is added is rounded to the grid. If an entry of the update is smaller than half the gap, it
# is usually lost entirely.
#
# We measure the relative error of what arrives. We scale the trained update by factors from 0.001 to 10, merge it
# into a base stored in each format, and ask how much of the update arrived: `|(merged - W0) - ΔW| / |ΔW|`. 0 is all
# of it, 1 is none.
#
# Predict from the grid: rounding errors are uniform in a gap `g`, so their size is `g / √12`. At which ratio `|ΔW| /
# |W0|` does bfloat16 lose half of the update?


# %%
def lost(w0, delta, dtype):
    """The relative error of the update that arrives in a base stored in `dtype`."""
    assert torch.equal(w0.to(dtype).double(), w0), "W0 must lie on the grid before the merge"
    merged = (w0 + delta).to(dtype).double()  # sum in float64, one rounding
    return ((merged - w0 - delta).norm() / delta.norm()).item()


def expected(w0, delta, dtype):
    """The same from the grid alone: every entry of the sum is off by gap / sqrt(12)."""
    exponent = torch.floor(torch.log2((w0 + delta).abs().clamp_min(torch.finfo(dtype).tiny)))
    gap = torch.finfo(dtype).eps * 2**exponent
    return (gap.norm() / 12**0.5 / delta.norm()).item()


# %% [markdown]
# One layer's update, at many sizes, in three formats. Dots are measured, lines are the rule.


# %%
layer = next(m for m in adapted.modules() if is_adapter(m))
delta = layer.delta_weight().detach().double()
own_ratio = (delta.norm() / layer.base.weight.double().norm()).item()
factors = [10 ** (k / 4) for k in range(-12, 5)]
fig, (ax,) = plots.canvas(height=4.2)
for dtype, colour in ((torch.bfloat16, plots.RED), (torch.float16, plots.ORANGE), (torch.float32, plots.BLUE)):
    w0 = layer.base.weight.detach().to(dtype).double()
    ratios = [f * own_ratio for f in factors]
    ax.plot(ratios, [lost(w0, f * delta, dtype) for f in factors], "o", markersize=4, color=colour)
    line = [expected(w0, f * delta, dtype) for f in factors]
    ax.plot(ratios, line, color=colour, linewidth=1)
    plots.label_end(ax, ratios, line, str(dtype).removeprefix("torch."), colour)
ax.axvline(own_ratio, color=plots.GREY, linestyle="--", linewidth=1.2)
ax.annotate(
    "the trained update", (own_ratio, 3), xytext=(4, 0), textcoords="offset points", color=plots.GREY, fontsize=9
)
ax.axhline(1, color=plots.GREY, linewidth=1)
ax.set(xscale="log", yscale="log", xlabel="size of the update, |ΔW| / |W0|", ylabel="share of the update that is lost")
ax.set_title("What a merge loses of an update (dots: measured, lines: the rule)")
results.figure(fig, "lost", "One layer. At 1 the error is as large as the update itself: nothing arrives.")
w0 = layer.base.weight.detach().bfloat16().double()
for name, rule in (("measured", lost), ("by the rule", expected)):
    most = max((f * own_ratio for f in factors if rule(w0, f * delta, torch.bfloat16) > 0.5), default=0)
    print(f"{name}: bfloat16 loses more than half of an update up to |ΔW| / |W0| = {most:.4f}")
print(f"the trained update of this layer stands at {own_ratio:.2f}")

# %% [markdown]
# Read the figure from left to right. Where an update vanishes entirely the error approaches 1, and the line, which
# knows nothing of this, overshoots. In the middle the simple rule holds: the loss is the coarseness of the grid
# divided by the size of the update. On the right, where the update outweighs `W0`, the gap grows with the sum, and
# the curve levels off.
#
# The update trained here is large, because the task changes every letter. Gentler fine-tuning lies further to the
# left.
#
# **Round once.** In the merge above the product and the sum were wide, and only the result was rounded. Do
# everything in bfloat16, and the product, the scaling and the sum are each rounded. (A scaling that is a power of
# two costs nothing.) This is easy to get wrong, because the code looks the same:

# %%
half = copy.deepcopy(layer).to(torch.bfloat16)
exactly = half.base.weight.double() + half.scaling * half.B.double() @ half.A.double()
once = half.merge().weight.double()
often = (half.base.weight + (half.scaling * (half.B @ half.A)).to(torch.bfloat16)).double()
delta = exactly - half.base.weight.double()
for name, merged in (("rounded once (the package)", once), ("rounded at every step", often)):
    print(f"{name:28} loses {((merged - exactly).norm() / delta.norm()).item():.4f} of the update")

# %% [markdown]
# Does it matter for the task? Three ways to store the same model. In the first, the adapter stays outside, in
# float32, on top of a bfloat16 base: so the update is never rounded to the base's grid.

# %%
outside = copy.deepcopy(adapted)
for name, parameter in outside.named_parameters():
    if not name.endswith((".A", ".B")):
        parameter.data = parameter.data.bfloat16().float()  # what a bfloat16 base holds
ways = {
    "base in bfloat16, adapter in float32": outside,
    "merged, then all in bfloat16": merge_adapters(copy.deepcopy(outside)).bfloat16().float(),
    "all in float32": merge_adapters(copy.deepcopy(adapted)),
}
losses = {name: measure(model, "rot13", size)["task_loss"] for name, model in ways.items()}
print(
    stats.table(["how the model is stored", "loss on rot13"], [[name, f"{loss:.4f}"] for name, loss in losses.items()])
)
cost = losses["merged, then all in bfloat16"] - losses["base in bfloat16, adapter in float32"]
print(f"merging into bfloat16 costs {cost:+.4f} nats, out of a gain of {before - after:.2f}")
results.record(stored=losses)

# %% [markdown]
# The computation itself is in float32 throughout, so the table shows what *storing* costs and nothing else.
#
# ## Latency
#
# A merged model has the same layers as the base, so it should take the same time. An unmerged one makes two small
# products more in every layer. To judge "no latency" we need the alternative it was compared with: a **bottleneck
# adapter** (Houlsby et al., arXiv 1902.00751), which sits *in* the path behind a layer, `h + up(relu(down(h)))`. Its
# nonlinearity means that it cannot be merged. We give it as many parameters as the LoRA adapter has.


# %%
class Bottleneck(nn.Module):
    """`base`, then h + up(relu(down(h))): (..., d_in) -> (..., d_out)."""

    def __init__(self, base, width):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.out_features, width, bias=False)
        self.up = nn.Linear(width, base.out_features, bias=False)

    def forward(self, x):
        h = self.base(x)
        return h + self.up(torch.relu(self.down(h)))


adapter_parameters = count_parameters(adapted)[0]
width = round(adapter_parameters / (4 * depth * size.model.hidden_size))  # two places a block, two matrices each
bottleneck = copy.deepcopy(base)
for block in bottleneck.model.layers:
    block.self_attn.o_proj = Bottleneck(block.self_attn.o_proj, width).to(size.device)
    block.mlp.down_proj = Bottleneck(block.mlp.down_proj, width).to(size.device)
added = count_parameters(bottleneck)[1] - count_parameters(base)[1]
print(f"LoRA adds {adapter_parameters:,} parameters, the bottleneck (width {width}) {added:,}")

# %% [markdown]
# We time forward passes on one thread. All models take turns, in a new order each time and many times over, and we
# compare medians: so a busy moment of the machine hits all of them. A copy of the base runs along: its ratio to the
# base should be 1, and what it misses by is the noise of the clock. Predict the ratios, at batch 1 and at the
# largest batch.
#
# One difference from the paper: with its smaller batches go shorter sequences (512, 256 and 128 tokens). Ours have
# the same length throughout.


# %%
@torch.no_grad()
def medians(models, batch, repeats):
    """{name: median seconds of a forward pass}, the models taking turns."""
    ids = windows[:1, :-1].expand(batch, -1)
    seconds = {name: [] for name in models}
    for turn in range(repeats + 3):
        for name, model in random.sample(list(models.items()), len(models)):
            started = time.perf_counter()
            model(ids)
            if size.device == "cuda":
                torch.cuda.synchronize()
            if turn >= 3:  # the first turns warm up
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


# %% [markdown]
# The table has every model's time over the base's.


# %%
models = {
    "base": base,
    "a copy": copy.deepcopy(base),
    "merged": merge_adapters(copy.deepcopy(adapted)),
    "unmerged": adapted,
    "bottleneck": bottleneck,
}
for model in models.values():
    model.eval()
batches = [1, 4, 16, 64]
with train.threads(1):
    measured = {b: medians(models, b, repeats=5 if size.name == "smoke" else max(50, 300 // b)) for b in batches}
ratio = {name: [measured[b][name] / measured[b]["base"] for b in batches] for name in models}
rows = [
    [b, f"{1000 * measured[b]['base']:.2f}", *(f"{ratio[n][i]:.3f}" for n in list(models)[1:])]
    for i, b in enumerate(batches)
]
print("times of a forward pass, over the base's:")
print(stats.table(["batch", "base, ms", *list(models)[1:]], rows))
noise = max(abs(r - 1) for r in ratio["a copy"])
print(f"the copy of the base is off by at most {noise:.1%}: smaller differences than that say nothing")
results.record(latency_ratio=ratio, batches=batches)
no_latency.measure(
    [ratio["merged"][0], ratio["merged"][-1]], f"{ratio['merged'][0]:.2f} and {ratio['merged'][-1]:.2f} of the base"
)
more = [ratio["bottleneck"][0] - 1, ratio["bottleneck"][-1] - 1]
bottleneck_slower.measure(more, f"{more[0]:+.0%} at batch 1, {more[1]:+.0%} at batch {batches[-1]}")

# %%
fig, (ax,) = plots.canvas()
for name, colour in (("merged", plots.BLUE), ("unmerged", plots.ORANGE), ("bottleneck", plots.RED)):
    ax.plot(batches, ratio[name], color=colour, marker="o", markersize=4)
    plots.label_end(ax, batches, ratio[name], name, colour, dy=-7 if name == "merged" else 0)
plots.reference(ax, 1, "the base", plots.BLACK)
ax.set(
    xscale="log",
    xticks=batches,
    xticklabels=batches,
    xlabel="batch size",
    ylabel="time of a forward pass, over the base's",
)
ax.minorticks_off()
ax.set_title("What an adapter costs at inference, by batch size")
results.figure(
    fig, "latency", f"Medians on one thread, {size.model.max_position_embeddings} tokens a row, equal parameters."
)

# %% [markdown]
# An unmerged adapter is two small products for *every* adapted layer, a bottleneck is two for each half of a block.
# At equal parameters both do the same number of multiplications, but the unmerged LoRA does them in more and thinner
# products, and in a model as narrow as this one every product has its price. How these prices run with the batch
# differs from machine to machine; one thread of a CPU cannot show what an idle GPU does at batch 1, which is what
# the paper measured. So hold the last verdict lightly. "No latency" is true of LoRA after the merge, and only then.
# Whoever keeps many adapters beside one base, and picks one for each request, cannot merge, and pays.
#
# ## The verdict

# %%
for claim in results.claims.values():
    print(f"{claim.says}: {claim.verdict.upper()}. {claim.shown}.\n   (criterion: {claim.criterion})")
print("written:", results.save().name)

# %% [markdown]
# ## Exercises
#
# **1. Two adapters at once.** You have two adapters for one layer and want the sum of their updates in one weight. A
# tempting short cut adds the factors: `(B1 + B2) (A1 + A2)`. Write the merge that is right.


# %%
from lora_from_scratch.book.checks import ch03 as check


def my_merge_of_two(first, second):
    """Two LoRALinear on the same base -> W0 + both updates, (d_out, d_in)."""
    return None  # your code here


print(check.check_merge_of_two(my_merge_of_two))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_merge_of_two(first, second):
#     return first.base.weight + first.delta_weight() + second.delta_weight()
# ```
#
# </details>
#
# **2. How small is too small?** A float16 weight of 1.0 has the neighbours 1 - 2⁻¹¹ and 1 + 2⁻¹⁰. You add the same
# update 0.0004 in three merges, one after the other, rounding each time. What is the weight afterwards? And with one
# merge of 0.0012?

# %%
my_weights = {"three merges": None, "one merge": None}  # your numbers here
print(check.check_weights(my_weights))

# %% [markdown]
# <details><summary>Solution</summary>
#
# Three merges: 1.0, every one of them is rounded away. One merge: 1.0012 lies nearest to 1 + 2⁻¹⁰ = 1.0009765625.
#
# </details>
#
# **3. The head.** In a model with tied embeddings the output head and the embedding share one tensor. Adapt the head
# by name (`targets=["lm_head"]`, with `LlamaConfig(tie_word_embeddings=True)`), train or fill `B`, merge, and check
# that the embedding is unchanged. Why would an in-place merge have changed it?
#
# <details><summary>Solution</summary>
#
# `lm_head.weight` and `embed_tokens.weight` are one tensor. A merge in place writes into it, so the embedding would
# change with the head. `merge()` makes a new tensor, and from then on the two are no longer tied.
#
# </details>
#
# ## The same with PEFT
#
# ```python
# merged = model.merge_and_unload()      # in place in the base's weight, and the adapters removed
# model.merge_adapter(); model.unmerge_adapter()      # the in-place cycle of this chapter
# ```
#
# `make parity` checks that our merged weights are PEFT's.
