# %% [markdown]
# # 08 · LoRA+
#
# **The question.** LoRA trains two matrices with one learning rate. Should `B` learn faster than `A`?
#
# **What you will be able to do.** Give parameters their own learning rates. Estimate, for a layer of a given width,
# which of the two matrices holds the other one back. Prove that under Adam a higher rate for `B` is a larger alpha, and
# find what breaks the proof. Spot a comparison that was won before it began.
#
# **What you need.** Chapter 01: the LoRA layer, and why every method gets its own learning rate.
#
# **The published claims.** LoRA+ (Hayou, Ghosh and Yu, arXiv 2402.12354v2) gives `B` a learning rate that is λ times
# that of `A`. The abstract reports results that are one to two percent better (scores of tasks) and training that is up
# to twice as fast, at the same cost. The reason given (section 4, theorem 1) is about the width `n` of the network. A
# step changes the layer's output `BA x` through `A`, by `B ΔA x`, and through `B`, by `ΔB A x`. Learning is called
# *efficient* if both parts, at every step after the first (in which `B` is still zero), and `A x` and `BA x` themselves
# stay of order one as `n` grows. Under Adam, with one rate for both, that is impossible: a rate that keeps both parts
# up makes `A x` grow like `√n` (appendix A.5). It is possible where the rate of `A` goes like `1/n` and that of `B`
# does not fall. In the experiments (section 5.3) λ = 16 is a good value for RoBERTa with `A` started at zero. With `B`
# at zero, as here, and for Llama, smaller ones are best. We read the conference's edition (ICML 2024).
#
# Losses are in nats a character. A seed is a base: seed 1 fine-tunes the base that was pretrained with seed 1.
# `a ± b` is a mean over seeds with its 95 % interval.

# %%
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from lora_from_scratch import AdapterConfig, LoRALinear, add_adapters, loraplus_param_groups, trainable_parameters
from lora_from_scratch.book import stats, tables
from lora_from_scratch.book.estimates import Estimate
from lora_from_scratch.book.figures import ch08 as figures
from lora_from_scratch.book.results import Results
from lora_from_scratch.book.verdicts import AtLeast, AtMost, Equal, Higher, Identity, Lower
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab import tasks
from lora_from_scratch.lab.again import other_draw, second_time
from lora_from_scratch.lab.finetune import Run, measure_base, prepare
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.sweep import compare
from lora_from_scratch.lab.workers import carry_out_all

# %%
size = preset()
results = Results("08_loraplus", size)
seeds = range(1, size.seeds + 1)
both_tasks = ("rot13", "cipher-6")
rows = []
for task in both_tasks:
    levels = [f"{v:.2f}" for v in tasks.reference_levels(task).values()]
    rows.append([task, *levels, stats.shown([measure_base(task, size, s)["task_loss"] for s in seeds], 2)])
print(stats.table(["held-out text", "uniform", "letters", "the base"], rows))

# %% [markdown]
# The levels give a loss its meaning: blind guessing (*uniform*), knowing how often each character occurs (*letters*),
# and the untouched base. `rot13` moves every letter of the alphabet and is far from English, `cipher-6` moves six.
#
# ## Two groups of parameters
#
# An optimizer in PyTorch takes a list of groups, each with a learning rate of its own. That is all LoRA+ needs. By
# hand:

# %%
model = add_adapters(pretrained(size), AdapterConfig(rank=4, alpha=4))
lr, ratio = 1e-3, 16
fast = [layer.B for layer in model.modules() if is_adapter(layer)]
slow = [p for p in trainable_parameters(model) if not any(p is b for b in fast)]
by_hand = [{"params": slow, "lr": lr}, {"params": fast, "lr": lr * ratio}]

groups = loraplus_param_groups(model, lr=lr, ratio=ratio)
for mine, package in zip(by_hand, groups, strict=True):
    assert mine["lr"] == package["lr"] and all(a is b for a, b in zip(mine["params"], package["params"], strict=True))
print("the same groups:", [(len(group["params"]), group["lr"]) for group in groups])

# %% [markdown]
# The order matters. Groups that are built before the adapters are in hold the wrong parameters, and torch would not
# tell you. So the package's function refuses a model without adapters:

# %%
try:
    loraplus_param_groups(pretrained(size), lr=lr)
except ValueError as error:
    print("refused:", error)

# %% [markdown]
# ## Which of the two is too slow
#
# `A` reads: it maps `n` inputs to `r` numbers. `B` writes: it maps those `r` numbers to the outputs. Adam moves every
# entry by about the learning rate `η`, whatever the size of the gradient. So one step moves
#
# - `A x`, a sum over the `n` inputs, by about `η n`, if the entries of `x` are of order one and the signs agree;
# - the output, through `B`, a sum over `r`, by about `η r`.
#
# At `n = 1024` and `r = 8` the first is 128 times the second. Now train `T` steps. An entry of `B` is about `ηT`, and
# `A x` has moved from order one by `ηT n`. With `A0` the start of `A`, the output is a sum of two parts,
#
# $$BA\,x = \underbrace{B A_0\,x}_{r\,\eta T} + \underbrace{B (A - A_0)\,x}_{r\,\eta T \cdot n\,\eta T} .$$
#
# The first part is what `B` alone has learnt, on the features that `A` had at the start. The second is there because
# `A` moved. If the output has to change by one, the larger part has to be about one: `r n (ηT)² = 1`. So `ηT` is
# `1/√(rn)`, here 1/90. Then the first part is `r ηT = √(r/n)`, here 8/90 = 0.09. A higher rate would not help it: the
# second part would overshoot. So **with one rate, `A` sets the limit, and `B` is the one that is too slow.** What
# vanishes as the width grows is the first part, like `1/√n`.
#
# That is our count, from start to end. The theorem counts step by step. There `B`'s part of a change, `ΔB A x`, is made
# on `A x` as it is by then, and `A x` has grown to `n ηT = √(n/r)`, here 11. So at this rate neither part of a step
# need vanish. What is lost is the bound on `A x`.
#
# With `B` at λ times the rate, both of our parts are one at `ηT = 1/n` and `λ = n/r`, here 128, and `A x` moves by one.
# (The paper's orders.)
#
# Is it so? A toy will tell: `A` and `B` alone, two layers, trained by Adam on a linear target. The inputs live in 16
# dimensions at every width, and the target in 4.


# %%
def toy(width, lr, ratio, seed, rank=8, steps=30):
    """(x, [(A, B) before the first step and after each], the last loss), with B at `ratio` times the rate of A."""
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(256, 16, generator=draw)
    x = z @ torch.randn(16, width, generator=draw) / 4  # (N, n), entries of order one
    target = z @ torch.randn(16, 4, generator=draw) @ torch.randn(4, width, generator=draw) / 8  # (N, n)
    A = (2 * torch.rand(rank, width, generator=draw) - 1).div(width**0.5).requires_grad_()  # (r, n): A x of order one
    B = torch.zeros(width, rank, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [A], "lr": lr}, {"params": [B], "lr": lr * ratio}])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / steps)
    trail = [(A.detach().clone(), B.detach().clone())]
    for _ in range(steps):
        optimizer.zero_grad()
        (x @ A.T @ B.T - target).square().mean().backward()
        optimizer.step()
        schedule.step()
        trail.append((A.detach().clone(), B.detach().clone()))
    loss = (x @ A.T @ B.T - target).square().mean().item()
    return x, trail, loss if math.isfinite(loss) else math.inf


# %%
def parts(x, trail, seen=lambda moved: moved):
    """The norms of B A0 x and of B (A - A0) x at the end, relative to that of their sum."""
    (A0, _), (A, B) = trail[0], trail[-1]
    first, second = x @ A0.T @ B.T, x @ seen(A - A0).T @ B.T
    whole = (first + second).norm()
    return (first.norm() / whole).item(), (second.norm() / whole).item()


def by_steps(x, trail, seen=lambda moved: moved):
    """(B ΔA x, ΔB A x, each summed over the steps after the first; the largest A x): the sizes of their entries."""
    A0, pairs = trail[0][0], list(pairwise(trail))[1:]
    rms = lambda t: t.square().mean().sqrt().item()  # noqa: E731
    through_A = sum(rms(x @ seen(A1 - A).T @ B.T) for (A, B), (A1, _) in pairs)
    through_B = sum(rms(x @ A.T @ (B1 - B).T) for (A, B), (_, B1) in pairs)
    return through_A, through_B, max(rms(x @ (A0 + seen(A - A0)).T) for A, _ in trail)


def shuffled(moved):
    return moved.flatten()[torch.randperm(moved.numel())].view_as(moved)


# %% [markdown]
# The claims come first. Mostly the null is the same trained toy with the entries of `A`'s movement shuffled: a movement
# that is as large, and not aligned with anything. (For `A x` at ratio `n/r` it is the toy at one rate; for the last
# row, the toy at that ratio.) The theorem speaks of every rate and every step; we take the best rate, and sum over the
# steps. That `A x` grows and both parts of the steps stay was seen on seeds 1 to 3 of the toy, before the first row was
# written as it stands. So other seeds, 6 to 10, judge.
#
# **Write down your predictions** for one rate, before you run on: the first part at width 4096, by the estimate? The
# second? And the size of `A x`?

# %%
widths, toys = ((64, 256), 2) if size.name == "smoke" else ((64, 256, 1024, 4096), 5)
in_toy = {"model": "B A x, Adam, rank 8", "width": f"{widths[0]} to {widths[-1]}", "seeds": toys, "bases": 0}
stays = Equal(0.15, "less than a factor of 2 from width 64 to 4096")
efficient = results.claim(
    "efficient",
    says="at the best single rate for A and B no part of the steps' changes vanishes as the width n grows, but A x "
    "grows; with B's rate n / r times as high neither happens",
    source="arXiv 2402.12354v2, section 4, theorem 1, and appendix A.5",
    read="full text",
    published="impossible with η_A = η_B, where A x goes like √n; efficient with η_A of order 1/n and η_B of order 1",
    test={
        "one rate, A x": AtLeast(0.25, "half of the exponent 1/2 of the proof"),
        "one rate, the smaller part": stays,
        "ratio n / r, A x": stays,
        "ratio n / r, the smaller part": stays,
    },
    scope=in_toy | {"toy seeds": "6 to 10"},
)
# %%
vanishes = AtMost(-0.25, "half of the exponent -1/2 of our estimate")
says = "at the best single rate the part that B learns on A's first features vanishes as the width grows"
first_part = results.finding("first_part", says=says, test=vanishes, scope=in_toy)
by_far = AtLeast(round(math.sqrt(widths[-1] / 8) / 4, 2), "a quarter of √(n / r), the factor of our estimate")
says = "there, at the largest width, the part through A's movement is the larger, by a quarter of √(n / r) or more"
a_leads = results.finding("a_leads", says=says, test=by_far, scope=in_toy)


# %%
def slopes(of, name, which):
    """The exponent over the width, one a seed, of what `which` makes of a toy's five numbers."""
    lines = [[which(of[name, n][i]) for n in widths] for i in range(toys)]
    return stats.interval([np.polyfit(np.log(widths), np.log(line), 1)[0] for line in lines])


rates = [10 ** (k / 4) for k in range(-18, 0)]
found, null, tuned_toy = {}, {}, {}
torch.manual_seed(0)
for name in ("one rate", "ratio n / r"):
    for n in widths:
        q = 1 if name == "one rate" else n / 8
        tried = {rate: toy(n, rate, q, seed=0)[-1] for rate in rates}
        best = min(tried, key=tried.get)
        assert rates[0] < best < rates[-1], "the best rate is at the edge of the grid"
        ends = [toy(n, best, q, seed) for seed in range(6, 6 + toys)]
        found[name, n] = [parts(x, trail) + by_steps(x, trail) for x, trail, _ in ends]
        null[name, n] = [parts(x, trail, shuffled) + by_steps(x, trail, shuffled) for x, trail, _ in ends]
        tuned_toy[name, n] = (best, [loss for *_, loss in ends])

# %%
rows = []
for (name, n), values in found.items():
    best, losses = tuned_toy[name, n]
    five = [stats.shown(number, 2) for number in zip(*values, strict=True)]
    rows.append([name, n, f"{best:.4f}", *five, stats.shown(losses, 4)])
names = ["B on A0", "by A's movement", "steps: B ΔA x", "steps: ΔB A x", "largest A x"]
print(stats.table(["rates", "width", "rate of A", *names, "loss"], rows))

# %%
first, smaller, size_of_Ax = lambda v: v[0], lambda v: min(v[2:4]), lambda v: v[4]
where = {part: (part.split(",")[0], size_of_Ax if "A x" in part else smaller) for part in efficient.parts}
measured, chance = ({part: slopes(of, *place) for part, place in where.items()} for of in (found, null))
chance["ratio n / r, A x"] = measured["one rate, A x"]  # shuffled, an A x of that size stays as it was: no null
efficient.measure(measured, chance=chance)
first_part.measure(slopes(found, "one rate", first), chance=slopes(null, "one rate", first))
larger = {name: stats.interval([v[1] / v[0] for v in found[name, widths[-1]]]) for name in ("one rate", "ratio n / r")}
a_leads.measure(larger["one rate"], chance=larger["ratio n / r"])
results.record(toy={f"{name}, {n}": values for (name, n), values in found.items()})

# %%
results.figure(
    figures.widths(found, widths, 8),
    "widths",
    "Two parts of what is learnt, relative to the whole, and the largest A x (root mean square), by width. Each width "
    "at its best rate. Dashed: the estimates √(r/n) and √(n/r).",
    alt="Three panels over the width, all axes logarithmic. With one rate, A's movement stays level and what B learnt "
    "on A's first features falls, near the dashed line. With B's rate n over r times as high, both stay level. A x "
    "rises like the root of the width with one rate, and stays level with the other.",
)

# %% [markdown] rests_on="08.efficient=reproduced, 08.first_part=holds, 08.a_leads=holds"
# **The theorem** agrees with the toy at the best rate. With one rate neither part of the steps vanishes (they fall by
# up to a third from width 64 to 256, then stay), and `A x` pays for it: from 1.8 at width 64 it grows to 14 at width
# 4096, with an exponent of 0.49 where the proof has 1/2. With `B`'s rate `n/r` times as high it stays between 0.7 and
# 0.8, and both parts keep their size too.
#
# **Our estimate** is roughly right. What `B` learns on `A`'s start falls from 0.30 of the whole to 0.04; `√(r/n)` falls
# from 0.35 to 0.04. The exponent is -0.46, not -1/2, and its interval holds the noise of seeds only, at rates picked in
# steps of 1.8. The part through `A`'s movement stays near one. So `A` is not the one that hardly learns: nearly all
# that is learnt rests on its movement, and `B` follows.
#
# Mind the last column, too. Up to width 1024 the ratio's loss is about a fifth lower in the mean; at 4096, where one
# rate should suffer most, it is 0.0052 beside 0.0053. *Inefficient* is a word about who learns. How much is lost by it
# is another question.

# %% [markdown]
# ## The same thing as a larger alpha
#
# Now a proof. Take LoRA+ with ratio λ, and write it in a new variable, `B' = B / λ`, with a new alpha, `α' = λ α`. Both
# start the same, as `B' = B = 0`. Then, step after step:
#
# 1. `α' B' A = α B A`: the layer computes the same. So `A`, whose gradient comes through that product, gets the same
#    gradient.
# 2. `B = λ B'`, so `∂L/∂B' = λ · ∂L/∂B`. The gradient of `B'` is larger, by a constant factor.
# 3. Adam divides a gradient by its own size and does not see the factor. `B` moves by `λη` times something, and `B'`
#    by `η` times the same. So `B' = B / λ` stays true.
#
# The primed layer is plain LoRA, with one rate and an alpha that is λ times as large. **Under Adam, LoRA+ at ratio λ
# is LoRA at λ · alpha.**
#
# Plain gradient descent sees the factor. There `B'` moves by `η · λ ∂L/∂B`, so `λ B'` moves by `λ² η ∂L/∂B`: it takes a
# ratio of λ² to match an alpha of λ. And three things stand in the way of "exactly" under Adam. It adds an ε, which is
# not scaled, to the size that it divides by. The weight decay of AdamW shrinks `B` by its rate times the decay, and
# LoRA+ raises that rate. The third is in exercise 3.
#
# Predict: after 30 steps, how far apart are the two with a negligible ε? With the usual one, 1e-8? With a weight decay
# of 0.1?

# %%
same = results.identity(
    "same",
    says="after 30 Adam steps without weight decay, LoRA+ at alpha is LoRA at ratio · alpha (ratios 3, 16, 64)",
    test=Identity(1e-12),
)


def trained_update(optimizer_of, alpha, ratio, steps=30, lr=1e-2):
    """ΔW after some steps on a small regression in float64, from the same start."""
    torch.manual_seed(1)
    layer = LoRALinear(nn.Linear(24, 16).double(), rank=4, alpha=alpha)
    x, y = torch.randn(64, 24, dtype=torch.float64), torch.randn(64, 16, dtype=torch.float64)
    optimizer = optimizer_of(loraplus_param_groups(layer, lr=lr, ratio=ratio))
    for _ in range(steps):
        optimizer.zero_grad()
        (layer(x) - y).square().mean().backward()
        optimizer.step()
    return layer.delta_weight().detach()


# %%
def adam(eps, decay):
    return lambda groups: torch.optim.AdamW(groups, eps=eps, weight_decay=decay)


cases = {  # at ε = 0, A's first step would be 0 / 0
    "Adam, ε = 1e-30": (adam(1e-30, 0), 1, 1e-2),
    "Adam, ε = 1e-8": (adam(1e-8, 0), 1, 1e-2),
    "Adam, weight decay 0.1": (adam(1e-30, 0.1), 1, 1e-2),
    "gradient descent": (torch.optim.SGD, 1, 1e-4),
    "gradient descent, ratio²": (torch.optim.SGD, 2, 1e-4),
}
apart = {}
for name, (optimizer_of, power, rate) in cases.items():
    for q in (3, 16, 64):
        plus, plain = (trained_update(optimizer_of, a, w, lr=rate) for a, w in ((4, q**power), (4 * q, 1)))
        apart[name, q] = ((plus - plain).norm() / plain.norm()).item()
rows = [[name, *(f"{apart[name, q]:.1e}" for q in (3, 16, 64))] for name in cases]
print("|ΔW of LoRA+ at alpha - ΔW of LoRA at ratio · alpha|, relative")
print(stats.table(["optimizer", "ratio 3", "ratio 16", "ratio 64"], rows))
same.measure(max(apart["Adam, ε = 1e-30", q] for q in (3, 16, 64)))

# %% [markdown] rests_on="08.same=holds"
# So who compares LoRA+ with LoRA at one alpha compares two alphas. And `λ = n/r` reads in a new way: what the estimate
# asks of a wide layer is an alpha far above its rank. Left to ask: how much is gained, which ratio is best, and does
# the proof hold in a real training, where ε is not negligible?
#
# ## A map of two knobs
#
# We train rank 16 with alpha 16. The ratio goes from 1 to 64, which is plain LoRA at alphas from 16 to 1024, and each
# ratio tries the same number of learning rates, on seed 0. Other seeds, on other bases and other text, judge. The best
# ratio is picked on seed 0 too, by tuning loss.
#
# The published gain is in scores, so ours is too: the share of characters that are predicted rightly.

# %%
half = Higher(0.005, "half a point; 1 is the least that is published")
better = results.claim(
    "better",
    says="LoRA+ at ratio 16 predicts more characters rightly than LoRA, each at its own rate",
    source="arXiv 2402.12354v2, abstract",
    read="full text",
    published="1 to 2 % better (scores of tasks)",
    test=dict.fromkeys(both_tasks, half),
    scope={"task": "rot13 and cipher-6"},
)
# %%
best_ratio = results.claim(
    "ratio",
    says="the ratio that seed 0 picks (of 1, 4, 16, 64; on cipher-6 of 1, 16) ends lower than ratio 1, at own rates",
    source="arXiv 2402.12354v2, section 5.3",
    read="full text",
    published="above 1 in all: 16 for RoBERTa with A at zero, 4 to 8 with B at zero, 2 to 4 for Llama",
    test=dict.fromkeys(both_tasks, Lower(0.02, "twice the spread of a method's seeds")),
    scope={"task": "rot13 and cipher-6"},
)
faster = results.claim(
    "faster",
    says="ratio 16 is at ratio 1's last training loss after 60 % of the steps, each at its own rate",
    source="arXiv 2402.12354v2, abstract",
    read="full text",
    published="up to 2 times as fast: after 50 %",
    test=AtMost(0.6, "50 %, and what the mean over 10 steps blurs"),
    scope={"task": "rot13"},
)

# %%
one_seed = {"task": "rot13", "seeds": 1}
trap = results.finding(
    "trap",
    says="at one low rate for both, ratio 16's lead is larger than at own rates",
    test=Lower(0.1, "five times the margin of a gain"),
    scope={"task": "rot13", "rate": "the grid's lowest"},
)
slope = results.finding(
    "rate",
    "the best rate of A falls as the ratio grows",
    AtMost(-0.25, "half of the exponent predicted next"),
    one_seed,
)

# %% [markdown]
# **Write down your predictions.** Ratio 16 against ratio 1: the difference in loss when each has its own best rate; the
# difference when both use a low rate that suits neither. And the best rate of `A`: by the estimate above, the second
# part is `λ r n (ηT)²`. Where that part leads, the best `η` falls like `1/√λ`, and `B`'s rate *rises* like `√λ`.

# %%
grid = tuple(10 ** (k / 2) for k in (-7, -6, -5, -4, -3))
ratios = (1, 16) if size.name == "smoke" else (1, 4, 16, 64)
plain = AdapterConfig(rank=16, alpha=16)


def arms(task, which):
    return {f"ratio {q}": Run(task=task, adapter=plain, ratio=q, keep=True) for q in which}


tuned = {}
for task, name, which in (("rot13", "ratios", ratios), ("cipher-6", "near", (1, 16))):
    tuned[task] = compare(arms(task, which), size, known=results.known_rates(name), grid=grid)
    results.record_sweep(name, tuned[task])
    print(task)
    print(tables.comparison(tuned[task], against="ratio 1"), "\n")
rows = [[q, 16 * q, f"{(t := tuned['rot13'][f'ratio {q}']).run.lr:.2g}", f"{t.run.lr * q:.2g}"] for q in ratios]
print(stats.table(["ratio", "is alpha", "best rate of A", "so of B"], rows))

# %%
keys = [(t, k) for t in both_tasks for k in tuned[t]]
on_seed_0 = carry_out_all([replace(tuned[t][k].run, seed=0, keep=False) for t, k in keys], size)
tune = {key: result["tune_loss"] for key, result in zip(keys, on_seed_0, strict=True)}
picked = {t: min((loss, k) for (task, k), loss in tune.items() if task == t)[1] for t in both_tasks}
print("tuning loss on seed 0:", {" ".join(key): round(loss, 3) for key, loss in tune.items()}, "->", picked)
losses = {(t, k): tuned[t][k].values("task_loss") for t, k in keys}
# what chance gives: ratio 1 a second time, on the same bases with other batches and another start
again = {t: second_time(tuned[t]["ratio 1"].run, size) for t in both_tasks}
itself = {t: stats.paired([r["task_loss"] for r in again[t]], losses[t, "ratio 1"]) for t in both_tasks}
best_ratio.measure({t: stats.paired(losses[t, picked[t]], losses[t, "ratio 1"]) for t in both_tasks}, chance=itself)

# %%
first, last = (tuned["rot13"][f"ratio {q}"] for q in (ratios[0], ratios[-1]))
value = math.log(last.run.lr / first.run.lr) / math.log(ratios[-1])
open_ = math.log(first.resolution * last.resolution) / math.log(ratios[-1])
ends = (value - open_, value + open_) if math.isfinite(open_) else (math.nan, math.nan)
# one sweep: the interval is what the grid's resolution leaves open
slope.measure(Estimate(value, *ends), chance="two rates drawn from the grid's five pass in 3 of 25 cases")

# %% [markdown]
# Now the scores. They need the trained models, which the runs have kept.

# %%
length = size.model.max_position_embeddings
windows = {t: tasks.fixed_windows(tasks.task_ids(t, "held_out"), size.eval_windows, length) for t in both_tasks}
windows = {task: ids.to(size.device) for task, ids in windows.items()}


def trained_model(run, seed, state):
    """(the model of a kept run, {layer's name: its A at the start})."""
    model = pretrained(size, seed)
    torch.manual_seed(seed)  # after the model is built, as in training: A is drawn next
    prepare(model, run)
    starts = {name: layer.A.detach().clone() for name, layer in model.named_modules() if is_adapter(layer)}
    model.load_state_dict(state)
    return model.eval(), starts


@torch.no_grad()
def score(task, run, results):
    """The share of held-out characters that are predicted rightly, one a seed."""
    shares = []
    for s, result in zip(seeds, results, strict=True):
        model, _ = trained_model(run, s, result["state"])
        hits = [(model(w[:, :-1]).argmax(-1) == w[:, 1:]).float().mean().item() for w in windows[task].split(64)]
        shares.append(float(np.mean(hits)))
    return shares


# %%
both_ratios = [tuned[t][k] for t in both_tasks for k in ("ratio 1", "ratio 16")]
scores = {(m.run.task, f"ratio {m.run.ratio:g}"): score(m.run.task, m.run, m.results) for m in both_ratios}
by_chance = {t: score(t, tuned[t]["ratio 1"].run, again[t]) for t in both_tasks}
rows = [[t, k, stats.shown([100 * v for v in values], 1)] for (t, k), values in scores.items()]
print(stats.table(["task", "method", "% right"], rows))
better.measure(
    {t: stats.paired(scores[t, "ratio 16"], scores[t, "ratio 1"]) for t in both_tasks},
    chance={t: stats.paired(by_chance[t], scores[t, "ratio 1"]) for t in both_tasks},
)
results.record(scores={f"{t}, {k}": v for (t, k), v in scores.items()}, picked=picked)

# %% [markdown]
# Then the trap: both at the grid's lowest rate.

# %%
labels = ("ratio 1", "ratio 16")
low_runs = [replace(arms("rot13", (1, 16))[k], lr=grid[0], seed=s, keep=False) for k in labels for s in seeds]
low = carry_out_all(low_runs, size)
at_low = {k: low[i * size.seeds : (i + 1) * size.seeds] for i, k in enumerate(labels)}
low_losses = [[r["task_loss"] for r in at_low[k]] for k in ("ratio 16", "ratio 1")]
leads = {"low": np.subtract(*low_losses), "own": np.subtract(*(losses["rot13", k] for k in ("ratio 16", "ratio 1")))}
for name, values in leads.items():
    print(f"ratio 16 - ratio 1 at {'one low rate' if name == 'low' else 'own rates'}: {stats.shown(values)} nats")
trap.measure(stats.paired(leads["low"], leads["own"]), chance=itself["rot13"])

# %% [markdown]
# And the speed. For each seed: after which share of the steps does the training loss, averaged over ten steps, stand
# where ratio 1's ends? (1 where it never does.) The rate falls to zero along the way, so little moves near the end, and
# a run that is a little ahead is many steps ahead. The null is ratio 1 itself: noise lets it touch its own last loss
# before its end.

# %%
span = min(10, size.steps // 2)


def smoothed(result):
    """The mean over `span` steps; entry t ends at step t + span."""
    return np.convolve(result["losses"], np.ones(span) / span, mode="valid")


def share_of_steps(runs, goals):
    """The share of the steps after which each run is at the last loss of its goal."""
    shares = []
    for run, goal in zip(runs, goals, strict=True):
        reached = np.nonzero(smoothed(run) <= smoothed(goal)[-1])[0]
        shares.append((int(reached[0]) + span) / size.steps if len(reached) else 1.0)
    return shares


# %%
own = {k: tuned["rot13"][k].results for k in labels}
shares = {k: share_of_steps(own[k], own["ratio 1"]) for k in labels}
shares["low rate"] = share_of_steps(at_low["ratio 16"], at_low["ratio 1"])
faster.measure(stats.interval(shares["ratio 16"]), chance=stats.interval(shares["ratio 1"]))
print(f"at the low rate: {stats.shown(shares['low rate'], 2)}")
results.record(share_of_steps=shares, leads=leads)

# %%
if all(t.tried for t in tuned["rot13"].values()):
    cells = {q: tuned["rot13"][f"ratio {q}"].tried for q in ratios}
    results.figure(
        figures.map_of(cells, plain.alpha),
        "map",
        "Loss on rot13 by ratio and learning rate, on the seed that tunes. Framed: the best of each row, the rate that "
        "was used. Blank: not tried.",
        alt="A heat map, ratio upwards and learning rate to the right. The best cells lie on a diagonal: a larger "
        "ratio wants a lower rate. Along that diagonal the losses are much alike, along a column they are not.",
    )
results.figure(
    figures.speed({k: [smoothed(r) for r in own[k]] for k in labels}, span, size.steps),
    "speed",
    "How far ratio 16 is ahead of ratio 1 in training loss, each at its own rate. A thin line a seed; below 0, ratio "
    "16 is ahead. (The tables' losses are of held-out text.)",
    alt="Lines of the training loss at ratio 16 minus that at ratio 1, one for each base and a thick mean. All stay "
    "below zero: far below at the start, then close below.",
)

# %% [markdown] rests_on="08.better=not settled, 08.ratio=not settled, 08.faster=not reproduced, 08.trap=holds"
# Read the map along a column, and then along the frames. A column is a comparison at one learning rate; the frames are
# one in which each has its own.
#
# **What it is worth.** On rot13 ratios 4 and 16 end 0.023 and 0.024 nats below ratio 1, with intervals that hold our
# margin of 0.02: not settled. One step of the rate changes as much, and ratio 1's rate is the less finely known. Other
# batches and another start move ratio 1 by 0.003 ± 0.047. In scores ratio 16 has 0.8 points more, 0.3 to 1.3 where the
# line is 0.5: not settled either. On the near task it ends *higher*, by 0.067 nats, and 1.3 points lower; seed 0 picks
# ratio 1 there. (The part on cipher-6 was added, and the line for the scores moved from 1 point to half of one, when
# these numbers were known; neither verdict changed.) Ratio 64 ends 0.022 ± 0.026 above ratio 1.
#
# **Twice as fast?** Not on this one task: ratio 16 leads at every step drawn, by little, and is at ratio 1's last loss
# after 82 % of the steps [66, 98]. Ratio 1 touches it after 91 % [68, 114]: not told apart. But at the grid's lowest
# rate, 32 times below ratio 1's best and 6 below ratio 16's, ratio 16 is at ratio 1's last loss of that rate after 16
# %, and leads by 0.67 nats. (At 0.01 the map shows the reverse: ratio 1 leads by 1.1.) That is the trap: a comparison
# at one low rate shows the larger alpha's reach, and would have passed our test of the speed. The paper's figure 7
# tunes each rate.

# %% [markdown] rests_on="08.rate=holds"
# **The best rate** of `A` falls as the ratio grows: on one seed, exponent -0.83 [-1.38, -0.28] against a line of -0.25,
# which two random rates pass in 3 of 25 cases. Up to ratio 16 the grid leaves -1.25 to 0, so -1/2 is open here; chapter
# 14 asks it of alpha. The best rate of `B` is 2.2, 2.8 and 2.0 times as high at ratios 4, 16 and 64; the root gives 2,
# 4 and 8, but `A`'s part leads at ratios 1 and 4 only.

# %% [markdown]
# ## The control: tune alpha instead
#
# Plain LoRA with 16 times the alpha, at the rate that suits ratio 16, on the same seeds. In float32 and with the usual
# ε the proof holds only nearly, so we measure. Then both with a weight decay of 0.1, which the proof does not cover.
# The loss alone is a poor judge: an earlier edition asked for losses within 0.01, and ratio 4 at its own rate passes
# that too. So we compare the updates, all `ΔW` of a model as one vector: is the distance below a tenth of its length?
# The null is LoRA+ at ratio 4, from the same start on the same batches.

# %%
control = {
    decay: results.finding(
        name,
        says=f"LoRA+ at ratio 16 ends at the update ΔW of LoRA at 16 times its alpha, {words} weight decay",
        test=AtMost(0.1, "a tenth of the update"),
        scope={"task": "rot13", "weight decay": decay},
    )
    for decay, name, words in ((0.0, "alpha", "without"), (0.1, "alpha_decay", "with"))
}
rate = tuned["rot13"]["ratio 16"].run.lr
pair = {
    "LoRA+ ratio 16": Run(adapter=plain, ratio=16, keep=True),
    "LoRA, alpha 256": Run(adapter=replace(plain, alpha=256), keep=True),
}


@torch.no_grad()
def updates(run, kept):
    """ΔW of all adapters as one vector, for each seed."""
    models = [trained_model(run, s, result["state"])[0] for s, result in zip(seeds, kept, strict=True)]
    return [torch.cat([m.delta_weight().flatten() for m in model.modules() if is_adapter(m)]) for model in models]


def distances(first, second):
    return stats.interval([((a - b).norm() / b.norm()).item() for a, b in zip(first, second, strict=True)])


# %%
jobs = [(name, decay) for name in pair for decay in control]
runs = [replace(pair[name], lr=rate, seed=s, weight_decay=decay) for name, decay in jobs for s in seeds]
ended = carry_out_all(runs, size)
ended = {job: ended[i * size.seeds : (i + 1) * size.seeds] for i, job in enumerate(jobs)}
held_out = {job: [r["task_loss"] for r in of] for job, of in ended.items()}
rows = [[name, *(stats.shown(held_out[name, decay]) for decay in control)] for name in pair]
print(f"loss on rot13 at the rate {rate:.2g}")
print(stats.table(["method", "no weight decay", "weight decay 0.1"], rows))
other = tuned["rot13"][f"ratio {ratios[1] if len(ratios) > 2 else 1}"]  # ratio 4
print(
    "ratio 4 minus alpha 256:", stats.shown(np.subtract(other.values("task_loss"), held_out["LoRA, alpha 256", 0.0]), 4)
)
for decay, row in control.items():
    plus, alpha = (updates(pair[name], ended[name, decay]) for name in pair)
    row.measure(distances(plus, alpha), chance=distances(updates(other.run, other.results), alpha))
results.record(control={f"{name}, {decay}": values for (name, decay), values in held_out.items()})

# %% [markdown]
# ## Who did the learning in the trained models
#
# The estimate speaks of `B`: its own part, `B A0 x`, is what one rate holds back. So in the trained models we split
# each adapter's output on held-out text as in the toy, and ask whether the ratio brings the first part up. The width
# here is small, and `√(r/n)` not far below one.

# %%
says = "the part that B learnt on A's first features is larger at ratio 16 than at ratio 1, each at its own rate"
test = Higher(0.1, "a tenth of the update's output")
names = {"rot13": "b_part_far", "cipher-6": "b_part_near"}
b_part = {task: results.finding(name, says=says, test=test, scope={"task": task}) for task, name in names.items()}


@torch.no_grad()
def split(task, run, seed, state):
    """(|s B A0 x|, |s B (A - A0) x|), each relative to their sum's norm, over all adapters and positions."""
    model, starts = trained_model(run, seed, state)
    squares = torch.zeros(3, device=size.device)

    def look(name, layer, x):
        first, second = x @ starts[name].T @ layer.B.T, x @ (layer.A - starts[name]).T @ layer.B.T
        norms = [layer.scaling * t.norm() for t in (first, second, first + second)]
        squares.add_(torch.stack(norms).square())

    for name, layer in model.named_modules():
        if is_adapter(layer):
            layer.register_forward_pre_hook(lambda m, args, name=name: look(name, m, args[0]))
    model(windows[task][:32, :-1])
    return (squares[:2] / squares[2]).sqrt().tolist()


# %%
learnt = {
    (t, k): [split(t, found.run, s, r["state"]) for s, r in zip(seeds, found.results, strict=True)]
    for t in both_tasks
    for k, found in tuned[t].items()
}
rows = [[t, k, *(stats.shown(v, 2) for v in zip(*pairs, strict=True))] for (t, k), pairs in learnt.items()]
print(f"estimate of B's part at one rate: {math.sqrt(16 / size.model.hidden_size):.2f}")
print(stats.table(["task", "method", "B on A0", "by A's movement"], rows))
for task, row in b_part.items():
    plus, single = ([p[0] for p in learnt[task, k]] for k in ("ratio 16", "ratio 1"))
    second = [
        split(task, tuned[task]["ratio 1"].run, other_draw(s, size), r["state"])
        for s, r in zip(seeds, again[task], strict=True)
    ]
    row.measure(stats.paired(plus, single), chance=stats.paired([p[0] for p in second], single))
results.record(learnt={f"{t}, {k}": v for (t, k), v in learnt.items()})

# %% [markdown] rests_on="08.alpha=holds, 08.alpha_decay=does not hold, 08.b_part_far=holds, 08.b_part_near=holds"
# **The proof** holds in a real training: LoRA+ at ratio 16 and LoRA at 16 times its alpha end at updates that are 0.4 %
# apart. Ratio 4 is 97 % away, at the same loss. So without weight decay (and with no clipping, as here) tuning alpha
# did what the ratio does. With it the two are 36 % apart. LoRA+'s loss is 0.004 nats lower, on all three seeds, with an
# interval that holds 0: open.
#
# **The mechanism** is there too. At one rate `B`'s own part is 0.32 on rot13, near the estimate of 0.35 (for `n` =
# 128), and 0.45 on cipher-6, above it; at ratio 16 it is about 0.9. At ratio 64 it is `A`'s part that has become small,
# 0.23. But on the near task the model with the larger part of `B` is the worse one. That `B`'s own part is the small
# one at one rate, and that raising it helps, are two claims; here the first holds, by our count.
#
# ## Exercises
#
# **1. The groups.** Write the groups by hand: `B` at `lr · ratio`, everything else that is trainable at `lr`, the
# weight decay in each. It is tried on a model with a DoRA layer, a trained norm, and a trained layer called `B_side`.


# %%
from lora_from_scratch.book.checks import ch08 as check


def my_groups(model, lr, ratio, weight_decay):
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [{"params": parameters, "lr": lr, "weight_decay": weight_decay}]  # change this


print(check.check_groups(my_groups))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_groups(model, lr, ratio, weight_decay):
#     named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
#     slow = [p for n, p in named if not n.endswith(".B")]
#     fast = [p for n, p in named if n.endswith(".B")]
#     return [
#         {"params": slow, "lr": lr, "weight_decay": weight_decay},
#         {"params": fast, "lr": lr * ratio, "weight_decay": weight_decay},
#     ]
# ```
#
# </details>
#
# **2. Translate.** A colleague trained with Adam, no weight decay, alpha 8, LoRA+ at ratio 4. Your trainer knows
# no groups. Which alpha gives the same model?

# %%
my_alpha = 8  # change this number
print(check.check_alpha(my_alpha))

# %% [markdown]
# <details><summary>Solution</summary>
#
# `my_alpha = 32`, four times 8. The learning rate stays.
#
# </details>
#
# **3. What breaks the proof?** For each of these say whether LoRA+ at ratio 4 still ends where LoRA with 4 times the
# alpha ends, up to rounding (`True`) or not (`False`): a `bias` that is trained too, at the rate of `A`; `clipping` the
# norm of the whole gradient; a `falling` learning rate; a large `epsilon` of 1e-3 in Adam.

# %%
my_answers = {"bias": None, "clipping": None, "falling": None, "epsilon": None}  # change this
print(check.check_breaks(my_answers))

# %% [markdown]
# <details><summary>Solution</summary>
#
# A trained bias keeps it: both give it the rate `lr`, and the same gradient. A falling rate keeps it: both rates fall
# alike. Clipping breaks it: the gradient of `B'` is λ times as large, so another norm is held against the threshold,
# and Adam's averages mix steps with different clips. A large ε breaks it: it is no longer negligible beside a gradient,
# and is not scaled with it.
#
# </details>
#
# **4. How large?** By the estimate, for a layer of width 4096 and rank 16: the part that `B` learns on `A`'s first
# features at one rate (relative to the other part), and the ratio at which both parts are one.

# %%
my_estimates = (1.0, 16)  # change this: (the part, the ratio)
print(check.check_estimates(my_estimates))

# %% [markdown]
# <details><summary>Solution</summary>
#
# `√(r/n)` = √(16/4096) = 1/16 = 0.0625, and `n/r` = 256.
#
# </details>
#
# ## The PEFT way
#
# ```python
# import torch
# from peft.optimizers import create_loraplus_optimizer
#
# optimizer = create_loraplus_optimizer(peft_model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
# ```
#
# It follows the authors' code, which gives the higher rate to every parameter with one dimension too, such as a bias.
# The argument about `A` and `B` says nothing of those. The decay is `loraplus_weight_decay` (0 unless set); biases and
# LayerNorms get none there, an RMSNorm does. Adapters on an embedding get a rate of their own (1e-6 unless you set it).
# With ours, the optimizer is yours:
# `torch.optim.AdamW(loraplus_param_groups(model, lr=1e-3, ratio=16))`.
#
# ## What to take along
#
# - Count what one step moves: `A x` by `η n`, the output through `B` by `η r`. In a wide layer `B`'s part is small.
# - Under Adam without weight decay or clipping, a ratio is an alpha. Tune either, not both.
# - A shared rate picks the winner: here a low one the larger ratio, a high one the smaller. Tune each method.

# %%
results.save()
