# %% [markdown]
# # 10 · Intruder dimensions
#
# **The question.** Two methods reach the same loss. Do they change a weight in the same way? Does LoRA write large
# directions into a weight that were not there before, and is that LoRA's doing?
#
# **What you will be able to do.** Compare two weights by their singular vectors. Say what chance gives: for random
# bases, and for random *updates* of the same size and spectrum. Tell an effect of a method from one of its learning
# rate, its alpha and the size of its update.
#
# **What you need.** Chapter 00 (the SVD) and 01 (why each method gets its own rate).
#
# **The published claims.** Shuttleworth et al. (arXiv 2410.21228v3) call a leading singular vector of a tuned weight an
# *intruder dimension* if it is like no singular vector of the old weight. LoRA's weights have them, fully fine-tuned
# ones do not (abstract, section 3). The paper tells more, and an outcome that it already tells is not our find: larger
# rates make more of them (section 4, figure 7); with a fixed alpha high ranks have more than with alpha = 2r (section
# 4); they grow and climb during training (section 3); and on code, a large change of domain, LoRA and full fine-tuning
# look much alike (appendix I). Our far task is such a change.
#
# The far task is English in rot13, the near one `cipher-6`, where six letters move. Losses are in nats a character. A
# seed is a base: seed 1 fine-tunes the base that was pretrained with seed 1. `a ± b` is a mean over seeds with its 95 %
# interval.

# %%
import functools
import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from lora_from_scratch import AdapterConfig
from lora_from_scratch.analysis.nulls import random_update_like
from lora_from_scratch.analysis.spectra import effective_rank, intruder_dimensions, similarity, singular_values
from lora_from_scratch.analysis.subspaces import amplification
from lora_from_scratch.book import stats, tables
from lora_from_scratch.book.figures import ch10 as figures
from lora_from_scratch.book.results import Results
from lora_from_scratch.book.verdicts import AtLeast, AtMost, Equal, Higher
from lora_from_scratch.lab.finetune import Run, measure_base
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.sweep import compare
from lora_from_scratch.lab.watch import watch
from lora_from_scratch.lab.workers import carry_out_all
from lora_from_scratch.targets import find_targets

# %%
size = preset()
results = Results("10_intruder_dimensions", size)
tasks, seeds, width = ("rot13", "cipher-6"), range(1, size.seeds + 1), size.model.hidden_size
W0 = {s: {n: m.weight.detach() for n, m in find_targets(pretrained(size, s), "all-linear").items()} for s in seeds}
matrices = len(W0[1])
print(f"{matrices} matrices of a Llama of width {width}")

# %% [markdown]
# ## A direction that was not there
#
# Each left singular vector of the tuned weight `W1 = W0 + ΔW` is compared with *all* left singular vectors of `W0`. An
# **intruder dimension** is one of the `k` = 10 leading vectors of `W1` whose best likeness, the largest |cosine|, is
# below `ε` = 0.5. It is large in the new weight, and like nothing in the old one. (For a weight with more rows than
# columns there are as many left vectors as columns; a new direction may also lie outside all of them. In a square
# weight the old vectors fill the space, and a new one is a mixture of many.)

# %%
name = next(n for n in W0[1] if n.endswith("q_proj"))
torch.manual_seed(0)
W1 = W0[1][name] + 0.2 * torch.randn(width, width)  # noise instead of training
U0, U1 = (torch.linalg.svd(w, full_matrices=False).U for w in (W0[1][name], W1))
best = (U0.T @ U1).abs().amax(dim=0)  # of each new vector, the likeness to the old one that it is most like
by_hand = [j for j in range(10) if best[j] < 0.5]
assert intruder_dimensions(W0[1][name], W1, k=10, epsilon=0.5) == by_hand
print("best likeness of the ten leading vectors:", *(f"{b:.2f}" for b in best[:10]), "; intruders:", by_hand)

# %% [markdown]
# The noise had learnt nothing, and it makes intruders. It is larger than `W0` itself, as no update below is; but it is
# a first warning.
#
# The paper's appendix A.2 has a toy. Take `W0`, a random unit vector `v`, and add `λ v vᵀ`. **Predict:** from which `λ`
# on is there an intruder? When `λ` passes the largest singular value of `W0`? The tenth?

# %%
v, s0 = F.normalize(torch.randn(width), dim=0), singular_values(W0[1][name])
lambdas = torch.linspace(0, 1.5 * s0[0].item(), 61)
planted = [W0[1][name] + lam * torch.outer(v, v) for lam in lambdas]
likeness = torch.stack([similarity(W0[1][name], W).amax(dim=0)[:10] for W in planted])  # (61, 10)
counts = (likeness < 0.5).sum(dim=1)
at = next((lam.item() for lam, n in zip(lambdas, counts, strict=True) if n), math.nan)
print(
    f"σ1 of W0 is {s0[0]:.2f}, σ10 {s0[9]:.2f}; the first intruder comes at λ = {at:.2f}; most at once: {counts.max()}"
)

# %%
unrelated = [torch.linalg.qr(torch.randn(width, width)).Q for _ in range(16)]
square = torch.cat([(a.T @ b).abs().amax(dim=0) for a, b in zip(unrelated[::2], unrelated[1::2], strict=True)])
low, high = (square.quantile(q).item() for q in (0.01, 0.99))
theory = math.sqrt(2 * math.log(width) / width)  # the largest of n cosines, each normal with variance 1/d
print(f"two random bases: best likeness {low:.2f} to {high:.2f} (theory: about {theory:.2f});", end=" ")
print(f"{(square < 0.5).float().mean():.0%} are below 0.5")
results.figure(
    figures.toy(lambdas / s0[0], likeness, (s0[9] / s0[0]).item(), (low, high)),
    "toy",
    "Each dot is one of the ten leading vectors of W0 + λ v vᵀ. Below the dashed line it counts as an intruder; the "
    "band is what two random bases give.",
    alt="Dots of likeness over lambda. Around the tenth singular value, and already below it, dots drop out of the "
    "crowd near one, half way at first; as lambda grows one reaches the band of chance, leaves it just below the "
    "first singular value, and comes back as the leading vector.",
)

# %% [markdown]
# Neither: the first comes between `σ10` and `σ1`. When `λ` passes `σ10`, the new vector is among the ten. There it has
# close neighbours, old vectors with nearly the same singular value, and they mix. Where the old singular values lie
# further apart it stands alone and reaches the band of chance. At width 128 nearly every random direction falls below
# 0.5, so the count can tell something; in a much narrower model everything is somewhat alike.
#
# **So the toy predicts**: a *leading* intruder comes where the update's largest singular value passes `σ1(W0)`. For the
# ten it gives no such line: near `σ10`, and again just below `σ1`, the new vector mixes with an old one of its size, so
# a count can begin, end and begin again. Nothing in that asks for training. Keep it in mind.
#
# ## The null: an update whose directions are random
#
# Two random bases are not the right chance. A trained weight is the old one *plus* something. The fair null shares with
# the trained `ΔW` its singular values (so its rank, size and stable rank), and nothing of its directions.
# `random_update_like` draws it. Whatever we count on a trained weight, we count on `W0 +` that too.
#
# ## What would count
#
# Methods are compared at the same loss on the task, the *target*: the one that learns more changes more. A count is
# intruders a matrix, of ten. We do not call a difference below 0.25, one in four matrices, a difference.

# %%
quarter, scope = "one in four matrices", {"task": "rot13 and cipher-6"}
v3 = "arXiv 2410.21228v3"
have = results.claim(
    "have",
    says="LoRA's weights have intruder dimensions, fully fine-tuned ones have none, at the same loss",
    source=f"{v3}, abstract and section 3, figure 4",
    read="full text",
    published="LoRA has them at rank 16 and below; full fine-tuning almost never",
    test={f"{k}, {t}": AtMost(0.25, quarter) if k == "full" else AtLeast(0.25, quarter)
          for t in tasks for k in ("full", "rank 1", "rank 4", "rank 16")},
    scope=scope,
)  # fmt: skip

# %%
methods = ("full", "rank 1", "rank 4", "rank 16", "rank 64")
beyond = {
    (k, t): results.finding(
        f"beyond_{k.replace(' ', '_')}_{short}",
        says=f"{k}: more intruders than random updates with the same singular values make",
        test=Higher(0.25, quarter),
        scope={"task": t},
    )
    for t, short in (("rot13", "far"), ("cipher-6", "near"))
    for k in methods
}

# %%
faster = results.claim(
    "faster",
    says="a larger learning rate makes more intruders: full fine-tuning at LoRA's best rate against its own",
    source=f"{v3}, section 4, figure 7",
    read="full text",
    published="bigger learning rates lead to more (there: LoRA at rank 8)",
    test={t: Higher(0.25, quarter) for t in tasks},
    scope=scope,
)

# %%
alpha = results.claim(
    "alpha",
    says="at rank 64 a fixed alpha makes more intruders than alpha = 2r",
    source=f"{v3}, section 4",
    read="full text",
    published="more with alpha = 8 than with alpha = 2r",
    test=Higher(0.25, quarter),
    scope={"task": "rot13"},
)

# %%
mirror = results.claim(
    "mirror",
    says="LoRA of a high rank with alpha = 2r has as many intruders as full fine-tuning",
    source="arXiv 2410.21228v1, abstract (rank-stabilized there means alpha = 2r)",
    read="abstract",
    published="closely mirrors full fine-tuning",
    test=Equal(0.25, quarter),
    scope={"task": "rot13", "rank": 64},
)

# %%
leading = results.finding(
    "leading",
    says="the leading vector is an intruder in more matrices under LoRA (ranks 1, 4, 16) than under full "
    "fine-tuning at rank 16's rate",
    test=Higher(0.1, "a tenth of the matrices"),
    seen_first="rot13, one base",
    tested_on="cipher-6, three bases",
    scope={"task": "cipher-6"},
)

# %%
same_size = results.finding(
    "same_size",
    says="scaled to one size, ‖ΔW‖ = 0.5 ‖W0‖ in every matrix, rank 16's updates make more intruders than full's",
    test=Higher(0.25, quarter),
    scope={"task": "rot13"},
)

# %%
predicts = results.finding(
    "predicts",
    says="σ1(ΔW) above σ1(W0) tells, matrix by matrix, whether the leading vector is an intruder: share told "
    "rightly, above that of the predictions dealt anew within each method",
    test=Higher(0.1, "a tenth of the matrices"),
    scope=scope,
)

# %%
spread = results.claim(
    "effective_rank",
    says="full fine-tuning's updates have a higher effective rank than LoRA's at rank 64",
    source=f"{v3}, appendix H",
    read="second hand",
    published="higher, even than at high ranks",
    test={t: Higher(1.0, "one direction") for t in tasks},
    scope=scope,
)

# %% [markdown]
# **Write down your predictions.** How many intruders does full fine-tuning make, of ten? Which rank makes most? (Rank 1
# changes one direction a matrix.) For which methods does the null make as many? And full fine-tuning at LoRA's rate?

# %%
targets = {"rot13": 2.30, "cipher-6": 1.75}  # as in chapter 11, whose runs these are
if size.name == "smoke":  # six steps get nowhere near
    targets = {t: min(measure_base(t, size, s)["task_loss"] for s in seeds) - 0.02 for t in tasks}


def arms(task):
    lora = lambda r, **o: Run(task=task, adapter=AdapterConfig(rank=r, **({"alpha": 32} | o)), keep=True)  # noqa: E731
    found = {"full": Run(task=task, scope="linear", keep=True)} | {f"rank {r}": lora(r) for r in (1, 4, 16, 64)}
    more = {"rank 64, alpha 2r": lora(64, alpha=128), "rsLoRA rank 64": lora(64, rslora=True)}
    return found | (more if task == "rot13" else {})


# %%
tuned = {}
for task in tasks:
    tuned[task] = compare(arms(task), size, known=results.known_rates(task))
    results.record_sweep(task, tuned[task])
    print(task)
    print(tables.comparison(tuned[task], against="full"), "\n")


# %%
def watched(runs, task):
    """{label: the watched results, one a seed}."""
    jobs = [replace(run, seed=seed) for run in runs.values() for seed in seeds]
    look = functools.partial(watch, points={"smoke": 6, "quick": 3}.get(size.name, 20), target=targets[task])
    found = carry_out_all(jobs, size, work=look)
    return {label: found[i * size.seeds : (i + 1) * size.seeds] for i, label in enumerate(runs)}


LORAS_RATE = "full, LoRA's rate"
runs = {t: {label: method.run for label, method in tuned[t].items()} for t in tasks}
for t in tasks:
    runs[t][LORAS_RATE] = replace(runs[t]["full"], lr=runs[t]["rank 16"].lr)
seen = {t: watched(runs[t], t) for t in tasks}

# %% [markdown]
# From here on everything is counted on the weights at the first look that reached the target, beside the null: one
# random update for each trained one. *LoRA's rate* is rank 16's best; ranks 1 and 4 have a higher one on the near task.


# %%
def updates_of(result, s):
    """{layer: ΔW} at the first look that reached the target; where a run never did, at the end."""
    return {n: w - W0[s][n] for n, w in (result["at_target"] or result["end"]).items()}


def count(updates, s, k=10, epsilon=0.5):
    """Intruders a matrix."""
    return np.mean([len(intruder_dimensions(W0[s][n], W0[s][n] + d, k, epsilon)) for n, d in updates.items()])


draw = torch.Generator().manual_seed(0)
trained = {(t, k): {s: updates_of(r, s) for s, r in zip(seeds, found, strict=True)}
           for t in tasks for k, found in seen[t].items()}  # fmt: skip
null = {key: {s: {n: random_update_like(d, draw) for n, d in own.items()} for s, own in of.items()}
        for key, of in trained.items()}  # fmt: skip

# %%
ten = [{key: [count(of[key][s], s) for s in seeds] for key in of} for of in (trained, null)]
first = [{key: [count(of[key][s], s, k=1) for s in seeds] for key in of} for of in (trained, null)]
for t in tasks:
    rows = []
    for k in seen[t]:
        sizes = [np.mean([(d.norm() / W0[s][n].norm()).item() for n, d in trained[t, k][s].items()]) for s in seeds]
        cells = [stats.shown(of[t, k], 2) for of in (*ten, *first)]
        steps = [r["steps"][next((i for i, v in enumerate(r["task_loss"]) if v <= targets[t]), -1)] for r in seen[t][k]]
        rows.append([k, f"{runs[t][k].lr:.2g}", f"{np.mean(steps):.0f}", stats.shown(sizes, 2), *cells])
    print(f"{t}, at a loss of {targets[t]:.2f}: intruders a matrix of ten, and the leading vector alone")
    header = ["method", "rate", "step", "‖ΔW‖ / ‖W0‖", "of ten", "null", "leading", "null"]
    print(stats.table(header, rows), "\n")
results.record(ten=[{", ".join(k): v for k, v in of.items()} for of in ten], targets=targets)


# %%
def minus(of, first_key, second_key):
    return stats.paired(of[first_key], of[second_key])


parts = [(f"{k}, {t}", (t, k)) for t in tasks for k in ("full", "rank 1", "rank 4", "rank 16")]
have.measure(*({part: stats.interval(of[key]) for part, key in parts} for of in ten))
for (k, t), row in beyond.items():
    row.measure(stats.paired(ten[0][t, k], ten[1][t, k]), chance="the null is in the difference")
faster.measure(*({t: minus(of, (t, LORAS_RATE), (t, "full")) for t in tasks} for of in ten))

# %%
fixed, double = ("rot13", "rank 64"), ("rot13", "rank 64, alpha 2r")
alpha.measure(*(minus(of, fixed, double) for of in ten))
mirror.measure(minus(ten[0], double, ("rot13", "full")), chance=minus(ten[0], ("rot13", "rank 4"), ("rot13", "full")))
share = [{k: of["cipher-6", k] for k in seen["cipher-6"]} for of in first]
mean_of_low = [
    [float(np.mean(values)) for values in zip(*(of[f"rank {r}"] for r in (1, 4, 16)), strict=True)] for of in share
]
leading.measure(*(stats.paired(low_ranks, of[LORAS_RATE]) for low_ranks, of in zip(mean_of_low, share, strict=True)))

# %%
results.figure(
    figures.counts(ten, first, tasks, list(seen["rot13"])),
    "counts",
    "Intruders at the same loss, of ten leading vectors (above) and the share of matrices whose leading vector is one "
    "(below). Filled: trained. Hollow: random updates with the same singular values. Bars: 95 % intervals over bases.",
    alt="Four panels, two tasks by two counts. For each method a filled mark and a hollow one. The hollow marks of "
    "ranks 1 and 4 lie at the filled ones. Of ten, the other filled marks stand higher than their hollow ones, full "
    "fine-tuning's on rot13 the most; of the leading vectors no filled mark stands higher.",
)

# %% [markdown] rests_on="10.beyond_full_far=not settled, 10.beyond_rank_4_far=does not hold"
# On the tiny model LoRA's weights do have intruders: rank 4 makes three to four of ten, about as many as it has
# directions, and rank 1 about one. But random updates with the same singular values make as many, on both tasks. That
# was nearly bound to be so: a random update of rank 1 or 4 turns almost every direction that it has into an intruder
# (1.0; 3.2 and 3.8), and hardly any room is left above it, but for rank 4 on rot13. So at these ranks, at `ε` = 0.5 and
# `k` = 10, the count shows little but how many directions there are. It says nothing of which were learnt.
#
# LoRA's half of the published sentence passes, and by chance. The other half fails on rot13, 1.4 intruders a matrix,
# where full fine-tuning's random twins fail too, with 0.6. On the near task, 0.4, it is not settled. What is true of
# the means: ranks 4 and 16 make more than full fine-tuning, by 1.4 to 3.4. Their random twins differ by 1.6 to 3.7. So
# the gap needs nothing but sizes and singular values. (Rank 1 on rot13 has fewer than full in the mean. And the same
# loss is not the same step. The rate falls in a straight line, and rank 1 gets there late, with little of its rate
# left. And a look comes every ten steps, so a fast method is somewhat past the target.)
#
# At rank 16, rank 64 and in full fine-tuning the trained count is above its null's in the mean on both tasks, most in
# full fine-tuning on rot13, by 0.8 of ten; whether by more than one in four matrices is settled for none of them. On a
# large change of domain the paper finds the methods alike (appendix I). On ours they are not: ranks 4 and 16 make about
# twice what full fine-tuning does.
#
# Two more that chance passes. *A larger rate*: full fine-tuning at LoRA's rate makes 1.5 and 2.7 more than at its own,
# its random twins 1.6 and 2.7 more. On the near task it also takes twice the steps. *The leading vector*, near task: it
# is an intruder in 75 % of the matrices at ranks 1, 4 and 16, and in 2 % of full fine-tuning's at rank 16's rate, a gap
# of 0.73. Their random twins have a gap of 0.51. So most of it is chance's. The rest lies in full fine-tuning, whose
# leading vectors are intruders *less* often than its twins'. No row tests that.

# %% [markdown] rests_on="10.alpha=not reproduced, 10.mirror=not settled"
# *Alpha* comes out against the sentence: 2r makes more than a fixed 32, by 0.6, as do its random twins. The paper's
# fixed value is 8 and the rates are each alpha's own best here, so this is not quite its comparison. 2r makes 1.0 more
# than full fine-tuning, [0.2, 1.8]. That touches our line of 0.25, so whether it mirrors it is not settled, but nothing
# here speaks for it. (Its random twins make 1.5 more than full's; the chance in the row is another arm, rank 4.)
# (rsLoRA at rank 64 is alpha 256: the most of all, and so are its random twins'.)
#
# ## At one size
#
# At the same loss the updates differ in size. So scale each `ΔW` to `‖ΔW‖ = 0.5 ‖W0‖`, matrix by matrix, and count
# again.


# %%
def scaled(updates, s, ratio=0.5):
    return {n: d * (ratio * W0[s][n].norm() / d.norm().clamp_min(1e-12)) for n, d in updates.items()}


sized = [{k: [count(scaled(of["rot13", k][s], s), s) for s in seeds] for k in methods} for of in (trained, null)]
print(
    stats.table(
        ["rot13, ‖ΔW‖ = 0.5 ‖W0‖", "trained", "null"], [[k, *(stats.shown(of[k], 2) for of in sized)] for k in methods]
    )
)
same_size.measure(*(stats.paired(of["rank 16"], of["full"]) for of in sized))

# %% [markdown]
# ## What predicts an intruder?
#
# The toy said: a *leading* intruder comes where `σ1(ΔW)` passes `σ1(W0)`. We ask it of every matrix of every method.
# *Told rightly* is the mean of two shares: of the matrices whose leading vector is one, how many had it predicted; of
# the others, how many had not. Methods differ in how many they have, so the null deals the predictions anew *within*
# each method: what is above it is told matrix by matrix.


# %%
def told(updates, s):
    """(predicted, the leading vector is one), one pair of booleans a matrix."""
    top = {n: (singular_values(d)[0], singular_values(W0[s][n])[0]) for n, d in updates.items()}
    there = {n: bool(intruder_dimensions(W0[s][n], W0[s][n] + d, k=1)) for n, d in updates.items()}
    return [(bool(own > old), there[n]) for n, (own, old) in top.items()]


def balanced(pairs):
    """The mean of the shares of both kinds told rightly."""
    kinds = [[said == is_so for said, is_so in pairs if is_so == kind] for kind in (True, False)]
    return float(np.mean([np.mean(kind) for kind in kinds if kind]))


# %%
lot, arms_of_all = np.random.default_rng(0), [key for key in trained if key[1] in methods]


def scores(of, s):
    """How well the rule tells, over all methods, and 100 times with its predictions dealt anew within each method."""
    pairs = [told(of[key][s], s) for key in arms_of_all]
    deal = lambda own: zip(lot.permutation([p for p, _ in own]), [there for _, there in own], strict=True)  # noqa: E731
    return balanced(sum(pairs, [])), [balanced([pair for own in pairs for pair in deal(own)]) for _ in range(100)]


right, deals = zip(*(scores(trained, s) for s in seeds), strict=True)
dealt, best = [float(np.mean(d)) for d in deals], [float(np.quantile(d, 0.95)) for d in deals]
of_null = [scores(null, s)[0] for s in seeds]
for name, found in (("trained", right), ("dealt anew, mean of 100", dealt), ("random updates", of_null)):
    print(f"told rightly, {name}: {stats.shown(list(found), 2)}")
predicts.measure(stats.paired(right, dealt), chance=stats.paired(best, dealt))  # chance: the 95th of 100 deals

# %% [markdown]
# ## How far it hangs on ε and k, and where they are
#
# Both `ε` = 0.5 and `k` = 10 are conventions.

# %%
epsilons, ks = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8), (1, 2, 5, 10, 15, 20)
shown_methods = ("full", "rank 4", "rank 64")
curves = [{k: ([np.mean([count(of["rot13", k][s], s, 10, e) for s in seeds]) for e in epsilons],
               [np.mean([count(of["rot13", k][s], s, n) for s in seeds]) for n in ks]) for k in shown_methods}
          for of in (trained, null)]  # fmt: skip
random_below = [(square < e).float().mean().item() for e in epsilons]
results.figure(
    figures.conventions(curves, epsilons, ks, random_below),
    "conventions",
    "Intruders at the same loss on rot13 over the two conventions: solid trained, dashed null. Left of the grey "
    "line not every random direction counts.",
    alt="Two panels of rising curves, over epsilon and over k, solid for trained and dashed for random updates of full "
    "fine-tuning, rank 4 and rank 64. At small values solid and dashed lie together or the solid one lower; at large "
    "ones every solid line lies above its dashed one.",
)

# %%
kinds = list(dict.fromkeys(n.rpartition(".")[2] for n in W0[1]))
grids = {}
for k in shown_methods:
    for name, of in ((k, trained), (f"{k}, null", null)):
        made = {
            s: {n: len(intruder_dimensions(W0[s][n], W0[s][n] + d)) for n, d in of["rot13", k][s].items()}
            for s in seeds
        }
        found = {n: np.mean([made[s][n] for s in seeds]) for n in W0[1]}
        grids[name] = np.array([[found[n] for n in found if n.endswith(kind)] for kind in kinds])  # (kinds, layers)
print(
    stats.table(
        ["rot13, intruders of ten by kind", *kinds], [[k, *(f"{v:.1f}" for v in g.mean(1))] for k, g in grids.items()]
    )
)
results.record(by_kind={k: g.tolist() for k, g in grids.items()})

# %%
effective = {
    (t, k): [np.mean([effective_rank(d) for d in trained[t, k][s].values()]) for s in seeds]
    for t in tasks
    for k in methods
}
print(
    stats.table(
        ["effective rank of ΔW", *methods], [[t, *(stats.shown(effective[t, k], 1) for k in methods)] for t in tasks]
    )
)


def dense_minus_rank_64(s):
    """The same difference for random matrices: dense ones, and products B A of rank 64."""
    draw = torch.Generator().manual_seed(s)
    rand = lambda *shape: torch.randn(*shape, generator=draw)  # noqa: E731
    pairs = [(rand(*w.shape), rand(w.shape[0], 64) @ rand(64, w.shape[1])) for w in list(W0[s].values())[:7]]
    return float(np.mean([effective_rank(a) - effective_rank(b) for a, b in pairs]))


by_size = [dense_minus_rank_64(s) for s in seeds]
spread.measure(
    {t: stats.paired(effective[t, "full"], effective[t, "rank 64"]) for t in tasks},
    chance=dict.fromkeys(tasks, stats.interval(by_size)),
)

# %% [markdown] rests_on="10.same_size=does not hold, 10.predicts=holds, 10.effective_rank=not settled"
# (Ranks 1, 4 and 16 are bounded by `r`, so only rank 64 is a test. Its null: a dense random matrix against a random
# product of rank 64.)
#
# **At one size** rank 16 does not make more than full fine-tuning; full makes about five of ten, the most of all. Its
# random twins make nearly four, and whether they, too, make more than rank 16's is open (by 0.7 ± 1.2). The trained gap
# is 1.6. At the same loss full fine-tuning's update is the smallest, 0.27 of `‖W0‖` on rot13 where LoRA's are 0.37 to
# 0.86. That goes with its count below ranks 4 and 16. It does not explain rank 1, with the largest update and about one
# intruder.
#
# **What predicts** a leading intruder is `σ1(ΔW)` above `σ1(W0)`, as in the toy: the mean of the two shares is 0.94 ±
# 0.04, and 0.70 when the predictions are dealt anew within a method. It tells the random updates' intruders as well as
# the trained ones'.
#
# **The conventions matter.** At `ε` = 0.3 all three trained methods of the picture make as many as random ones or
# fewer; at 0.6 and more, or at `k` = 20, all make more (means over bases). So rank 4's standing at chance belongs to
# `ε` = 0.5. (Rot13; read off the means, not tested.)
#
# **Where they are.** Two thirds of full fine-tuning's are in `o_proj` and `down_proj`, the two that write into the
# residual stream; rank 4's are everywhere. In shares their random twins lie nearly the same way. In numbers they do
# not: full fine-tuning makes 39 over all matrices, its twins 16. So which kinds of matrix have most follows from how
# large and how flat training made each update. How many is another matter. (Rot13, one draw a base, no interval.)
# **Effective rank.** Full fine-tuning's updates spread over about 80 directions, rank 64's over 20 to 30. A dense
# random matrix lies nearly as far above a random product (55, against our 58 and 57), so the published sentence passes
# by chance, and our two or three directions more were not tested. Rank 64's own number says more: it has 64 directions
# and uses less than half of them. (We know that sentence, appendix H, at second hand.)
#
# ## Amplification
#
# The LoRA paper (section 7.3) asks how much `ΔW` amplifies directions that `W0` does not emphasize: with `U` and `V`
# its leading directions, `‖ΔW‖ / ‖Uᵀ W0 V‖`. It prints 21.5 at rank 4 of GPT-3, and 1.9 at rank 64. Would a random
# update do less?

# %%
amplified = results.claim(
    "amplification",
    says="at rank 4, ΔW amplifies directions that W0 does not emphasize by a large factor",
    source="arXiv 2106.09685v2, section 7.3, table 7",
    read="full text",
    published="21.5 times at rank 4 (GPT-3, one query matrix)",
    test=AtLeast(10, "half of what is published"),
    scope={"task": "rot13, query matrices"},
)

# %%
queries = [n for n in W0[1] if n.endswith("q_proj")]


def amplified_by(of, r):
    """The mean factor over the query matrices, one value a seed."""
    updates, rank = of["rot13", f"rank {r}"], min(r, width)
    return [np.mean([amplification(W0[s][n], updates[s][n], rank) for n in queries]) for s in seeds]


factors = {r: [amplified_by(of, r) for of in (trained, null)] for r in (4, 64)}
print({f"rank {r}": [stats.shown(values, 1) for values in both] for r, both in factors.items()}, "(trained, null)")
amplified.measure(*(stats.interval(values) for values in factors[4]))

# %% [markdown] rests_on="10.amplification=not settled"
# A factor near ten, at rank 4. But a random update gets a *larger* one, because its directions have nothing to do with
# `W0`: a learnt one leans towards what `W0` already emphasizes. At rank 64 both are 0.5. So a large factor shows that
# an update is large and has few directions. The paper's table 7 shows it too: through random directions only 0.02 of
# `W0` is seen, through those of `ΔW` 0.32, so a random update's factor would be larger there as well.
#
# ## Exercises
#
# **1. Find the intruders.** Write the function. The stub looks at the wrong matrix.


# %%
from lora_from_scratch.book.checks import ch10 as check


def my_intruders(W0, W1, k, epsilon):
    U0 = torch.linalg.svd(W0, full_matrices=False).U
    U1 = torch.linalg.svd(W1 - W0, full_matrices=False).U  # change this
    return [j for j in range(k) if (U0.T @ U1[:, j]).abs().max() < epsilon]


print(check.check_intruders(my_intruders))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_intruders(W0, W1, k, epsilon):
#     U0, U1 = (torch.linalg.svd(w, full_matrices=False).U for w in (W0, W1))
#     best = (U0.T @ U1[:, :k]).abs().amax(dim=0)
#     return [j for j in range(k) if best[j] < epsilon]
# ```
#
# </details>
#
# **2. A large change without an intruder.** Change the size of `W0` by at least half of its norm, without making an
# intruder, and not by a multiple of `W0`.

# %%
tall, _ = check.weights()  # W0, (40, 30)
my_delta = 3 * torch.ones_like(tall)  # change this
print(check.check_delta(my_delta))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# U, s, Vt = torch.linalg.svd(tall, full_matrices=False)
# my_delta = 2 * s[0] * torch.outer(U[:, 0], Vt[0])  # u_i v_iᵀ of W0, which stays its leading pair
# ```
#
# </details>
#
# **3. The threshold.** In a square matrix of width `n`, every unit vector has a likeness of at least `1/sqrt(n)` with
# some vector of any basis, because the squares of its cosines sum to 1. What is the smallest width at which an intruder
# with `ε` = 0.25 can exist?

# %%
my_width = 4  # change this
print(check.check_width(my_width))

# %% [markdown]
# <details><summary>Solution</summary>
#
# `1/sqrt(n) < 0.25` needs `n > 16`: 17.
#
# </details>
#
# ## The same with PEFT
#
# PEFT finds intruders inside `peft.tuners.lora.intruders.reduce_intruder_dimension`, which shrinks them. Chapter 11
# does the same. To look at a PEFT model with our functions, take both weights of each layer:
#
# ```python
# from peft.tuners.lora import LoraLayer
#
# for name, layer in model.named_modules():
#     if isinstance(layer, LoraLayer):
#         W0 = layer.get_base_layer().weight
#         print(name, intruder_dimensions(W0, W0 + layer.get_delta_weight("default")))
# ```
#
# ## What to take along
#
# - Look at `W0 + ΔW`, compare with all old vectors, and draw what chance gives.
# - Compare methods at the same loss, and check the learning rate before you blame the method.
# - Draw the null that knows no direction: a random update with the same singular values, which training did choose.
# - This is a tiny model, at one threshold; chapter 13 counts on a real one. Whether new directions do harm is the next
#   chapter.

# %%
results.save()
