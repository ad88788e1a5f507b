# %% [markdown]
# # 14 · Learning rates and batches
#
# **The question.** You have a rate that works, and you change the rank, the alpha, the model, the length of the run or
# the batch. Where is the best rate now? And does LoRA bear large batches less well than full fine-tuning?
#
# **What you will be able to do.** Say which two of LoRA's four knobs are real. Find the bottom of a valley of rates in
# three or four runs. Put a published law to a test that it can fail. Tell a large batch from a short run.
#
# **What you need.** Chapters 01 (the layer, and the sweep) and 07 (the scaling `s`); of 17 the starts.
#
# **The published claims.** *LoRA Without Regret* (Thinking Machines, 2025): the best rate is "consistently 10x" that of
# full fine-tuning, perhaps 15 times under about 100 steps; under α / r it changes by "less than 2" from rank 4 to 512;
# it falls with the hidden size like full fine-tuning's. It also derives hidden / 2α for the ratio, and rejects it. Of
# batches it says: "in some scenarios" LoRA pays more for a large one, whatever its rank, and its likely reason is the
# product `B A`. Others say otherwise of ranks: 2602.06204v1 (abstract) has a regime where the best rate stays and one
# where it falls with the rank. Of variants, 2602.09492v2 (abstract) says that their contradictions "arise from a single
# overlooked factor: the batch size"; 2602.04998v2 (abstract), that at tuned rates all are alike.
#
# Losses are in nats a character, held out. An *octave* is a factor of 2. At `full` three seeds are three bases of each
# width; `a ± b` is a mean over them with its 95 % interval. At `quick` there is one seed, and less of everything.

# %%
import math
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from lora_from_scratch import AdapterConfig
from lora_from_scratch.book import rate_laws, stats
from lora_from_scratch.book.figures import ch14 as figures
from lora_from_scratch.book.results import Results
from lora_from_scratch.book.verdicts import Equal, Higher, Identity, Lower
from lora_from_scratch.lab.cache import ROOT
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.rates import Sized, pick_and_judge, results_of, valleys

size = preset()
size = replace(size, eval_windows=min(size.eval_windows, 128))  # many short runs: half as many windows behind a loss
results = Results("14_learning_rates_and_batches", size)
seeds = range(1, size.seeds + 1)
full_size = size.name not in ("smoke", "quick")
mine = lambda values: stats.interval(list(values))  # noqa: E731
octaves = np.log2

# %% [markdown]
# ## Four knobs, two of them real
#
# LoRA has an `alpha`, a size of the random `A`, a rate for `A` and a rate for `B`. The article shows that with Adam two
# of the four are redundant: for any p and q this leaves every step of training as it was:
#
# $$\alpha \to \frac{\alpha}{p q}, \qquad A_0 \to p\,A_0, \qquad \text{rate}_A \to p\,\text{rate}_A, \qquad
# \text{rate}_B \to q\,\text{rate}_B$$
#
# Why: Adam divides a gradient by its own size, so `A` moves by its rate, whatever the loss is scaled by. So `A` is p
# times what it was, at every step, `B` is q times, and `alpha` takes both out again. In raw lines, on a small problem:

# %%
torch.manual_seed(0)
d_in, d_out, r = 12, 8, 4
x, y = torch.randn(64, d_in, dtype=torch.float64), torch.randn(64, d_out, dtype=torch.float64)
start = (2 * torch.rand(r, d_in, dtype=torch.float64) - 1) / d_in**0.5  # A as LoRALinear draws it


def update(steps, alpha=8.0, size_of_A=1.0, rate_A=0.01, rate_B=0.01):
    """ΔW after `steps` of Adam; ε is as good as 0, so that nothing but the four knobs has a size."""
    A, B = (size_of_A * start).requires_grad_(), torch.zeros(d_out, r, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([{"params": [A], "lr": rate_A}, {"params": [B], "lr": rate_B}], eps=1e-60)
    for _ in range(steps):
        adam.zero_grad()
        (alpha / r * x @ A.T @ B.T - y).square().mean().backward()
        adam.step()
    return (alpha / r * B @ A).detach()


redundant = results.identity(
    "two_knobs",
    says="α / pq, p · A's start, p · A's rate, q · B's rate: the same ΔW after 50 Adam steps (float64, relative)",
    test=Identity(1e-6),
)
p, q = 3.0, 0.2
moved = update(50, 8 / (p * q), p, p * 0.01, q * 0.01) - update(50)
redundant.measure((moved.norm() / update(50).norm()).item())

# %% [markdown]
# What is left are two numbers: `α · A's size · rate of B`, how far the first steps move the model, and `A's size / rate
# of A`, in how many steps `A` is no longer what it was. With one rate for both, as everybody trains, two limits follow:
#
# - **A short run.** `A` is still its start, only the first number counts: rate ∝ 1 / s.
# - **A long run.** `A` has long left its start, which no longer counts. Then p = q = √c turns any `alpha` into
#   `alpha / c` at √c times the rate: rate ∝ 1 / √s.
#
# And over ranks: at the first step the r rows of `A` add up alike, so in a short run `s · r`, which is alpha, should
# count, at any rank. `A` starts within ±1 / √d_in. So a run is long once its steps add up to more than that. Each is
# about as large as the rate, and falls to 0 here: at width 64 and rate 0.01 that takes two dozen.
#
# ## Broken on purpose
#
# We quarter `alpha`, and mend the rate in both ways:
# four times as high, and twice. How far is ΔW from what it was?

# %%
rows = []
for steps in (1, 3, 10, 30):
    was = update(steps)
    off = [(update(steps, alpha=2.0, rate_A=0.01 * c, rate_B=0.01 * c) - was).norm() / was.norm() for c in (1, 4, 2)]
    rows.append([steps, *(f"{value:.2f}" for value in off)])
print(stats.table(["steps", "rate kept", "four times (short-run rule)", "twice (long-run rule)"], rows))

# %% [markdown]
# The first rule is exact for one step, and at ten it is further off than the rate kept. The second is never exact, and
# up to 30 steps never the worst. (From 50 on the problem is nearly solved; all come near, and the first rule is the
# nearest again.) So the toy shows that a rule exact for one step may fail at ten. It proves neither for long runs: that
# needs the sweep.
#
# ## The laws, written down before the sweep
#
# Five ways to know LoRA's best rate. The first three multiply *full fine-tuning's* best rate, which has to be known.
# The fourth is a fit to 14 models of 1,000 and more channels: the article has its form and M = 9.8; the constant and
# the exponent for Llama stand in the library that came with it (tinker-cookbook, second hand). The fifth are our own
# two exponents, fitted here to the committed sweeps of chapters 01 and 07, all of one width and 200 steps.


# %%
def power_fit(points):
    """(log2 c, a, b) of rate = c · s^a · r^b by least squares; points are (s, rank, rate)."""
    s, r, rate = octaves(np.array(points)).T
    return np.linalg.lstsq(np.stack([np.ones_like(s), s, r], axis=1), rate, rcond=None)[0]


fitted = power_fit(rate_laws.committed_rates(ROOT))
print(f"rate = {2 ** fitted[0]:.3f} · s^{fitted[1]:.2f} · r^{fitted[2]:.2f}")


# %%
def laws(full_rate, width, steps, s, rank):
    return {  # law: LoRA's best rate, from full fine-tuning's and what is known before training
        "10 × full": 10 * full_rate,
        "15 × full, under 100 steps": (15 if steps < 100 else 10) * full_rate,
        "hidden / 2α × full": width / (2 * s * rank) * full_rate,
        "the article's fit": 9.8 * 5e-5 * (2000 / width) ** 0.781,
        "s^a r^b": 2 ** (fitted @ (1, octaves(s), octaves(rank))),
        "1 / √alpha": 0.0056 * (32 / (s * rank)) ** 0.5,
        "one rate for all": 0.0056,  # what most committed sweeps found: it knows nothing
    }


# %%
hidden = size.model.hidden_size
widths = (hidden // 2, hidden, 2 * hidden) if full_size else (hidden // 2, hidden)
print("LoRA's rate over full fine-tuning's, rank 16, alpha 32; and the fit, a rate in thousandths")
said = {w: list(laws(1.0, w, 200, 2, 16).values()) for w in (*widths, 576)}
rows = [[w, 10, f"{of[2]:.0f}", f"{1000 * of[3]:.1f}"] for w, of in said.items()]
print(stats.table(["width", "10 ×", "hidden / 2α", "the fit"], rows))

# %% [markdown]
# The first two agree at width 640 and differ tenfold at 64: a narrow model can tell them apart. The fit gives a rate,
# not a ratio. Two more know no full fine-tuning at all: *one rate for all*, and that rate times √(32 / alpha).
#
# **Write down your prediction.** At width 64: ten times full's rate, or as much as full's, or something else? Does the
# ratio grow with the width? From rank 1 to 64 at alpha 32, by which factor does the best rate move? And at alpha = r?
#
# ## What would count
#
# For each run and base we try rates a factor of 2 apart, from a first guess outwards, until the best one has a worse
# neighbour on either side. The bottom of the parabola through these three is our estimate of that base's best rate.
# Nothing is picked on one seed and judged on another here: the rate itself is what is measured. Each run falls to rate
# 0 along a line (the article's do not fall), with alpha 32 and rank 16 where nothing else is said.
#
# Differences of rates are in octaves; "the same" is within one octave, a factor of 2, as in "less than 2"; exponents to
# 0.25 over widths (half an octave from 64 to 256), and to 0.15 over s and r.

# %%
tasks = ("rot13", "cipher-6") if full_size else ("rot13",)  # far, near
lengths = (6, 25, 100, 400) if full_size else (8, 32) if size.name == "quick" else (4, 8)
shortest, middle, long_ = lengths[0], lengths[-2 if full_size else -1], lengths[-1]
narrow, octave, far_near = widths[0], "a factor of 2", {"rot13": "far", "cipher-6": "near"}
about = {"width": f"{narrow} to {widths[-1]}", "task": ", ".join(tasks), "steps": middle, "rank": 16, "alpha": 32}


def article(section):
    """Source and reading of a claim from the article."""
    return {"source": f"LoRA Without Regret (Thinking Machines, 2025), section {section}", "read": "full text"}


# %%
ten = results.claim(
    "ten",
    says="LoRA's best rate is ten times full fine-tuning's of the same layers, in octaves off 10",
    published="consistently 10x, 14 Llama and Qwen models",
    test={f"{t}, {w}": Equal(1, octave) for t in tasks for w in widths},
    scope=about | {"unit": "octaves"},
    **article("Optimal learning rates for LoRA vs. FullFT"),
)
power = results.claim(
    "same_power",
    says="over widths LoRA's best rate goes as full fine-tuning's: the exponent of their ratio is 0",
    published="LoRA pow = 0; hidden / 2α, an exponent of 1, is derived and rejected",
    test={t: Equal(0.25, "a quarter of what is rejected") for t in tasks},
    scope=about | {"unit": "exponent"},
    **article("Optimal learning rates for LoRA vs. FullFT"),
)

# %%
by_hidden = {
    (model, m): results.claim(
        f"{model.lower()}_power_{m.lower()}",
        says=f"{m}'s best rate falls with the hidden size to the power -{power_}: how far the exponent is off",
        source="tinker-cookbook, file hyperparam_utils.py; the form: the article, section on optimal rates",
        read="second hand",
        published=f"(2000 / hidden)^{power_} for {model}",
        test=dict.fromkeys(tasks, Equal(0.25, "a third of Llama's exponent")),
        scope=about | {"unit": "exponent"},
    )
    for model, power_ in (("Llama", 0.781), ("Qwen", 0.0775))
    for m in ("full", "LoRA")
}

n_short = lengths[-3 if full_size else 0]
short_runs = article("Learning rates in short and long runs") | {
    "scope": about | {"width": narrow, "steps": f"{n_short} and {long_}", "unit": "octaves"},
    "published": "around 15x under some 100 steps, 10x in longer runs; called preliminary and anecdotal",
}
test_15, test_more = Equal(1, octave), Higher(0.25, "15 over 10 is 0.58")
fifteen = results.claim(
    "fifteen", f"in {n_short} steps the ratio is 15", test=dict.fromkeys(tasks, test_15), **short_runs
)
says = f"in {n_short} steps the ratio is higher than in {long_}"
higher = results.claim("higher_in_short", says, test=dict.fromkeys(tasks, test_more), **short_runs)

# %%
ranks = (1, 4, 16, 64) if full_size else (1, 16)
wide_ranks, at = f"{ranks[1 if full_size else 0]} to {ranks[-1]}", {"width": narrow, "task": "rot13"}
rank_free = results.claim(
    "rank_free",
    says=f"at alpha 32 the best rate of rank {ranks[-1]} is that of rank {wide_ranks.split()[0]}, in octaves",
    published="less than a factor of 2 from rank 4 to 512; in short runs independent of the rank",
    test={f"{n} steps": Equal(1, octave) for n in lengths},
    scope=at | {"rank": wide_ranks, "unit": "octaves"},
    **article("Optimal learning rate and rank"),
)
rank_one = results.claim(
    "rank_one",
    says="at alpha 32 rank 1 has a lower best rate than rank 16: rank 16's over rank 1's, in octaves",
    published="lower optimal LR for rank=1 than for higher-rank LoRAs",
    test={f"{t}, {n} steps": Higher(0.25, "what a reader would notice") for t in tasks for n in lengths},
    scope=at | {"task": ", ".join(tasks), "unit": "octaves"},
    **article("LoRA rank"),
)

# %%
mu = results.claim(
    "rank_power",
    says="at a fixed alpha the best rate does not hang on the rank (exponent 0); at alpha = r it goes as r^-½",
    source="arXiv 2602.06204v1, abstract: two regimes, invariant and inverse; these exponents as others tell them",
    read="second hand",
    published="B zero at the start: r^0 under a factor 1 / r, r^-½ under a fixed one",
    test={f"{rule}, {t}, {n}": Equal(0.15, "how far the exponent is off; a third of ½")
          for rule in ("α 32", "α = r") for t in tasks for n in (shortest, long_)},
    scope=at | {"task": ", ".join(tasks), "rank": "1 to 64 far, 1 and 16 near", "unit": "exponent"},
)  # fmt: skip
limits = {
    "s_short": (f"in {shortest} steps the best rate goes as 1 / s: how far the exponent is above -1", Equal),
    "s_long": (f"in {long_} steps it goes as 1 / √s: how far the exponent is above -½", Equal),
    "s_moves": (f"from {shortest} to {long_} steps the exponent of s rises", Higher),
}
third = "a third of the way from -1 to -½"
s_rows = {(name, t): results.finding(f"{name}_{far_near[t]}", says=says, test=test(0.15, third),
                                     scope=at | {"task": t, "alpha": "32 and r", "unit": "exponent"})
          for name, (says, test) in limits.items() for t in tasks}  # fmt: skip

# %%
names = list(laws(1, 1, 1, 1, 1))
rules = {"alpha 32": lambda c: c[4] == 32, "alpha = r": lambda c: c[4] != 32}
beats = {
    (law, rule): results.finding(
        f"law_{i}" + ("" if rule == "alpha 32" else "_r"),
        says=f"at {rule} “{law}” misses LoRA's best rate by less than the best single rate for these runs does",
        test=Lower(0.25, "a quarter of an octave, so that a reader would notice"),
        scope={"width": about["width"], "task": about["task"], "alpha": rule, "unit": "octaves, mean over runs"},
    )
    for rule in rules
    for i, law in enumerate(names[:-1], 1)
    if (i < 6 if rule == "alpha 32" else i > 4)  # 1 / √alpha is one rate at alpha 32; laws 1 to 4 are for alpha 32
}

# %% [markdown]
# (The row of the shortest run was first written for 25 steps. The far task's exponents there were seen to be near -0.6,
# and by the rule above 25 steps are no longer short for half of the eight runs. So 6 steps were
# added.)
#
# ## The valleys

# %%
cells = {}
for t in tasks:
    for n in lengths:
        few = ranks if t == "rot13" else (1, 16)  # the near task: fewer cells
        cells |= {(t, narrow, n, None, 0): Sized(task=t, scope="linear", steps=n, width=narrow)}
        cells |= {(t, narrow, n, k, a): Sized(task=t, adapter=AdapterConfig(rank=k, alpha=a), steps=n, width=narrow)
                  for k in few for a in (32, k)}  # fmt: skip
    for w in widths[1:]:
        cells |= {(t, w, middle, None, 0): Sized(task=t, scope="linear", steps=middle, width=w)}
        cells |= {
            (t, w, middle, 16, 32): Sized(task=t, adapter=AdapterConfig(rank=16, alpha=32), steps=middle, width=w)
        }


def guess(cell):
    """Where a valley is looked for first; the search goes on from there until it is found."""
    _, _, steps, rank, alpha = cell
    return 0.004 if rank is None else 0.005 * (alpha / rank / 2 * rank / 16) ** -0.6 * (100 / steps) ** 0.25


found = valleys(cells, seeds, {cell: guess(cell) for cell in cells}, size)
best = {key: valley.best for key, valley in found.items()}
print(f"{len(found)} valleys, {sum(len(v.tried) for v in found.values())} runs; "
      f"{sum(not v.finished for v in found.values())} end at an edge")  # fmt: skip

# %%
print(figures.table_of_rates(cells, best, seeds))
results.record(valleys={", ".join(map(str, (*c, s))): {f"{x:.4g}": y for x, y in sorted(found[c, s].tried.items())}
                        for c, s in found},
               best={", ".join(map(str, (*c, s))): rate for (c, s), rate in best.items()})  # fmt: skip

# %% [markdown]
# ## The ratio, over widths and lengths


# %%
def ratio(task, width, steps, seed):
    """LoRA's best rate at rank 16, alpha 32 over full fine-tuning's, on one base."""
    return best[(task, width, steps, 16, 32), seed] / best[(task, width, steps, None, 0), seed]


def slope(rates, over):
    """The exponent of `rates` over `over`: the slope of the line through their logarithms."""
    return np.polyfit(octaves(over), octaves(rates), 1)[0]


ten.measure(
    {f"{t}, {w}": mine(octaves(ratio(t, w, middle, k) / 10) for k in seeds) for t in tasks for w in widths},
    chance=dict.fromkeys(ten.parts, -math.log2(10)),
)

# %%
power.measure(
    {t: mine(slope([ratio(t, w, middle, k) for w in widths], widths) for k in seeds) for t in tasks},
    chance=dict.fromkeys(tasks, 1.0),
)
arm = {"full": (middle, None, 0), "LoRA": (middle, 16, 32)}
falls = {(t, m): [slope([best[(t, w, *arm[m]), k] for w in widths], widths) for k in seeds] for t in tasks for m in arm}
for (model, m), row in by_hidden.items():
    said, other = (0.781, 0.0775) if model == "Llama" else (0.0775, 0.781)
    chance = dict.fromkeys(tasks, said - other)  # the other family's power
    row.measure({t: mine(np.array(falls[t, m]) + said) for t in tasks}, chance=chance)

# %%
ratios = {(t, n): [ratio(t, narrow, n, k) for k in seeds] for t in tasks for n in lengths}
fifteen.measure(
    {t: mine(octaves(np.array(ratios[t, n_short]) / 15)) for t in tasks}, chance=dict.fromkeys(tasks, -math.log2(15))
)
higher.measure(
    {t: stats.paired(octaves(ratios[t, n_short]), octaves(ratios[t, long_])) for t in tasks},
    chance=dict.fromkeys(tasks, 0.0),
)

# %% [markdown]
# (The nulls: a LoRA that wants full fine-tuning's very rate; the exponent of hidden / 2α; the other family's power; a
# ratio that does not hang on the length.)

# %%
real = rate_laws.real_ratio(ROOT)
print(f"the pretrained model of chapter 13, by the same rule: {real:.1f} (documents, few steps, one seed)")
results.figure(
    figures.ratio_by_width(partial(ratio, steps=middle), tasks, widths, seeds, real),
    "widths",
    "LoRA's best rate (rank 16, alpha 32) over full fine-tuning's of the same layers, by width. Bars: 95 % intervals "
    "over three bases; runs of 100 steps. The open mark is the pretrained model of chapter 13: another task, few "
    "steps, one seed.",
    alt="The near task rises from 2.2 at width 64 to 3.6 at 256, the far one from 1.7 to 2.2; both below a level line "
    "at 10 and across a steeper one, hidden over 2 alpha. The pretrained model, at 576, lies near 10, where they meet.",
)

# %% [markdown]
# ## The exponents of s and r
#
# For each length the best rates are fitted by $c \cdot s^a \cdot r^b$, base by base. On the far task eight runs take
# part (four ranks, each at alpha 32 and alpha = r, which is s = 1), on the near one four.


# %%
def exponents(task, steps, seed):
    """(a, b) of rate = c · s^a · r^b, by least squares over the runs of one length and base."""
    return power_fit([(c[4] / c[3], c[3], best[c, seed]) for c in cells if c[:3] == (task, narrow, steps) and c[3]])[1:]


fits = {(t, n): np.array([exponents(t, n, k) for k in seeds]) for t in tasks for n in lengths}
rows = [[t, n, *(stats.shown(list(column), 2) for column in fit.T)] for (t, n), fit in fits.items()]
print(stats.table(["task", "steps", "exponent of s", "exponent of r"], rows))
results.record(exponents={f"{t}, {n}": fit.tolist() for (t, n), fit in fits.items()})
for t in tasks:
    a_short, a_long = fits[t, shortest][:, 0], fits[t, long_][:, 0]
    s_rows["s_short", t].measure(mine(a_short + 1), chance=0.5)  # the long run's exponent
    s_rows["s_long", t].measure(mine(a_long + 0.5), chance=-0.5)  # the short run's
    s_rows["s_moves", t].measure(mine(a_long - a_short), chance=0.0)


# %%
def over_ranks(rule, task, steps, seed):
    """The exponent of the best rate over the rank, at alpha 32 or at alpha = r."""
    ks = [c[3] for c in cells if c[:3] == (task, narrow, steps) and c[4] == 32]
    return slope([best[(task, narrow, steps, k, 32 if rule == "α 32" else k), seed] for k in ks], ks)


def apart(high, low, task, steps):
    """By how many octaves the best rate of one rank lies above another's at alpha 32, one value a base."""
    at_rank = lambda rank, k: best[(task, narrow, steps, rank, 32), k]  # noqa: E731
    return mine(octaves(at_rank(high, k) / at_rank(low, k)) for k in seeds)


low, high = int(wide_ranks.split()[0]), ranks[-1]
by_root = -math.log2(high / low) / 2  # what r^-½ would do
rank_free.measure({f"{n} steps": apart(high, low, "rot13", n) for n in lengths},
                  chance=dict.fromkeys(rank_free.parts, by_root))  # fmt: skip
rank_one.measure({f"{t}, {n} steps": apart(16, 1, t, n) for t in tasks for n in lengths},
                 chance=dict.fromkeys(rank_one.parts, 0.0))  # fmt: skip
said = {"α 32": 0.0, "α = r": -0.5}
mu.measure(
    {f"{rule}, {t}, {n}": mine(over_ranks(rule, t, n, k) - said[rule] for k in seeds)
     for rule in said for t in tasks for n in (shortest, long_)},
    chance={part: 0.5 if part.startswith("α = r") else -0.5 for part in mu.parts},  # the other rule's exponent
)  # fmt: skip

# %%
results.figure(
    figures.exponents(fits, ratios, lengths),
    "lengths",
    "Left: the exponents of s and r by the length of the run; dashed, what the two limits say for s. Right: LoRA's "
    "best rate over full fine-tuning's by length, with the published 15 and 10.",
    alt="Two panels over the number of steps, logarithmic. Left: all exponents lie between minus 0.37 and minus 0.65 "
    "at every length, near the line of the long run and far above that of the short one. Right: ratios of 1 to 3, far "
    "below the lines at 10 and 15.",
)

# %% [markdown] rests_on="14.ten=not reproduced, 14.same_power=not settled, 14.llama_power_lora=not reproduced"
# **The ratio.** In none of six places is it ten. It is 1.7 to 2.2 on the far task and 2.2 to 3.6 on the near one, and
# grows with the width more slowly than hidden / 2α: its exponent is 0.20 ± 0.18 and 0.38 ± 0.16, where that law has 1
# and the article 0. (0 lies outside both intervals, but our margin of 0.25 leaves the row open.) What moves is full
# fine-tuning's best rate, with exponents -0.38 ± 0.08 and -0.48 ± 0.23. LoRA's are -0.18 ± 0.20 and -0.11 ± 0.16: both
# intervals hold 0, and the rates are 0.0056 to 0.0073. So Llama's power is not LoRA's here. The pretrained model's mark
# near ten is no evidence: one seed, flat losses, and two grids that began ten apart, so that a flat loss gives ten
# (chapter 13).

# %% [markdown] rests_on="14.qwen_power_lora=not settled,14.llama_power_full=not settled,14.qwen_power_full=not settled"
# Qwen's power, -0.0775, is LoRA's on the near task, within our margin, and open on the far one. An exponent of 0 lies
# in both intervals too; by the same margin it is open on both. For full fine-tuning Llama's power fails on the far task
# and is open on the near one. Qwen's is open on both, though it lies outside both intervals.

# %% [markdown] rests_on="14.fifteen=not reproduced, 14.higher_in_short=not settled"
# In 25 steps the ratio is 2.4 and 2.7, not 15. On the far task it is about half that in 400 steps: higher on all three
# bases, but three are too few for our margin. On the near one the rise is 0.11 ± 0.46 octaves: open, though one as
# large as the article's 0.58 lies just outside.

# %% [markdown] rests_on="14.s_short_far=does not hold, 14.s_short_near=does not hold"
# **s.** In 6 steps the best rate goes as s^-0.59 and s^-0.64, not as 1 / s: our prediction was wrong on both tasks.
# Perhaps six steps are long already. At rank 1 and alpha 1 the rate is 0.06, and the steps add up to more than 1 / √64.
# At ranks 4 to 64 of the far task they do not, and there too the exponent is about -0.55 ± 0.21. But our measure of
# "long" is too generous: in the toy above the first rule is 0.30 off after three steps, long before they add up to 1 /
# √12. We have not tested this.

# %% [markdown] rests_on="14.s_long_far=holds,14.s_long_near=holds,14.s_moves_far=does not hold,14.s_moves_near=holds"
# In 400 steps it goes as s^-0.51 and s^-0.41: the long run's rule, within our margin. That says little on the far task,
# where the exponent of 6 steps passes the same test. It rises by 0.23 ± 0.04 on the near task, and by 0.08 ± 0.06 on
# the far one, less than our margin. The direction is as predicted, the size is not: it was to go from -1 to -½. On the
# near task it is nearly rank 1's alone, whose s moves by 32, where rank 16's moves by 2.

# %% [markdown] rests_on="14.rank_free=not settled, 14.rank_one=partly, 14.rank_power=partly"
# **r.** On the far task, at alpha 32, the best rate of rank 64 is 1.2 to 1.7 times that of rank 4. In 6, 100 and 400
# steps it is within the article's factor of 2; in 25 it is open. Rank 1 has a lower one than rank 16 in 6 and 25 steps
# on both tasks, by 0.7 octaves (far) and 1 (near), and in 100 steps on the far one, by 1. On the near task, in 400
# steps, it has a *higher* one, by 0.9. So "no dependence on the rank" at alpha 32 holds in one of four places (far, 400
# steps) and fails in one (near, 6 steps); two are open. At alpha = r the exponent is -0.36 to -0.58: in 6 steps r^-½
# within our margin, in 400 open. Our own short-run prediction, r^-1 there, fails like 1 / s. On the far task, from rank
# 1 to 64, the rate moves by 1.3 to 2.2 times at alpha 32, and by 5 to 7 times at alpha = r. So keep alpha; but at rank
# 1 look a factor of 2 to either side.

# %% [markdown]
# ## Which law, then?

# %%
off = rate_laws.misses(laws, best, cells, seeds)  # {(law, seed): {run: octaves}}
for (law, rule), row in beats.items():
    some = {k: {c: v for c, v in off[law, k].items() if rules[rule](c)} for k in seeds}
    sizes = [float(np.abs(list(some[k].values())).mean()) for k in seeds]
    level = [rate_laws.one_level(some[k], best, k) for k in seeds]  # of the best single rate
    dealt = [rate_laws.dealt(some[k], best, k) for k in seeds]  # its predictions in another order: chance
    row.measure(stats.paired(sizes, level), chance=stats.paired(dealt, level))
print(rate_laws.table_of_misses(off, names, rules, seeds))
print(rate_laws.cost_of_a_wrong_rate(found))


# %% [markdown] rests_on="14.law_1=does not hold,14.law_2=does not hold,14.law_3=does not hold,14.law_4=does not hold"
# At alpha 32, where they are claimed, ten and fifteen times full's rate are 2.4 and 2.6 octaves too high, hidden / 2α
# misses by 0.9, and the article's fit by 0.5. No law beats a single rate there by our margin, and hardly any could: the
# best one, chosen after the fact, misses by 0.37.

# %% [markdown] rests_on="14.law_5=does not hold, 14.law_5_r=holds, 14.law_6_r=holds"
# Nor do our own exponents, at alpha 32 (0.36). At alpha = r they win: 0.41 octaves, where one rate of 0.0056 misses by
# 1.7 and the best single one by 0.9. A rate ∝ 1 / √alpha does nearly as well (0.58), with one rate from the earlier
# sweeps and no fitted exponent. In those runs (width 64) alpha is the rank, so they cannot say which of the two counts.
# The runs at alpha 32 do: there the rank alone moves the rate little.
#
# And what does a wrong rate cost? A factor of 2 off the best rate tried costs 0.03 nats on the gentler side and 0.16 on
# the steeper, in the median valley. The gentler side is the lower one in 125 of the 192 valleys: a small preference.

# %% [markdown]
# ## Batches
#
# One pass over the data with a batch 16 times as large has a sixteenth of the steps. So a loss that is worse at large
# batches may be worse for the *batch* or for the *steps*. We measure both ways: batches of 4, 16 and 64 windows at
# equal *tokens* (320, 80 and 20 steps at `full`), and at equal *steps* (80).
#
# One part of a reason can be taken away: LoRA has one factor zero at the start, and a step is spent before the other
# moves. *Both begun* starts from random factors of PiSSA's size with the sum unchanged (chapter 17): neither is zero.
# If a short run pays for the zero, it should pay less. It is still a product: the article's reason stays untested.
# PiSSA itself is there for the quarrel about variants.
#
# Each of them has its own best rate at each batch, picked on seed 0 (a valley, and its bottom) and judged on other
# bases. **Write down your prediction:** LoRA's loss less full's at batches 4 and 64, both ways.

# %%
tokens = {"quick": 320, "smoke": 128}.get(size.name, 1280)  # windows of text in a pass
batches, even = (4, 16, 64), tokens // 16
ways = {"tokens": lambda batch: tokens // batch, "steps": lambda batch: even}
methods = {"full": None, "rank 16": "plain", "rank 64": "plain", "both begun": "random, large", "PiSSA": "PiSSA"}


def trained(task, method, batch, way):
    """One run of the comparison, without its rate and seed."""
    common = {"task": task, "batch": batch, "steps": ways[way](batch), "width": narrow}
    if method == "full":
        return Sized(scope="linear", **common)
    adapter = AdapterConfig(rank=64 if method == "rank 64" else 16, alpha=32)
    return Sized(adapter=adapter, begin=methods[method], **common)


# %%
nats, noise = "about 1 % of the loss", "what one run scatters by when it is repeated (chapter 01)"
where = {"width": narrow, "task": ", ".join(tasks), "batches": "4 to 64"}
grows = results.claim(
    "gap_grows",
    says="at equal tokens LoRA's loss less full fine-tuning's is larger at batch 64 than at batch 4",
    published="less tolerant of large batches in some scenarios; one, of 10,000 examples, is drawn",
    test={t: Higher(0.02, nats) for t in tasks},
    scope=where | {"rank": 16},
    **article("Batch size effects"),
)
whatever = results.claim(
    "whatever_rank",
    says="that growth is the same at rank 64 as at rank 16",
    published="not mitigated by the rank",
    test={t: Equal(0.04, noise) for t in tasks},
    scope=where | {"rank": "16 and 64"},
    **article("Batch size effects"),
)
# %%
smaller = results.claim(
    "smaller_is_better",
    says="at equal tokens batch 64 ends higher than batch 4",
    published="both LoRA and FullFT achieve their best loss at smaller batches",
    test={f"{t}, {m}": Higher(0.02, nats) for t in tasks for m in ("full", "rank 16")},
    scope=where,
    **article("Batch size effects"),
)

why = {
    "steps": "at equal steps the gap grows less with the batch than at equal tokens",
    "begun": "with neither factor zero at the start the gap grows less, at equal tokens",
}
name = {"rot13": "far", "cipher-6": "near"}
shrinks = {(row, t): results.finding(f"{row}_{name[t]}", says=says, test=Lower(0.02, nats),
                                     scope=where | {"task": t, "rank": 16})
           for row, says in why.items() for t in tasks}  # fmt: skip

# %%
alike = results.claim(
    "alike",
    says="at tuned rates PiSSA ends within 2 % of the plain start, at every batch",
    source="arXiv 2602.04998v2, abstract",
    read="abstract",
    published="within 1 to 2 %, over searches of rate, batch, rank and length",
    test={f"{t}, {b}": Equal(2, "percent of the loss") for t in tasks for b in batches},
    scope=where | {"rank": 16, "unit": "percent of the plain start's loss"},
)

# %%
jobs = [(t, m, b, "tokens") for t in tasks for m in methods for b in batches]
jobs += [(t, m, b, "steps") for t in tasks for m in ("full", "rank 16", "rank 64") for b in (4, 64)]
label = lambda job: ", ".join(map(str, job))  # noqa: E731
first = {"full": 0.004, "rank 16": 0.008, "rank 64": 0.008, "both begun": 0.004, "PiSSA": 0.004}
guesses = {label(j): first[j[1]] * (0.7 if j[2] == 4 else 1) for j in jobs}
runs = {label(j): trained(*j) for j in jobs}
tuned = pick_and_judge(runs, guesses, size, results.known_rates("batches"))
results.record_sweep("batches", tuned)


def losses(task, method, batch, way="tokens"):
    """One held-out loss a base. At batch 16 both ways are one run."""
    return np.array(tuned[label((task, method, batch, way if batch != 16 else "tokens"))].values("task_loss"))


def growth(task, method="rank 16", way="tokens"):
    """By how much the loss less full fine-tuning's is larger at batch 64 than at batch 4, one value a base."""
    gap = {b: losses(task, method, b, way) - losses(task, "full", b, way) for b in (4, 64)}
    return gap[64] - gap[4]


print(figures.table_of_batches(losses, tasks, methods, batches))


# %%
def a_second_time(task, method, batch, factor=1):
    """The losses of a method at `factor` times its rate; at 1 with other batches of text and another start."""
    run, moved = tuned[label((task, method, batch, "tokens"))].run, size.bases if factor == 1 else 0
    some = [replace(run, lr=factor * run.lr, seed=k + moved) for k in seeds]
    return np.array([r["task_loss"] for r in results_of(some, size)])


again = {(t, m, b): a_second_time(t, m, b) for t in tasks for m in ("full", "rank 16") for b in (4, 64)}
scatter = {(t, m): again[t, m, 64] - losses(t, m, 64) - (again[t, m, 4] - losses(t, m, 4))
           for t in tasks for m in ("full", "rank 16")}  # fmt: skip
# %%
null = {t: mine(scatter[t, "rank 16"] - scatter[t, "full"]) for t in tasks}
grows.measure({t: mine(growth(t)) for t in tasks}, chance=null)
whatever.measure({t: mine(growth(t, "rank 64") - growth(t)) for t in tasks}, chance={t: mine(growth(t)) for t in tasks})
smaller.measure(
    {f"{t}, {m}": mine(losses(t, m, 64) - losses(t, m, 4)) for t in tasks for m in ("full", "rank 16")},
    chance={f"{t}, {m}": mine(again[t, m, 64] - losses(t, m, 64)) for t in tasks for m in ("full", "rank 16")},
)
for t in tasks:
    shrinks["steps", t].measure(mine(growth(t, way="steps") - growth(t)), chance=null[t])
    shrinks["begun", t].measure(mine(growth(t, "both begun") - growth(t)), chance=null[t])


# %%
def percent(first, task, batch):
    """first less the plain start's loss, in percent of it, one value a base."""
    plain = losses(task, "rank 16", batch)
    return 100 * (first - plain) / plain


stands = {(t, b): percent(losses(t, "PiSSA", b), t, b) for t in tasks for b in batches}
untuned = {(t, b): percent(a_second_time(t, "rank 16", b, 4), t, b) for t in tasks for b in batches}
alike.measure(
    {f"{t}, {b}": mine(stands[t, b]) for t, b in stands}, chance={f"{t}, {b}": mine(untuned[t, b]) for t, b in stands}
)
results.record(
    growth={f"{t}, {m}, {w}": growth(t, m, w).tolist() for t in tasks for m in ("rank 16", "rank 64") for w in ways},
    begun={t: growth(t, "both begun").tolist() for t in tasks},
)

# %% [markdown]
# (The nulls: both a second time, less the first; for the rank, no growth at all; for PiSSA the plain start at four
# times its best rate.)

# %%
results.figure(
    figures.gaps(losses, tasks, batches),
    "batches",
    "LoRA's held-out loss less full fine-tuning's, each at its own best rate: ranks 16 and 64, and rank 16 with both "
    "factors begun. Solid: one pass over the same text. Dashed: 80 steps at every batch. Bars: 95 % intervals.",
    alt="A panel for each task: the difference in loss over the batch. The lines are nearly level, between minus 0.05 "
    "and 0.09, and most bars are longer than the differences; the start without a zero lies highest at batch 64.",
)

# %% [markdown] rests_on="14.smaller_is_better=reproduced, 14.gap_grows=not settled, 14.whatever_rank=not settled"
# **Batches.** At equal tokens a batch of 64 ends 0.21 to 0.45 nats above one of 4, LoRA and full fine-tuning alike. For
# rank 16 no penalty of its own is established: its gap grows by -0.02 ± 0.10 nats on the far task and by 0.04 ± 0.13 on
# the near one. On the far task that excludes a growth above 0.09; on the near one 0.17 is still possible. So the
# published sentence, which speaks of "some scenarios", is neither borne out nor refuted. Rank 64's growth less rank
# 16's is 0.02 ± 0.04 and -0.04 ± 0.04: open. On the far task no growth at all passes by its value, so this test shows
# nothing there: without a growth there is nothing to mitigate.

# %% [markdown] rests_on="14.begun_far=not settled, 14.begun_near=not settled"
# The zero's part is open: with both factors begun the growth is larger by 0.07 ± 0.13 on the far task and smaller by
# 0.04 ± 0.12 on the near one.

# %% [markdown] rests_on="14.steps_far=not settled, 14.steps_near=not settled"
# Tokens or steps: open, for the gap. For the loss both count. With the same text, 16 times the steps, each on a
# sixteenth of the batch, are worth 0.21 to 0.45 nats. With the same steps, 16 times the text is worth 0.27 to 0.38.

# %% [markdown] rests_on="14.alike=not settled"
# **The quarrel.** PiSSA's means are 1 to 4 % *above* the plain start's, at every batch; at three of six places the
# interval excludes 0, and whether it is within 2 % is open at all six. On the near task random factors of its size lie
# 1 to 4 % above too. Does its standing move with the batch? By 0.9 ± 3.1 points from 4 to 64 on the far task, and by
# -1.9 ± 7.7 on the near one. Three bases do not referee this.

# %% [markdown]
# ## What these tests cannot say
#
# Both tasks are ciphers of one text, learnt from a base that has read little. The widths are 64 to 256, one depth,
# three bases each. Real models appear with one open mark. Rates at a batch are picked on base 0. Rank 16 at batch 64
# took one beside a cliff on both tasks; on the far one its gap scatters by ± 0.14. On the near one it is batch 4 that
# scatters. Rates fall along a run here; the article's stay. AdamW without weight decay is the only optimizer. A pass is
# 1,280 windows, and nothing was trained for more than 400 steps, so the article's long runs are not in it.
#
# ## Exercises
#
# **1. Another alpha.** Rank 16, alpha 32, and a rate of 2e-3 is best. You set alpha to 64. Which rate do the two limits
# give?

# %%
from lora_from_scratch.book.checks import ch14 as check

my_rates = {"short run": None, "long run": None}  # your two numbers here
print(check.check_rates(my_rates))

# %% [markdown]
# <details><summary>Solution</summary>
#
# `s` doubles. Short: rate ∝ 1 / s, so 1e-3. Long: rate ∝ 1 / √s, so 2e-3 / √2 = 1.41e-3.
#
# </details>
#
# **2. The same training with another alpha.** A file fixes `alpha` at `new_alpha`. Give the size of `A`'s start, the
# rate of `A` and the rate of `B` that train exactly as before.


# %%
def my_knobs(alpha, size_of_A, rate_A, rate_B, new_alpha):
    """-> (size_of_A, rate_A, rate_B)"""
    return None  # your code here


print(check.check_knobs(my_knobs))

# %% [markdown]
# <details><summary>Solution</summary>
#
# With p = 1 only `B`'s rate moves. That is LoRA+ (chapter 08) by another name.
#
# ```python
# def my_knobs(alpha, size_of_A, rate_A, rate_B, new_alpha):
#     return size_of_A, rate_A, rate_B * alpha / new_alpha
# ```
#
# </details>
#
# **3. The bottom of a valley.** Three rates and their losses, the middle one lowest. Give the rate at the bottom of the
# parabola through them, over log(rate).


# %%
def my_bottom(rates, losses):
    """Three rising rates and their losses -> the rate at the bottom."""
    return None  # your code here


print(check.check_bottom(my_bottom))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_bottom(rates, losses):
#     a, b, _ = np.polyfit(np.log(rates), losses, 2)
#     return np.exp(-b / (2 * a))
# ```
#
# </details>
#
# ## The same with PEFT
#
# ```python
# from peft import LoraConfig
#
# config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")  # s = alpha / r, as here
# # three runs, a factor of 2 apart, around the rate you know; then the bottom of the parabola
# ```
#
# ## What to take along
#
# - `alpha`, the size of `A` and two rates are two knobs. Multiply alpha by c, and divide the rate by √c: in 400 steps
#   the exponent was -0.4 to -0.5, in shorter runs about -0.6.
# - Keep alpha when you change the rank. From rank 4 to 64 the rate moved by less than 2 in the mean (far task); at rank
#   1 it was up to 2 times off, either way.
# - A ratio to full fine-tuning's rate carried over badly: 1.2 to 3.1 at width 64, by length, and up to 3.6 at 256.
#   Search both: three or four runs find a valley.
# - A larger batch at equal tokens is fewer steps. Ask first what the missing steps cost.

# %%
results.save()
