# %% [markdown]
# # 04 · NF4
#
# **The question.** A weight that takes 16 bits can be kept in 4. Then it has one of only 16 values. How can a model
# live with that, and which 16 values should they be?
#
# **What you will be able to do.** Quantize a weight to 4 bits and back by hand, and say how large the error will be.
# Derive the 16 levels of NF4. Test "information-theoretically optimal". Choose a block size. Explain what double
# quantization saves.
#
# **What you need.** PyTorch and NumPy, and what a quantile is: the value below which a given share of a distribution
# lies. Outliers, and what an error of the weights does to a model's loss, are appendix A1.
#
# **The published claims.** QLoRA (arXiv 2305.14314v1) introduced "4-bit NormalFloat (NF4), a new data type that is
# information theoretically optimal for normally distributed weights" (abstract). Section 3 says what is meant: each of
# the 16 bins is to get an equal number of values. Davis Yoshida answered with a note called "NF4 Isn't Information
# Theoretically Optimal (and that's Good)" (arXiv 2306.06965v2): the values that are quantized depend on the block
# size, and a code made for a small absolute error does better in large blocks and about as well in small ones
# (abstract).
#
# **The model of this book** is a small Llama that predicts the next character of English. Its *loss*, in nats a
# character, is minus the natural logarithm of the probability that it gives to the character that comes next. We
# quantize its linear layers, all but the *output head*, the last matrix, which turns the model's state into scores.

# %%
import copy
import math
from statistics import NormalDist

import numpy as np
import torch

from lora_from_scratch import nf4
from lora_from_scratch.book import stats
from lora_from_scratch.book.figures import ch04 as figures
from lora_from_scratch.book.results import Results
from lora_from_scratch.book.verdicts import AtLeast, Equal, Figures, Higher, Identity, Lower
from lora_from_scratch.lab.codes import CODES, rounded
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.tasks import fixed_windows, reference_levels, task_ids
from lora_from_scratch.lab.train import evaluate, threads
from lora_from_scratch.targets import find_targets

# %% [markdown]
# A seed is a base: seed 1 means the model that was pretrained with seed 1. `a ± b` is a mean with its 95 % interval,
# over bases, or over samples where the data are normal numbers. There are three samples of a million each, and a
# fourth for codes that have to learn their levels.

# %%
size = preset()
results = Results("04_nf4", size)
seeds = range(1, size.seeds + 1)
bases = {s: pretrained(size, s) for s in seeds}
weights = {
    s: {n: m.weight.detach().cpu().numpy().copy() for n, m in find_targets(bases[s], "all-linear").items()}
    for s in seeds
}
random = np.random.default_rng(0)
*samples, fresh = random.standard_normal((4, 2**20)).astype(np.float32)
print(f"{len(weights[1])} linear layers, {sum(w.size for w in weights[1].values()):,} weights in each of {len(bases)}")

# %% [markdown]
# ## Four bits, by hand
#
# A *code* is a set of levels, and each weight is replaced by one of them. What is stored is the number of that level,
# its *index*.
#
# The simplest code takes the integers from -7 to 7. We need a *scale* that maps the weights onto the integers.
# *Absmax* takes the largest magnitude and maps it to 7. So nothing is cut off, and the scale is the one number that
# must be kept beside the indices.
#
# Predict: which of the eight weights comes back exactly? Which ones come back as zero?

# %%
w = np.array([0.12, -0.53, 0.04, 0.31, -0.08, 0.90, -0.22, 0.01], np.float32)
absmax = np.abs(w).max()
indices = np.round(w / absmax * 7).astype(int)  # the nearest integer
back = indices / 7 * absmax
print("weights:", w, "\nindices:", indices, "\nback:   ", np.round(back, 3))


def lost(weight, decoded):
    """The relative error: |decoded - weight| / |weight|, with the Euclidean norm."""
    return float(np.linalg.norm(decoded - weight) / np.linalg.norm(weight))


print(f"relative error {lost(w, back):.3f}; largest {np.abs(back - w).max():.3f}, half a step {absmax / 14:.3f}")

# %% [markdown]
# Only the weight that set the scale is sure to come back exactly.
#
# Evenly spaced levels treat common and rare sizes alike. But trained weights look roughly like a bell curve: small
# ones are common, large ones rare. Take a million normal numbers in blocks of 64, each with its own absmax. Predict:
# which share of them gets one of the five integers -2 … 2? Which share one of the six with a magnitude of 5 or more?


# %%
def scale(weight, block_size):
    """Blocks (n, block_size) of the weights, each divided by its absmax; whole blocks only."""
    flat = weight.reshape(-1)
    blocks = flat[: len(flat) // block_size * block_size].reshape(-1, block_size)
    return blocks / np.abs(blocks).max(axis=1, keepdims=True)


used = np.bincount(np.round(7 * scale(samples[0], 64)).astype(int).ravel() + 7) / samples[0].size
print("share of each integer, in %:", dict(zip(range(-7, 8), np.round(100 * used, 1).tolist(), strict=True)))
print(f"-2 … 2 hold {used[5:10].sum():.0%} of the numbers, 5 to 7 hold {used[:3].sum() + used[-3:].sum():.0%}")

# %% [markdown]
# A better code has its levels close together where the weights are dense.
#
# ## The sixteen levels
#
# QLoRA's idea, in our form: cut the bell curve into slices of equal probability, and let each level stand in the middle
# of its slice, in probability. With 16 slices that is 1/32, 3/32, …, 31/32. Absmax scales everything to [-1, 1], so we
# divide by the largest.

# %%
quantile = NormalDist().inv_cdf
for n in (16, 15):
    even = np.array([quantile((2 * i + 1) / (2 * n)) for i in range(n)])
    print(f"{n} slices:", np.round(even / even.max(), 3))

# %% [markdown]
# With 16 slices there is no zero, and padding and pruned weights must stay zero. With 15 there is one, but then one of
# the 16 indices is idle. NF4's answer is asymmetric: one zero, eight levels above it, seven below. Each half is evenly
# spaced in probability, from an outermost point to 1/2. The 1/2 is left out, because it *is* the zero.
#
# Where is the outermost point? Not at probability 1, where the quantile is infinite. The last of 16 levels stood at
# 31/32, the last of 15 at 29/30. The released software has the constant 0.9677083, which is half way between them.
# That fits, and is no proof: the paper does not say where the number comes from.


# %%
def normal_levels(end, linspace):
    """Eight levels above zero, seven below, and zero; divided by the largest."""
    positive = [quantile(float(p)) for p in linspace(end, 0.5, 9)[:-1]]
    negative = [-quantile(float(p)) for p in linspace(end, 0.5, 8)[:-1]]
    levels = np.sort(np.array([*positive, 0.0, *negative], np.float32))
    return levels / levels.max()


print(f"half way: {((1 - 1 / 32) + (1 - 1 / 30)) / 2:.7f}")
print(normal_levels(0.9677083, torch.linspace))

# %% [markdown]
# The paper has a formula of its own, equation 4, with the quantile function $Q$:
#
# $$q_i = \tfrac12 \left( Q\left(\tfrac{i}{17}\right) + Q\left(\tfrac{i+1}{17}\right) \right)$$
#
# $Q(0)$ and $Q(1)$ are infinite, so the first and the last $q_i$ are no levels. The text below it asks for two unequal
# halves that share a zero, and leaves open how the equation applies to them. Appendix E lists the levels themselves.
# Does the equation, as it is printed, give the list? Do the lines above?

# %%
equation_4 = results.arithmetic(
    "equation_4",
    says="how many of the 16 levels of appendix E equation 4 gives, as printed, divided by its largest, to two digits",
    source="arXiv 2305.14314v1, section 3, equation 4, and appendix E",
    read="full text",
    published="16: the levels are those of the equation",
    test=Figures(16),
)
recipe = results.identity(
    "recipe",
    says="eight and seven quantiles from 0.9677083, in float32 steps, are the list of appendix E to the last bit",
    test=Identity(0),
)

# %%
listed = np.array(
    """-1 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334
    -0.09105003625154495 0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224
    0.44070982933044434 0.5626170039176941 0.7229568362236023 1""".split(),
    np.float32,
)
finite = np.array([(quantile(i / 17) + quantile((i + 1) / 17)) / 2 for i in range(1, 16)])


def given(levels):
    """How many of the 16 listed levels are among these, to two digits."""
    return float(np.isin(np.round(listed, 2), np.round(levels, 2).astype(np.float32)).sum())


halves = [np.sort(random.uniform(0, 1, 6)) for _ in range(1000)]  # symmetric lists that know only -1, 0 and 1
by_chance = np.mean([given(np.concatenate([-h, [-1, 0, 1], h])) for h in halves])
print(f"of the 16, equation 4 gives {given(finite / finite.max()):.0f}; a random symmetric list {by_chance:.1f}")
equation_4.measure(given(finite / finite.max()), chance=by_chance)
recipe.measure(float(np.abs(nf4.nf4_levels() - listed).max()))  # the package: torch's steps, without torch
for name, steps in (("float32", torch.linspace), ("float64", np.linspace)):
    differ = normal_levels(0.9677083, steps) != listed
    print(f"raw lines, steps in {name}: {differ.sum()} of 16 levels differ from the list in their last bits")

# %% [markdown] rests_on="04.equation_4=does not add up, 04.recipe=holds"
# As it is printed, equation 4 alone gives {04.equation_4.shown} of the 16 levels: the two ends and zero. Any symmetric
# list with a zero has these. The equation has 15 finite values, symmetric, while the list is not. The
# lines above give the list, and the package's steps give it to the last bit. Steps in float64 do not: each probability
# is then another number in its last digits, and so is its quantile.

# %% [markdown]
# ## Quantize, pack, decode
#
# Blocks of 64 weights; the absmax of each; multiply by its reciprocal; find the nearest level; put two indices into
# one byte. The nearest level is found by counting how many *midpoints* between levels lie below the value. To decode,
# let the byte choose a row of a table of all 256 pairs of levels. A block of zeros has absmax 0: divide it by 1.

# %%
import numpy as np  # this cell runs alone; `levels` are 16 numbers that rise from -1 to 1


def my_quantize(weight, levels, block_size=64):
    """Weights, a whole number of blocks -> two indices a byte, and the absmax of each block."""
    blocks = weight.reshape(-1, block_size)  # (n, block_size)
    absmax = np.abs(blocks).max(axis=1)  # (n,)
    scaled = blocks * (np.float32(1) / np.where(absmax > 0, absmax, np.float32(1)))[:, None]
    midpoints = (levels[1:] + levels[:-1]) / np.float32(2)  # (15,)
    indices = np.searchsorted(midpoints, scaled).astype(np.uint8).reshape(-1, 2)  # on a midpoint: the lower one
    return indices[:, 0] << 4 | indices[:, 1], absmax  # the first index in the high four bits


def my_dequantize(packed, absmax, levels, block_size=64, swapped=False):
    """The weights that the bytes stand for, flat: level · absmax. `swapped` takes each pair in the wrong order."""
    pairs = np.array([[a, b] for a in levels for b in levels], np.float32)  # (256, 2)
    pairs = pairs[:, ::-1] if swapped else pairs
    return (pairs[packed].reshape(-1, block_size) * absmax[:, None]).reshape(-1)


# %% [markdown]
# The same from the package, with double quantization (which comes later) switched off.

# %%
w = np.concatenate([random.standard_normal((36, 64)), np.zeros((1, 64))]).astype(np.float32)
packed, absmax = my_quantize(w, listed)
q = nf4.quantize(w, double=False)
assert np.array_equal(packed, q.packed) and np.array_equal(absmax, q.absmax)
assert np.array_equal(my_dequantize(packed, absmax, listed).reshape(w.shape), nf4.dequantize(q))
print(f"{w.size} weights: {packed.nbytes} bytes of indices and {absmax.nbytes} of absmax, float32 took {w.nbytes}")
print(f"bits a weight: {q.bits_per_parameter:.3f}; raw lines and package agree in every bit")

# %% [markdown]
# **Break it on purpose.** Two slips that are easily made: take the two indices of a byte in the wrong order, and take
# the largest *value* of a block for the largest *magnitude*. Predict: how large is the error after each?

# %%
bell = samples[0]
blocks = bell.reshape(-1, 64)
largest = blocks.max(axis=1, keepdims=True)  # wrong: without the magnitude
midpoints = (listed[1:] + listed[:-1]) / np.float32(2)
slipped = listed[np.searchsorted(midpoints, blocks / largest)] * largest
packed, absmax = my_quantize(bell, listed)
print(f"correct:                    {lost(bell, my_dequantize(packed, absmax, listed)):.3f}")
print(f"indices of a byte swapped:  {lost(bell, my_dequantize(packed, absmax, listed, swapped=True)):.3f}")
print(f"value in place of magnitude {lost(blocks, slipped):.3f}")
print(f"blocks whose largest magnitude is negative: {(largest[:, 0] < absmax).mean():.0%}")

# %% [markdown]
# With swapped indices each weight gets its neighbour's value. The difference of two unrelated numbers of equal size is
# √2 times as large as either: an error of about 1.41 that anyone sees.
#
# The second slip is sly. It changes only blocks whose largest magnitude is negative, half of them, and there it clips
# a few weights and rounds the others on a finer grid. The error rises by less than a fifth, to that
# of a correct int4. Only a test that knows the right error, or compares bits, would notice.
#
# ## How large is the error?
#
# NF4 beside other codes, all in blocks with absmax:
#
# - **int4**: the integers -7 … 7.
# - **FP4 (E2M1)**: a 4-bit float with a sign, two bits of exponent and one of mantissa: 0, 0.5, 1, 1.5, 2, 3, 4, 6,
#   with both signs.
# - **FP4 (E3M0)**: a sign and three bits of exponent: zero and seven powers of two, with both signs.
# - **k-means**: 16 levels learnt from the weights. Lloyd's algorithm alternates two steps: give each value to its
#   nearest level, then move each level to the mean of its values. Neither can raise the squared error.
#
# The floats and int4 have 15 levels, as +0 and -0 are one. (The paper does not print its floats' levels; these are our
# reading of the names.)


# %%
def lloyd(values, centre=np.mean, held=()):
    """16 levels for 1-D data; those numbered in `held` stay NF4's. Means as `centre` lower the squared error, medians
    the absolute one."""
    values = values.reshape(-1)
    values = np.sort(values[:: max(1, len(values) // 2**18)])  # a quarter of a million values are enough
    levels, moved = listed.astype(np.float64), 1.0
    while moved > 1e-5:
        edges = np.searchsorted(values, (levels[1:] + levels[:-1]) / 2)  # where the nearest level changes
        new = np.array([centre(part) for part in np.split(values, edges)], np.float64)
        new[list(held)] = listed[list(held)]
        levels, moved = new, np.abs(new - levels).max()
    return levels.astype(np.float32)


own = np.concatenate([scale(w, 64).reshape(-1) for w in weights[1].values()])
powers = [2.0**k for k in range(-6, 1)]
codebook = {
    "NF4": CODES["NF4"],
    "FP4 (E2M1)": CODES["FP4"],
    "FP4 (E3M0)": np.array([-p for p in reversed(powers)] + [0.0] + powers, np.float32),
    "int4": CODES["int4"],
    "k-means": lloyd(own),
}

# %% [markdown]
# Is NF4 made for the bell curve, or just a better code? The null that tells: *uniform* numbers, which have no dense
# middle.

# %%
less_error = results.finding(
    "less_error",
    says="NF4 loses less of the models' weights than int4, relative to int4's error",
    test=Lower(0.05, "a twentieth of the error"),
    scope={"data": "all linear layers, blocks of 64"},
)

# %% [markdown]
# Predict the order of the codes on the model's weights. Predict also: by what factor is the error of NF3, the same
# construction with 3 bits, larger than NF4's? And NF2's?

# %%
uniforms = [random.uniform(-1, 1, 2**18).astype(np.float32) for _ in samples]
models = [np.concatenate([w.reshape(-1) for w in weights[s].values()]) for s in seeds]
errors, rows = {}, []
for name, levels in (codebook | {"NF3": CODES["NF3"], "NF2": CODES["NF2"]}).items():
    data = {"normal": samples, "uniform": uniforms, "models": models}
    errors[name] = {kind: [lost(x, rounded(x, levels)) for x in many] for kind, many in data.items()}
    worst = max(lost(w, rounded(w, levels)) for s in seeds for w in weights[s].values())
    rows.append([name, len(levels), *(f"{np.mean(e):.4f}" for e in errors[name].values()), f"{worst:.4f}"])
print(stats.table(["code", "levels", "normal", "uniform", "the models", "worst layer"], rows))
results.record(errors=errors)


def against_int4(kind):
    return stats.interval([a / b - 1 for a, b in zip(errors["NF4"][kind], errors["int4"][kind], strict=True)])


less_error.measure(against_int4("models"), chance=against_int4("uniform"))

# %% [markdown] rests_on="04.less_error=holds"
# On these weights NF4 loses less than int4. (The difference over int4's error: {04.less_error.shown}.) About two fifths
# of that is a level more: sixteen even levels would lower int4's error by a fifteenth, and pass our line. The rest is
# the bell's doing: on uniform numbers int4's even steps win by far. NF4 also beats FP4 (E2M1), but on uniform numbers
# too, so that shows nothing about bells. And k-means, fitted to the first model's weights, is better still: NF4's aim
# was not the smallest error.

# %% [markdown]
# With one bit fewer there are half as many levels, so the steps are about twice as wide, and so is the error. That
# cannot hold where few levels are left: NF2's only negative level is -1, and all weights from -1/2 to 0 become zero.

# %%
results.figure(
    figures.levels(own, codebook),
    "levels",
    "Blue: density of one model's weights, in blocks of 64. Each tick below is a level of a code.",
    alt="A bell curve of scaled weights with small peaks at -1 and 1. Below it NF4's and k-means' ticks stand close "
    "together in the middle and far apart at the ends; int4's are even; E3M0's crowd at zero.",
)

# %% [markdown]
# ## Is it optimal?
#
# The levels were made for a normal distribution. What they meet is no longer normal, since each block was divided by
# its own largest magnitude. In a small block that largest is not very large, and the others stand further out; in a
# large block it is an extreme of the bell curve, and nearly all others are small. This was Yoshida's point.
#
# Take the promise as it stands: bins that are used equally. The measure is the *entropy* of their use. It is 4 bits if
# all 16 are used equally, and less otherwise. We hold the levels to it where it can be kept, for normal numbers all
# divided by *one* constant, the quantile of 0.9677083, and then in blocks. Chance is int4, which knows nothing of the
# bell; with 15 levels it is at least 0.09 bits short, so it could not pass.
#
# And would a code that keeps the promise be a better one? For blocks of 64 such a code is quickly made: cut their
# values into 16 equal shares, and decode each to the mean of its share.

# %%
equal_use = results.claim(
    "equal_use",
    says="NF4's 16 bins are used equally by normal numbers: what the use falls short of 4 bits",
    source="arXiv 2305.14314v1, abstract and section 3; denied by 2306.06965v2, abstract",
    read="full text",
    published="each bin gets an equal number of values",
    test={
        part: Equal(0.01, "less than a tenth of the 0.127 bits that the scales take")
        for part in ("one constant", "blocks of 16", "blocks of 64", "blocks of 4096")
    },
    scope={"model": "none", "width": "", "data": "3 samples of normal numbers"},
)
equal_costs = results.finding(
    "equal_costs",
    says="a code whose bins are used equally in blocks of 64 has a larger error than NF4",
    test=Higher(0.05, "a twentieth of NF4's error"),
    scope={"model": "none", "width": "", "data": "3 samples of normal numbers"},
)

# %% [markdown]
# Predict: in blocks of 64, which bins are used least? Does it get better or worse in larger blocks?


# %%
def use(scaled, edges):
    """The share of the values that falls between each two of the edges, (16,) for 15 edges."""
    return np.bincount(np.searchsorted(edges, scaled).reshape(-1), minlength=len(edges) + 1) / scaled.size


def short_of_4(shares):
    """4 bits minus the entropy of the shares."""
    return float(4 + sum(p * math.log2(p) for p in shares.tolist() if p > 0))


ways = {"one constant": lambda x: x / quantile(0.9677083)}
ways |= {f"blocks of {b}": lambda x, b=b: scale(x, b) for b in (16, 64, 256, 1024, 4096)}
shares = {name: [use(way(x), midpoints) for x in samples] for name, way in ways.items()}
rows = [[name, f"{p[0].min():.2%}", f"{p[0].max():.2%}", stats.shown([short_of_4(q) for q in p], 4)]
        for name, p in shares.items()]  # fmt: skip
print(stats.table(["normal numbers by", "emptiest bin", "fullest bin", "bits short of 4"], rows))

# %%
int4_edges = (CODES["int4"][1:] + CODES["int4"][:-1]) / 2
as_int4 = {name: [short_of_4(use(ways[name](x), int4_edges)) for x in samples] for name in equal_use.parts}
equal_use.measure(
    {name: stats.interval([short_of_4(p) for p in shares[name]]) for name in equal_use.parts},
    chance={name: stats.interval(found) for name, found in as_int4.items()},
)
learn = np.sort(scale(fresh, 64).reshape(-1))
edges = learn[[len(learn) * i // 16 for i in range(1, 16)]]
means = np.array([part.mean() for part in np.split(learn, 16)], np.float32)
equal = [lost(scale(x, 64), means[np.searchsorted(edges, scale(x, 64))]) for x in samples]
as_nf4 = [lost(scale(x, 64), rounded(scale(x, 64), listed)) for x in samples]
print(f"equal shares: {short_of_4(use(scale(bell, 64), edges)):.4f} bits short of 4, error {np.mean(equal):.3f}")
again = [a / b - 1 for a, b in zip(as_nf4[1:] + as_nf4[:1], as_nf4, strict=True)]  # one sample against the next
equal_costs.measure(stats.interval([a / b - 1 for a, b in zip(equal, as_nf4, strict=True)]), stats.interval(again))

# %%
results.record(shares={name: p[0].tolist() for name, p in shares.items()})
results.figure(
    figures.bins({name: p[0] for name, p in shares.items()}, ["one constant", "blocks of 16", "blocks of 64",
                                                             "blocks of 4096"]),
    "bins",
    "Normal numbers. The dashed line is what the promise asks for: 6.25 % in each bin.",
    alt="With one constant for all, the sixteen shares lie near the dashed line of equal use. In blocks they form a "
    "hump with its top at zero, and the larger the blocks, the emptier the bins at the two ends.",
)  # fmt: skip

# %% [markdown] rests_on="04.equal_use=partly, 04.equal_costs=holds"
# Where the numbers are normal, with one constant for all of them, the promise is nearly kept: the entropy is full to a
# hundredth of a bit, though single bins are off by up to a seventh. In blocks of 16 the entropy is 0.009 bits short,
# just inside our line of 0.01, and bins are off by nearly a fifth. From 64 on the promise is broken, the more the
# larger the blocks: in blocks of 64, the size that is used, the indices carry about 3.88 bits of 4. So equal use holds,
# to a hundredth of a bit, for normal numbers divided by the constant that the levels were made for, barely so in blocks
# of 16, and not in blocks of 64 and more: Yoshida's point.
#
# Why not 6.25 % everywhere? A value goes to its *nearest* level, so bins end half way between two levels. And eight
# levels share one half of the bell, seven the other. In blocks, bins get wider away from zero, all but the two that end
# at ±1; values get rarer, and that wins.
#
# The code that does use its bins equally has a far larger error than NF4, by {04.equal_costs.shown} of NF4's. Equal use
# is the aim of whoever wants 4 bits to carry much information, and a small error is another aim.

# %% [markdown]
# ## Block size
#
# Small blocks follow the data more closely, but each needs a float32: 32 / block size bits a weight. Predict: from
# blocks of 64 to 4096, by how much does NF4's error grow? And that of int4, whose steps are absmax / 7 wherever the
# weight lies?

# %%
sizes = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
four = {name: codebook[name] for name in ("NF4", "FP4 (E2M1)", "int4")}
by_block = {name: [lost(bell, rounded(bell, levels, b)) for b in sizes] for name, levels in four.items()}
by_block["k-means"] = [lost(bell, rounded(bell, lloyd(scale(fresh, b)), b)) for b in sizes]
rows = [[b, *(f"{e[i]:.4f}" for e in by_block.values())] for i, b in enumerate(sizes)]
rows.append(["4096 / 64", *(f"× {e[-1] / e[2]:.2f}" for e in by_block.values())])
print(stats.table(["block size", *by_block], rows))
grown = np.abs(bell.reshape(-1, 4096)).max(axis=1).mean() / np.abs(blocks).max(axis=1).mean()
print(f"the mean absmax itself grows × {grown:.2f}")
results.record(block_sizes=sizes, error_by_block=by_block)

# %% [markdown]
# int4's error grows as absmax does. NF4 and E2M1 have most of their levels near zero, and in larger blocks that is
# where most of the scaled weights are; so larger blocks do them less harm.
#
# ## Double quantization
#
# In blocks of 64 the absmax values take half a bit a weight. Double quantization (section 3) quantizes them too: to 8
# bits, in blocks of 256 of them, each with a float32 constant.
#
# One step comes first, in the paper as in its software: subtract the mean of the absmax values. The reason is plain.
# Absmax values are all positive, and a signed code has half of its levels below zero: that half would be idle.
#
# The paper says "8-bit floats". Here the released software differs: it takes the nearest value of a *dynamic map*, 256
# values in decades. Each decade upward has twice as many values as the one below. In raw lines:

# %%
print("decade  values  from         to           half a step / smallest value")
for i in range(7):
    edges = np.linspace(0.1, 1, 2**i + 1)
    values = 10.0 ** (i - 6) * (edges[:-1] + edges[1:]) / 2  # the middles of 2^i even steps
    coarse = 10.0 ** (i - 6) * 0.45 / 2**i / values[0]
    print(f"{i:6}{len(values):8}  {values[0]:<12.3g} {values[-1]:<12.3g} {coarse:.1%}")
    assert all(np.isclose(nf4.DYNAMIC_MAP, v).any() for v in values)

# %% [markdown]
# So steps get finer towards zero, but more slowly than the values get smaller: in the last column, the relative
# precision is worst in the smallest decade.
#
# **Break it on purpose:** leave the mean in. For numbers spread evenly from 0 to the largest, the idle half is one bit
# of eight, a factor of 2. Numbers close together and far from zero should gain more. (A map with even steps shows the
# range alone.) Predict: is its factor above 2?

# %%
mean_helps = results.finding(
    "mean_helps",
    says="leaving the mean in multiplies the error of the absmax values, even with even steps",
    test=AtLeast(2, "one bit, what the idle half of a signed code is worth"),
    scope={"model": "none", "width": "", "data": "absmax of 3 samples of normal numbers, blocks of 64"},
)


def second_level(absmax, mean, table):
    """The absmax values after 8 bits: minus a mean, blocks of 256, the nearest value of a table, and back."""
    blocks = (absmax - mean).reshape(-1, 256)
    top = np.abs(blocks).max(axis=1, keepdims=True)
    middle = (table[1:] + table[:-1]) / np.float32(2)
    return (table[np.searchsorted(middle, blocks / top)] * top + mean).reshape(-1)


# %%
def without_mean(absmax, table):
    """The error of absmax values with their mean left in, over that with the mean subtracted."""
    return lost(absmax, second_level(absmax, 0, table)) / lost(absmax, second_level(absmax, absmax.mean(), table))


many = [nf4.quantize(x, double=False).absmax for x in samples]
tables = {"dynamic map": nf4.DYNAMIC_MAP, "even steps": np.linspace(-1, 1, 255, dtype=np.float32)}
for name, table in tables.items():
    off = np.mean([lost(a, second_level(a, a.mean(), table)) for a in many])
    print(f"{name}: error {off:.5f}; with the mean left in × {np.mean([without_mean(a, table) for a in many]):.2f}")
wide = [random.exponential(a.mean(), a.size).astype(np.float32) for a in many]  # chance: all positive too, but wide
ratios = [[without_mean(a, tables["even steps"]) for a in kind] for kind in (many, wide)]
mean_helps.measure(stats.interval(ratios[0]), chance=stats.interval(ratios[1]))

# %% [markdown] rests_on="04.mean_helps=holds"
# Even with even steps, the mean left in multiplies the error by {04.mean_helps.shown}. There the error goes as the
# range, so this is the largest absmax over the largest distance from the mean. (Chance is numbers as positive, with the
# same mean, but a long tail. They have an idle half too, and gain only a factor of 1.2.) On these values, of normal
# numbers, plain even steps have the *smaller* error in both cases.

# %% [markdown]
# What does double quantization save, and what does it cost the *weights*? Their indices stay, only the scales move a
# little. Predict by how much their error grows. (Unrelated errors add up like the sides of a right angle.)

# %%
single, double = nf4.quantize(bell, double=False), nf4.quantize(bell)
assert np.allclose(second_level(many[0], many[0].mean(), nf4.DYNAMIC_MAP), nf4.decoded_absmax(double))
saved = results.arithmetic(
    "saved",
    says="double quantization in blocks of 64 and 256 saves so many bits a weight",
    source="arXiv 2305.14314v1, section 3",
    read="full text",
    published="0.373 bits",
    test=Figures(0.373, 3),
)
saved.measure(single.bits_per_parameter - double.bits_per_parameter)
print(f"by arithmetic: {4 + 32 / 64:.4f} and {4 + 8 / 64 + 32 / (64 * 256):.4f} bits a weight")
before, after = (lost(bell, nf4.dequantize(q)) for q in (single, double))
predicted = math.hypot(before, lost(single.absmax, nf4.decoded_absmax(double)))
print(f"error of the weights: {before:.6f}, double quantized {after:.6f}, predicted {predicted:.6f}")

# %% [markdown]
# A short side at a right angle hardly makes the long one longer. What error does each block size buy *for its bits*?

# %%
stored = {}
for b in sizes:
    for doubled in (False, True):
        q = nf4.quantize(bell, b, doubled)
        stored[b, doubled] = q.bits_per_parameter, lost(bell, nf4.dequantize(q))
shown = [(16, True), (64, False), (32, True), (64, True), (256, False), (128, True)]
rows = [[b, "yes" if d else "no", f"{stored[b, d][0]:.3f}", f"{stored[b, d][1]:.4f}"] for b, d in shown]
print(stats.table(["block size", "double quantized", "bits a weight", "error"], rows))
results.record(stored=[[b, d, *found] for (b, d), found in stored.items()])

# %%
results.figure(
    figures.blocks(sizes, by_block, stored),
    "blocks",
    "Normal numbers. Left: k-means learns its levels anew for each block size. Right: numbers are block sizes.",
    alt="Left, four error curves rise with the block size: int4's steeply, the others slowly. Right, error against "
    "bits a weight: the solid line of double quantization lies to the left of the dashed one, so the same error "
    "takes fewer bits.",
)

# %% [markdown]
# On these normal numbers, up to 4.5 bits a weight, where both were measured, double quantization has the smaller error:
# blocks of 16, doubled, take hardly more bits than blocks of 64 alone, and lose less.
#
# ## And the model's loss?
#
# The last two claims are about models: Yoshida's, and that double quantization costs nothing. Yoshida's code was made
# for the smallest absolute error, which asks for levels that are medians of their bins; -1, 0 and 1 it keeps. We make
# it by Lloyd's algorithm, for each block size. The claim is about how the model does. Everything is measured in units
# of what NF4 itself costs, the rise of the loss.

# %%
fitted_code = results.claim(
    "fitted_code",
    says="a code of medians raises the loss less than NF4 does in large blocks, and about as much in small ones, "
    "relative to NF4's rise",
    source="arXiv 2306.06965v2, abstract",
    read="abstract",
    published="better in large blocks, similar in small ones",
    test={
        "blocks of 4096": Lower(0.04, "the absolute error is 0.09 lower there; about half of that"),
        "blocks of 64": Equal(0.04, "the line that says `better` in large blocks"),
    },
    scope={"task": "English"},
)
free = results.claim(
    "free",
    says="double quantization does not raise the loss further, relative to NF4's rise",
    source="arXiv 2305.14314v1, section 4",
    read="full text",
    published="no degradation",
    test=Equal(0.07, "half of what plain blocks of 256, of as many bits, should cost by the squared error"),
    scope={"task": "English"},
)

# %% [markdown]
# Which weights share a block is an accident: put the rows and the columns of a matrix in another order, quantize, and
# put them back. That is the same code with other rounding errors. (The given order, chapter 05's, is not among them.)
# We take the mean over twelve orders, the same ones for all codes.

# %%
windows = fixed_windows(task_ids("text", "held_out"), 2 * size.eval_windows, size.model.max_position_embeddings)[1::2]
orders = [{n: np.ix_(*map(random.permutation, w.shape)) for n, w in weights[1].items()} for _ in range(12)]


@torch.no_grad()
def rise(seed, round_one):
    """What the loss of base `seed` rises by if its linear layers go through `round_one`, mean over the orders."""
    losses, model = [], copy.deepcopy(bases[seed])
    for order in orders:
        for name, w in weights[seed].items():
            decoded = np.empty_like(w)
            decoded[order[name]] = round_one(np.ascontiguousarray(w[order[name]]))
            model.get_submodule(name).weight.copy_(torch.from_numpy(decoded))
        losses.append(evaluate(model, windows))
    return np.mean(losses) - evaluate(bases[seed], windows)


# %%
codes = {"double 64": lambda w: nf4.dequantize(nf4.quantize(w))}
medians = {b: lloyd(scale(fresh, b), centre=np.median, held=(0, 7, 15)) for b in (64, 4096)}  # held: -1, 0, 1
for b, levels in medians.items():
    gains = [np.abs(rounded(bell, c, b) - bell).mean() for c in (levels, listed)]
    squares = [lost(bell, rounded(bell, c, b)) for c in (levels, listed)]
    print(
        f"medians in blocks of {b} against NF4: absolute error {gains[0] / gains[1] - 1:+.3f}, "
        f"relative error {squares[0] / squares[1] - 1:+.3f}"
    )
wanted = [("NF4", 64), ("NF4", 256), ("NF4", 4096), ("int4", 64), ("int4", 4096), ("medians", 64), ("medians", 4096)]
for name, b in wanted:
    levels = medians[b] if name == "medians" else codebook[name]
    codes[f"{name} {b}"] = lambda w, levels=levels, b=b: rounded(w, levels, b)
with threads(1):
    start = [evaluate(bases[s], windows) for s in seeds]
    rises = {name: [rise(s, round_one) for s in seeds] for name, round_one in codes.items()}
known = reference_levels("text")
print(f"English: uniform {known['uniform']:.2f}, letters {known['letters']:.2f}, the bases {stats.shown(start, 3)}")
rows = [[name, stats.shown(values, 4), f"{np.mean(values) / np.mean(start):.2%}"] for name, values in rises.items()]
print(stats.table(["code and block size", "rise of the loss, nats", "of the loss"], rows))
results.record(start=start, rises=rises)


# %%
def relative(first, second):
    """(first - second) / second of two codes' rises, base by base."""
    return stats.interval([(a - b) / b for a, b in zip(rises[first], rises[second], strict=True)])


by_code = {k: {f"blocks of {b}": relative(f"{k} {b}", f"NF4 {b}") for b in (4096, 64)} for k in ("medians", "int4")}
fitted_code.measure(by_code["medians"], chance=by_code["int4"])
free.measure(relative("double 64", "NF4 64"), chance=relative("NF4 256", "NF4 64"))

# %% [markdown]
# Chance of the first is int4, a code made for no distribution. Chance of the second is the other way to 4.125 bits:
# plain blocks of 256.

# %% [markdown] rests_on="04.free=reproduced, 04.fitted_code=not settled"
# In blocks of 64 NF4 raises the loss of these models by 0.6 %, and double quantization adds nothing that can be seen:
# {04.free.shown} of NF4's rise. By the squared errors above it should add 0.0005, so our line of 0.07 was an easy one.
# (What plain blocks of 256 cost, −0.14 to 0.53, is not known well enough to say that it saved that.)
#
# Whether the fitted code helps is open. In the mean it leans the published way: lower in blocks of 4096, level in
# blocks of 64. But three bases are too few for effects this small. And its errors point two ways, as printed above:
# in blocks of 4096 its absolute error is smaller than NF4's, its relative error, which is of squares, larger.

# %% [markdown]
# ## Exercises
#
# **1. Unpack.** Write the way back from bytes to indices. `count` tells how many there are; it may be odd or even.


# %%
from lora_from_scratch.book.checks import ch04 as check


def my_unpack(packed, count):
    """(bytes,) of uint8 -> (count,) indices from 0 to 15, in the order of the weights."""
    return None  # your code here


print(check.check_unpack(my_unpack))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_unpack(packed, count):
#     return np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[:count]
# ```
#
# </details>
#
# **2. NF3.** Derive the eight levels of a 3-bit NormalFloat: four positive ones, three negative ones and zero, with
# the end 0.9677083. Use `quantile` and `np.linspace`; float64 will do.


# %%
def my_nf3():
    """Eight levels, rising, the largest 1."""
    return None  # your code here


print(check.check_nf3(my_nf3))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_nf3():
#     positive = [quantile(p) for p in np.linspace(0.9677083, 0.5, 5)[:-1]]
#     negative = [-quantile(p) for p in np.linspace(0.9677083, 0.5, 4)[:-1]]
#     levels = np.sort(np.array([*positive, 0.0, *negative]))
#     return levels / levels.max()
# ```
#
# </details>
#
# **3. The last block.** `my_quantize` takes whole blocks only, and real matrices need not divide into them. Write the
# absmax of each block, the last one being short if it must be. (A library had this wrong: bitsandbytes, pull request
# 1884.)


# %%
def my_absmax(weight, block_size):
    """An array of any shape -> the largest magnitude of each block, the last of what is left."""
    return None  # your code here


print(check.check_absmax(my_absmax))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_absmax(weight, block_size):
#     flat = np.abs(weight.reshape(-1))
#     return np.array([flat[i : i + block_size].max() for i in range(0, len(flat), block_size)])
# ```
#
# </details>
#
# **4. A scale for each row.** Before block-wise quantization it was usual to have one scale for each output row. How
# many bits a weight does NF4 take with a float32 for each row, and what is its relative error then? `lost` and
# `rounded` will help: `rounded(weight, listed, block_size)` takes any block size.


# %%
def my_rows(weight):
    """A matrix (rows, width) -> (bits a weight, relative error) of NF4 with one float32 scale for each row."""
    return None  # your code here


print(check.check_rows(my_rows))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_rows(weight):
#     width = weight.shape[1]
#     return 4 + 32 / width, lost(weight, rounded(weight, listed, width))
# ```
#
# </details>
#
# ## The same with bitsandbytes and PEFT
#
# The rounding itself is in bitsandbytes. These lines run on a CPU (versions 0.50.2 and 0.21.2 of bitsandbytes and
# PEFT); `make parity` checks that our packed indices and absmax values are theirs, bit for bit.
#
# ```python
# import torch
# from bitsandbytes.functional import dequantize_4bit, quantize_4bit
#
# weight = torch.randn(128, 64)
# packed, state = quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)  # double
# print(packed.shape, state.absmax.dtype, state.offset)  # (4096, 1) bytes, uint8 scales, their mean
# print((dequantize_4bit(packed, state) - weight).norm() / weight.norm())  # about 0.092
# ```
#
# PEFT rounds nothing of its own here. It puts adapters on a model that `transformers` has loaded in 4 bits:
#
# ```python
# import torch
# from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
# from transformers import AutoModelForCausalLM, BitsAndBytesConfig
#
# config = BitsAndBytesConfig(
#     load_in_4bit=True,
#     bnb_4bit_quant_type="nf4",  # the default is "fp4"
#     bnb_4bit_use_double_quant=True,  # the default is False
#     bnb_4bit_compute_dtype=torch.bfloat16,  # what the weights are decoded to; the default is float32
# )
# model = AutoModelForCausalLM.from_pretrained("...", quantization_config=config)
# model = get_peft_model(prepare_model_for_kbit_training(model), LoraConfig(task_type="CAUSAL_LM"))
# ```
#
# How an adapter is trained over such weights is chapter 05.

# %%
print("written:", results.save().name)
