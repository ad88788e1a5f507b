# %% [markdown]
# # 04 · NF4
#
# **The question.** A weight that takes 16 bits can be kept in 4: then it has one of only 16 values. How can a model
# live with that, and which 16 values should they be?
#
# **What you will be able to do.** Quantize a weight to 4 bits and back by hand, and say how large the error will be.
# Derive the 16 levels of NF4 to the last bit. Tell what is meant by "information-theoretically optimal", and test
# it. Choose a block size. Explain what double quantization saves, and what a single outlier costs.
#
# **What you need.** PyTorch and NumPy, and what a quantile is: the value below which a given share of a distribution
# lies. No chapter before this one is needed.
#
# **The published claims.** QLoRA introduced "4-bit NormalFloat (NF4), a new data type that is information
# theoretically optimal for normally distributed weights" (arXiv 2305.14314, abstract). Its section 3 says what is
# meant: each of the 16 bins is to get an equal number of values. Its table 2 gives mean perplexities, lower being
# better, of models in 4-bit integers (34.34), in two kinds of 4-bit floats (E2M1: 31.07, E3M0: 29.48), and in NF4
# with double quantization (27.41). Davis Yoshida answered with a note called "NF4 Isn't Information Theoretically
# Optimal (and that's Good)" (arXiv 2306.06965).
#
# **The model of this book** is a small Llama that predicts the next character of English text. The package's lab
# pretrained it on the documentation that every Python carries. Its *loss*, in nats a character, is minus the natural
# logarithm of the probability that it gives to the character that comes next, averaged over a text. The paper's
# *perplexity* is exp(loss), there with tokens in place of characters. We quantize its linear layers, all but the
# *output head*: the last matrix, which turns the model's state into a score for each character.

# %%
import copy
import math
from statistics import NormalDist

import numpy as np
import torch
import torch.nn.functional as F

from lora_from_scratch import nf4
from lora_from_scratch.book import plots, stats
from lora_from_scratch.book.results import Results
from lora_from_scratch.lab import train
from lora_from_scratch.lab.codes import CODES, rounded
from lora_from_scratch.lab.finetune import measure
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.tasks import fixed_windows, task_ids
from lora_from_scratch.targets import find_targets

size = preset().on_one_base()
results = Results("04_nf4", size)
base = pretrained(size)
weights = {name: m.weight.detach().cpu().numpy().copy() for name, m in find_targets(base, "all-linear").items()}
random = np.random.default_rng(0)
bell, fresh = random.standard_normal((2, 2**20)).astype(np.float32)  # two samples of normal numbers
print(f"preset {size.name}: {len(weights)} linear layers, {sum(w.size for w in weights.values()):,} weights")

# %% [markdown]
# ## What would count as success
#
# The chapter tests six claims. Each is written down in the section that measures it, with the criterion that decides,
# and *before* the measurement. The last section puts the six verdicts together. Four verdicts are possible:
#
# - **reproduced**: the criterion is met.
# - **partly**: a weaker condition is met, which the criterion names.
# - **does not add up**: arithmetic, or a definition, contradicts the claim. No model is needed to see that.
# - **not at this scale**: our model does not show it, whatever the reason. The claim may still hold for larger ones.
#
# ## Four bits, by hand
#
# A *code* is a set of levels, and each weight is replaced by one of them. What is stored is the number of that level,
# its *index*. (The word "code" is often used for the index as well, also in the package. In this chapter it is not.)
#
# Eight weights. The simplest code takes the integers from -7 to 7, and here the integer itself can be the index. We
# need a *scale* that maps the weights onto the integers. *Absmax* takes the largest magnitude and maps it to 7. So
# nothing is cut off, no entry can be off by more than half a step, and the scale is the one number that must be kept
# beside the indices.
#
# Predict: which of the eight comes back exactly? Which ones come back as zero?

# %%
w = np.array([0.12, -0.53, 0.04, 0.31, -0.08, 0.90, -0.22, 0.01], np.float32)
absmax = np.abs(w).max()
indices = np.round(w / absmax * 7).astype(int)  # the nearest integer
back = indices / 7 * absmax
print("weights:", w)
print("indices:", indices)
print("back:   ", np.round(back, 3))
print("exactly back:", w[back == w], " back as zero:", w[indices == 0])


def lost(weight, decoded):
    """The relative error: |decoded - weight| / |weight|, with the Euclidean norm."""
    return float(np.linalg.norm(decoded - weight) / np.linalg.norm(weight))


print(f"relative error: {lost(w, back):.3f}")
print(f"the largest error of an entry is {np.abs(back - w).max():.3f}, half a step is {absmax / 14:.3f}")

# %% [markdown]
# Only the weight that set the scale is sure to come back exactly. And what is below half a step becomes zero.
#
# With evenly spaced levels every weight has the same largest error, however common or rare its size is. Trained
# weights look roughly like a bell curve: small ones are common, large ones rare. We take a million normal numbers in
# blocks of 64, each block with its own absmax, and count how often each integer is used.
#
# Predict: which share of the numbers gets one of the five integers -2 … 2? Which share one of the six with a magnitude
# of 5 or more?


# %%
def scale(weight, block_size):
    """Blocks (n, block_size) of the weights, each divided by its absmax."""
    flat = weight.reshape(-1)
    blocks = flat[: len(flat) // block_size * block_size].reshape(-1, block_size)  # whole blocks only
    return blocks / np.abs(blocks).max(axis=1, keepdims=True)


used = np.bincount(np.round(7 * scale(bell, 64)).astype(int).ravel() + 7) / bell.size
print("share of each integer, in %:", dict(zip(range(-7, 8), np.round(100 * used, 1).tolist(), strict=True)))
outer = used[:3].sum() + used[-3:].sum()
print(f"-2 … 2 hold {used[5:10].sum():.0%} of the numbers, the magnitudes 5 to 7 hold {outer:.0%}")

# %% [markdown]
# Many levels stand where few weights are. A better code has its levels close together where the weights are dense.
#
# ## The sixteen levels
#
# QLoRA's idea is to give each level the same share of a normal distribution. Cut the bell curve into 16 slices of
# equal probability and let each level stand in the middle of its slice, in probability: at 1/32, 3/32, …, 31/32. In
# Python's standard library the quantile function is `NormalDist().inv_cdf`. As absmax will scale everything to [-1,
# 1], we divide by the largest.

# %%
quantile = NormalDist().inv_cdf
even_16 = np.array([quantile((2 * i + 1) / 32) for i in range(16)])
even_15 = np.array([quantile((2 * i + 1) / 30) for i in range(15)])
print("16 slices:", np.round(even_16 / even_16.max(), 3))
print("15 slices:", np.round(even_15 / even_15.max(), 3))

# %% [markdown]
# With 16 slices there is no zero. But an exact zero matters: padding and pruned weights must stay zero. (A block of
# nothing but zeros would come back as it was under any code, as each level is multiplied by an absmax of 0. That
# holds until absmax is itself rounded, in double quantization.) With 15 slices there is a zero, but then one of the 16
# indices is idle.
#
# NF4's answer is asymmetric. One level is zero. That leaves 15, so one side gets eight and the other seven. Each half
# is evenly spaced in probability, from an outermost point to 1/2. The 1/2 is left out, because it *is* the zero.
#
# Where is the outermost point? It cannot be at probability 1, where the quantile is infinite. Above, the last of 16
# levels stood at 1 - 1/32, and the last of 15 at 1 - 1/30. The released software has the number 0.9677083, and users
# keep asking where it comes from (bitsandbytes, issue 968). We compare:

# %%
print(f"1 - 1/32 = {1 - 1 / 32:.7f}\n1 - 1/30 = {1 - 1 / 30:.7f}")
fraction = ((1 - 1 / 32) + (1 - 1 / 30)) / 2
agrees = "the same as" if f"{fraction:.7f}" == "0.9677083" else "not the same as"
print(f"half way between them: {fraction:.10f}, to seven digits {agrees} 0.9677083")


def normal_levels(end, linspace):
    """Eight levels above zero, seven below, and zero; divided by the largest."""
    positive = [quantile(float(p)) for p in linspace(end, 0.5, 9)[:-1]]
    negative = [-quantile(float(p)) for p in linspace(end, 0.5, 8)[:-1]]
    levels = np.sort(np.array([*positive, 0.0, *negative], np.float32))
    return levels / levels.max()


print(normal_levels(0.9677083, torch.linspace))

# %% [markdown]
# Where the two agree, that is arithmetic that fits, and no proof: the authors do not say how they came to the number.
#
# The paper has a formula of its own, equation 4, with the quantile function $Q$:
#
# $$q_i = \tfrac12 \left( Q\left(\tfrac{i}{17}\right) + Q\left(\tfrac{i+1}{17}\right) \right)$$
#
# As $Q(0)$ and $Q(1)$ are infinite, so are the first and the last $q_i$; we keep the others. (The text below the
# equation then asks for two unequal halves that share a zero, and leaves open how the equation applies to them.)
# The first claim, with its criterion:

# %%
levels_follow = results.claim(
    "levels",
    says="the 16 levels follow from the quantiles of a normal distribution",
    source="2305.14314, equation 4 and appendix E",
    published="equation 4 gives the levels, appendix E lists them",
    criterion="equation 4, divided by its largest, within 0.01 of every level of the list: reproduced; "
    "not so, but the released software's recipe gives the list to the last bit: partly",
    judge=lambda v: "reproduced" if v[0] <= 0.01 else "partly" if v[1] == 0 else "does not add up",
)
# %% [markdown]
# Below is the list of appendix E, as every NF4 checkpoint uses it. Five candidates are held against it. Three follow
# the recipe above and differ in details: the end as it was typed, with seven digits, or as the full fraction; and
# the steps as `torch.linspace` computes them, in float32, so that each probability is rounded to some seven digits
# before it goes through the quantile, or as `np.linspace` does, in float64. The fourth is the package, the fifth is
# equation 4. Predict: which of them give the list exactly?

# %%
listed = np.array(
    """-1 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334
    -0.09105003625154495 0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224
    0.44070982933044434 0.5626170039176941 0.7229568362236023 1""".split(),
    np.float32,
)
finite = np.array([(quantile(i / 17) + quantile((i + 1) / 17)) / 2 for i in range(1, 16)])
ways = {
    "0.9677083, steps in float32": normal_levels(0.9677083, torch.linspace),
    "0.9677083, steps in float64": normal_levels(0.9677083, np.linspace),
    "the fraction, steps in float32": normal_levels(fraction, torch.linspace),
}
for name, way in ways.items():
    print(f"{name:32}{(way != listed).sum():3} levels of 16 differ, by at most {np.abs(way - listed).max():.1e}")
in_package = nf4.nf4_levels()
print(f"{'the package, nf4.nf4_levels()':32}{(in_package != listed).sum():3} levels of 16 differ")
equation = finite / finite.max()
far, missed = max((float(np.abs(equation - level).min()), float(level)) for level in listed)
print(f"equation 4 gives {len(equation)} finite levels; {missed:.3f} of the list is {far:.3f} from the nearest of them")
same = int((ways["0.9677083, steps in float32"] != listed).sum())
levels_follow.measure([far, same], f"equation 4 misses a level by {far:.3f}; the software's recipe misses {same} of 16")

# %% [markdown]
# A constant that was typed with seven digits is another number than the fraction, and so its quantiles are others in
# the last digits. Last bits look like a trifle. They are not one for a file format: a decoder whose levels differ in
# a last bit gives other weights than those that somebody trained an adapter for. (An *adapter* is the small trained
# matrix product that LoRA adds to a frozen weight.)
#
# ## Quantize, pack, decode
#
# Now all of it in raw lines. Blocks of 64 weights; the absmax of each; multiply by its reciprocal; find the nearest
# level; put two indices into one byte. The nearest level is found by counting how many *midpoints* between levels lie
# below the value.


# %%
def my_quantize(weight, block_size=64):
    """Weights of any shape -> two indices a byte, and the absmax of each block."""
    flat = weight.reshape(-1)
    blocks = np.pad(flat, (0, -len(flat) % block_size)).reshape(-1, block_size)  # (n, block_size)
    absmax = np.abs(blocks).max(axis=1)  # (n,)
    scaled = blocks * (np.float32(1) / absmax)[:, None]
    midpoints = (listed[1:] + listed[:-1]) / np.float32(2)  # (15,)
    indices = np.searchsorted(midpoints, scaled).astype(np.uint8).reshape(-1, 2)  # on a midpoint: the lower one
    packed = indices[:, 0] << 4 | indices[:, 1]  # the first index in the high four bits
    return packed[: -(-len(flat) // 2)], absmax  # -(-n // 2): half of n, rounded up


def my_dequantize(packed, absmax, shape, block_size=64, swapped=False):
    """The weights that the indices stand for: level · absmax. `swapped` reads the two of a byte in wrong order."""
    pair = (packed & 15, packed >> 4) if swapped else (packed >> 4, packed & 15)
    indices = np.stack(pair, axis=1).reshape(-1)[: math.prod(shape)]
    return (listed[indices] * np.repeat(absmax, block_size)[: len(indices)]).reshape(shape)


# %% [markdown]
# We try it on a matrix with an odd number of weights, so that there is a last block of fewer than 64 and a last byte
# of one index. The short block needs an absmax like the others, and the last byte has eight bits all the same. So the
# bits a weight must be a little more than 4 + 32 / 64 = 4.5. Then the package, with double quantization (which comes
# later) switched off.

# %%
w = random.standard_normal((37, 61)).astype(np.float32)
packed, absmax = my_quantize(w)
back = my_dequantize(packed, absmax, w.shape)
q = nf4.quantize(w, double=False)
assert np.array_equal(packed, q.packed) and np.array_equal(absmax, q.absmax)
assert np.array_equal(back, nf4.dequantize(q))
print(f"{w.size} weights: {packed.nbytes} bytes of indices and {absmax.nbytes} of absmax, float32 took {w.nbytes}")
print(f"bits a weight: {q.bits_per_parameter:.3f}, relative error: {lost(w, back):.4f}")
print("raw lines and package agree in every bit")

# %% [markdown]
# `quantize` in the package works through the array in chunks that fit the cache, refuses NaN and infinity, and takes
# blocks of zeros, where the reciprocal above would be infinite. The idea is the same.
#
# **Break it on purpose.** Three slips that are easily made. Predict which one is the worst, and which one you would
# never notice:
#
# 1. read the two indices of a byte in the wrong order;
# 2. take the largest *value* of a block for the largest *magnitude*;
# 3. divide by absmax where the original multiplies by its reciprocal.

# %%
blocks = bell.reshape(-1, 64)
largest = blocks.max(axis=1, keepdims=True)  # wrong: without the magnitude
midpoints = (listed[1:] + listed[:-1]) / np.float32(2)
slipped = listed[np.searchsorted(midpoints, blocks / largest)] * largest
packed, absmax = my_quantize(bell)
correct = my_dequantize(packed, absmax, bell.shape)
print(f"correct:                        {lost(bell, correct):.4f}")
print(f"indices of a byte swapped:      {lost(bell, my_dequantize(packed, absmax, bell.shape, swapped=True)):.4f}")
print(f"value in place of magnitude:    {lost(blocks, slipped):.4f}")
print(f"the root of 2:                  {math.sqrt(2):.4f}")

# %% [markdown]
# With swapped indices each weight gets the value of its neighbour. The two have nothing to do with one another. The
# difference of two unrelated numbers of the same size is about √2 times as large as either, so the relative error
# must be about √2. Anyone sees that something is wrong.
#
# The second slip is sly. It changes only blocks whose largest magnitude is negative; that should be every second one,
# as the sign of the largest is a coin toss. And there it only *clips*: what is below minus the largest positive value
# is cut off, all else is rounded on a slightly finer grid. How many blocks and weights are hit?

# %%
hit = largest[:, 0] < np.abs(blocks).max(axis=1)
clipped = (blocks[hit] < -largest[hit]).mean()
correct, healthy = correct.reshape(-1, 64), lost(blocks[~hit], slipped[~hit])
print(f"{hit.mean():.1%} of the blocks are hit, and in these {clipped:.1%} of the weights are clipped")
there, meant = lost(blocks[hit], slipped[hit]), lost(blocks[hit], correct[hit])
print(f"error there: {there:.4f}, where the correct program has {meant:.4f}")
print(f"error in the others: {healthy:.4f}, where the correct program has {lost(blocks[~hit], correct[~hit]):.4f}")
growth = lost(blocks, slipped) / lost(blocks, correct) - 1
print(f"over all blocks the error is {growth:+.0%}: {'it looks healthy' if growth < 0.5 else 'that is seen'}")

# %% [markdown]
# A slip that does harm and looks healthy is the one that you would really never notice, unless a test compares bits.
#
# The third slip changes an index only where a scaled weight lies on a midpoint, or within a rounding error of one. So
# we count twice: among the million normal numbers, and among weights that were made to stand on a midpoint.

# %%
constants = np.abs(blocks).max(axis=1, keepdims=True)
on_midpoints = random.choice(midpoints, blocks.shape) * constants
for name, values in (("normal numbers", blocks), ("weights on midpoints", on_midpoints)):
    divided = np.searchsorted(midpoints, values / constants)
    multiplied = np.searchsorted(midpoints, values * (np.float32(1) / constants))
    print(f"dividing changes {(divided != multiplied).sum():,} of the {divided.size:,} indices of {name}")

# %% [markdown]
# On a midpoint both levels are equally far, so the error does not change. But such an index makes two files differ
# that should be the same, and then nobody can tell a harmless difference from a bug.
#
# ## How large is the error?
#
# Now NF4 beside other codes. All work the same way, in blocks with absmax; they differ in their levels:
#
# - **int4**: the integers -7 … 7. The sixteenth, -8, is left out.
# - **FP4 (E2M1)**: a 4-bit float with a sign, two bits of exponent e and one of mantissa m. It stands for
#   (1 + m/2) · 2^(e-1), or for m/2 where e is 0. So e = 0, m = 1 is 0.5, and e = 3, m = 1 is 1.5 · 4 = 6. All of
#   them: 0, 0.5, 1, 1.5, 2, 3, 4, 6, with both signs.
# - **FP4 (E3M0)**: a sign, three bits of exponent, no mantissa. That gives zero and seven powers of two, with both
#   signs.
# - **NF3** and **NF2**: NF4's construction with 3 and 2 bits.
# - **k-means**: levels learnt from the data.
#
# Both floats have two indices for zero, +0 and -0. So they have 15 levels, as int4 has. (The paper does not print the
# levels of its floats; these are our reading of the names.)
#
# The last one makes no assumption about the distribution. Lloyd's algorithm alternates two steps: give each value to
# its nearest level, then move each level to the mean of its values. Neither step can raise the squared error.
# Note that this is *another aim* than NF4's. NF4 wants bins that are used equally, k-means wants a small error.


# %%
def lloyd(values, centre=np.mean, rounds=60):
    """16 levels for 1-D data. The mean as `centre` lowers the squared error, the median the absolute one."""
    values = values.reshape(-1)
    values = np.sort(values[:: max(1, len(values) // 2**18)])  # a quarter of a million values are enough
    levels = listed.astype(np.float64)
    for _ in range(rounds):
        edges = np.searchsorted(values, (levels[1:] + levels[:-1]) / 2)  # where the nearest level changes
        levels = np.array([centre(part) for part in np.split(values, edges)], np.float64)
    return levels.astype(np.float32)


own = np.concatenate([scale(w, 64).reshape(-1) for w in weights.values()])  # the model's weights, in blocks of 64
k_means = {"normal": lloyd(scale(fresh, 64)), "model": lloyd(own)}
powers = [2.0**k for k in range(-6, 1)]
codebook = {
    "NF4": CODES["NF4"],
    "FP4 (E2M1)": CODES["FP4"],
    "FP4 (E3M0)": np.array([-p for p in reversed(powers)] + [0.0] + powers, np.float32),
    "int4": CODES["int4"],
    "k-means": k_means["model"],
}
print("k-means on normal data:  ", np.round(k_means["normal"], 3))
print("k-means on these weights:", np.round(k_means["model"], 3))

# %% [markdown]
# The claim about the error, with its criterion:

# %%
lower_error = results.claim(
    "lower_error",
    says="NF4 has a lower error than FP4 (E2M1) and 4-bit integers",
    source="2305.14314, §3 and §4 (the measure is ours)",
    published="NF4 is better",
    criterion="lower relative error than both, on normal data and in every linear layer of the model: reproduced; "
    "not in every layer, but on average over them: partly",
    judge=lambda v: "reproduced" if v["every layer"] else "partly" if v["on average"] else False,
)
# %% [markdown]
# `rounded(weight, levels, block_size)` of the package's lab gives each weight what a code leaves of it. k-means gets
# levels that were learnt on *other* normal numbers for the first column, and on the model's own weights for the
# rest. Predict the order. Predict also: by what factor is the error of NF3 larger than that of NF4? And NF2's?


# %%
def lost_in_all(levels, block_size=64):
    """The relative error over all of the model's linear layers together."""
    everything = np.concatenate([w.reshape(-1) for w in weights.values()])
    return lost(everything, np.concatenate([rounded(w, levels, block_size).reshape(-1) for w in weights.values()]))


errors, rows = {}, []
for name, levels in (codebook | {"NF3": CODES["NF3"], "NF2": CODES["NF2"]}).items():
    on_bell = lost(bell, rounded(bell, k_means["normal"] if name == "k-means" else levels))
    layers = [lost(w, rounded(w, levels)) for w in weights.values()]
    errors[name] = {"normal": on_bell, "model": lost_in_all(levels), "layers": layers}
    rows.append([name, len(levels), f"{on_bell:.4f}", f"{errors[name]['model']:.4f}", f"{max(layers):.4f}"])
print(stats.table(["code", "levels", "normal data", "the model", "its worst layer"], rows))
results.record(errors=errors)
rivals = [errors["FP4 (E2M1)"], errors["int4"]]
on_bell = all(errors["NF4"]["normal"] < e["normal"] for e in rivals)
per_layer = all(a < b for e in rivals for a, b in zip(errors["NF4"]["layers"], e["layers"], strict=True))
in_all = all(errors["NF4"]["model"] < e["model"] for e in rivals)
words = ", ".join(f"{n} {errors[n]['normal']:.4f} and {errors[n]['model']:.4f}" for n in ("NF4", "FP4 (E2M1)", "int4"))
lower_error.measure(
    {"every layer": on_bell and per_layer, "on average": on_bell and in_all}, f"{words} (normal, model)"
)

# %% [markdown]
# The predictions, beside what came out:

# %%
print("on the model, least error first:", ", ".join(sorted(errors, key=lambda name: errors[name]["model"])))
first, both = (errors[name]["model"] / errors["NF4"]["model"] for name in ("NF3", "NF2"))
print(f"NF3 / NF4: {first:.2f}; NF2 / NF4: {both:.2f}, so the second lost bit costs a factor of {both / first:.2f}")
negative = own[own < 0]
print(f"NF2's levels: {np.round(CODES['NF2'], 3)}")
print(f"of the negative weights {(negative > -0.5).mean():.0%} lie between -0.5 and 0")

# %% [markdown]
# With one bit fewer there are half as many levels, so the steps between them are about twice as wide, and so is the
# error. That is the rule of thumb: about a doubling for each lost bit. It cannot hold where few levels are left. NF2's
# only negative level is -1, so all weights between -1/2 and 0 become zero. The last line says how many these are.
#
# The picture behind the table: how dense the scaled weights are, and where each code puts its levels. The small
# peaks at the two ends are no accident. In every block one weight *is* the largest, and stands at exactly 1 or -1.

# %%
fig, (ax,) = plots.canvas(height=4.4)
ax.hist(own, bins=101, range=(-1, 1), density=True, color=plots.SKY, alpha=0.6)
top = ax.get_ylim()[1]
colours = (plots.BLUE, plots.ORANGE, plots.PURPLE, plots.RED, plots.GREEN)
for row, ((name, levels), colour) in enumerate(zip(codebook.items(), colours, strict=True)):
    height = -top * (0.12 + 0.14 * row)
    ax.plot(levels, np.full(len(levels), height), "|", color=colour, markersize=13, markeredgewidth=2)
    ax.annotate(name, (-0.01, height), xycoords=("axes fraction", "data"), color=colour, ha="right", va="center")
ax.set(xlim=(-1.05, 1.05), ylim=(-top * 0.8, top), xlabel="weight / absmax of its block")
ax.set_yticks([])
ax.spines["left"].set_visible(False)
ax.set_title("The model's scaled weights, and the levels that five codes have for them")
results.figure(fig, "levels", "Blue: density of the linear layers' weights, in blocks of 64. Ticks: levels.")

# %% [markdown]
# ## Is it optimal?
#
# The levels were made for a normal distribution. But what they meet is no longer normal: each block was divided by
# its own largest magnitude. That depends on the block. In a small block the largest weight is not very large, and so
# the others stand further out; in a large block it is an extreme of the bell curve, and nearly all others are small.
# This was Yoshida's point. So we ask how often each bin is used, at several block sizes.
#
# First we hold the levels to their promise where it can be kept: for normal numbers all divided by *one* constant,
# the quantile of 0.9677083 which the levels themselves were divided by. Then in blocks.
#
# The measure for all 16 bins together is the *entropy* of their use. It is at most 4 bits, and it is 4 bits only if
# all bins are used equally. The claim, with its criterion:

# %%
equal_use = results.claim(
    "equal_use",
    says="NF4 is information-theoretically optimal for normal weights: its bins are used equally",
    source="2305.14314, §3; denied by 2306.06965",
    published="each bin gets an equal number of values",
    criterion="normal data in blocks of 64: the fullest bin holds at most 1.5 times as much as the emptiest: "
    "reproduced; not so, but the entropy is at least 99 % of 4 bits: partly",
    judge=lambda v: "reproduced" if v[1] <= 1.5 * v[0] else "partly" if v[2] >= 0.99 * 4 else "does not add up",
)

# %% [markdown]
# Predict: in blocks of 64, which bins are used least? Which most? Does it get better or worse in larger blocks?


# %%
def use(weight, block_size):
    """The share of the values that gets each of NF4's 16 indices."""
    return np.bincount(np.searchsorted(midpoints, scale(weight, block_size)).reshape(-1), minlength=16) / weight.size


def entropy(shares):
    """In bits; 4 if all 16 shares are equal."""
    return float(-sum(p * math.log2(p) for p in shares.tolist() if p > 0))


sizes = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
shares = {b: use(bell, b) for b in sizes}
promise = np.bincount(np.searchsorted(midpoints, bell / quantile(0.9677083)), minlength=16) / bell.size
own_shares = np.bincount(np.searchsorted(midpoints, own), minlength=16) / own.size
all_shares = {"no blocks, one constant": promise, **shares, "64, the model's weights": own_shares}
rows = [[b, f"{p.min():.2%}", f"{p.max():.2%}", f"{entropy(p):.3f}"] for b, p in all_shares.items()]
print(stats.table(["block size", "emptiest bin", "fullest bin", "entropy, bits"], rows))
results.record(shares={b: p.tolist() for b, p in all_shares.items()})
at_64 = shares[64]
use_64 = [at_64.min().item(), at_64.max().item(), entropy(at_64)]
words = f"blocks of 64: bins hold {use_64[0]:.1%} to {use_64[1]:.1%}, entropy {use_64[2]:.3f} bits of 4; "
words += f"no blocks: {promise.min():.1%} to {promise.max():.1%}, {entropy(promise):.3f} bits"
equal_use.measure(use_64, words)

# %% [markdown]
# Is it the levels that miss the promise, or the blocks? We hold the first row, without blocks, to the same criterion,
# and then each block size.

# %%
verdicts = {b: equal_use.judge([p.min(), p.max(), entropy(p)]) for b, p in all_shares.items()}
whole, kept_by = verdicts["no blocks, one constant"], [b for b in sizes if verdicts[b] == "reproduced"]
for name, p in (("no blocks, one constant", promise), ("blocks of 64", at_64)):
    verdict = equal_use.judge([p.min(), p.max(), entropy(p)])
    print(f"{name}: fullest / emptiest {p.max() / p.min():.2f}, entropy {entropy(p):.3f} bits: {verdict}")
print(f"block sizes that meet the criterion: {kept_by if kept_by else 'none'} of {sizes}")
if whole == "reproduced" and equal_use.verdict != "reproduced":
    print("so the levels nearly keep their promise: what breaks it is that each block is divided by its own absmax")
elif whole == equal_use.verdict:
    print("so the blocks do not decide: the verdict is the same without them")
else:
    print("so the blocks change the verdict, but they are not all of it")

# %% [markdown]
# The verdict of this chapter is on NF4 as it is used, and it is used in blocks of 64.
#
# Why does even the first row not have 6.25 % in every bin? For two reasons. A value goes to its *nearest* level, so
# the bins end half way between two levels. That is not where slices of equal probability end. And the two sides
# differ: eight levels share one half of the bell, seven the other, so their bins hold different shares.
#
# In blocks, two things decide how full a bin is: how wide it is, and how dense the values are there.

# %%
step = [(0.9677083 - 0.5) / n for n in (8, 7)]
print(f"from level to level: {step[0]:.2%} of the bell on the positive side, {step[1]:.2%} on the negative one")
widths = np.diff(np.concatenate([[-1], midpoints, [1]]))
fullest, emptiest = int(at_64.argmax()), np.sort(at_64.argsort()[:2]).tolist()
dense = at_64 / widths
rows = [[c, f"{listed[c]:+.3f}", f"{widths[c]:.3f}", f"{dense[c]:.2f}", f"{at_64[c]:.2%}"] for c in range(16)]
print(stats.table(["index", "level", "width of its bin", "density", "share in blocks of 64"], rows))
print(f"in blocks of 64 bin {fullest} is the fullest, bins {emptiest[0]} and {emptiest[1]} are the emptiest")
change = entropy(shares[sizes[-1]]) - entropy(shares[sizes[0]])
less = "less" if change < 0 else "more"
print(f"from blocks of {sizes[0]} to {sizes[-1]} the entropy changes by {change:+.3f} bits: use gets {less} equal")

# %% [markdown]
# Away from zero the bins get wider and the values rarer. The bin of zero lies at the densest place, but it reaches
# over to the positive side, where levels are closer together, and so it is narrow. Its neighbours on the negative side
# are wider.
#
# The bins at the two ends stop at -1 and 1, as there is no level beyond them. Is that why so few values are in them,
# or are they wide enough and the values rare? And how many of their values are the absmax of a block, which always
# stands at an end?

# %%
print(f"widths of the bins at the ends: {widths[0]:.3f} and {widths[15]:.3f}, of zero's bin: {widths[7]:.3f}")
print(f"densities there: {dense[0]:.2f} and {dense[15]:.2f}, at zero: {dense[7]:.2f}")
wider, rarer = min(widths[0], widths[15]) > widths[7], max(dense[0], dense[15]) < dense[7]
if wider and rarer:
    print("so the ends are wider than zero's bin, and what makes them emptier is that few values are there")
else:
    print(f"so at the ends the bins are {'wider' if wider else 'not wider'}, the values {'' if rarer else 'not '}rarer")
print(f"both ends hold {at_64[0] + at_64[15]:.2%} of the values; {1 / 64:.2%}, one a block, are the absmax itself")

# %% [markdown]
# Left, the shares themselves at three block sizes; right, the entropy at all of them.

# %%
fig, (left, right) = plots.canvas(2, width=9.5, height=3.8)
for block_size, colour in ((16, plots.SKY), (64, plots.BLUE), (1024, plots.RED)):
    percent = 100 * shares[block_size]
    left.plot(range(16), percent, color=colour, marker="o", markersize=4, label=f"blocks of {block_size}")
left.axhline(100 / 16, color=plots.GREY, linestyle="--", linewidth=1.2)
left.annotate("equal use", (15, 100 / 16), xytext=(0, 4), textcoords="offset points", color=plots.GREY, ha="right")
left.set(xlabel="index, and its level", ylabel="share of the values, %", ylim=(0, None))
left.set_xticks([0, 7, 15], ["0 (-1)", "7 (0)", "15 (1)"])
left.set_title("How often each index is used")
left.legend(loc="lower center", fontsize=9)
right.plot(sizes, [entropy(p) for p in shares.values()], color=plots.BLUE, marker="o", markersize=4)
ours = entropy(own_shares)
right.plot([64, 96], [ours, ours], "-D", color=plots.ORANGE, markersize=6, linewidth=1, markevery=[1])
right.annotate("this model's weights", (96, ours), xytext=(8, 1), textcoords="offset points",
               color=plots.ORANGE, fontsize=9)  # fmt: skip
plots.reference(right, 4, "equal use", plots.GREY)
right.set(xscale="log", xticks=sizes[::2], xticklabels=sizes[::2], ylim=(None, 4.04))
right.set(xlabel="block size", ylabel="entropy of the use, bits")
right.minorticks_off()
right.set_title("What the 4 bits carry")
results.figure(fig, "bins", "Normal data. The diamond is for blocks of 64; a short line leads to it from there.")

# %% [markdown]
# "Optimal" always means *for some aim*. Equal use is the aim of whoever wants 4 bits to carry as much information as
# possible. It is not the aim of whoever wants the weights back. The table of errors above has a code, k-means, that
# was made for this second aim. Let us see what it does with the bins:

# %%
between = (k_means["normal"][1:] + k_means["normal"][:-1]) / 2
k_shares = np.bincount(np.searchsorted(between, scale(bell, 64)).reshape(-1), minlength=16) / bell.size
print("in %, NF4:    ", np.round(100 * at_64, 1).tolist())
print("in %, k-means:", np.round(100 * k_shares, 1).tolist())
less_even = entropy(k_shares) < use_64[2]
less_lost = errors["k-means"]["normal"] < errors["NF4"]["normal"]
print(f"k-means uses its bins {'less' if less_even else 'no less'} evenly than NF4 ({entropy(k_shares):.3f} bits), "
      f"and its error is {'smaller' if less_lost else 'not smaller'}")  # fmt: skip

# %% [markdown]
# A code made for one aim is in general not the best one for the other. The second half of Yoshida's title, "and
# that's Good", is about this.
#
# ## Block size
#
# Small blocks follow the data more closely, but each needs a float32 of its own: `32 / block_size` bits a weight. We
# vary the block size from 16 to 4096, and learn the k-means levels anew for each. The absolute error, which
# Yoshida's code was made to lower, is measured with levels from Lloyd's algorithm with medians.
#
# The claim about fitted codes, with its criterion:

# %%
fitted_wins = results.claim(
    "fitted_code",
    says="a code made for the smallest absolute error beats NF4 in large blocks, and is similar in small ones",
    source="2306.06965, abstract (there with a model's loss as well)",
    published="better in large blocks, similar in small ones",
    criterion="on normal data, less absolute error than NF4 by over 5 % in blocks of 4096 and by less in blocks of 64: "
    "reproduced; gain larger in blocks of 4096 than in those of 64: partly",
    judge=lambda g: "reproduced" if g[1] > 0.05 > g[0] else "partly" if g[1] > g[0] else False,
)
# %% [markdown]
# Predict: from 64 to 4096, by how much does NF4's error grow? And that of int4, whose levels are evenly spaced? Which
# of int4 and FP4 (E2M1) is better in small blocks?

# %%
by_block = {name: [] for name in ("NF4", "FP4 (E2M1)", "int4", "k-means")}
gains = []
for b in sizes:
    learnt = lloyd(scale(fresh, b))
    for name, found in by_block.items():
        found.append(lost(bell, rounded(bell, learnt if name == "k-means" else codebook[name], b)))
    medians = lloyd(scale(fresh, b), centre=np.median)
    off = [float(np.abs(rounded(bell, levels, b) - bell).mean()) for levels in (listed, medians)]
    gains.append(1 - off[1] / off[0])
rows = [[b, *(f"{e[i]:.4f}" for e in by_block.values()), f"{gains[i]:.1%}"] for i, b in enumerate(sizes)]
print(stats.table(["block size", *by_block, "absolute error saved by medians"], rows))
results.record(block_sizes=sizes, error_by_block=by_block, saved_by_medians=gains)
pair = [gains[sizes.index(64)], gains[-1]]
fitted_wins.measure(pair, f"{pair[0]:.1%} less absolute error in blocks of 64, {pair[1]:.1%} in blocks of {sizes[-1]}")

# %% [markdown]
# The predictions, beside what came out. For comparison: by how much does absmax itself grow with the block?

# %%
at, absmax_of = sizes.index(64), {b: float(np.abs(bell.reshape(-1, b)).max(axis=1).mean()) for b in (64, sizes[-1])}
grown = ", ".join(f"{name} × {found[-1] / found[at]:.2f}" for name, found in by_block.items())
print(f"from blocks of 64 to {sizes[-1]} the errors grow: {grown}")
print(f"and the mean absmax grows × {absmax_of[sizes[-1]] / absmax_of[64]:.2f}")
small = [b for b, a, c in zip(sizes, by_block["int4"], by_block["FP4 (E2M1)"], strict=True) if a < c]
print(f"int4's error is below E2M1's in blocks of {small if small else 'no size tried'}")
print(f"NF4 is nearest to the code of medians in blocks of {sizes[int(np.argmin(gains))]}")

# %% [markdown]
# Why so? int4's step is absmax / 7, wherever the weight lies. So its error must grow as absmax does. NF4 and E2M1 have
# most of their levels near zero, and in larger blocks that is where most of the scaled weights are; so larger blocks
# do them less harm. In small blocks the scaled weights stand further out. There E2M1 has its widest steps (from 4 to 6
# is a third of absmax), while int4's are as fine as everywhere.
#
# The last column is a distance from a code that is made anew for each block size. NF4's levels are fixed, so there is
# a block size that they fit best. In smaller blocks the weights stand further out than NF4 expects, in larger ones
# closer to zero.
#
# The gain of a fitted code has a price: it has to be learnt for a block size and a distribution, and it need not
# have an exact zero or an exact 1. NF4 has both.
#
# ## Double quantization
#
# In blocks of 64 the absmax values take 32 / 64 = 0.5 bits a weight, an eighth of what the indices take. They
# are numbers like others. So quantize them, too: to 8 bits, in blocks of 256 of them, each with a float32 constant.
#
# The paper says "8-bit floats". The released software does something else. It subtracts the mean first, because absmax
# values are all positive. Then each takes the nearest value of a *dynamic map*: 256 values in ever finer steps towards
# zero. The map is built by decades, from a tenth to 1, from a hundredth to a tenth, and so on. The bits of an index are
# shared between the decade and the place within it. Each decade upward leaves one more bit for the place, and so it
# has twice as many values. In raw lines:

# %%
print("   i   values   from         to          step")
total = 2  # zero and one
for i in range(7):
    edges = np.linspace(0.1, 1, 2**i + 1)
    middles = 10.0 ** (i - 6) * (edges[:-1] + edges[1:]) / 2
    total += 2 * len(middles)  # both signs
    print(f"{i:4}{len(middles):9}   {middles[0]:<12.3g} {middles[-1]:<11.3g} {10.0 ** (i - 6) * 0.9 / 2**i:.2g}")
    assert all(np.isclose(nf4.DYNAMIC_MAP, m).any() for m in middles)
print("values in all:", total, "- in the package:", len(nf4.DYNAMIC_MAP))

# %% [markdown]
# Values near zero get small steps, values near 1 get larger ones, so the error is small *relative to the value*. Each
# block of 256 absmax values is divided by its largest magnitude before, so all steps are parts of that largest.
#
# Subtracting the mean can therefore help in two ways. The largest gets smaller, and every step with it. And values may
# come to lie nearer to zero, where steps are finer.
#
# **Break it on purpose:** leave the mean where it is. Predict: what happens to the error of the absmax values? And
# which of the two ways matters more?


# %%
def second_level(absmax, mean):
    """The absmax values after 8 bits: minus a mean, blocks of 256, the nearest of the 256 values, and back."""
    blocks = (absmax - mean).reshape(-1, 256)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    middle = (nf4.DYNAMIC_MAP[1:] + nf4.DYNAMIC_MAP[:-1]) / np.float32(2)
    return (nf4.DYNAMIC_MAP[np.searchsorted(middle, blocks / largest)] * largest + mean).reshape(-1)


single, double = nf4.quantize(bell, double=False), nf4.quantize(bell)
mean = single.absmax.mean()
with_mean, without = second_level(single.absmax, mean), second_level(single.absmax, np.float32(0))
np.testing.assert_allclose(with_mean, nf4.decoded_absmax(double), rtol=1e-6)
print(f"error of the absmax values:    {lost(single.absmax, with_mean):.5f}")
ratio = lost(single.absmax, without) / lost(single.absmax, with_mean)
print(f"without subtracting the mean:  {lost(single.absmax, without):.5f}, {ratio:.1f} times as much")

# %% [markdown]
# Now the two ways apart. First the range, the mean of the largest magnitudes of all blocks. Then the share of the
# values below a tenth of the largest; all others lie in the uppermost decade, where the steps are coarsest.

# %%
spread = {}
for name, offset in (("mean left in", np.float32(0)), ("mean subtracted", mean)):
    magnitude = np.abs(single.absmax - offset).reshape(-1, 256)
    top = magnitude.max(axis=1, keepdims=True)
    spread[name] = float(top.mean()), float((magnitude / top < 0.1).mean())
    print(f"{name + ':':17}mean of the largest {spread[name][0]:.2f}, below a tenth of it {spread[name][1]:.1%}")
by_range = spread["mean left in"][0] / spread["mean subtracted"][0]
by_steps = ratio / by_range
print(f"error: a factor of {ratio:.2f} = {by_range:.2f} (the range) · {by_steps:.2f} (the rest: finer steps)")
helps = "the range" if by_range > by_steps else "the finer steps"
coarse = 1 - spread["mean subtracted"][1]
print(f"what helps more is {helps}; {coarse:.0%} of the values lie in the coarsest decade even without the mean")

# %% [markdown]
# All absmax values are alike: they lie far from zero and close together. The mean holds what they have in common. What
# is left after it is subtracted needs a smaller range, and 8 bits are spread over that range alone.
#
# The claim, with its criterion:

# %%
double_free = results.claim(
    "double_quantization",
    says="double quantization saves 0.373 bits a weight and costs nothing",
    source="2305.14314, §3 and §4",
    published="4.127 bits instead of 4.5, no degradation",
    criterion="0.373 bits saved, to the third digit, and the error of the weights grows by less than 1 % of itself: "
    "reproduced; one of the two: partly",
    judge=lambda v: [False, "partly", "reproduced"][(abs(v[0] - 0.373) < 0.0005) + (v[1] < 0.01)],
)

# %% [markdown]
# Now count the bits, by arithmetic and as the package reports them. And what does it cost? The indices are the same,
# only the scales have moved a little. Predict: how much larger does the error of the *weights* become, if absmax is
# off by the share printed above? (Errors that know nothing of one another add up like the sides of a right angle:
# as the root of the sum of their squares.)

# %%
assert np.array_equal(single.packed, double.packed)
print(f"by arithmetic: {4 + 32 / 64:.4f} and {4 + 8 / 64 + 32 / (64 * 256):.4f} bits a weight")
print(f"by the package: {single.bits_per_parameter:.4f} and {double.bits_per_parameter:.4f}")
before, after = lost(bell, nf4.dequantize(single)), lost(bell, nf4.dequantize(double))
predicted = math.hypot(before, lost(single.absmax, with_mean))
print(f"error of the weights: {before:.6f}, double quantized {after:.6f}, predicted {predicted:.6f}")
saved, more = single.bits_per_parameter - double.bits_per_parameter, after / before - 1
results.record(double={"saved": saved, "error": [before, after], "predicted": predicted})
outright = lost(single.absmax, with_mean) / before
print(f"added outright, the error of absmax would be {outright:.1%} of the error; at a right angle it adds {more:.3%}")
double_free.measure([saved, more], f"{saved:.4f} bits saved, the error grows by {more:.3%} of itself")

# %% [markdown]
# A short side at a right angle hardly makes the long one longer: the squares are added, and the square of a small
# number is very small.
#
# With double quantization small blocks become cheap. So which block size gives the smallest error *for its bits*?
# Predict first: which is better, blocks of 16 double quantized, or blocks of 64 with a float32 each?

# %%
stored = {}
for doubled in (False, True):
    for b in sizes:
        q = nf4.quantize(bell, b, doubled)
        stored[b, doubled] = q.bits_per_parameter, lost(bell, nf4.dequantize(q))
shown = [(16, True), (32, True), (64, True), (128, True), (64, False)]
rows = [[b, "yes" if d else "no", f"{stored[b, d][0]:.3f}", f"{stored[b, d][1]:.4f}"] for b, d in shown]
print(stats.table(["block size", "double quantized", "bits a weight", "error"], rows))
(bits, off), (bits_64, off_64) = stored[16, True], stored[64, False]
print(f"double 16 minus plain 64: {bits - bits_64:+.3f} bits, and {off / off_64 - 1:+.1%} error")
for b in (128, 64, 32):
    (bits, off), (more_bits, less) = stored[b, True], stored[b // 2, True]
    fewer, extra = 1 - less / off, more_bits - bits
    gain = f"{fewer:.1%} less error, {fewer / extra / 10:.1%} for each tenth of a bit"
    print(f"from {b:3} to {b // 2:2}, double quantized: {extra:.3f} bits more, {gain}")
results.record(stored=[[b, d, *found] for (b, d), found in stored.items()])

# %% [markdown]
# No size is best by itself. Each halving doubles what the constants take, and the last lines say what one gets for it.
# 64 is what the paper chose, and what bitsandbytes takes if you do not say otherwise, so it is what one usually meets.
# The whole range, as a picture:

# %%
fig, (left, right) = plots.canvas(2, width=9.5, height=4.0)
code_colours = dict(zip(by_block, (plots.BLUE, plots.ORANGE, plots.RED, plots.GREEN), strict=True))
for name, values in by_block.items():
    left.plot(sizes, values, color=code_colours[name], marker="o", markersize=4)
nudges = plots.apart(left, {name: values[-1] for name, values in by_block.items()})
for name, values in by_block.items():
    plots.label_end(left, sizes, values, name, code_colours[name], dy=nudges[name])
left.set(xscale="log", xticks=sizes[::2], xticklabels=sizes[::2], xlabel="block size", ylabel="relative error")
left.minorticks_off()
left.set_title("Error of four codes, by block size")
for doubled, style, name, side in ((False, "--", "float32 absmax", "left"), (True, "-", "double quantized", "right")):
    bits, off = zip(*(stored[b, doubled] for b in sizes), strict=True)
    face = plots.BLUE if doubled else "white"
    right.plot(bits, off, style, color=plots.BLUE, marker="o", markersize=4, markerfacecolor=face, label=name)
    for b, x, y in list(zip(sizes, bits, off, strict=True))[: 9 if doubled else 4]:
        nudge = (-6, -3) if doubled else (5, 3)
        right.annotate(b, (x, y), xytext=nudge, textcoords="offset points", color=plots.BLUE, fontsize=8, ha=side)
right.legend()
right.set(xlabel="bits a weight, constants included", ylabel="relative error of NF4", xlim=(3.75, None))
right.set_title("NF4: what the constants buy")
results.figure(fig, "blocks", "Normal data. Numbers at the points of the right panel are block sizes.")

# %% [markdown]
# ## Outliers
#
# Absmax has a weak spot. One weight decides the scale of its whole block. If it is far larger than its neighbours,
# all of them must share the few levels near zero.
#
# We put one weight of a given size into blocks of 64 normal numbers, and look *at the other 63*. The size is in
# standard deviations of the others. Predict for NF4, and a weight of 10, then of 100: which share of the neighbours
# becomes zero? And how large is their relative error? (NF4's levels next to zero are -0.09 and 0.08. What lies within
# half of that, in units of absmax, becomes zero.)
#
# Predict also for the two floats: E3M0's smallest level is 1/64 of absmax, that of E2M1 is 1/12. From which size of
# the one weight on is E3M0 the better of the two?

# %%
strengths = [3, 5, 7, 10, 15, 20, 30, 50, 70, 100]
plain = bell[: 2**16].reshape(-1, 64)


def neighbours(strength, levels):
    """(relative error, share that becomes zero) of 63 weights in a block with one of the given strength."""
    hit = plain.copy()
    hit[:, 20] = strength
    others = np.arange(64) != 20
    decoded = rounded(hit, levels)[:, others]
    return lost(hit[:, others], decoded), float((decoded == 0).mean())


compared = ("NF4", "FP4 (E2M1)", "FP4 (E3M0)", "int4")
both = {n: [neighbours(s, codebook[n]) for s in strengths] for n in compared}
by_strength = {n: [error for error, _ in pairs] for n, pairs in both.items()}
rows = [[s, *(f"{both[n][i][0]:.2f}, {both[n][i][1]:4.0%}" for n in compared)] for i, s in enumerate(strengths)]
print("relative error of the 63 neighbours, and the share of them that becomes zero")
print(stats.table(["one weight of", *compared], rows))
for s in (10, 100):
    error, zero = both["NF4"][strengths.index(s)]
    print(f"NF4 beside one weight of {s}: {zero:.0%} of the neighbours become zero, relative error {error:.2f}")
results.record(neighbours={"strengths": strengths, **by_strength, "zero": {n: [z for _, z in both[n]] for n in both}})

# %% [markdown]
# A code with more of its levels close to zero bears an outlier better.
#
# Two columns of the table want an explanation. E3M0's levels are powers of two: each is half of the next. So each
# weight goes to a power of two near it, and its error is a part of *that weight*, whatever absmax is. This ends where
# the weights get smaller than the smallest level. And NF4 and E2M1: the larger the one weight, the nearer to zero are
# all others, in units of absmax. There only a few levels count. Are they the same ones?

# %%
steady = [e for s, e in zip(strengths, by_strength["FP4 (E3M0)"], strict=True) if s <= 20]
print(f"E3M0: error {min(steady):.2f} to {max(steady):.2f} beside weights of {strengths[0]} to 20, ", end="")
print(f"{by_strength['FP4 (E3M0)'][-1]:.2f} beside {strengths[-1]}")
small_at = f"{1 / powers[0]:.0f}"
print(f"its smallest level is absmax / {small_at}: beside a weight of {small_at} that is one standard deviation")
for name in ("NF4", "FP4 (E2M1)"):
    zero = int(np.abs(codebook[name]).argmin())
    print(f"{name:10} around zero: {np.round(codebook[name][zero - 2 : zero + 3], 3)}")
gap = max(abs(a - b) for a, b in zip(by_strength["NF4"], by_strength["FP4 (E2M1)"], strict=True))
print(f"the errors of these two differ by at most {gap:.2f}")

# %% [markdown]
# From which size on is E3M0 the better float?
#
# Small blocks contain the damage. So we also put one weight of 30 standard deviations into every 4,096, and ask for
# the error of all the others, by block size.

# %%
wide = [s for s, a, b in zip(strengths, by_strength["FP4 (E3M0)"], by_strength["FP4 (E2M1)"], strict=True) if a < b]
print(f"of the sizes tried, E3M0's error is below E2M1's at {wide if wide else 'none'}")

stretch = bell[: 2**16].reshape(-1, 4096).copy()
spoilt = stretch.copy()
spoilt[:, 1000] = 30.0
kept = np.arange(4096) != 1000
contained = {}
for b in sizes:
    one, none = (lost(v[:, kept], rounded(v, listed, b)[:, kept]) for v in (spoilt, stretch))
    contained[b] = [none, one]
for b in (64, 4096):
    print(f"blocks of {b}: error {contained[b][0]:.3f}, and {contained[b][1]:.3f} beside one weight of 30 in 4,096")
results.record(one_in_4096=contained)

# %% [markdown]
# Left, the table; right, the one weight in every 4,096.

# %%
fig, (left, right) = plots.canvas(2, width=9.5, height=3.9)
for (name, values), colour in zip(
    by_strength.items(), (plots.BLUE, plots.ORANGE, plots.PURPLE, plots.RED), strict=True
):
    style, face = ("--", "white") if name == "FP4 (E2M1)" else ("-", colour)
    left.plot(strengths, values, style, color=colour, marker="o", markersize=4, markerfacecolor=face, label=name)
left.set(xscale="log", xticks=[3, 10, 30, 100], xticklabels=[3, 10, 30, 100], ylim=(0, 1.1))
left.set(xlabel="size of one weight, in standard deviations", ylabel="error of its 63 neighbours")
left.legend()
left.set_title("One large weight in a block of 64")
for which, name, style, dy in ((1, "one large weight", "-", 8), (0, "no large weight", "--", -16)):
    right.plot(sizes, [pair[which] for pair in contained.values()], style, color=plots.BLUE, marker="o", markersize=4)
    right.annotate(name, (256, contained[256][which]), xytext=(-4, dy), textcoords="offset points", color=plots.BLUE,
                   ha="right", fontsize=9)  # fmt: skip
for ax in (left, right):
    ax.minorticks_off()
right.set(xscale="log", xticks=sizes[::2], xticklabels=sizes[::2], ylim=(0, None))
right.set(xlabel="block size", ylabel="error of the other weights")
right.minorticks_off()
right.set_title("NF4, one weight of 30 in every 4,096")
results.figure(fig, "outlier", "Relative errors. 1 means that nothing is left: all neighbours became zero.")

# %% [markdown]
# Does the model of this book have such weights? For each layer we compare its largest weight with its standard
# deviation, beside what as many normal numbers would have:

# %%
ratios = {name: float(np.abs(w).max() / w.std()) for name, w in weights.items()}
chance = float(np.mean([np.abs(random.standard_normal(w.size)).max() for w in weights.values()]))
worst = max(ratios, key=ratios.get)
print(f"largest weight: {np.median(list(ratios.values())):.1f} standard deviations in the median layer")
print(f"at most {ratios[worst]:.1f}, in {worst.removeprefix('model.')}; normal numbers: {chance:.1f}")
limit = wide[0] if wide else strengths[-1]  # from here on E3M0 is the better float
count = sum(ratio >= limit for ratio in ratios.values())
so = "so none has outliers as large as those above" if count == 0 else "so this model has outliers of its own"
print(f"{count} of {len(ratios)} layers have a weight of {limit} standard deviations or more: {so}")
results.record(largest_over_std=ratios)

# %% [markdown]
# ## What it does to a language model
#
# So far we looked at weights. What counts is the model. We quantize every linear layer, all but the output head, and
# measure the loss on text that no training saw. Nothing is trained afterwards.
#
# The differences will be small, so we need to know how noisy they are. Noise comes from two places.
#
# - **The rounding.** Which weights share a block is an accident. Put the columns of each matrix in another order,
#   quantize, and put them back: it is the same code with other rounding errors. We do it six times, the first time
#   with the columns as they are. All codes see the same six orders, so we can compare them pair by pair.
# - **The text.** We keep the loss of each window of text by itself, and see how the differences vary over windows.
#
# A difference counts only if both of its intervals, over orders and over windows, leave out zero. The claim, with its
# criterion:

# %%
lower_loss = results.claim(
    "lower_loss",
    says="the model's loss rises from NF4 to FP4 (E3M0), to FP4 (E2M1), to 4-bit integers",
    source="2305.14314, table 2 (Pile CC, 125M to 13B)",
    published="mean perplexity 27.41, 29.48, 31.07, 34.34",
    criterion="each step up, with an interval of 95 % that leaves out zero: reproduced; "
    "not so, but NF4 is below each of the three in this sense: partly",
    judge=lambda v: "reproduced" if all(v["steps"]) else "partly" if all(v["NF4 below"]) else False,
)

# %% [markdown]
# The tools for it, and the loss of the model as it is, to which all that follows is to be compared.

# %%
windows = fixed_windows(task_ids("text", "held_out"), 2 * size.eval_windows, size.model.max_position_embeddings)
windows = windows[1::2]  # every second one: where the book chooses learning rates, it does so on the others
orders = [
    {name: random.permutation(w.shape[1]) if draw else np.arange(w.shape[1]) for name, w in weights.items()}
    for draw in range(6)
]


@torch.no_grad()
def window_losses(model):
    """The loss of each window, (windows,): the numbers whose mean is the loss of the book."""
    model.eval()
    parts = [(model(p[:, :-1]), p[:, 1:]) for p in windows.to(size.device).split(64)]
    found = [F.cross_entropy(logits.transpose(1, 2).float(), y, reduction="none").mean(dim=1) for logits, y in parts]
    return torch.cat(found).double().cpu().numpy()


with train.threads(1):
    unquantized = window_losses(base)
print(f"unquantized: {unquantized.mean():.4f} nats a character, perplexity {math.exp(unquantized.mean()):.3f}")

# %% [markdown]
# A model with the weights that a code leaves it, and with the columns in a given order while it is quantized:


# %%
def with_code(round_one, order):
    """A copy of the base whose linear layers went through `round_one`, their columns in this order meanwhile."""
    model = copy.deepcopy(base)
    for name, w in weights.items():
        decoded = np.empty_like(w)
        decoded[:, order[name]] = round_one(np.ascontiguousarray(w[:, order[name]]))
        model.get_submodule(name).weight.data.copy_(torch.from_numpy(decoded))
    return model


# %% [markdown]
# The codes are those of the table of errors, and NF4 double quantized, as the paper's table has it. Predict: by how
# much does NF4 raise the loss? Which code is worst? Will NF4 be better than FP4 by more than the noise?
#
# The column `± 95 %` is half the width of Student's interval for the mean over the six orders. It is wider than 1.96
# standard errors, as the spread itself is known from six numbers only.

# %%
roundings = {"NF4 + double": lambda w: nf4.dequantize(nf4.quantize(w))}
roundings |= {name: lambda w, levels=levels: rounded(w, levels) for name, levels in codebook.items()}
with train.threads(1):
    losses = {name: np.stack([window_losses(with_code(f, o)) for o in orders]) for name, f in roundings.items()}
text_loss = measure(base, "text", size)["text_loss"]
assert abs(unquantized.mean() - text_loss) < 1e-4
rise = {name: (found - unquantized).mean(axis=1).tolist() for name, found in losses.items()}  # over the six orders
rows = []
for name, found in losses.items():
    mean, half = stats.interval(rise[name])
    error = errors[name.removesuffix(" + double")]["model"]
    rows.append([name, f"{error:.4f}", f"{found[0].mean():.4f}", f"{mean:+.4f}", f"{half:.4f}"])
print(stats.table(["code", "error of the weights", "loss, first order", "rise, mean of 6", "± 95 %"], rows))
results.record(unquantized=unquantized.mean(), rise=rise)

# %% [markdown]
# The predictions, beside what came out. The last line asks what we would have believed if we had measured the first
# order alone.

# %%
means = {name: stats.interval(rise[name])[0] for name in rise}
share = means["NF4"] / unquantized.mean()
print(
    f"NF4 changes the loss by {means['NF4']:+.4f} nats, {share:+.2%} of it: perplexity × {math.exp(means['NF4']):.4f}"
)
print(f"the worst code is {max(means, key=means.get)}, with {max(means.values()):+.4f} nats")
lower_first, lower_mean = (found["FP4 (E2M1)"] < found["NF4"] for found in ({n: r[0] for n, r in rise.items()}, means))
which = "E2M1 below NF4" if lower_first else "NF4 below E2M1"
and_mean = "does so too" if lower_first == lower_mean else "puts them the other way round: one order tells too little"
print(f"the first order alone puts {which}, the mean of six {and_mean}")

# %% [markdown]
# Now the differences between codes, with both intervals. (The interval over windows takes the mean over the orders
# first, then 1.96 standard errors over windows.)


# %%
def difference(first, second):
    """(mean, half width over orders, half width over windows) of the loss of one code minus that of another."""
    apart = losses[first] - losses[second]  # (orders, windows)
    mean, over_orders = stats.interval(apart.mean(axis=1).tolist())
    return mean, over_orders, float(1.96 * apart.mean(axis=0).std(ddof=1) / math.sqrt(len(windows)))


def surely_lower(first, second):
    """Whether the loss of the first code is lower, and both intervals leave out zero."""
    mean, *halves = difference(first, second)
    return mean + max(halves) < 0


# %% [markdown]
# The pairs that the claim needs come first. Then double quantization against none, which says what it costs in the
# loss, and k-means against NF4.

# %%
pairs = [("NF4 + double", "FP4 (E3M0)"), ("FP4 (E3M0)", "FP4 (E2M1)"), ("FP4 (E2M1)", "int4")]
pairs += [("NF4 + double", "FP4 (E2M1)"), ("NF4 + double", "int4"), ("NF4 + double", "NF4"), ("k-means", "NF4")]
rows, below = [], {}
for first, second in pairs:
    mean, *halves = difference(first, second)
    below[first, second] = surely_lower(first, second)
    verdict = "lower" if below[first, second] else "higher" if surely_lower(second, first) else "within the noise"
    rows.append([first, second, f"{mean:+.5f}", *(f"{h:.5f}" for h in halves), verdict])
print(stats.table(["code", "minus", "difference", "± over orders", "± over windows", "so the first is"], rows))
found = {"steps": [below[p] for p in pairs[:3]], "NF4 below": [below[p] for p in (pairs[0], *pairs[3:5])]}
order = ", ".join(f"{name} {means[name]:+.4f}" for name in ("NF4 + double", "FP4 (E3M0)", "FP4 (E2M1)", "int4"))
words = f"rise of the loss: {order}; NF4 below {sum(found['NF4 below'])} of 3 beyond the noise"
lower_loss.measure(found, words)
mean, *halves = difference("NF4 + double", "NF4")
seen = "within the noise" if abs(mean) <= max(halves) else "beyond the noise"
print(f"double quantization changes the loss by {mean:+.5f} ± {max(halves):.5f} nats, {seen}")

# %% [markdown]
# Is the error of the weights a good guide to the loss? At the minimum of a loss the slope is zero, and then a small
# random change of the weights raises the loss with the *square* of its size. An error twice as large would raise the
# loss four times as much. We send this rule through the point of NF4, and hold the other codes against it.
#
# The point of NF4 has an interval itself, and so has the rule that goes through it: the column `± rule`. Where the
# rule misses the interval of a code, but not by more than this, the table says "narrowly not". That means little.

# %%
rule = {n: means["NF4"] * (errors[n]["model"] / errors["NF4"]["model"]) ** 2 for n in codebook}
rows = []
for name in sorted(codebook, key=lambda n: errors[n]["model"]):
    (mean, half), error = stats.interval(rise[name]), errors[name]["model"]
    own_half = stats.interval(rise["NF4"])[1] * (error / errors["NF4"]["model"]) ** 2
    missed = abs(mean - rule[name]) - half
    fits = "yes" if missed <= 0 else "narrowly not" if missed <= own_half else "no"
    fits = "by construction" if name == "NF4" else fits
    rows.append([name, *(f"{x:.4f}" for x in (error, rule[name], own_half, mean, half)), fits])
print(stats.table(["code", "error", "rise by rule", "± rule", "rise measured", "± 95 %", "rule in the interval"], rows))
off = {n: means[n] / rule[n] for n in codebook if n != "NF4"}
rough = all(1 / 2 <= r <= 2 for r in off.values())
so = "a rough guide, good to a factor of two" if rough else "not even a guide to a factor of two here"
print(f"measured / rule: {min(off.values()):.2f} to {max(off.values()):.2f}, so the error is {so}")

# %% [markdown]
# And does the error rank the codes as the loss does? A pair that stands the other way round in the two lists counts
# only if the noise separates its losses, by `difference` as above.

# %%
by_error, by_loss = (sorted(codebook, key=key) for key in (lambda n: errors[n]["model"], means.get))
print(f"least error first: {', '.join(by_error)}\nleast loss first:  {', '.join(by_loss)}")
couples = [(a, b) for i, a in enumerate(by_error) for b in by_error[i + 1 :]]  # the first has the smaller error
swapped = [(a, b) for a, b in couples if means[b] < means[a]]
as_error, against = ([p for p in couples if surely_lower(*p)], [p for p in swapped if surely_lower(*reversed(p))])
clear = len(as_error) + len(against)
print(f"{len(swapped)} of {len(couples)} pairs are swapped, {len(against)} of them beyond the noise")
print(f"the noise separates {clear} pairs; in {len(as_error)} of these the smaller error has the lower loss")
gap = max([errors[b]["model"] / errors[a]["model"] - 1 for a, b in against], default=0)
if against:
    print(f"so the error is no ranking of codes whose errors are up to {gap:.0%} apart")
else:
    print("so the ranking by the error holds where the noise lets us tell" if clear else "so the noise hides it all")

# %% [markdown]
# The same as a picture. The dashed line is the rule.

# %%
fig, (ax,) = plots.canvas(height=4.2)
places = {"k-means": (-7, 6, "right"), "NF4": (3, -15, "left"), "FP4 (E2M1)": (8, -9, "left")}
for name, colour in zip(codebook, colours, strict=True):
    mean, half = stats.interval(rise[name])
    plots.band(ax, [errors[name]["model"]], [mean], [half], colour, linestyle="none")
    x, y, side = places.get(name, (-8, 4, "right"))
    ax.annotate(name, (errors[name]["model"], mean), (x, y), textcoords="offset points", color=colour, ha=side)
x = np.linspace(0, 1.1 * max(errors[name]["model"] for name in codebook), 50)
ax.plot(x, means["NF4"] * (x / errors["NF4"]["model"]) ** 2, color=plots.GREY, linestyle="--", linewidth=1.2)
ax.axhline(0, color=plots.BLACK, linewidth=0.8)
ax.set(xlabel="relative error of the weights", ylabel="rise of the loss, nats a character")
ax.set_title("What the error of the weights does to the loss")
results.figure(fig, "loss", "Means over six orders of the columns, bars: 95 % intervals. Dashed: error squared.")

# %% [markdown]
# Back to the claim about the loss. Where a step of the paper's order did not come out, was it the noise, or is the
# order another one here? And how large a gap between NF4 and E2M1 should we have seen at all? If a gap is less than
# twice the half width of our interval, we would often miss it.

# %%
for first, second in pairs[:3]:
    so = "as in the paper" if below[first, second] else "within the noise"
    so = "the other way round, and beyond the noise" if surely_lower(second, first) else so
    print(f"{first} below {second}: {so}")
apart, expected = 1 - errors["NF4"]["model"] / errors["FP4 (E2M1)"]["model"], rule["FP4 (E2M1)"] - rule["NF4"]
mean, *halves = difference("NF4 + double", "FP4 (E2M1)")
print(f"NF4's error is {apart:.0%} below E2M1's, so the rule of the square expects {expected:.4f} nats less loss")
print(f"measured: {-mean:.4f} ± {max(halves):.4f} nats less, NF4 being double quantized")
within = "lies in this interval" if abs(expected + mean) <= max(halves) else "does not lie in this interval"
hardly = "can hardly see such a gap" if expected < 2 * max(halves) else "would see such a gap"
print(f"what the rule expects {within}; six orders and these windows {hardly}")

# %% [markdown]
# ## Outliers in the model
#
# In the paper's table E3M0 is the better of the two floats. Compare that with the table above. The models there are
# larger. And large language models have channels whose values are far larger than those of all others: "outlier
# features" (Dettmers et al., LLM.int8(), arXiv 2208.07339). Those are values that flow between the layers. Whether
# the weights of the paper's models have outliers, too, we do not know. But would this model rank the codes as the
# paper does if its weights had some?
#
# We can give it outliers *without changing what it computes*. A matrix reads channels, each with one of its columns.
# Divide a channel by 10 and multiply its column by 10, and the product is the same. A toy of one row:

# %%
channels, reads = np.array([2.0, 3.0]), np.array([0.5, -0.4])
factors = np.array([1, 10])
print(f"before: {channels @ reads:.3f}, with the second channel / 10 and its weight · 10: ", end="")
print(f"{(channels / factors) @ (reads * factors):.3f}, the weights are {reads} and {reads * factors}")

# %% [markdown]
# In each layer of the Llama, attention and MLP both begin with a normalization of their input. It multiplies every
# channel by a learnt number, the *gain*. So we divide the gain of a channel, and multiply the column of the following
# matrices that reads it. We do so with one channel in every 64. Then each block of 64 weights has one large weight.
# (The matrices `o_proj` and `down_proj` follow no normalization and stay as they are.)
#
# Predict: how does the order of the codes change at factors of 3, 10 and 30? Will it be the paper's at one of them:
# NF4, E3M0, E2M1, int4, from the least loss to the most?


# %%
@torch.no_grad()
def with_outliers(factor):
    """A copy of the base that computes the same, with one input channel in 64 weighted `factor` times as much."""
    model = copy.deepcopy(base)
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


# %% [markdown]
# The numbers are rises of the loss, with the columns in their first order, so read them with the noise above in mind.

# %%
with_them = {1: {name: rise[name][0] for name in compared}}
for factor in (3, 10, 30):
    spoilt = with_outliers(factor)
    with train.threads(1):
        same = window_losses(spoilt).mean()
        assert abs(same - unquantized.mean()) < 1e-4, "the model must compute what it did"
        with_them[factor] = {}
        for name in compared:
            model = copy.deepcopy(spoilt)
            for layer in find_targets(model, "all-linear").values():
                layer.weight.data.copy_(torch.from_numpy(rounded(layer.weight.detach().cpu().numpy(), codebook[name])))
            with_them[factor][name] = float(window_losses(model).mean() - same)
rows = [[k, *(f"{v[n]:+.4f}" for n in compared), min(v, key=v.get)] for k, v in with_them.items()]
print(stats.table(["outliers, times", *compared, "least"], rows))
results.record(rise_with_outliers=with_them)
better = [k for k, v in with_them.items() if v["FP4 (E3M0)"] < v["FP4 (E2M1)"]]
print(f"E3M0 is better than E2M1 at the factors {better}" if better else "E3M0 is better than E2M1 at no factor")

# %% [markdown]
# So does this model rank the codes as the paper does, at any of the factors? And how much of the paper's order do
# outliers explain?

# %%
paper_order = ["NF4", "FP4 (E3M0)", "FP4 (E2M1)", "int4"]
for factor, found in with_them.items():
    print(f"times {factor:2}: {' < '.join(sorted(found, key=found.get))}")
as_paper = [factor for factor, found in with_them.items() if sorted(found, key=found.get) == paper_order]
print(f"the paper: {' < '.join(paper_order)}; that order came out at {as_paper if as_paper else 'none of the factors'}")
both_passed = [k for k in better if with_them[k]["FP4 (E3M0)"] < with_them[k]["NF4"]]
if as_paper:
    print("so outliers of this kind can bring about the paper's order")
elif better and 1 not in better:
    print("so outliers explain one part of it, that E3M0 can overtake E2M1")
    if both_passed == better:
        print("they do not explain that NF4 is best: where E3M0 overtakes E2M1, it overtakes NF4 as well")
else:
    print("so outliers of this kind do not explain the paper's order")

# %% [markdown]
# NF4 and E2M1 have nearly the same levels around zero, as we saw. So what makes E3M0 pass one of them makes it pass
# the other at about the same factor. A factor between those tried may still give the paper's order, and small
# differences in these lines are noise: each comes from one order of the columns.
#
# Which code is best, without outliers and with the largest? "Within the noise" is meant as above.

# %%
calm, wild = min(compared, key=means.get), min(with_them[30], key=with_them[30].get)
tied = [name for name in compared if name != calm and not surely_lower(calm, name)]
best = calm + (f" ({', '.join(tied)} within the noise)" if tied else "")
moved = wild != calm and wild not in tied
print(f"without outliers, mean of six orders: {best}\nwith outliers of 30 times: {wild}")
print("a ranking is one of codes *and weights*" if moved else "here the outliers do not decide which code is best")

# %% [markdown]
# This is no proof of what happened in the paper's models. But when two comparisons disagree, ask first what the weights
# were.
#
# ## The verdict

# %%
for claim in results.claims.values():
    print(f"{claim.says}: {claim.verdict.upper()}. {claim.shown}.\n   (criterion: {claim.criterion})")
print("written:", results.save().name)

# %% [markdown]
# And three lines to take home:

# %%
equal = "is what it gives" if equal_use.verdict == "reproduced" else "is the idea behind it, not what it gives"
choose = "look at the weights before you choose a code" if moved else "the outliers do not decide"
off = errors["NF4"]["model"]
print(f"1. NF4 in blocks of 64 decodes these weights with a relative error of {off:.1%}; loss: {share:+.2%}.")
print(f"2. Its levels are quantiles. In blocks a bin holds {use_64[0]:.1%} to {use_64[1]:.1%}: equal use {equal}.")
print(f"3. Least loss: {best} without outliers, {wild} with outliers of 30 times: {choose}.")

# %% [markdown]
# Three cautions. This is one small model (its largest weights, and what normal numbers would have, are printed above);
# larger models may have outliers that this one lacks, and there the codes' order may be another. Averaging over orders
# of the columns tells how noisy the rounding is, but not how another model would behave. And the names int4 and FP4
# stand for several codes: one can have -8 … 7 in place of -7 … 7, and bitsandbytes' FP4 has levels of its own. A
# comparison is always one of levels, and not of names.
#
# What this chapter does not show: how much of the rise an adapter wins back. That is chapter 05.
#
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
# **3. The last block.** Real matrices need not divide into blocks. Write the absmax of each block, the last one
# being short if it must be. (A library had this wrong: bitsandbytes, pull request 1884.)


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
# `rounded` will help: `rounded(weight, listed, block_size)` takes any block size. Predict first: is a row longer or
# shorter than a block of 64?


# %%
def my_rows(weight):
    """A matrix (rows, width) -> (bits a weight, relative error) of NF4 with one float32 scale for each row."""
    return None  # your code here


print(check.check_rows(my_rows))

# %% [markdown]
# And what rows cost in some layers of the model, as soon as the check says "Right.":

# %%
for name in list(weights)[:7] if check.check_rows(my_rows) == check.RIGHT else []:
    (bits, error), blocks_of_64 = my_rows(weights[name]), lost(weights[name], rounded(weights[name], listed))
    width = weights[name].shape[1]
    print(f"{name:36} rows of {width}: {error:.4f} at {bits:.3f} bits, blocks of 64: {blocks_of_64:.4f} at 4.5 bits")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_rows(weight):
#     width = weight.shape[1]
#     return 4 + 32 / width, lost(weight, rounded(weight, listed, width))
# ```
#
# A row is a block as long as the matrix is wide. Where rows are longer than 64, the error is that of larger blocks.
#
# </details>
#
# ## The same with transformers and bitsandbytes
#
# ```python
# import torch
# from transformers import AutoModelForCausalLM, BitsAndBytesConfig
#
# config = BitsAndBytesConfig(
#     load_in_4bit=True,
#     bnb_4bit_quant_type="nf4",  # the default is "fp4"
#     bnb_4bit_use_double_quant=True,  # the default is False
#     bnb_4bit_compute_dtype=torch.bfloat16,  # what the weights are decoded to; the default is float32
# )
# model = AutoModelForCausalLM.from_pretrained("...", quantization_config=config)
# ```
#
# Blocks are of 64 there, too, and the output head keeps its precision. `make parity` checks that our packed
# indices and absmax values are those of bitsandbytes, bit for bit.
