# %% [markdown]
# # 05 · QLoRA
#
# **The question.** LoRA trains few numbers, but the frozen weights still fill the memory. Can they be kept in 4 bits
# while an adapter is trained on top, and does the model end up as good?
#
# **What you will be able to do.** Write a linear layer that keeps its weight in 4 bits and still hands gradients on.
# See what autograd would otherwise keep. Say how much of a quantization loss an adapter wins back, and what it costs
# to merge. Predict when a paged optimizer helps and when it only moves bytes around.
#
# **What you need.** Chapter 01 (the LoRA layer) and chapter 04 (NF4). Chapter 06 counts the memory.
#
# **The published claims.** QLoRA (Dettmers et al., 2023, arXiv 2305.14314) says in its section 4 that adapters over
# an NF4 base match 16-bit fine-tuning, that NF4 is a better base than FP4, and that whatever quantization lost can
# be recovered by the adapter. LoftQ (Li et al., 2023, arXiv 2310.08659) adds that the adapter should not start at
# zero, but at the best low-rank part of what quantization lost, above all at 2 bits.

# %%
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from lora_from_scratch import AdapterConfig, LoRALinear, NF4Linear, add_adapters, nf4, quantize_model
from lora_from_scratch.analysis.spectra import low_rank_factors
from lora_from_scratch.book import plots, stats
from lora_from_scratch.book.results import Results
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab import codes, tasks, train
from lora_from_scratch.lab.finetune import LOFTQ, Run, carry_out, measure, prepare
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.sweep import compare
from lora_from_scratch.lab.workers import carry_out_all

size = preset().on_one_base()
results = Results("05_qlora", size)
print(f"preset {size.name}: a Llama of width {size.model.hidden_size}")

# %% [markdown]
# ## What would count as success
#
# Two measurements decide. On a *new task* (rot13) we ask whether the adapter learns as much over a 4-bit base as
# over a 16-bit one. On *plain English*, which the model knows, we ask how much of the loss that quantization caused
# is won back. Each is a stand-in for the paper's benchmarks, which a model of this size cannot take.
#
# A verdict is one of three here: *reproduced*, *partly*, and *not at this scale*, which says only that our model
# does not show it. Each criterion names the first two. The other claims are registered where their subject comes up.

# %%
as_good = results.claim(
    "as_good",
    says="an adapter over an NF4 base learns a new task as well as over a 16-bit base",
    source="2305.14314, section 4, table 4",
    published="53.1 (NF4) against 53.0 (16 bit): mean MMLU of eight LLaMA models",
    criterion="over NF4 the gain is at least 99 % of the gain over 16 bit: reproduced; at least 97 %: partly",
    judge=lambda share: "reproduced" if share >= 0.99 else "partly" if share >= 0.97 else False,
)
recovers = results.claim(
    "recovers",
    says="training the adapter recovers what quantization lost",
    source="2305.14314, section 4",
    published="fully recovered",
    criterion="of the gap between the NF4 base and the 16-bit base, trained adapters close at least 95 %: reproduced; "
    "at least half: partly",
    judge=lambda share: "reproduced" if share >= 0.95 else "partly" if share >= 0.5 else False,
)

# %% [markdown]
# ## A layer that decodes twice
#
# The frozen weight `W` is kept as NF4 codes. To compute `h = W x` we must decode it. For the backward pass, write
# `G` for the gradient of the loss with respect to `h`. Then the gradient with respect to `x` is `Wᵀ G`. (In code
# each *row* of `x` is such a vector, so `W x` is written `x @ W.T`, and `Wᵀ G` is `grad @ W`.)
#
# So backward needs `W` again. PyTorch would keep the decoded weight from the forward pass until then. The way out is
# to decode again. That takes a function of our own, with its own backward:


# %%
class RawProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, codes):  # x (..., d_in), codes: an nf4.NF4Tensor
        ctx.codes = codes  # 4 bits a weight; nothing else is kept
        return x @ torch.from_numpy(nf4.dequantize(codes)).T  # (..., d_out)

    @staticmethod
    def backward(ctx, grad):  # grad (..., d_out)
        return grad @ torch.from_numpy(nf4.dequantize(ctx.codes)), None  # (..., d_in); none for the codes


torch.manual_seed(0)
linear = nn.Linear(256, 192, bias=False)
codes_of_it = nf4.quantize(linear.weight.detach().numpy())
x = torch.randn(5, 7, 256, requires_grad=True)
RawProduct.apply(x, codes_of_it).square().sum().backward()
raw_grad, x.grad = x.grad, None

packaged = NF4Linear.from_linear(linear)
packaged(x).square().sum().backward()
torch.testing.assert_close(packaged(x), RawProduct.apply(x, codes_of_it))
torch.testing.assert_close(x.grad, raw_grad)
print("the same output and the same gradient;", packaged)

# %% [markdown]
# The package's `NF4Linear` does this in torch, so that it also runs on a GPU, and it goes through the weight in
# slices of 256 rows, so that a large weight never exists whole. (This one fits into a single slice.) It has a
# `weight`, a `bias`, `in_features` and `out_features`. That is all that `LoRALinear` asks of a base, so LoRA over it
# needs no new code:

# %%
layer = LoRALinear(packaged, rank=4, alpha=8)
nn.init.normal_(layer.B)
h = F.linear(x, packaged.weight) + layer.scaling * (x @ layer.A.T) @ layer.B.T
torch.testing.assert_close(layer(x), h)
print("trained:", [name for name, parameter in layer.named_parameters() if parameter.requires_grad])

# %% [markdown]
# ## Breaking it: let autograd keep what it likes
#
# What if we simply write `F.linear(x, packaged.weight)`? The numbers are the same. Predict how many bytes each of
# these keeps for backward, for a layer of 192 × 256 and an `x` that needs a gradient:
#
# - `nn.Linear`, frozen,
# - `F.linear(x, packaged.weight)`, decoded in plain sight of autograd,
# - `NF4Linear`.
#
# PyTorch tells us: a hook sees every tensor that is saved. We count each storage once.


# %%
def kept_for_backward(function, *args):
    """Bytes of all tensors that one call saves for backward, each storage counted once."""
    storages = {}

    def look(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        function(*args)
    return {pointer: storage.nbytes() for pointer, storage in storages.items()}


# %% [markdown]
# What a layer owns, its weight or its codes, is there in any case. So the last column counts what is kept besides.

# %%
frozen = nn.Linear(256, 192, bias=False).requires_grad_(False)
owned = {t.untyped_storage().data_ptr() for m in (frozen, packaged) for t in (*m.parameters(), *m.buffers())}
ways = {
    "nn.Linear, frozen": frozen,
    "decoded in the open": lambda x: F.linear(x, packaged.weight),
    "NF4Linear": packaged,
}
rows = []
for name, function in ways.items():
    kept = kept_for_backward(function, x)
    fresh = sum(nbytes for pointer, nbytes in kept.items() if pointer not in owned)
    rows.append([name, sum(kept.values()), fresh])
print(stats.table(["layer", "bytes kept", "of these not the layer's own"], rows))
own = {
    name: buffer.nbytes
    for name, buffer in packaged.named_buffers()
    if name in ("packed", "absmax", "absmax2", "offset")
}
print("NF4Linear's own:", own)

# %% [markdown]
# The frozen `nn.Linear` keeps its weight, which is there anyway, so that costs nothing. Decoded in the open, the
# full float32 weight is kept *beside* the codes: in a whole model that is every weight, and the 4 bits saved
# nothing. `NF4Linear` keeps only its own buffers. (It does not keep `x` either: a frozen weight needs no gradient.
# The adapter on top does keep `x`, for the gradient of `A`.)
#
# ## The whole model
#
# `quantize_model` puts an `NF4Linear` in the place of each linear layer. As with adapters, "all-linear" leaves the
# output head alone; embedding and norms also keep their precision.

# %%
base = pretrained(size)
linear_bits = {}
for double in (False, True):
    model = quantize_model(pretrained(size), double=double)
    layers = [m for m in model.modules() if isinstance(m, NF4Linear)]
    weights = sum(m.out_features * m.in_features for m in layers)
    held = sum(t.nbytes for m in layers for t in (m.packed, m.absmax, *([m.absmax2, m.offset] if double else [])))
    linear_bits[double] = 8 * held / weights
    print(f"double quantization {double!s:5}: {len(layers)} layers, {linear_bits[double]:.3f} bits a weight")
results.record(bits=linear_bits)
print(add_adapters(model, AdapterConfig(rank=16)).model.layers[0].self_attn.q_proj)

# %% [markdown]
# A large matrix takes 4.127 bits double quantized (chapter 04; small ones a little more, as each has an offset of
# its own and a last group that is not full). From here on, "NF4" is double quantized.
#
# ## Before any training: what is lost, and what a start can give back
#
# Now we round the pretrained base's linear layers to several codes and measure its loss on English, with no training
# at all. "16 bit" rounds to bfloat16. FP4 (E2M1, a 4-bit float) and int4 (the integers -7 … 7) work in blocks of 64
# as NF4 does, NF3 and NF2 are its construction with 3 and 2 bits; chapter 04 has them all. Beside each loss stands
# the start that LoftQ proposes. Let `Q` be the weight that quantization leaves. What was lost is `W − Q`. Its best
# approximation of rank `r` (chapter 00) is written into the adapter:
#
# $$s \cdot B A = \text{the } r \text{ leading singular directions of } (W - Q).$$
#
# (LoftQ alternates: it then quantizes `W − s·B A`, takes the SVD again, and so on. We take its first round. Exercise
# 3 does the rest.)
#
# The differences are small, so we measure English on four times as much held-out text as the other chapters.
#
# **Predict**, for rank 16 of 128: how much of what was lost does that start hold? Rounding errors look like noise.
# Has noise a low rank?

# %%
config = AdapterConfig(rank=16, alpha=32)
precise = replace(size, budget=min(size.budget, 5), eval_windows=4 * size.eval_windows)
before = {}
for name in codes.BASES:
    for start in ("B zero", LOFTQ):
        model = pretrained(size)
        torch.manual_seed(0)
        prepare(model, Run(adapter=config, base=name, start=start))
        before[name, start] = measure(model, "text", precise)["text_loss"]
untouched = measure(base, "text", precise)["text_loss"]
rows = [[name, *(f"{before[name, start]:.4f}" for start in ("B zero", LOFTQ))] for name in codes.BASES]
print(f"English, in nats a character, before training; the float32 base: {untouched:.4f}")
print(stats.table(["base", "adapter starts at zero", "at the SVD of what was lost"], rows))
results.record(before={f"{name}, {start}": loss for (name, start), loss in before.items()})


# %%
def share_in(lost, rank):
    """Which share of |lost|² its best part of this rank holds."""
    return float((torch.matmul(*low_rank_factors(lost, rank)).norm() / lost.norm()) ** 2)


rows, block = [], pretrained(size).model.layers[0]
for place, layer in {"up_proj": block.mlp.up_proj, "q_proj": block.self_attn.q_proj}.items():
    W = layer.weight.detach().cpu()
    for name in ("NF4", "NF2", "pure noise"):
        rounded = torch.randn_like(W) + W if name == "pure noise" else codes.rounded(W.numpy(), codes.CODES[name])
        lost = W - torch.as_tensor(rounded)
        relative = "" if name == "pure noise" else f"{lost.norm() / W.norm():.3f}"
        rows.append([place, str(tuple(W.shape)), name, relative, *(f"{share_in(lost, rank):.1%}" for rank in (4, 16))])
print(stats.table(["layer", "shape", "what was lost", "|lost| / |W|", "rank 4 holds", "rank 16 holds"], rows))

# %% [markdown]
# Compare with the rows of pure noise of the same shape, not with 4 / 128 and 16 / 128: even noise has directions in
# which it happens to be larger. Whatever lies above that row is structure. Then compare these shares with the share
# of the *loss* that the start gave back in the table before, at 4 bits and at 2. The loss can grow faster than the
# square of the error, and then taking off the largest directions pays more than their share.
#
# ## Training over each base
#
# All runs below train rank 16 on English, the text that the base was pretrained on, and measure the loss on held-out
# English. Each base and each start gets its own learning rate, tuned at the same cost. The 16-bit base is the
# control, since more training also improves the model a little.
#
# Three more claims come with it. Their judge takes a mean and the half width of its 95 % interval over seeds.


# %%
def lower_by(difference):
    """A verdict on (mean, half width) of a difference of losses that should be below zero."""
    mean, half = difference
    if half != half:  # one seed: no interval
        return "partly" if mean < 0 else False
    return mean + half < 0


# %% [markdown]
# With it, the claims about FP4 and about LoftQ's start:

# %%
lower = "the loss is lower and its 95 % interval excludes zero: reproduced; lower with one seed, so no interval: partly"
better_than_fp4 = results.claim(
    "better_than_fp4",
    says="NF4 is a better base to train on than FP4",
    source="2305.14314, section 4, table 4",
    published="53.1 (NF4) against 52.2 (FP4)",
    criterion=lower,
    judge=lower_by,
)
loftq = {
    bits: results.claim(
        f"loftq_{bits}",
        says=f"at {bits} bits, starting from what quantization lost ends better than starting from zero",
        source="2310.08659, abstract and section 4",
        published="better than QLoRA's start, most of all at 2 bits",
        criterion=lower,
        judge=lower_by,
    )
    for bits in (4, 2)
}

# %% [markdown]
# **Write down your prediction** for each line: the loss after training, and who wins, zero or the SVD?

# %%
arms = {
    "16 bit": ("16 bit", "B zero"),
    "NF4": ("NF4", "B zero"),
    "NF4, from the SVD": ("NF4", LOFTQ),
    "FP4": ("FP4", "B zero"),
    "int4": ("int4", "B zero"),
    "NF2": ("NF2", "B zero"),
    "NF2, from the SVD": ("NF2", LOFTQ),
}
methods = {
    label: Run(task="text", split="train", adapter=config, base=name, start=start)
    for label, (name, start) in arms.items()
}
grid = tuple(10 ** (k / 2) for k in range(-8, -3))  # 0.0001 … 0.01
english = compare(methods, precise, known=results.known_rates("english"), grid=grid)
results.record_sweep("english", english)
after = {label: t.values("text_loss") for label, t in english.items()}
rows = [
    [label, f"{t.run.lr:.4f}", f"{before[arms[label]]:.4f}", stats.shown(after[label], 4)]
    for label, t in english.items()
]
print(f"{size.steps} steps of {size.batch} windows; loss on English")
print(stats.table(["base and start", "rate", "before", "after training"], rows))

# %% [markdown]
# How much was won back? The gap *before* is how far a rounded base lies above the 16-bit base, with an adapter at
# zero. The gap *after* is the same between the two trained models, seed by seed.


# %%
def won_back(label):
    """The share of a base's gap to the 16-bit base that start and training closed, seed by seed."""
    gap = before[arms[label][0], "B zero"] - before[arms["16 bit"]]
    return [1 - (own - control) / gap for own, control in zip(after[label], after["16 bit"], strict=True)]


def with_interval(values, form):
    mean, half = stats.interval(values)
    return format(mean, form) + (f" ± {half:{form.strip('+')}}" if half == half else " (one seed, no interval)")


for label in list(arms)[1:]:
    print(f"{label:18} closes {with_interval(won_back(label), '.1%')} of its gap to the 16-bit base")
gap = before["NF4", "B zero"] - before["16 bit", "B zero"]
moved = {label: before[arms[label]] - stats.interval(after[label])[0] for label in ("16 bit", "NF4")}
print(f"the gap of NF4 before training: {gap:.4f} nats; training lowered the loss of 16 bit by {moved['16 bit']:.4f}, "
      f"of NF4 by {moved['NF4']:.4f}")  # fmt: skip
share = stats.interval(won_back("NF4"))[0]
recovers.measure(share, f"{with_interval(won_back('NF4'), '.0%')} of the gap closed in {size.steps} steps")

# %% [markdown]
# Is it the number of steps that limits this? The same two with twice as many steps, at the same learning rates:

# %%
longer = replace(precise, steps=2 * size.steps)
pair = [replace(english[name].run, seed=1 + s) for name in ("16 bit", "NF4") for s in range(size.seeds)]
losses = [result["text_loss"] for result in carry_out_all(pair, longer)]
twice = [1 - (own - control) / gap for control, own in zip(losses[: size.seeds], losses[size.seeds :], strict=True)]
print(f"{size.steps} steps: NF4 closes {with_interval(won_back('NF4'), '.0%')} of its gap")
print(f"{longer.steps} steps: NF4 closes {with_interval(twice, '.0%')} of it")
gained, half = stats.paired(twice, won_back("NF4"))
more = gained > (half if half == half else 0)
print(f"seed by seed {gained:+.0%}" + (f" ± {half:.0%}" if half == half else ""), end=": ")
print("more training closes more, the adapter was not done" if more else "no more than the noise")
results.record(won_back={label: won_back(label) for label in list(arms)[1:]}, won_back_in_twice_the_steps=twice)

# %% [markdown]
# Where a smaller share is won back at 4 bits than at 2, look at the nats as well: what NF2 leaves open after
# training, beside NF4's whole gap. In neither case can rank 16 undo the rounding, which moved every weight a little,
# in nearly random directions; that takes a full rank. The adapter has to find other changes that lower the loss.
# Large damage has a clear gradient. Damage as small as NF4's, we think, hardly shows in a batch of a few windows;
# whether twice the steps close more is a hint, and no proof. (The verdict goes by the mean alone: look whether its
# interval reaches below one half. The intervals are over seeds; the text is the same for all, so what its choice
# does is not in them.)
#
# Now the codes and the starts against each other.


# %%
def against(first, second):
    """(mean, half width) of the difference of two losses on English, and the same in words."""
    difference = stats.paired(after[first], after[second])
    words = with_interval([a - b for a, b in zip(after[first], after[second], strict=True)], "+.4f")
    return difference, f"{first} minus {second}: {words} nats a character"


better_than_fp4.measure(*against("NF4", "FP4"))
loftq[4].measure(*against("NF4, from the SVD", "NF4"))
loftq[2].measure(*against("NF2, from the SVD", "NF2"))
for name in ("NF4", "NF2"):
    lead = before[name, "B zero"] - before[name, LOFTQ]
    kept = -stats.paired(after[f"{name}, from the SVD"], after[name])[0]
    print(f"{name}: the SVD's lead is {lead:.4f} before training and {kept:.4f} after")
apart = before["NF4", "B zero"] - before["FP4", "B zero"]
print(f"NF4 minus FP4 before training: {apart:+.4f}")

# %% [markdown]
# If NF4 does not stand out here, chapter 04 says why: its error in the weights is smaller than FP4's, but the
# difference in loss is too small to tell from the accidents of rounding. What cannot be told apart before training
# will hardly be told apart after it.
#
# And LoftQ's start? Compare its lead before and after training, in the lines above, at 4 bits and at 2. What has
# gone from it is what an adapter that starts at zero learns by itself.
#
# %%
fig, axes = plots.canvas(2, width=9, height=3.6, width_ratios=[3, 2])
panels = (["16 bit", "int4", "FP4", "NF4", "NF4, from the SVD"], ["NF2", "NF2, from the SVD"])
reached = stats.interval(after["16 bit"])[0]
for ax, labels in zip(axes, panels, strict=True):
    for y, label in enumerate(labels):
        mean, half = stats.interval(after[label])
        start = before[arms[label]]
        ax.plot([start, mean], [y, y], color="#BBBBBB", zorder=1)
        ax.plot(start, y, "o", color="white", markeredgecolor=plots.BLUE, label="before training" if y == 0 else None)
        ax.errorbar(mean, y, xerr=half if half == half else 0, fmt="o", color=plots.BLUE, capsize=3,
                    label="after" if y == 0 else None)  # fmt: skip
    ax.axvline(reached, color=plots.GREY, linestyle="--", linewidth=1.2, zorder=0)
    ax.set(yticks=range(len(labels)), yticklabels=labels, xlabel="loss on English (nats a character)")
    ax.set_ylim(-0.6, len(labels) - 0.4)
    ax.locator_params(axis="x", nbins=5)
axes[0].set_title("Four bits")
axes[0].legend(loc="lower right", fontsize=8)
axes[1].set_title("Two bits (mind the scale)")
results.figure(
    fig,
    "english",
    "Open: the rounded base before training. Full: with a trained adapter of rank 16, 95 % intervals. "
    "Dashed: what the 16-bit base reaches. Arms are compared seed by seed above, so bars may overlap.",
)

# %% [markdown]
# ## A new task
#
# Winning back a loss is one thing. What people use QLoRA for is teaching something new. So: rot13, as in chapter 01,
# over a 16-bit base and over NF4. Predict the difference in nats before you look.

# %%
tasks_over = {name: Run(task="rot13", adapter=config, base=name) for name in ("16 bit", "NF4")}
rot13 = compare(tasks_over, replace(size, budget=min(size.budget, 4)), known=results.known_rates("rot13"))
results.record_sweep("rot13", rot13)
untrained = measure(base, "rot13", size)["task_loss"]
rows = [[name, f"{t.run.lr:.4f}", stats.shown(t.values("task_loss"), 4)] for name, t in rot13.items()]
print(f"rot13 before training: {untrained:.3f}")
print(stats.table(["base", "rate", "rot13 after training"], rows))
gains = {name: [untrained - loss for loss in t.values("task_loss")] for name, t in rot13.items()}
shares = [own / whole for own, whole in zip(gains["NF4"], gains["16 bit"], strict=True)]
as_good.measure(stats.interval(shares)[0], f"{with_interval(shares, '.2%')} of the gain over the 16-bit base")
mean, half = stats.paired(rot13["NF4"].values("task_loss"), rot13["16 bit"].values("task_loss"))
seen = "no interval with one seed" if half != half else "no difference to see" if abs(mean) <= half else "a difference"
print(f"NF4 minus 16 bit: {mean:+.4f} ± {half:.4f} nats: {seen}")

# %% [markdown]
# How strong is this evidence? Compare one per cent of the gain with what NF4 cost on English before training. Where
# the gain is large, the test can find an adapter that learns clearly worse over NF4, but no loss as small as that
# cost: the interval in the last line says how much the runs differ from seed to seed.
#
# ## Merging over a 4-bit base
#
# Chapter 03 merged an adapter into its weight. Over NF4 there are two ways, and they are not the same:
#
# - merge into a *full-precision* layer, `decode(codes) + s·B A`: exact up to rounding, but no longer small;
# - merge and quantize *again*: small, but the update now goes through the rounding of 4 bits.
#
# The update now has to be written in steps of the gaps between levels. Predict how much of it survives.

# %%
from lora_from_scratch import merge_adapters

best = rot13["NF4"].run
tuned = carry_out(replace(best, seed=1, keep=True), size)["state"]


def adapted():
    """The model of the first seed, trained on rot13 over NF4, with its adapters still beside the base."""
    model = pretrained(size)
    prepare(model, best)
    model.load_state_dict(tuned)
    return model


merges = {
    "adapter beside the NF4 base": adapted(),
    "merged, float32": merge_adapters(adapted()),
    "merged, bfloat16": merge_adapters(adapted()).bfloat16().float(),
    "merged, back to NF4": quantize_model(merge_adapters(adapted())),
}
losses = {name: measure(model, "rot13", size)["task_loss"] for name, model in merges.items()}
print(stats.table(["model", "rot13"], [[name, f"{loss:.4f}"] for name, loss in losses.items()]))
results.record(merges=losses)

# %%
layer = next(m for m in adapted().modules() if is_adapter(m))
old, learnt = layer.base.weight, layer.delta_weight().detach()
absmax = old.reshape(-1, 64).abs().amax(dim=1).mean()
gap = float(absmax) * float(nf4.LEVELS[10] - nf4.LEVELS[4]) / 6  # the six gaps around zero, where most weights are
print(f"a typical entry of ΔW: {learnt.abs().mean():.4f}; a typical gap between levels: {gap:.4f}")
linear, rows = layer.merge(), []
for factor in (1.0, 0.3, 0.1, 0.03):
    linear.weight = nn.Parameter(old + factor * learnt)
    left = NF4Linear.from_linear(linear).weight - old  # what is left of the update in 4 bits
    cosine = F.cosine_similarity(left.flatten(), learnt.flatten(), dim=0)
    rows.append([factor, f"{(left - factor * learnt).norm() / (factor * learnt).norm():.0%}", f"{cosine:.2f}"])
print(stats.table(["ΔW times", "its error after quantizing again", "cosine with ΔW"], rows))

# %% [markdown]
# The first row is the adapter as trained. The rows below make the same update smaller. The base already sits on the
# levels, so a change well below half a gap mostly snaps back to where it was, and the error is the update itself:
# about 100 %. A few weights jump a whole gap, and the scale of a block changes with its largest entry, which adds
# noise. So what a merge back into 4 bits costs depends on how far training moved the weights, beside the gaps.
#
# This answers a question that users ask often: why does my merged model differ from the one I trained? With the
# adapter beside its NF4 base, the loss above is what training reached. Merged into float32 it is the same. Merge
# back into 4 bits, and the model is rounded a second time, in places where training did not expect it. So merge into
# 16 bits, or keep the adapter beside the base.
#
# Beside *which* base? An adapter trained over NF4 is often put beside the original 16-bit weights, to serve it. And
# the other way round: one that was trained over 16 bits is put over NF4, to save memory. Predict the four losses.

# %%
over_16 = carry_out(replace(rot13["16 bit"].run, seed=1, keep=True), size)["state"]
crossed = {}
for trained_over, state in {"NF4": tuned, "16 bit": over_16}.items():
    adapter = {name: tensor for name, tensor in state.items() if name.endswith((".A", ".B"))}
    for put_over in ("NF4", "16 bit"):
        model = add_adapters(codes.quantize_base(pretrained(size), put_over), config)
        _, unexpected = model.load_state_dict(adapter, strict=False)  # the adapter alone; the base is there already
        assert not unexpected
        crossed[trained_over, put_over] = measure(model, "rot13", size)["task_loss"]
rows = [[name, *(f"{crossed[name, put_over]:.4f}" for put_over in ("NF4", "16 bit"))] for name in ("NF4", "16 bit")]
print(stats.table(["adapter trained over", "put over NF4", "put over 16 bit"], rows))
results.record(crossed={f"{a} over {b}": loss for (a, b), loss in crossed.items()})
moved = [crossed["NF4", "16 bit"] - crossed["NF4", "NF4"], crossed["16 bit", "NF4"] - crossed["16 bit", "16 bit"]]
print(f"moving to the other base: {moved[0]:+.4f} for the adapter from NF4, {moved[1]:+.4f} for the one from 16 bit")

# %% [markdown]
# The second number is no surprise where it is positive: NF4 is the worse base for any adapter. The first is the
# interesting one. That adapter was moved to the *better* base. Where its loss rises, the adapter had also learnt to
# make up for its own base's rounding. Both numbers come from one seed, and are small beside the gain. Still, nothing
# is gained by moving: keep an adapter with the base it was trained on.
#
# ## The paged optimizer
#
# QLoRA's third part is about the optimizer. AdamW keeps two numbers for each trained one. They are used once a step
# and idle otherwise. When a batch with long sequences needs a lot of memory for a moment, they could wait elsewhere.
#
# In QLoRA it is the driver that does this: the state lies in CUDA's unified memory, and pages move to the host when
# the GPU is full, and back when they are touched. Nobody sets a budget. To see what happens, our `PagedAdamW` makes
# it explicit. It keeps the state in pages. At most `resident_bytes` of pages are on the device, the others on the
# host; a parameter's pages are brought in when it is stepped, and the least recently used go out. (On a CPU both
# places are the same memory. The moves and the bookkeeping are real, the saving is not.)
#
# The numbers must not change. We train the same adapter with `torch.optim.AdamW` and with a budget of a quarter of
# the state, and compare bit for bit.

# %%
from lora_from_scratch import PagedAdamW, trainable_parameters

paged = results.claim(
    "paged",
    says="paging the optimizer's state changes no number, and its pages never exceed their budget",
    source="the idea: 2305.14314, section 3; the measure is ours",
    published="memory spikes are avoided (not measured here: that takes a GPU)",
    criterion="losses bit-equal to AdamW's, and at every move at most the budget is resident",
    judge=lambda pair: pair[0] == 0 and pair[1] <= 1,
)


def train_with(make, steps):
    torch.manual_seed(0)
    model = add_adapters(quantize_model(pretrained(size)), config)
    optimizer = make(trainable_parameters(model))
    batches = train.Batches(tasks.task_ids("rot13", "task"), size.batch, size.model.max_position_embeddings, seed=0)
    losses = []
    for _, windows in zip(range(steps), batches, strict=False):
        optimizer.zero_grad()
        loss = train.loss_of(model, windows.to(size.device))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, optimizer


# %%
steps, trace = 5, []
plain, _ = train_with(lambda ps: torch.optim.AdamW(ps, lr=1e-3, foreach=False), steps)
free, roomy = train_with(lambda ps: PagedAdamW(ps, lr=1e-3), steps)
budget = roomy.bytes_resident // 4


def tight(parameters):
    optimizer = PagedAdamW(parameters, lr=1e-3, resident_bytes=budget)
    optimizer.on_move = lambda self: trace.append(self.bytes_resident)
    return optimizer


squeezed, optimizer = train_with(tight, steps)
worst = max(abs(a - b) for a, b in zip(squeezed, plain, strict=True))
print(f"state: {roomy.bytes_resident:,} bytes in pages of {roomy.page_bytes}; budget: {budget:,}")
pages = roomy.bytes_resident // roomy.page_bytes
print(f"{pages} pages; brought in over {steps} steps: {optimizer.page_ins} (without a limit: {roomy.page_ins})")
paged.measure(
    (worst, max(trace) / budget),
    f"largest difference of a loss {worst:g}; at most {max(trace) / budget:.0%} of the budget resident",
)

# %%
fig, (ax,) = plots.canvas(height=3.0)
ax.step(range(len(trace)), [held / 1024 for held in trace], where="post", color=plots.BLUE, linewidth=1.0)
plots.reference(ax, budget / 1024, "the budget")
plots.reference(ax, roomy.bytes_resident / 1024, "all of the state")
ax.set(xlabel=f"moves of a parameter's pages, over {steps} steps", ylabel="resident (KiB)")
ax.set_ylim(0, 1.15 * roomy.bytes_resident / 1024)
ax.set_title("What is on the device")
results.figure(
    fig,
    "trace",
    "It fills up to the budget in the first step. Then pages go out for pages to come in; before a large parameter, "
    "those of several small ones go.",
)

# %% [markdown]
# ### What does a budget cost?
#
# Each page that is not there must be brought in. Look at the count above once more: the first step makes the state
# and brings in nothing, so the page-ins belong to the other four. How many a step is that, with a quarter resident?
# Would three quarters do better? **Predict the curve:** page-ins a step against the budget, from a tenth of the
# state to all of it. Think about the order in which a step visits the parameters, and about which pages are the
# least recently used.

# %%
import time

shares, per_step, rows = [0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0], [], []
for share in shares:
    parameters = [nn.Parameter(torch.zeros(64, 64)) for _ in range(100)]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    whole = 100 * 2 * 64 * 64 * 4
    optimizer = PagedAdamW(parameters, page_bytes=4096, resident_bytes=round(share * whole))
    optimizer.step()  # makes the state
    before_it, start = optimizer.page_ins, time.process_time()
    for _ in range(5):
        optimizer.step()
    milliseconds = 1e3 * (time.process_time() - start) / 5
    per_step.append((optimizer.page_ins - before_it) / 5 / (whole / 4096))
    rows.append([f"{share:.0%}", f"{per_step[-1]:.0%}", f"{milliseconds:.1f}"])
print(stats.table(["resident", "of all pages brought in, each step", "ms a step, about"], rows))
results.record(page_ins=dict(zip(map(str, shares), per_step, strict=True)))

# %% [markdown]
# It does not fall at all until everything fits. A step visits the parameters in a circle. Whatever will be needed
# next was used longest ago, so "least recently used goes first" throws out exactly what comes next. As soon as the
# circle does not fit, everything moves, every step. (Which page would be the best to throw out? The one used *most*
# recently: it is needed last.)
#
# So paging *by this rule* is no way to train with half of the memory for free. (The CUDA driver has its own rule,
# which we have not measured.) It is an insurance: as long as all fits, no page moves, and when a rare long batch
# needs the room, the step gets slow instead of failing. QLoRA's authors give just that as the reason: memory spikes
# from long sequences.
#
# ## The verdict
#
# Printed from what was measured above:

# %%
for claim in (as_good, recovers, better_than_fp4, *loftq.values(), paged):
    print(f"{claim.says}: {claim.verdict.upper()}. {claim.shown}.\n   (criterion: {claim.criterion})")
path = results.save()
print("written:", path.name)

# %% [markdown]
# Look once more at the first table of losses: how small the 4-bit gap is here, beside the one at 2 bits. No verdict
# about so small a gap, or about a difference between good 4-bit codes, should be carried from a model of this size
# to large ones.
#
# ## Exercises
#
# **1. Backward by hand.** Fill in the backward pass of an adapted 4-bit layer, `h = decode(codes) x + bias + s·B A x`:
# give the gradient of the loss with respect to `x` for `grad` of shape (N, d_out).


# %%
from lora_from_scratch.book.checks import ch05 as check


def my_backward(grad, codes, A, B, s):
    """The gradient of x (N, d_in), from grad (N, d_out), an NF4Tensor (d_out, d_in), A (r, d_in) and B (d_out, r)."""
    return None  # your code here


print(check.check_backward(my_backward))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_backward(grad, codes, A, B, s):
#     W = torch.from_numpy(nf4.dequantize(codes))
#     return grad @ W + s * (grad @ B) @ A
# ```
#
# The bias does not enter: it adds a constant to `h`. The adapter does: what flows into `x` flows through both paths.
#
# </details>
#
# **2. The start from what was lost.** Write `A` and `B` for a `LoRALinear` over an `NF4Linear`, so that `base.weight
# + s·B A` comes as near to `W` as a rank of `r` allows. `low_rank_factors(M, r)` gives `B, A` with `B A` the best
# rank-r part of `M`. Think of the layer's own factor: it multiplies by `layer.scaling`.


# %%
def my_start(W, layer):
    """(A, B) for `layer`, a LoRALinear whose base holds W in 4 bits."""
    return None  # your code here


print(check.check_start(my_start))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_start(W, layer):
#     B, A = low_rank_factors(W - layer.base.weight, layer.rank)
#     return A, B / layer.scaling
# ```
#
# </details>
#
# **3. Taking turns.** LoftQ repeats: quantize `W − L`, where `L` is the low-rank part so far, then take the SVD of
# `W − Q` again. Write the loop for `NF2` with `codes.rounded`, and return the error `|W − Q − L|` after each round,
# starting with `L = 0`. Does it fall? Every time? (The check runs twelve rounds.)


# %%
def my_rounds(W, levels, rank, rounds):
    """A list of `rounds` errors. W is a (d_out, d_in) float32 tensor; quantize by codes.rounded(array, levels)."""
    return None  # your code here


print(check.check_rounds(my_rounds))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_rounds(W, levels, rank, rounds):
#     L, errors = torch.zeros_like(W), []
#     for _ in range(rounds):
#         Q = torch.from_numpy(codes.rounded((W - L).numpy(), levels))
#         L = torch.matmul(*low_rank_factors(W - Q, rank))
#         errors.append((W - Q - L).norm())
#     return errors
# ```
#
# Each half of a round is the best answer to the other one only for the SVD. Rounding to the nearest level is the
# best `Q` for a fixed absmax, but the absmax of each block follows the largest entry, which changes. So the error
# usually falls at first, and nothing says that it must go on falling.
#
# </details>
#
# ## The same with PEFT and transformers
#
# ```python
# import torch
# from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
# from transformers import AutoModelForCausalLM, BitsAndBytesConfig
#
# four_bits = BitsAndBytesConfig(
#     load_in_4bit=True,
#     bnb_4bit_quant_type="nf4",            # the default is "fp4"
#     bnb_4bit_use_double_quant=True,       # the default is False
#     bnb_4bit_compute_dtype=torch.bfloat16,  # the default is float32
# )
# model = AutoModelForCausalLM.from_pretrained(name, quantization_config=four_bits)
# model = prepare_model_for_kbit_training(model)  # norms in float32, gradient checkpointing
# model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
# ```
#
# and `optim="paged_adamw_32bit"` in the trainer's arguments. LoftQ's start is `init_lora_weights="loftq"` on a model
# that is *not* quantized yet. Ours is `add_adapters(quantize_model(model), AdapterConfig(rank=16, alpha=32))`, and
# `make parity` checks codes, outputs and gradients against bitsandbytes under PEFT.
