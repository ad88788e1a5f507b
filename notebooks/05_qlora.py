# %% [markdown]
# # 05 · QLoRA
#
# **The question.** LoRA trains few numbers, but the frozen weights still fill the memory. Can they be kept in 4 bits
# while an adapter is trained on top, and does the model end up as good?
#
# **What you will be able to do.** Write a linear layer that keeps its weight in 4 bits and still hands gradients on.
# See what autograd would otherwise keep. Say how much of a quantization loss an adapter wins back, and what it costs
# to merge.
#
# **What you need.** Chapter 01 (the LoRA layer) and chapter 04 (NF4). Chapter 06 counts the memory; the paged
# optimizer, QLoRA's third part, is appendix A3.
#
# **The published claims.** QLoRA (Dettmers et al., arXiv 2305.14314v1) says in its section 4 that adapters over an NF4
# base match 16-bit fine-tuning, and suggests, from scores of tasks, that what quantization lost can be fully recovered
# by the adapter. LoftQ (Li et al., arXiv 2310.08659v4) lets the adapter start not at zero but at the best low-rank part
# of what quantization lost, in turns with quantizing again, and reports to do better, especially at 2 bits. We run its
# first round.
#
# Losses are in nats a character. A seed is a base: seed 1 fine-tunes the base that was pretrained with seed 1.
# `a ± b` is a mean over seeds with its 95 % interval.

# %%
from dataclasses import replace

import numpy as np

from lora_from_scratch import AdapterConfig, LoRALinear, NF4Linear, add_adapters, merge_adapters, quantize_model
from lora_from_scratch.analysis.spectra import low_rank_factors
from lora_from_scratch.book import stats, tables
from lora_from_scratch.book.figures import ch05 as figures
from lora_from_scratch.book.results import Results
from lora_from_scratch.book.verdicts import AtMost, Equal, Higher, Lower
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab import codes, tasks, train
from lora_from_scratch.lab.controls import from_random_factors
from lora_from_scratch.lab.finetune import LOFTQ, Run, measure_base, prepare
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.sweep import best_rate, bracketed, compare, next_rates
from lora_from_scratch.lab.workers import carry_out_all
from lora_from_scratch.targets import find_targets

# %%
size = preset()
results = Results("05_qlora", size)
seeds = range(1, size.seeds + 1)
config = AdapterConfig(rank=16, alpha=32)

# %% [markdown]
# ## A layer that decodes twice
#
# The frozen weight `W` is kept as NF4 codes. To compute `h = W x` we must decode it. The backward pass of a linear
# layer needs `W` again, to carry the gradient of the output back to its input. PyTorch would keep the decoded weight
# from the forward pass until then. The way out is to decode again. That takes a function of our own, with its own
# backward. What happens inside its `forward` is not recorded by autograd: nothing is saved but what we put on `ctx`.
# (Rounding happened before, once; no gradient passes through it.)

# %%
import torch
import torch.nn.functional as F
from torch import nn

from lora_from_scratch import nf4


class RawProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, codes):  # x (..., d_in), codes: an nf4.NF4Tensor
        ctx.codes = codes  # 4 bits a weight; nothing else is kept
        return x @ torch.from_numpy(nf4.dequantize(codes)).T  # (..., d_out)

    @staticmethod
    def backward(ctx, grad):  # grad (..., d_out)
        return grad @ torch.from_numpy(nf4.dequantize(ctx.codes)), None  # (..., d_in); none for the codes


# %%
torch.manual_seed(0)
linear = nn.Linear(256, 192, bias=False)
x = torch.randn(5, 7, 256, requires_grad=True)
raw = RawProduct.apply(x, nf4.quantize(linear.weight.detach().numpy()))
raw.square().sum().backward()
raw_grad, x.grad = x.grad, None
packaged = NF4Linear.from_linear(linear)
packaged(x).square().sum().backward()
torch.testing.assert_close(packaged(x), raw)
torch.testing.assert_close(x.grad, raw_grad)
print("the same output and the same gradient;", packaged)

# %% [markdown]
# The package's `NF4Linear` does this in torch, so that it also runs on a GPU, in slices of 256 rows, so that a large
# weight never exists whole. It has a `weight`, a `bias`, `in_features` and `out_features`. That is all that
# `LoRALinear` asks of a base, so LoRA over it needs no new code:

# %%
layer = LoRALinear(packaged, rank=4, alpha=8)
nn.init.normal_(layer.B)
h = F.linear(x, packaged.weight) + layer.scaling * (x @ layer.A.T) @ layer.B.T
torch.testing.assert_close(layer(x), h)
print("trained:", [name for name, parameter in layer.named_parameters() if parameter.requires_grad])

# %% [markdown]
# ## Breaking it: let autograd keep what it likes
#
# What if we simply write `F.linear(x, packaged.weight)`? The numbers are the same. Predict how many bytes each of the
# three keeps for backward beside what the layer owns, for a layer of 192 × 256. A hook sees every tensor that is saved;
# we count each storage once.


# %%
def kept_for_backward(function, *args):
    """{storage: bytes} of all tensors that one call saves for backward."""
    storages = {}

    def look(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        function(*args)
    return {pointer: storage.nbytes() for pointer, storage in storages.items()}


# %%
frozen = nn.Linear(256, 192, bias=False).requires_grad_(False)
owned = {t.untyped_storage().data_ptr() for m in (frozen, packaged) for t in (*m.parameters(), *m.buffers())}
in_the_open = lambda x: F.linear(x, packaged.weight)  # noqa: E731
rows = []
for name, way in {"nn.Linear, frozen": frozen, "decoded in the open": in_the_open, "NF4Linear": packaged}.items():
    kept = kept_for_backward(way, x)
    rows.append([name, sum(kept.values()), sum(n for pointer, n in kept.items() if pointer not in owned)])
print(stats.table(["layer", "bytes kept", "of these not the layer's own"], rows))

# %% [markdown]
# The frozen `nn.Linear` keeps its weight, which is there anyway. Decoded in the open, the full float32 weight is kept
# *beside* the codes. In a whole model that is every weight at once, and the 4 bits saved nothing; with checkpointing,
# where a block runs again in backward, it is one block's at a time. `NF4Linear` keeps only its own buffers. (It does
# not keep `x` either: a frozen weight needs no gradient. The adapter on top does, for the gradient of `A`.)
#
# ## The whole model
#
# `quantize_model` puts an `NF4Linear` in the place of each linear layer. As with adapters, "all-linear" leaves the
# output head alone; embedding and norms also keep their precision.

# %%
for double in (False, True):
    layers = [m for m in quantize_model(pretrained(size, 1), double=double).modules() if isinstance(m, NF4Linear)]
    weights = sum(m.out_features * m.in_features for m in layers)
    held = sum(t.nbytes for m in layers for t in (m.packed, m.absmax, *([m.absmax2, m.offset] if double else [])))
    print(f"double quantization {double!s:5}: {len(layers)} layers, {8 * held / weights:.3f} bits a weight")

# %% [markdown]
# A large matrix takes 4.127 bits double quantized (chapter 04). From here on, "NF4" is double quantized, "16 bit" is
# the base rounded to bfloat16, and NF2 is NF4's construction with 2 bits: four levels, −1, 0, 0.34 and 1, whose scales
# stay in float32. What we say of "2 bits" is said of this code.
#
# ## Before any training: what is lost, and what a start can give back
#
# We round the base's linear layers and measure English, with no training at all. Beside each loss stands the start that
# LoftQ proposes. Let `Q` be the weight that quantization leaves. What was lost is `W − Q`. Its best approximation of
# rank `r` (chapter 00) is written into the adapter: `s · B A` = the `r` leading singular directions of `W − Q`. (LoftQ
# alternates: it then quantizes `W − s·B A`, takes the SVD again, and so on. We take its first round. Exercise 3 does
# the rest.)
#
# **Predict**, for rank 16 of 128: how much of what was lost does that start hold? Rounding errors look like noise. Has
# noise a low rank?

# %%
precise = replace(size, budget=min(size.budget, 4), eval_windows=2 * size.eval_windows)
length = size.model.max_position_embeddings
windows = tasks.fixed_windows(tasks.task_ids("text", "held_out"), 2 * precise.eval_windows, length)[1::2]


def untrained_loss(base, start, seed):
    """English over a rounded base with an adapter that was not trained."""
    model = pretrained(size, seed)
    torch.manual_seed(0)
    prepare(model, Run(adapter=config, base=base, start=start))
    return train.evaluate(model, windows)


# %%
names = ("16 bit", "NF4", "NF2")
before = {(n, start): [untrained_loss(n, start, s) for s in seeds] for n in names for start in ("B zero", LOFTQ)}
gap = {n: [a - b for a, b in zip(before[n, "B zero"], before["16 bit", "B zero"], strict=True)] for n in names[1:]}
lead = {n: [a - b for a, b in zip(before[n, "B zero"], before[n, LOFTQ], strict=True)] for n in names[1:]}


# %%
def share_in(lost, rank=16):
    """Which share of |lost|² its best part of this rank holds."""
    return float((torch.matmul(*low_rank_factors(lost, rank)).norm() / lost.norm()) ** 2)


# %%
linears = list(find_targets(pretrained(size, 1), "all-linear").values())
shapes = {kind: [m for m in linears if (m.in_features == m.out_features) == (kind == "square")]
          for kind in ("square", "oblong")}  # fmt: skip


def lost_by(n, layer):
    """What a code loses of a layer's weight, W - Q; `noise` of that shape for n = "noise"."""
    W = layer.weight.detach()
    if n == "noise":
        return torch.randn(W.shape, generator=torch.Generator().manual_seed(linears.index(layer)))
    packed = NF4Linear.from_linear(layer).weight if n == "NF4" else None
    return W - (torch.from_numpy(codes.rounded(W.numpy(), codes.CODES[n])) if packed is None else packed)


# %%
rows = []
for n in (*names[1:], "noise"):
    held = [[share_in(lost_by(n, layer)) for layer in shapes[kind]] for kind in shapes]
    losses = ["", "", ""]
    if n != "noise":
        given = [100 * a / b for a, b in zip(lead[n], gap[n], strict=True)]
        losses = [stats.shown(before[n, "B zero"], 4), stats.shown(gap[n], 4), f"{stats.shown(given, 0)} %"]
    rows.append([n, *losses, *(f"{min(s):.0%} to {max(s):.0%}" for s in held)])
print(f"English; 16 bit stands at {stats.shown(before['16 bit', 'B zero'], 4)}; W - Q: all layers of the first base")
of_error = [f"of W - Q: {kind}" for kind in shapes]
print(stats.table(["base", "English", "its gap to 16 bit", "of the gap the start gives back", *of_error], rows))
results.record(gap=gap, lead=lead)

# %% [markdown]
# Compare what the start holds of the *error* with noise of the same shape (the last line), and with what it gives back
# of the *loss*. At 4 bits it holds hardly more of the error than of noise (on the first base), and gives back 40 ± 11 %
# of the loss, about that much. At 2 bits it gives back 62 ± 17 %, more than it holds. The loss may grow faster there
# than the square of the error, or the directions that it takes may be worse than others of their size; we did not ask.
#
# ## Training over each base
#
# All runs train rank 16 on English, the text that the base was pretrained on, and measure held-out English. Each base
# and each start gets its own learning rate, from the same number of tries. The 16-bit base is the control.
#
# A start from what was lost does two things at once: it gives back a part, and its factors are *not zero*, so that `A`
# and `B` both learn from the first step. So there is a control: random factors with the very same singular values,
# taken off the frozen weight, so that the sum is what it was (`lab/controls.py`). It knows nothing of the error. From
# a packed weight nothing can be taken off, so at 4 bits the control's base is an `nn.Linear` with NF4's levels, whose
# absmax is quantized once.
#
# The lines of this section are drawn at a tenth of NF4's gap, which is known by now. (An earlier edition drew all but
# the first at 0.0005 nats, with a reason that only the results could give. It was moved when they had been seen, and
# "more than at 4 bits" was added. One verdict hangs on the move: at 0.0005 these very numbers had the start over NF4
# "reproduced". At 0.00074 it is not settled.)

# %%
tenth = max(1e-5, round(stats.interval(gap["NF4"])[0] / 10, 5))
why = "a tenth of NF4's gap before training"
recovers = results.claim(
    "recovers",
    says="training the adapter recovers what quantization lost: what NF4 still stands above 16 bit, both trained",
    source="arXiv 2305.14314v1, section 4",
    read="second hand",
    published="fully recovered",
    test=AtMost(tenth, why),
    scope={"task": "English"},
)
ends_lower = {"NF4": Lower(tenth, why), "NF2": {"lower": Lower(tenth, why), "more than at 4 bits": Higher(tenth, why)}}
loftq = {
    n: results.claim(
        f"loftq_{n}",
        says=f"over {n}, starting from what quantization lost ends lower than starting at zero",
        source="arXiv 2310.08659v4, abstract and section 4",
        read="abstract",
        published="better than QLoRA's start, most of all at 2 bits",
        test=test,
        scope={"task": "English", "code": n},
    )
    for n, test in ends_lower.items()
}

# %%
knows = results.finding(
    "knows_the_error",
    says="over NF2, starting from what was lost ends lower than starting from random factors of the same size",
    test=Lower(tenth, why),
    scope={"task": "English", "code": "NF2"},
)

# %% [markdown]
# **Write down your prediction** for each line: the loss after training, and who wins, zero, the SVD, or chance?

# %%
arms = {"16 bit": ("16 bit", "B zero"), "NF4": ("NF4", "B zero"), "NF4, SVD": ("NF4", LOFTQ),
        "NF2": ("NF2", "B zero"), "NF2, SVD": ("NF2", LOFTQ)}  # fmt: skip
methods = {label: Run(task="text", split="train", adapter=config, base=n, start=start, keep=True)
           for label, (n, start) in arms.items()}  # fmt: skip
grid = tuple(10 ** (k / 2) for k in range(-8, -4))  # 0.0001 … 0.0032
english = compare(methods, precise, known=results.known_rates("english"), grid=grid)
results.record_sweep("english", english)
after = {label: t.values("task_loss") for label, t in english.items()}
print(tables.comparison(english, against="16 bit", digits=4))

# %%
codes.CODES["NF4, not packed"] = nf4.LEVELS  # known to this process alone, so its runs are carried out here
codes.BASES = ("16 bit", *codes.CODES)
blind = {"NF4": replace(methods["NF4, SVD"], base="NF4, not packed"), "NF2": methods["NF2, SVD"]}
where = {"NF4": replace(precise, workers=1), "NF2": precise}


def rates_of_chance(n):
    """{rate: tuning loss} of the blind start, found as `compare` found those of the other arms, with as many tries."""
    rates, tried = list(grid), {}
    while rates and len(tried) < 8:
        runs = [replace(blind[n], lr=rate, seed=0) for rate in rates]
        found = carry_out_all(runs, where[n], work=from_random_factors)
        tried |= {rate: result["tune_loss"] for rate, result in zip(rates, found, strict=True)}
        more = len(english[f"{n}, SVD"].tried) - len(tried)
        rates = next_rates(tried)[: max(1, more)] if more > 0 or not bracketed(tried) else []
    return tried


# %%
start_of_chance, chance_tried = {}, {}
for n in blind:
    chance_tried[n] = rates_of_chance(n) if precise.budget else {}
    rate = best_rate(chance_tried[n]) if precise.budget else english[f"{n}, SVD"].run.lr
    runs = [replace(blind[n], lr=rate, seed=s) for s in seeds]
    control = carry_out_all(runs, where[n], work=from_random_factors)
    after[f"{n}, chance"], start_of_chance[n] = ([r[key] for r in control] for key in ("task_loss", "before"))
    shown = [stats.shown(losses, 4) for losses in (start_of_chance[n], after[f"{n}, chance"])]
    print(f"{n}, chance: rate {rate:.2g} of {len(chance_tried[n])} tried; at the start {shown[0]}, after {shown[1]}")
results.record(after=after, chance_tried={n: {f"{r:.4g}": v for r, v in of.items()} for n, of in chance_tried.items()})


# %%
def won_back(label):
    """The share of a base's gap to the 16-bit base that start and training closed, seed by seed."""
    left = [own - sixteen for own, sixteen in zip(after[label], after["16 bit"], strict=True)]
    return [1 - own / whole for own, whole in zip(left, gap[label.split(",")[0]], strict=True)]


won = sorted((label for label in after if label != "16 bit"), key=lambda label: label[:3] != "NF4")
open_ = {k: [a - b for a, b in zip(after[k], after["16 bit"], strict=True)] for k in won}
rows = [[k, f"{stats.shown([100 * v for v in won_back(k)], 0)} %", stats.shown(open_[k], 4)] for k in won]
print(stats.table(["base and start", "of its gap closed", "left open, nats"], rows))

# %%
recovers.measure(stats.interval(open_["NF4"]), chance=stats.interval(gap["NF4"]))
rises = {(n, k): [a - b for a, b in zip(after[f"{n}, {k}"], after[n], strict=True)]
         for n in blind for k in ("SVD", "chance")}  # fmt: skip
more = "more than at 4 bits"
at_2 = {k: {"lower": stats.interval(rises["NF2", k]), more: stats.paired(rises["NF4", k], rises["NF2", k])}
        for k in ("SVD", "chance")}  # fmt: skip
loftq["NF4"].measure(stats.interval(rises["NF4", "SVD"]), chance=stats.interval(rises["NF4", "chance"]))
loftq["NF2"].measure(at_2["SVD"], chance=at_2["chance"])
knows.measure(stats.paired(after["NF2, SVD"], after["NF2, chance"]), chance="random factors are themselves the null")

# %%
for n in blind:
    share = [-100 * rise / left for rise, left in zip(rises[n, "SVD"], open_[n], strict=True)]
    print(f"{n}: of what the start at zero leaves open, the SVD's closes {stats.shown(share, 0)} %")

# %%
starts = {k: before[k[:3], LOFTQ if "SVD" in k else "B zero"] for k in won} | {
    f"{n}, chance": start_of_chance[n] for n in blind
}
start_above = {k: [a - b for a, b in zip(starts[k], before["16 bit", "B zero"], strict=True)] for k in won}
results.figure(
    figures.english(start_above, {k: open_[k] for k in won}),
    "english",
    "How far each line stands above the 16-bit base (dashed), on English. Open: neither trained, with the start of "
    "that line. Full: both trained, rank 16. The start by chance begins where the start at zero does. Third panel: "
    "the full marks of the second, alone. Bars: 95 % intervals of the paired differences over bases.",
    alt="Three panels on scales of their own. Four bits and two bits: every line goes from an open mark to a full one "
    "nearer to zero, the 16-bit base. Two bits after training: SVD ends lowest; zero and chance lie side by side.",
)

# %% [markdown] rests_on="05.recovers=not reproduced"
# **Recovered?** Not here: 51 ± 23 % of NF4's gap is closed, and {05.recovers.shown} nats stay open; the whole interval
# lies above our line, a tenth of the gap. In the mean NF4 ends above even the untrained 16-bit base (1.4089, 1.4075).
# The paper counts scores of tasks, not a loss, and its models train longer; whether that is why, we did not test. At 2
# bits the gap is 130 to 205 times as large, by base; 90 ± 5 % of it is closed, and what stays open is 23 to 37 times as
# much as at 4 bits.

# %% [markdown] rests_on="05.loftq_NF4=not settled, 05.loftq_NF2=not settled, 05.knows_the_error=holds"
# **The start from what was lost** ends 0.0018 ± 0.0012 nats lower at 4 bits: lower than zero, but whether by a tenth of
# the gap is not settled. Random factors end at +0.0002 ± 0.0011. All this is LoftQ's first round; chapter 17 runs five,
# on rot13 at rank 8, with a line of 2 % of the loss: not reproduced. At 2 bits they gain 0.002 ± 0.005 nats over the
# start at zero, perhaps nothing; but the mean alone passes the line that we had drawn, so by our rule the claim is not
# settled. The finding beside it asks better: the start that knows the error ends 0.033 nats below the start that knows
# nothing. So nearly all of its gain of 0.036 ± 0.016 comes from knowing the error. (It begins 0.7 nats lower, and all
# have the same steps: whether longer training would close this, we did not test.)
#
# "Most of all at 2 bits" is open by the same rule. Of the two codes, the start gains more nats at 2 bits, and a larger
# share of what was open at 4 (50 ± 8 against 33 ± 11 %; no row).
#
# ## A new task
#
# Winning back a loss is one thing. What people use QLoRA for is teaching something new. So: rot13, as in chapter 01,
# over a 16-bit base and over NF4. "As well" needs a margin. NF4's gap before training is the effect that it would have
# to see; whether three bases can see it, the interval will tell. Predict the difference in nats before you look.

# %%
whole_gap = stats.interval(gap["NF4"])[0]
as_good = results.claim(
    "as_good",
    says="an adapter over an NF4 base learns a new task as well as over a 16-bit base",
    source="arXiv 2305.14314v1, section 4, table 4",
    read="second hand",
    published="53.1 (NF4) against 53.0 (16 bit): mean MMLU of eight LLaMA models",
    test=Equal(max(1e-4, round(abs(whole_gap) / 2, 4)), "half of the gap of the NF4 base before training"),
    scope={"task": "rot13"},
)

# %%
tasks_over = {n: Run(task="rot13", adapter=config, base=n, keep=True) for n in ("16 bit", "NF4")}
rot13 = compare(tasks_over, precise, known=results.known_rates("rot13"))
results.record_sweep("rot13", rot13)
print(f"before training {stats.shown([measure_base('rot13', precise, s)['task_loss'] for s in seeds], 2)}")
print(tables.comparison(rot13, against="16 bit", digits=4))
itself = rot13["16 bit"].values("task_loss")
off = [a - b for a, b in zip(rot13["NF4"].values("task_loss"), itself, strict=True)]
lost_all = [
    x - stats.interval(off)[0] + g for x, g in zip(off, gap["NF4"], strict=True)
]  # these runs, moved by the gap
as_good.measure(stats.interval(off), chance=stats.interval(lost_all))

# %% [markdown] rests_on="05.as_good=not settled"
# (The null of this equality is these runs, shifted so that their mean loses the whole gap: twice the margin, so it
# fails by its making. The margin is taken from English. One far task: on a near one less is learnt, and the gap may
# weigh more.)
#
# The difference is 0.004 ± 0.036 nats, midway between no loss and the whole gap: on two bases NF4 ends 0.012 higher, on
# one 0.013 lower. Whether an adapter over NF4 learns rot13 as well, to within so small a margin, these runs cannot
# tell, and could not have told: at this scatter it takes some 60 bases before the interval is even as narrow as the
# margin, and about 160 for four chances in five of passing, if there is no difference at all. What they do say: the
# difference is nowhere near the size of what LoRA learns, which is 3 nats.
#
# ## Merging over a 4-bit base
#
# Chapter 03 merged an adapter into its weight. Over NF4 there are two ways: into a *full-precision* layer,
# `decode(codes) + s·B A`, exact up to rounding but no longer small; or *quantized again*, small, but then the update
# goes through the rounding of 4 bits. Predict how much of it survives. And beside which base does an adapter belong:
# may one that was trained over NF4 be put beside the original 16-bit weights, or the other way round? The null is a
# *blind* move: `W − Q` is put on with a random sign for every entry. It is as large, and leads to no base at all.


# %%
def adapted(seed, over="NF4", beside=None):
    """The model that learnt rot13 over the base `over`, its adapters beside the base `beside`."""
    state = rot13[over].results[seed - 1]["state"]
    model = add_adapters(codes.quantize_base(pretrained(size, seed), beside or over), config)
    factors = {name: tensor for name, tensor in state.items() if name.endswith((".A", ".B"))}
    assert not model.load_state_dict(factors, strict=False).unexpected_keys  # the base is there already
    return model


@torch.no_grad()
def moved_blindly(seed, over, draw):
    """As `adapted`; each entry of its base moved as far as from NF4 to 16 bit, by a random sign up or down."""
    model, generator = adapted(seed, over, "16 bit"), torch.Generator().manual_seed(10 * seed + draw)
    both = (filter(is_adapter, m.modules()) for m in (model, adapted(seed, over, "NF4")))
    for layer, packed in zip(*both, strict=True):
        W, Q = layer.base.weight, packed.base.weight
        sign = 2 * torch.randint(2, W.shape, generator=generator) - 1
        W.copy_((Q if over == "NF4" else W) + sign * (W - Q))
    return model


# %%
ciphered = tasks.fixed_windows(tasks.task_ids("rot13", "held_out"), 2 * precise.eval_windows, length)[1::2]
ways = {
    "beside its NF4 base": adapted,
    "merged, float32": lambda s: merge_adapters(adapted(s)),
    "merged, bfloat16": lambda s: merge_adapters(adapted(s)).bfloat16().float(),
    "merged, back to NF4": lambda s: quantize_model(merge_adapters(adapted(s))),
    "trained over NF4, put beside 16 bit": lambda s: adapted(s, "NF4", "16 bit"),
    "trained over 16 bit, beside it": lambda s: adapted(s, "16 bit"),
    "trained over 16 bit, put beside NF4": lambda s: adapted(s, "16 bit", "NF4"),
}
ends = {name: [train.evaluate(make(s), ciphered) for s in seeds] for name, make in ways.items()}
for over in ("NF4", "16 bit"):  # the mean of four draws
    losses = [[train.evaluate(moved_blindly(s, over, draw), ciphered) for draw in range(4)] for s in seeds]
    ends[f"trained over {over}, beside a blind move"] = [sum(of) / len(of) for of in losses]

# %%
own = {name: "trained over 16 bit, beside it" if "16 bit, " in name else "beside its NF4 base" for name in ends}
above = {name: [a - b for a, b in zip(ends[name], ends[own[name]], strict=True)] for name in ends}
rows = [[name, stats.shown(ends[name], 4), stats.shown(above[name], 4)] for name in ends]
print(stats.table(["model", "rot13", "above its own base"], rows))

# %%
together = results.finding(
    "keep_together",
    says="an adapter trained over NF4 does better beside NF4 than beside the more precise 16-bit base",
    test=Lower(tenth, why),
    scope={"task": "rot13"},
)
its_own = ends["beside its NF4 base"]
together.measure(
    stats.paired(its_own, ends["trained over NF4, put beside 16 bit"]),
    chance=stats.paired(its_own, ends["trained over NF4, beside a blind move"]),
)
results.record(merges=ends)


# %%
def quantized_again(layer, factor):
    """Of factor · ΔW in 4 bits: its error, its length along ΔW, its cosine; the share of entries below half a step."""
    old, learnt, linear = layer.base.weight, factor * layer.delta_weight().detach(), layer.merge()
    linear.weight = nn.Parameter(old + learnt)
    left = NF4Linear.from_linear(linear).weight.detach() - old  # what is left of the update in 4 bits
    norm, along = learnt.norm(), (left * learnt).sum()
    scale = old.reshape(-1, 64).abs().amax(1, keepdim=True)  # (blocks, 1)
    midpoints = torch.from_numpy((nf4.LEVELS[1:] + nf4.LEVELS[:-1]) / 2)
    level, new = (torch.bucketize(W.detach().reshape(-1, 64) / scale, midpoints) for W in (old, old + learnt))
    below = (level == new).float().mean()
    return [v.item() for v in ((left - learnt).norm() / norm, along / norm**2, along / norm / left.norm(), below)]


# %%
rows = []
for factor in (1.0, 0.3, 0.1, 0.03):
    of = np.array([quantized_again(layer, factor) for layer in filter(is_adapter, adapted(1).modules())])  # (layers, 4)
    error, length_kept, cosine, below = np.median(of, axis=0)
    spread = f"{of[:, 0].min():.0%} to {of[:, 0].max():.0%}"
    rows.append([factor, f"{error:.0%}", spread, f"{length_kept:.0%}", f"{cosine:.2f}", f"{below:.1%}"])
print("the update of each adapted layer, scaled, after quantizing again (first base; medians over the layers)")
print(
    stats.table(["ΔW times", "error", "over the layers", "of ΔW arrives", "cosine", "entries below half a step"], rows)
)

# %% [markdown] rests_on="05.keep_together=not settled"
# Merged into full precision nothing is lost, in bfloat16 neither. Quantized again, the model loses 0.013 ± 0.004 nats
# of the 3 that it learnt; a blind move of the rounding's size costs 0.009 ± 0.002, not told apart from it. An update of
# this size goes through with an error of a sixth, and at its full length along itself (first base, medians over the
# layers). Of one a tenth as large two thirds arrive along itself, under an error of 89 %; of one of three hundredths
# hardly anything: by then nearly no entry reaches half a step. (Errors above 100 %: a block's scale follows its largest
# weight, so weights with the same code move too.)
#
# On each base an adapter ends lower beside the base that it was trained beside, by 0.010 ± 0.005 over NF4 and by 0.009
# ± 0.008 over 16 bits. The first passes its line. But a blind move of that size costs 0.009 ± 0.002, and the two are
# not told apart (0.001 ± 0.006). So chance passes too, and the row is not settled: it shows neither that the adapter
# has learnt to make up for the errors of NF4, nor that it has not. (An earlier edition took zero for its chance, and
# the row held.)
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
# **2. The start from what was lost.** Write `A` and `B` for a `LoRALinear` over an `NF4Linear`, so that
# `base.weight + s·B A` comes as near to `W` as a rank of `r` allows. `low_rank_factors(M, r)` gives `B, A` with `B A`
# the best rank-r part of `M`. Think of the layer's own factor: it multiplies by `layer.scaling`.


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
# Only the SVD is always the best answer to the other half. Rounding to the nearest level is the
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
# model = prepare_model_for_kbit_training(model)  # every 16-bit parameter to float32, gradient checkpointing
# model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
# ```
#
# Add `optim="paged_adamw_32bit"` to the trainer's arguments. LoftQ's start is `LoraConfig(init_lora_weights="loftq",
# loftq_config=LoftQConfig(loftq_bits=4))` on a model that is *not* quantized yet; without the second it refuses. PEFT
# writes the decoded weight back, so the model stays as large as it was. Ours is `add_adapters(quantize_model(model),
# AdapterConfig(rank=16, alpha=32))`, and `make parity` checks codes, outputs and gradients against bitsandbytes under
# PEFT.

# %%
results.save()
