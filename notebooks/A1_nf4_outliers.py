# %% [markdown]
# # A1 · NF4: outliers, and what an error does to a loss
#
# **The question.** Chapter 04 rounded weights and looked at the error of the weights. What does one very large weight
# do to its block? And is the error of the weights a guide to what counts, the loss of the model?
#
# **What you will be able to do.** Say what an outlier costs its neighbours under four codes. Predict the rise of a
# loss from an error, and know why that works. Give a model outliers without changing what it computes, and see a
# ranking of codes turn over.
#
# **What you need.** Chapter 04: codes, levels, absmax, blocks, double quantization.
#
# **The published claims.** QLoRA (arXiv 2305.14314v1, table 2) gives the mean perplexity on Pile Common Crawl of OPT,
# BLOOM, LLaMA and Pythia models from 125M to 13B: 27.41 in NF4 with double quantization, 29.48 in 4-bit floats E3M0,
# 31.07 in E2M1, and 34.34 in 4-bit integers. Less is better; *perplexity* is exp(loss). LLM.int8() (arXiv
# 2208.07339v2, abstract) reports "emergent" outlier features in large models. Those are values that flow between the
# layers. Whether the weights of the models in table 2 have outliers, the table does not say.
#
# A seed is a base, so `a ± b` is a mean over pretrained models with its 95 % interval; over samples, where the data
# are normal numbers. Losses are in nats a character.

# %%
import copy
from itertools import permutations

import numpy as np
import torch

from lora_from_scratch import nf4
from lora_from_scratch.book import stats
from lora_from_scratch.book.figures import chA1 as figures
from lora_from_scratch.book.results import Results
from lora_from_scratch.book.verdicts import AtLeast, Equal, Lower
from lora_from_scratch.lab.codes import CODES, rounded
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.tasks import fixed_windows, reference_levels, task_ids
from lora_from_scratch.lab.train import evaluate, loss_of, threads
from lora_from_scratch.targets import find_targets

# %%
size = preset()
results = Results("A1_nf4_outliers", size)
seeds = range(1, size.seeds + 1)
bases = {s: pretrained(size, s) for s in seeds}
random = np.random.default_rng(1)
samples = random.standard_normal((3, 2**18)).astype(np.float32)


# %%
def weights_of(model):
    """{name: weight (out, in)} of the linear layers, all but the output head."""
    return {n: m.weight.detach().cpu().numpy().copy() for n, m in find_targets(model, "all-linear").items()}


def lost(weight, decoded):
    """The relative error: |decoded - weight| / |weight|, with the Euclidean norm."""
    return float(np.linalg.norm(decoded - weight) / np.linalg.norm(weight))


weights = {s: weights_of(bases[s]) for s in seeds}

# %% [markdown]
# ## One large weight
#
# Absmax has a weak spot. One weight decides the scale of its whole block. If it is far larger than its neighbours, all
# of them must share the few levels near zero.
#
# The codes are those of chapter 04. E3M0's levels are powers of two, from 1/64 of absmax up; E2M1's smallest is 1/12,
# NF4's are about -0.09 and 0.08. Whatever lies within half of that becomes zero.

# %%
powers = [2.0**k for k in range(-6, 1)]
codebook = {
    "NF4": CODES["NF4"],
    "FP4 (E3M0)": np.array([-p for p in reversed(powers)] + [0.0] + powers, np.float32),
    "FP4 (E2M1)": CODES["FP4"],
    "int4": CODES["int4"],
}
for name, levels in codebook.items():
    zero = int(np.abs(levels).argmin())
    print(f"{name:10} around zero: {np.round(levels[zero - 3 : zero + 4], 3)}")

# %% [markdown]
# We put one weight of a given size into each block of 64 normal numbers, and look *at the other 63*. The size is in
# standard deviations of the others.
#
# Predict for NF4, and a weight of 10, then of 100: which share of the neighbours becomes zero? And from which size on
# is E3M0 the better of the two floats?
#
# The first edition of this chapter, on one sample, said that a code with more levels near zero bears an outlier
# better. Its own table had the exception. So the row asks about a weight of 30, on other samples, and its chance is a
# weight of 3, as any block of normal numbers may have.

# %%
bears = results.finding(
    "bears",
    says="beside a weight of 30 standard deviations, E3M0 leaves its neighbours a smaller relative error than NF4",
    test=Lower(0.1, "a tenth of what the neighbours are"),
    scope={"model": "none", "width": "", "data": "3 samples of normal numbers, blocks of 64"},
    seen_first="one sample, in the first edition",
    tested_on="three other samples",
)
strengths = [3, 5, 7, 10, 15, 20, 30, 50, 70, 100]


def neighbours(sample, strength, levels):
    """(relative error, share that becomes zero) of 63 weights in blocks with one of the given strength."""
    hit = sample.reshape(-1, 64).copy()
    hit[:, 20] = strength
    others = np.arange(64) != 20
    decoded = rounded(hit, levels)[:, others]
    return lost(hit[:, others], decoded), float((decoded == 0).mean())


# %%
beside = {
    n: np.array([[neighbours(x, s, levels) for x in samples] for s in strengths]) for n, levels in codebook.items()
}
rows = [[s, *(f"{e[i, :, 0].mean():.2f}, {e[i, :, 1].mean():4.0%}" for e in beside.values())]
        for i, s in enumerate(strengths)]  # fmt: skip
print("relative error of the 63 neighbours, and the share of them that becomes zero")
print(stats.table(["one weight of", *beside], rows))


# %%
def less_than_nf4(strength):
    i = strengths.index(strength)
    return stats.paired(beside["FP4 (E3M0)"][i, :, 0].tolist(), beside["NF4"][i, :, 0].tolist())


bears.measure(less_than_nf4(30), chance=less_than_nf4(3))
results.record(strengths=strengths, beside={n: e.mean(axis=1).tolist() for n, e in beside.items()})

# %% [markdown]
# Small blocks contain the damage. Put one weight of 30 into every 4,096, and ask for NF4's error of all the others, by
# block size.

# %%
plain = samples[0].reshape(-1, 4096)
spoilt, kept, contained = plain.copy(), np.arange(4096) != 1000, {}
spoilt[:, 1000] = 30.0
for b in [16, 32, 64, 128, 256, 512, 1024, 2048, 4096]:
    contained[b] = [lost(x[:, kept], rounded(x, CODES["NF4"], b)[:, kept]) for x in (plain, spoilt)]
print(stats.table(["block size", "without", "with it"], [[b, *(f"{e:.3f}" for e in v)] for b, v in contained.items()]))

# %%
results.figure(
    figures.outlier(strengths, {n: e[:, :, 0].mean(axis=1) for n, e in beside.items()}, contained),
    "outlier",
    "Relative errors of normal numbers. At 1 all of them became zero.",
    alt="Left, error against the size of the large weight: int4 rises first, NF4 and E2M1 together after it, and all "
    "three reach 1; E3M0 starts highest, stays flat for long and ends lowest. Right, the error with an outlier climbs "
    "steeply with the block size, without one it hardly does.",
)

# %% [markdown] rests_on="A1.bears=holds"
# Beside a weight of 30 E3M0's error is far smaller than NF4's (0.21 against 0.72); beside a weight of 3 it is about
# twice as large (0.20 against 0.10). Its levels are powers of two, so each weight goes to a power of two near it, and
# its error is a part of *that weight*, about a fifth, whatever absmax is. This ends where the weights are smaller than
# its smallest level: beside a weight of 64 that level is one standard deviation. In an ordinary block the same spacing
# is a waste: half of the levels crowd where few weights are.
#
# NF4 and E2M1 can hardly be told apart. The larger the one weight, the nearer to zero are all others, in units of
# absmax, and around zero the two have almost the same levels.

# %% [markdown]
# ## Has the model such weights?
#
# For each layer: its largest weight over its standard deviation. The null is normal numbers in matrices of the same
# shapes.

# %%
tails = results.finding(
    "tails",
    says="the largest weight of any layer, in standard deviations, over that of normal numbers of the same shapes",
    test=AtLeast(1.2, "a scale that is a fifth larger makes the rounding of its block about that much coarser"),
    scope={"data": "all linear layers"},
)
largest = {s: {n: float(np.abs(w).max() / w.std()) for n, w in weights[s].items()} for s in seeds}
null = [[max(np.abs(random.standard_normal(w.shape)).max() for w in weights[s].values()) for s in seeds] for _ in "ab"]
for s in seeds:
    worst = max(largest[s], key=largest[s].get)
    median = np.median(list(largest[s].values()))
    print(f"base {s}: median layer {median:.1f}, worst {largest[s][worst]:.1f} ({worst.removeprefix('model.')})")
    blocks = [w.reshape(-1, 64) for w in weights[s].values()]
    tops = [np.abs(b).max(axis=1) for b in blocks]
    others = [np.sqrt(((b**2).sum(axis=1) - t**2) / 63) for b, t in zip(blocks, tops, strict=True)]
    over = max((t / o).max() for t, o in zip(tops, others, strict=True))
    print(f"  block by block, over the root mean square of the other 63: at most {over:.1f}")
top = [max(found.values()) for found in largest.values()]
tails.measure(
    stats.interval([a / b for a, b in zip(top, null[0], strict=True)]),
    chance=stats.interval([a / b for a, b in zip(null[1], null[0], strict=True)]),
)

# %% [markdown] rests_on="A1.tails=not settled"
# The largest weights of these models are 5.6 to 6.8 standard deviations, and normal numbers of the same shapes reach
# about five. Whether that is a heavier tail is not settled: the ratio is {A1.tails.shown}. It differs from base to
# base. But no layer has a weight of the size, between 7 and 10, from which on E3M0 is the better code for its
# neighbours, and no block has one, in deviations of its other 63, as printed. So of these models one expects the
# ranking that bell curves give.

# %% [markdown]
# ## What it does to a language model
#
# Now quantize every linear layer and measure the loss on English that no training saw. Nothing is trained afterwards.
# Differences are small, so their noise matters. Which weights share a block is an accident: put the rows and the
# columns of a matrix in another order, quantize, and put them back. It is the same code with other rounding errors. We
# take the mean over eight orders, the same ones for all codes.
#
# The published order has three steps, and NF4 against the two others makes five comparisons. They are named here, and
# no others are picked later. Each has a 95 % interval of its own, so each errs one time in twenty, and that one of the
# five does may be as likely as one in four. The unit is what NF4 costs. Chance is NF4 itself in eight other orders.
# (The codes share their orders, which the null cannot.)

# %%
lower_loss = results.claim(
    "lower_loss",
    says="the loss rises from NF4 (double quantized) to E3M0, to E2M1, to int4; differences over NF4's own rise",
    source="arXiv 2305.14314v1, table 2 (Pile Common Crawl, 125M to 13B)",
    read="full text",
    published="mean perplexity 27.41, 29.48, 31.07, 34.34",
    test={
        part: Lower(0.05, "a twentieth of what NF4 costs")
        for part in ("NF4 - E3M0", "E3M0 - E2M1", "E2M1 - int4", "NF4 - E2M1", "NF4 - int4")
    },
    scope={"task": "English"},
)
windows = fixed_windows(task_ids("text", "held_out"), 2 * size.eval_windows, size.model.max_position_embeddings)[1::2]


def new_order(rows, columns):
    """Any order of rows and columns, but that each run of 64 has one of the columns 10, 74, … (used further down)."""
    kept = np.arange(10, columns, 64) if columns == size.model.hidden_size else []
    rest = random.permutation(np.setdiff1d(np.arange(columns), kept))
    parts = [random.permutation([*rest[63 * i : 63 * (i + 1)], k]) for i, k in enumerate(kept)] or [rest]
    return np.ix_(random.permutation(rows), np.concatenate(parts))


orders, other_orders = ([{n: new_order(*w.shape) for n, w in weights[1].items()} for _ in range(8)] for _ in "ab")

# %% [markdown]
# Predict the order of the four codes here, from chapter 04's errors of the weights: NF4 0.092, E2M1 0.106, int4 0.109,
# E3M0 0.188.


# %%
def decoded(weights, round_one, order):
    """{name: weight} after `round_one`, rows and columns in this order meanwhile."""
    found = {}
    for name, w in weights.items():
        found[name] = np.empty_like(w)
        found[name][order[name]] = round_one(np.ascontiguousarray(w[order[name]]))
    return found


# %%
once, again = (decoded(weights[1], lambda w: rounded(w, CODES["NF4"]), order) for order in orders[:2])
assert all((once[name] != again[name]).any() for name in once), "another order must be another rounding"


@torch.no_grad()
def loss_with(model, new):
    """The loss of a copy of the model with these weights in its linear layers."""
    changed = copy.deepcopy(model)
    for name, w in new.items():
        changed.get_submodule(name).weight.copy_(torch.from_numpy(w))
    return evaluate(changed, windows)


def rise(model, round_one, orders):
    """What rounding adds to the loss, mean over the orders."""
    w = weights_of(model)
    return np.mean([loss_with(model, decoded(w, round_one, o)) for o in orders]) - evaluate(model, windows)


# %%
roundings = {"NF4 + double": lambda w: nf4.dequantize(nf4.quantize(w))}
roundings |= {
    n: lambda w, levels=levels: rounded(w, levels) for n, levels in (codebook | {"NF3": CODES["NF3"]}).items()
}
with threads(1):
    start = [evaluate(bases[s], windows) for s in seeds]
    rises = {name: [rise(bases[s], f, orders) for s in seeds] for name, f in roundings.items()}
    again = [rise(bases[s], roundings["NF4 + double"], other_orders) for s in seeds]
everything = {s: np.concatenate([w.reshape(-1) for w in weights[s].values()]) for s in seeds}
errors = {n: [lost(everything[s], f(everything[s])) for s in seeds] for n, f in roundings.items()}
known = reference_levels("text")
print(f"English: uniform {known['uniform']:.2f}, letters {known['letters']:.2f}, the bases {stats.shown(start, 3)}")
rows = [[n, f"{np.mean(errors[n]):.4f}", stats.shown(r, 4), f"{np.mean(r) / np.mean(start):.2%}"]
        for n, r in rises.items()]  # fmt: skip
print(stats.table(["code", "error of the weights", "rise of the loss, nats", "of the loss"], rows))
results.record(start=start, rises=rises, again=again, errors=errors)

# %%
short = {"NF4": "NF4 + double", "E3M0": "FP4 (E3M0)", "E2M1": "FP4 (E2M1)", "int4": "int4"}


def over_nf4(first, second):
    """(first - second) / NF4's rise, base by base."""
    return stats.interval([(a - b) / c for a, b, c in zip(first, second, rises["NF4 + double"], strict=True)])


# %%
pairs = {part: [rises[short[name]] for name in part.split(" - ")] for part in lower_loss.parts}
lower_loss.measure(
    {part: over_nf4(*pair) for part, pair in pairs.items()},
    chance=dict.fromkeys(pairs, over_nf4(again, rises["NF4 + double"])),
)

# %% [markdown] rests_on="A1.lower_loss=partly"
# NF4 has the least loss of the four here, as there. Below E3M0 it is so by far; below int4 it passes by a hair (in the
# committed run the interval ends at -0.054, the line is -0.05), and with intervals widened for five comparisons neither
# int4 nor E2M1 would be settled. Between E2M1 and int4 these intervals do not decide. And one step is the other way
# round, by far: E3M0, the better float of the paper's table, costs more than three times as much as E2M1. The means
# stand in the order of the errors of the weights. So what wants an explanation is why E3M0 is good *there*.

# %% [markdown]
# ## Is the error a guide to the loss?
#
# Write the loss after a small change `δ` of the weights as a Taylor series: `g·δ + ½ δᵀHδ`. The base is no minimum of
# the *held-out* loss, so its slope `g` is not zero. But rounding knows nothing of `g`. Up and down, its contributions
# `g·δ` should nearly cancel, and leave the second term, which grows with the *square* of the error: twice the error,
# four times the rise.
#
# Three rows, for the three parts of that argument: the slope's share of NF4's rise is small; noise of the same size
# does what rounding does; and the rise grows with the square.

# %%
slope = results.finding(
    "slope",
    says="the first-order part g·δ, over what NF4's rounding raises the loss by",
    test=Equal(0.25, "the curvature must make at least three quarters of the rise"),
)
noise = results.finding(
    "noise",
    says="Gaussian noise as large as NF4's error in each layer raises the loss as much: the difference over NF4's rise",
    test=Equal(0.25, "a quarter of the rise; an error that is 13 % larger or smaller would make that much"),
)
square = results.finding(
    "square",
    says="the exponent with which the rise grows with the error over the codes, minus 2",
    test=Equal(0.25, "at 2.25 the rule would be off by a fifth where the error is twice as large"),
)


# %%
def gradient(model):
    """{name: gradient of the held-out loss by this weight}."""
    layers = find_targets(model, "all-linear")
    model.requires_grad_(True).zero_grad()
    for part in windows.split(64):
        (loss_of(model, part.to(size.device)) * len(part) / len(windows)).backward()
    return {name: layer.weight.grad.cpu().numpy() for name, layer in layers.items()}


# %%
def noisy(w, strength=1.0):
    """The weight plus Gaussian noise as large as NF4's error times `strength`."""
    off, draw = np.linalg.norm(rounded(w, CODES["NF4"]) - w), random.standard_normal(w.shape).astype(np.float32)
    return w + draw * np.float32(strength * off / np.linalg.norm(draw))


# %%
first_order, uphill = [], []
with threads(1):
    for s, nf4_rise in zip(seeds, rises["NF4"], strict=True):
        g, w = gradient(copy.deepcopy(bases[s])), weights[s]
        moved = [{n: x - w[n] for n, x in decoded(w, roundings["NF4"], o).items()} for o in orders]
        along = [sum((g[n] * d[n]).sum() for n in g) for d in moved]
        first_order.append(np.mean(along) / nf4_rise)
        steep = sum(np.linalg.norm(g[n]) * np.linalg.norm(moved[0][n]) for n in g)  # the same sizes, straight uphill
        uphill.append(steep / nf4_rise)
    with_noise = {k: [rise(bases[s], lambda w, k=k: noisy(w, k), orders) for s in seeds] for k in (1.0, 0.5)}

# %%
slope.measure(stats.interval(first_order), chance=stats.interval(uphill))
off = {k: [(a - b) / b for a, b in zip(found, rises["NF4"], strict=True)] for k, found in with_noise.items()}
noise.measure(stats.interval(off[1.0]), chance=stats.interval(off[0.5]))

# %% [markdown]
# Chance for the slope is a change of the same size straight up the gradient. Chance for the noise is noise of half the
# size. Chance for the square is the codes' errors, dealt out to the codes in every other way.


# %%
def exponent(errors, rises):
    """The slope of log rise over log error, by least squares."""
    with np.errstate(invalid="ignore"):  # a rise below zero, as at smoke, has no logarithm: NaN
        x, y = np.log(errors), np.log(rises)
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


# %%
of_codes = ["NF4", "FP4 (E2M1)", "int4", "FP4 (E3M0)", "NF3"]
per_base = [[np.array([found[n][i] for n in of_codes]) for found in (errors, rises)] for i in range(size.seeds)]
deals = [exponent(np.array(p), r) - 2 for e, r in per_base for p in permutations(e)]  # all 120 of each base
print(f"of all deals {np.mean(np.abs(deals) < 0.25):.0%} come within 0.25 of the exponent 2")
square.measure(
    stats.interval([exponent(e, r) - 2 for e, r in per_base]), chance=(float(np.mean(deals)), 2 * float(np.std(deals)))
)


# %%
seen = rises | {"NF4": [(a + b) / 2 for a, b in zip(rises["NF4"], again, strict=True)]}  # NF4 in all sixteen orders


def by_square(name):
    return np.mean(seen["NF4"]) * (np.mean(errors[name]) / np.mean(errors["NF4"])) ** 2


rows = [[n, stats.shown(seen[n], 4), f"{by_square(n):.4f}"] for n in of_codes]
print(stats.table(["code", "rise measured", "by the square, from NF4"], rows))

# %%
results.figure(
    figures.loss({n: errors[n] for n in of_codes}, {n: seen[n] for n in of_codes}),
    "loss",
    "Means over bases, bars: 95 % intervals. Dashed, with its band: the square of the error, through NF4 and through "
    "the ends of its interval.",
    alt="Five codes' rise of the loss against the error of the weights. The points lie along a curve that grows with "
    "the square of the error; NF4, E2M1 and int4 crowd at its foot, E3M0 and NF3 stand far up.",
)

# %% [markdown] rests_on="A1.slope=not settled, A1.noise=holds, A1.square=not settled"
# The second part of the argument holds: noise as large as NF4's error in each layer does what NF4 does: of that error,
# in these models, its size in each layer is what counts. For other codes it was not asked. The first is not settled.
# The slope's share is {A1.slope.shown} of the rise, near nothing in the mean, and the interval reaches past our line. A
# change of the same size straight uphill would, to first order, do more than a hundred times as much as rounding does,
# but rounding does not look uphill.
#
# The exponent is a little above 2, by {A1.square.shown}, and the interval holds the line at 0.25. In the table above
# the square foretells E2M1 and int4 to within their intervals, and falls short of E3M0 and NF3, whose error is twice as
# large. But both lie within the band that NF4's own interval leaves. E2M1 and int4 cannot test it: so near to NF4
# another exponent would do about as well. That coarse codes cost more than the square promises is hinted by the
# exponent; further terms of the series would do that, and we did not measure them. (Three codes lie close together, and
# two others: in truth this is a slope through two points.)

# %% [markdown]
# ## Outliers that change nothing
#
# In the paper's table E3M0 is the better of the two floats. The models there are larger. Would *this* model rank the
# codes so if its weights had outliers?
#
# We can give it some *without changing what it computes*. A matrix reads channels, each with one of its columns. Divide
# a channel by 10 and multiply its column by 10, and the product is the same. In each layer of the Llama, attention and
# MLP begin with a normalization that multiplies every channel by a learnt *gain*. So divide a gain, and multiply the
# column of the matrices that read it. One channel in every 64, so that a block of 64 weights has one, in whatever
# order. (`o_proj` and `down_proj` follow no normalization and stay.)


# %%
@torch.no_grad()
def with_outliers(model, factor):
    """A copy that computes the same, with one input channel in 64 weighted `factor` times as much."""
    model = copy.deepcopy(model)
    chosen = torch.arange(10, size.model.hidden_size, 64)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for norm, readers in (
            (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
        ):
            norm.weight[chosen] /= factor
            for matrix in readers:
                matrix.weight[:, chosen] *= factor
    return model


# %%
with threads(1):
    for s, loss in zip(seeds, start, strict=True):
        assert abs(evaluate(with_outliers(bases[s], 10), windows) - loss) < 1e-4, "it must compute what it did"

# %% [markdown]
# Predict: how does the order of the codes change at factors of 3, 10 and 30? Will it be the paper's at one of them? On
# base 0, in the first edition, E3M0 overtook E2M1 between 3 and 10, and NF4 with it, and at 30 it was far ahead of
# both. If the two are overtaken together, outliers of this kind explain one step of the paper's order, E3M0 below
# E2M1, and contradict another, NF4 below E3M0. Three rows test this on bases 1 and up.

# %%
about = {"seen_first": "base 0, in the first edition", "tested_on": "the bases of this run, other than base 0"}
if size.bases == 1:
    about["tested_on"] = "base 0 again, as this preset has no other: no test"
overtakes = results.finding(
    "overtakes",
    says="with outliers of 10 times, E3M0 costs less than E2M1 does, over E2M1's rise",
    test=Lower(0.05, "a twentieth of the rise"),
    **about,
)
both_passed = results.finding(
    "both_passed",
    says="with outliers of 10 times, E3M0 costs less than NF4 does too, over NF4's rise",
    test=Lower(0.05, "a twentieth of the rise"),
    **about,
)
turned = results.finding(
    "turned",
    says="with outliers of 30 times, E3M0 costs less than the better of NF4 and E2M1, over that one's rise",
    test=Lower(0.5, "half of the rise: no small advantage, but another ranking"),
    **about,
)

# %%
with_them = {1: {n: rises[n] for n in codebook}}
with threads(1):
    for factor in (3, 10, 30):
        models = [with_outliers(bases[s], factor) for s in seeds]
        with_them[factor] = {n: [rise(m, roundings[n], orders) for m in models] for n in codebook}
rows = [[k, *(stats.shown(r, 4) for r in found.values()), " < ".join(sorted(found, key=lambda n: np.mean(found[n])))]
        for k, found in with_them.items()]  # fmt: skip
print(stats.table(["outliers, times", *codebook, "least loss first"], rows))
results.record(with_outliers=with_them)


# %%
def e3m0_against(other, factor):
    found = with_them[factor]
    return stats.interval([(a - b) / b for a, b in zip(found["FP4 (E3M0)"], found[other], strict=True)])


overtakes.measure(e3m0_against("FP4 (E2M1)", 10), chance=e3m0_against("FP4 (E2M1)", 1))
both_passed.measure(e3m0_against("NF4", 10), chance=e3m0_against("NF4", 1))
for found in with_them.values():
    found["better"] = np.minimum(found["NF4"], found["FP4 (E2M1)"]).tolist()
turned.measure(e3m0_against("better", 30), chance=e3m0_against("better", 1))

# %%
results.figure(
    figures.factors({k: {n: found[n] for n in codebook} for k, found in with_them.items()}),
    "factors",
    "Means over bases, bars: 95 % intervals. At 1 the model is as it was. The loss before rounding is the same "
    "everywhere.",
    alt="Rise of the loss against the factor of the outliers. E3M0's line is nearly flat. Those of NF4, E2M1 and int4 "
    "start below it, climb steeply and cross it.",
)

# %% [markdown]
# Chance for all three is the model without outliers.

# %% [markdown] rests_on="A1.turned=holds, A1.overtakes=holds, A1.both_passed=holds"
# With outliers of 30 times the ranking is another one: E3M0, the worst of the four in these models as they were, is the
# best by far. (Its rise minus that of the better one of NF4 and E2M1, over the latter: {A1.turned.shown}.) The models
# compute what they did before, but for float rounding. A ranking of codes is one of codes *and weights*.
#
# At 10 times E3M0 has passed both already, by a fifth. NF4 and E2M1 rise together from 3 on, as they have nearly the
# same levels around zero. At none of the factors tried is the order the paper's. At 10 and at 30 E3M0 is below E2M1,
# but below NF4 too, and the paper has it above; between 3 and 10, where it passes both, we did not look. What made E3M0
# the better float in table 2 we do not know. When two comparisons disagree, ask first what the weights were.
#
# (The first edition found this on one base. A second kept each column in its block, so that its orders changed nothing
# and these rows stayed open.)

# %% [markdown]
# ## Exercises
#
# **1. What becomes zero.** A block of normal numbers holds one weight of `strength` standard deviations, larger than
# all others. Which share of the others does NF4 round to zero? `cdf` gives the share of a bell curve below a value.
# Compare your answer with the table above.


# %%
from statistics import NormalDist

from lora_from_scratch.book.checks import chA1 as check

cdf = NormalDist().cdf


def my_zeros(strength):
    """The share, from 0 to 1, of normal neighbours that become zero under NF4."""
    return None  # your code here


print(check.check_zeros(my_zeros))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_zeros(strength):
#     below, above = float(nf4.LEVELS[6]), float(nf4.LEVELS[8])  # next to zero, as parts of absmax
#     return cdf(strength * above / 2) - cdf(strength * below / 2)
# ```
#
# </details>
#
# **2. Calm the columns.** The way back: a layer computes `weight @ (gain * x)`, and some columns of the weight are far
# larger than others. Change both so that all columns have the same largest magnitude and the layer computes the same.
# (Which magnitude is up to you.)


# %%
def my_calm(weight, gain):
    """weight (out, in), gain (in,) -> the new weight, the new gain."""
    return None  # your code here


print(check.check_calm(my_calm))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_calm(weight, gain):
#     top = np.abs(weight).max(axis=0)
#     return weight / top, gain * top
# ```
#
# </details>
#
# ## The same with transformers and bitsandbytes
#
# How far a layer of your own model is from a bell curve, before you choose a code, and what bitsandbytes' two codes
# lose on it (version 0.50.2; runs on a CPU):
#
# ```python
# import torch
# from bitsandbytes.functional import dequantize_4bit, quantize_4bit
#
# weight = torch.randn(256, 64)  # in place of layer.weight
# weight[:, 10] *= 30  # one column of outliers
# print("largest:", (weight.abs().max() / weight.std()).item(), "standard deviations")
# for code in ("nf4", "fp4"):
#     packed, state = quantize_4bit(weight, blocksize=64, quant_type=code)
#     error = (dequantize_4bit(packed, state) - weight)[:, :10]
#     print(code, "error of ten calm columns:", (error.norm() / weight[:, :10].norm()).item())
# ```
#
# bitsandbytes' "fp4" has levels of its own, neither E2M1's nor E3M0's here: a comparison is one of levels, not of
# names. PEFT puts its adapters on the base as it was rounded; chapter 05 trains them.

# %%
print("written:", results.save().name)
