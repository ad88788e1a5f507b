# %% [markdown]
# # 11 · Forgetting
#
# **The question.** A model that learns something new loses something old. Does LoRA lose more than full fine-tuning, or
# less? And do the intruder dimensions of chapter 10 do the harm?
#
# **What you will be able to do.** Compare forgetting at the same amount of learning. Test a cause by changing it, with
# controls that change as much of something else, and with a null that has learnt nothing. Judge a mitigation against
# the simplest alternative.
#
# **What you need.** Chapter 10, for intruder dimensions.
#
# **The published claims.** They come from Shuttleworth et al., "LoRA vs Full Fine-tuning: An Illusion of Equivalence"
# (arXiv 2410.21228), and they have changed. Version 1 (2024) says in its abstract that LoRA models with intruder
# dimensions become worse models of the pretraining text than fully fine-tuned ones of similar performance. Version 3
# (2025) says that LoRA forgets *less*, "but not always" (section 1); that forgetting goes with the number of intruders
# (section 4); that it is caused by them, and that making them smaller brings part of the old back at almost no price
# (section 5). Who quotes version 1 quotes what the paper no longer says. We test both. (Its sequences of tasks are
# appendix A4.)
#
# **The tasks.** The base was pretrained on English. It is tuned to the same English in a cipher: `rot13` moves every
# letter, `cipher-6` moves six. One is far from English, the other near. (A loss cannot tell what is gone from what is
# only read in another way: a model that takes every text for rot13 does badly on English without having lost it.
# *Forgotten* below means the loss, and no more.) Losses are in nats a character (natural
# logarithm; less is better). A seed is a base: seed 1 fine-tunes the base that was pretrained with seed 1, and `a ± b`
# is a mean over seeds with its 95 % interval.

# %%
import functools
import math
from dataclasses import replace

import numpy as np
import torch

from lora_from_scratch import AdapterConfig
from lora_from_scratch.analysis.mitigation import scale_directions
from lora_from_scratch.analysis.nulls import random_update_like
from lora_from_scratch.analysis.spectra import intruder_dimensions
from lora_from_scratch.book import stats, tables
from lora_from_scratch.book.figures import ch11 as figures
from lora_from_scratch.book.results import Results
from lora_from_scratch.book.verdicts import AtLeast, AtMost, Equal, Higher, Lower
from lora_from_scratch.lab.again import other_draw
from lora_from_scratch.lab.finetune import Run, measure_base
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.sweep import compare
from lora_from_scratch.lab.tasks import fixed_windows, reference_levels, task_ids
from lora_from_scratch.lab.train import evaluate
from lora_from_scratch.lab.watch import at_loss, watch
from lora_from_scratch.lab.workers import carry_out_all
from lora_from_scratch.targets import find_targets

# %% [markdown]
# A loss on English means little by itself. So first the levels that give it a meaning: blind guessing (*uniform*),
# knowing how often each character occurs and nothing else (*letters*), and the untouched base. A model that stands
# above *letters* on English does worse there than one that has never seen two letters in a row.

# %%
size = preset()
results = Results("11_forgetting", size)
tasks, seeds = ("rot13", "cipher-6"), range(1, size.seeds + 1)
levels = {task: reference_levels(task) for task in ("text", *tasks)}
base = {task: [measure_base(task, size, s) for s in seeds] for task in tasks}
rows = [["English", *levels["text"].values(), stats.shown([b["text_loss"] for b in base["rot13"]], 2)]]
rows += [[task, *levels[task].values(), stats.shown([b["task_loss"] for b in base[task]], 2)] for task in tasks]
rows = [[text, f"{uniform:.2f}", f"{letters:.2f}", base_loss] for text, uniform, letters, base_loss in rows]
print(stats.table(["held-out text", "uniform", "letters", "the base"], rows))

# %% [markdown]
# ## What would count
#
# Two runs that end at different losses cannot be compared by their ends: one may have forgotten less because it has
# learnt less. We compare at the same loss on the task, the *target*, and call *forgotten* what the loss on English has
# risen by until then.
#
# Each claim is written down with its test before it is measured. The margin is 0.05 nats: below that we would not
# call two models different in how much they forgot. Chance is full fine-tuning a second time: the same bases, other
# batches. A claim has a part for each rank and task, so the paper's "not always" would come out as *partly*.

# %%
margin, why = 0.05, "a difference of 0.05 nats would matter to nobody"
parts = [f"rank {r}, {task}" for task in tasks for r in (1, 4, 16, 64)]
less = results.claim(
    "less",
    says="at the same loss on the task, LoRA forgets less than full fine-tuning",
    source="arXiv 2410.21228v3, section 1 (second observation)",
    read="full text",
    published="less, but not always",
    test={part: Lower(margin, why) for part in parts},
    scope={"task": "rot13 and cipher-6"},
)

# %%
worse = results.claim(
    "worse",
    says="at the same loss on the task, LoRA is a worse model of the pretraining text than full fine-tuning",
    source="arXiv 2410.21228v1, abstract",
    read="abstract",
    published="worse, where there are intruder dimensions",
    test={part: Higher(margin, why) for part in parts},
    scope={"task": "rot13 and cipher-6"},
)

# %%
mirrors = results.claim(
    "mirrors",
    says="LoRA of a high rank with alpha = 2r forgets as much as full fine-tuning",
    source="arXiv 2410.21228v1, abstract (rank-stabilized there means alpha = 2r, section 3)",
    read="abstract",
    published="closely mirrors full fine-tuning",
    test={task: Equal(0.1, "a tenth of what full fine-tuning forgets") for task in tasks},
    scope={"task": "rot13 and cipher-6"},
)

# %%
faster = results.claim(
    "larger_rate",
    says="a larger learning rate forgets more at the same loss on the task: full fine-tuning at rank 16's rate and "
    "its own",
    source="arXiv 2410.21228v3, section 4, figure 7 (there: LoRA at rank 8)",
    read="full text",
    published="bigger learning rates lead to more forgetting",
    test={task: Higher(margin, why) for task in tasks},
    scope={"task": "rot13 and cipher-6"},
)
same_rate = {
    task: results.finding(
        f"same_rate_{short}",
        says=f"{task}: at one learning rate, rank 16's, rank 16 forgets more than full fine-tuning",
        test=Higher(margin, why),
        scope={"task": task},
    )
    for task, short in (("rot13", "far"), ("cipher-6", "near"))
}

# %% [markdown]
# ## The trade-off is a path
#
# The runs are those of chapter 10, and alpha = 2r on the near task too. Every method has its own best learning rate.
# "Full" trains the weights of the same linear layers that the adapters sit on. Alpha is 32 unless the label says
# otherwise.

# %%
ranks = (1, 4, 16, 64)


def lora(task, rank, alpha=32):
    return Run(task=task, adapter=AdapterConfig(rank=rank, alpha=alpha), keep=True)


tuned = {}
for task in tasks:
    methods = {"full": Run(task=task, scope="linear", keep=True)} | {f"rank {r}": lora(task, r) for r in ranks}
    methods["rank 64, alpha 2r"] = lora(task, 64, alpha=128)
    tuned[task] = compare(methods, size, known=results.known_rates(task))
    results.record_sweep(task, tuned[task])
    print(task)
    print(tables.comparison(tuned[task], against="full"), "\n")

# %% [markdown]
# **Write down your predictions.** At the same loss on the task, who has forgotten more: full fine-tuning, rank 1, rank
# 64? Is it the same for the far task and the near one?
#
# Each run is watched at twenty points (three at `quick`), and before the first step, on fewer windows of text than the
# table above. `at_loss` reads both losses off on a straight line between the two looks around the target, which lies a
# little above where rank 1, the slowest, ends. One thing to keep in mind: the learning rate falls along a run. Who
# reaches the target near its end, as rank 1 does, is there with a small rate. The table says at which look.

# %%
targets = {"rot13": 2.30, "cipher-6": 1.75}
if size.name == "smoke":  # six steps get nowhere near
    targets = {task: min(b["task_loss"] for b in base[task]) - 0.02 for task in tasks}


def watched(runs, task, seeds=seeds):
    """{label: the watched results, one a seed}."""
    jobs = [replace(run, seed=seed) for run in runs.values() for seed in seeds]
    work = functools.partial(watch, points={"smoke": 6, "quick": 3}.get(size.name, 20), target=targets[task])
    found = carry_out_all(jobs, size, work=work)
    return {label: found[i * size.seeds : (i + 1) * size.seeds] for i, label in enumerate(runs)}


def forgotten(found, task):
    """What the loss on English has risen by at the target, in nats a character, one value a seed."""
    return [at_loss(r["task_loss"], r["text_loss"], targets[task]) - r["text_loss"][0] for r in found]


seen = {task: watched({label: t.run for label, t in tuned[task].items()}, task) for task in tasks}
lost = {task: {label: forgotten(found, task) for label, found in seen[task].items()} for task in tasks}
results.record(forgotten=lost, targets=targets)


# %%
def first_look(result, task):
    """The number of the first look past the target; of the last one, where a run never gets there."""
    losses = result["task_loss"]
    return next((i for i, loss in enumerate(losses) if loss <= targets[task]), len(losses) - 1)


def share_at_look_1(result, name):
    """Which share of what this loss changes by in the whole run is there at the first look."""
    return np.divide(*(result[name][i] - result[name][0] for i in (1, -1)))


for task in tasks:
    rows = []
    for label, found in seen[task].items():
        ends = [stats.shown([r[name][-1] for r in found], 2) for name in ("task_loss", "text_loss")]
        looks = " ".join(str(first_look(r, task)) for r in found)
        early = [f"{100 * np.mean([share_at_look_1(r, n) for r in found]):.0f} %" for n in ("text_loss", "task_loss")]
        rows.append([label, stats.shown(lost[task][label], 2), looks, *ends, *early])
    print(f"{task}: forgotten when it stands at {targets[task]:.2f}; the ends; the share of each that look 1 has seen")
    head = ["method", "forgotten", "at look", f"{task}, end", "English, end", "forgotten by 1", "learnt by 1"]
    print(stats.table(head, rows), "\n")

# %%
gaps = {f"{label}, {t}": stats.paired(lost[t][label], lost[t]["full"]) for t in tasks for label in lost[t]}
others = [other_draw(s, size) for s in seeds]
again = {t: forgotten(watched({"full": tuned[t]["full"].run}, t, others)["full"], t) for t in tasks}
itself = {t: stats.paired(again[t], lost[t]["full"]) for t in tasks}
null = {part: itself[part.split(", ")[1]] for part in parts}
less.measure({part: gaps[part] for part in parts}, chance=null)
worse.measure({part: gaps[part] for part in parts}, chance=null)


def beside_full(label):
    """{task: by which share it forgets more than full fine-tuning}."""
    pairs = {t: zip(lost[t][label], lost[t]["full"], strict=True) for t in tasks}
    return {t: stats.interval([a / b - 1 if b else math.nan for a, b in pairs[t]]) for t in tasks}


mirrors.measure(beside_full("rank 64, alpha 2r"), chance=beside_full("rank 1"))

# %% [markdown]
# The chance of `mirrors` is rank 1, which the paper sets against full fine-tuning: a test that rank 1 passes too would
# say nothing about high ranks.

# %% [markdown] rests_on="11.less=not settled, 11.worse=partly, 11.mirrors=not settled"
# **On the near task** LoRA forgets *more* than full fine-tuning at the same loss, at every rank: by 0.19 nats at rank
# 64 and by 0.47 at rank 1. That is settled, and it is what the paper's first abstract said: a worse model of the old
# text. Version 3's *less* fails there. **On the far task** *less* is open at every rank, and so is *worse* at ranks 1
# and 4. By the test ranks 16 and 64 do not forget more by 0.05 nats (their intervals end at 0.03 and 0.02). But full
# fine-tuning a second time lies 0.04 lower, ± 0.09, which would move both past 0.05: even that hangs on one draw. All
# methods have lost about 2 nats there and stand, in the mean, at or above what letter frequencies give.
#
# The high rank with alpha 2r does not mirror full fine-tuning on the near task: it forgets 12 to 32 % more, at 1.8
# times full's rate. On the far one, at the same rate, it lies within a few percent. But rank 1, by its value, would
# pass there too (its interval would not), so that says nothing about high ranks.
#
# ## At one learning rate
#
# On the near task LoRA's best rate is one to three steps of the grid above full fine-tuning's, on the far one a single
# step or none (alpha 2r), and a higher rate may forget more whatever the method is. So full fine-tuning once more, at
# rank 16's rate; for the table also at that of the other ranks. (One rate is not one step: LoRA's moves `B` and `A`
# under alpha / r. Chapters 07 and 08 are about that.)

# %%
LORAS_RATE, at_rate = "full, LoRA's rate", {t: {} for t in tasks}
for t in tasks:
    for lr in sorted({tuned[t][f"rank {r}"].run.lr for r in ranks}):
        found = watched({"full": replace(tuned[t]["full"].run, lr=lr)}, t)["full"]
        at_rate[t][lr] = forgotten(found, t)
        if lr == tuned[t]["rank 16"].run.lr:
            seen[t][LORAS_RATE], lost[t][LORAS_RATE] = found, at_rate[t][lr]
results.record(full_at_rate=at_rate)

# %%
by_base, rows = lambda values, digits=".2f": " ".join(f"{v:{digits}}" for v in values), []
for t in tasks:
    of_full = {tuned[t]["full"].run.lr: lost[t]["full"]} | at_rate[t]
    rows += [[t, "full", f"{lr:.2g}", by_base(values), ""] for lr, values in of_full.items()]
    for r in ranks:
        mine, lr = lost[t][f"rank {r}"], tuned[t][f"rank {r}"].run.lr
        rows.append([t, f"rank {r}", f"{lr:.2g}", by_base(mine), by_base(np.subtract(mine, at_rate[t][lr]), "+.2f")])
print(stats.table(["task", "method", "rate", "forgotten, by base", "minus full at this rate"], rows))

# %%
faster.measure({t: stats.paired(lost[t][LORAS_RATE], lost[t]["full"]) for t in tasks}, chance=itself)
for t, row in same_rate.items():
    row.measure(stats.paired(lost[t]["rank 16"], lost[t][LORAS_RATE]), chance=itself[t])

# %%
results.figure(
    figures.paths(seen, targets, levels["text"]["letters"], ranks),
    "paths",
    "Loss on English against loss on the task along the training, mean over seeds. Squares are the ends; the dashed "
    "grey line is the target; the dotted one is English known by its letter frequencies alone.",
    alt="Two panels, the far task and the near one. Every path starts at the base, lower right, and runs to the upper "
    "left: less loss on the task, more on English. On the far task the paths end above the level of letter frequencies "
    "and lie close together, full fine-tuning at LoRA's rate above all others. On the near one they end well below it "
    "and apart, full fine-tuning at its own rate lowest; at LoRA's rate it climbs among the low ranks.",
)

# %% [markdown] rests_on="11.larger_rate=reproduced, 11.same_rate_far=does not hold, 11.same_rate_near=does not hold"
# At rank 16's rate full fine-tuning forgets 0.27 and 0.45 nats more than at its own. The paper says so of LoRA of rank
# 8, which is not varied here (chapter 13 does that, on a real model). Then rank 16 does not forget more on either task;
# on the far one it forgets less (on the near one the interval reaches 0). In the table each other rank lies below full
# fine-tuning at its rate on every base that can be compared, which for ranks 1 and 4 on the near task are two: at 0.01
# full reaches the target there on two of three. No test was drawn for it.
#
# So on the near task, where LoRA forgets more at its own rate, the rate may be why. That is not shown: only full
# fine-tuning was moved, LoRA not to full's rate, and at rank 16's rate full reaches the target at looks 13 to 16,
# against 6 to 8 at its own. On the far task nothing was settled that a rate could explain. Nor is a larger `‖ΔW‖` the
# reason there: rank 16's is larger than full's at one rate, and it forgets less.
#
# ## Does forgetting follow the intruders?
#
# At the first look that reached the target every run has a count of intruders, a size of its update `‖ΔW‖`, and an
# amount forgotten (up to 0.11 nats more or less than above, where it was read off between two looks; on the far task
# methods differ by no more). The paper reports Spearman's correlation (of the places in order, so no shape is assumed)
# of forgetting with the count: 0.971 for RoBERTa over learning rates, 0.59 for LLaMA2-7B. We compute it base by base,
# and judge the mean. With so few runs chance gives large correlations too: the line of the test is what the mean over
# bases passes one time in twenty if every order is random. (It was drawn so after the values had been seen. The first
# one, for a single base, was higher.) The test is hard all the same: the whole interval, from three bases, has to lie
# above the line, and at a true 0.59 it does so about one time in eight. (Such an interval may end above 1, where there
# is no correlation. Read it as 1.)
#
# The size of the update stands beside the count. And since one rank gives about one intruder, however large, both stand
# there once more without rank 1.

# %%
shuffle = np.random.default_rng(0).permutation
line_of = {}
for task in tasks:
    n = len(seen[task])
    by_lot = [np.mean([stats.spearman(shuffle(n), np.arange(n)) for _ in seeds]) for _ in range(2000)]
    line_of[task] = round(float(np.quantile(by_lot, 0.95)), 2)
follows = results.claim(
    "follows",
    says="over runs that have learnt the same, forgetting goes with the number of intruder dimensions",
    source="arXiv 2410.21228v3, section 4",
    read="full text",
    published="Spearman's rho 0.971 (RoBERTa), 0.59 (LLaMA2-7B)",
    test={task: AtLeast(line, "random orders pass it one time in twenty") for task, line in line_of.items()},
    scope={"task": "rot13 and cipher-6"},
)


# %%
def weights_of(result):
    """The linear layers' weights at the first look that reached the target; where a run never did, at the end."""
    return result["at_target"] or result["end"]


W0 = {s: {n: m.weight.detach() for n, m in find_targets(pretrained(size, s), "all-linear").items()} for s in seeds}


def at_look(result, seed, task):
    """(intruders a matrix, ‖ΔW‖, forgotten) at the first look past the target, all at the same step."""
    weights, look = weights_of(result), first_look(result, task)
    count = sum(len(intruder_dimensions(W0[seed][n], w)) for n, w in weights.items()) / len(weights)
    moved = math.sqrt(sum((w - W0[seed][n]).square().sum().item() for n, w in weights.items()))
    return count, moved, result["text_loss"][look] - result["text_loss"][0]


dots = {t: {k: [at_look(r, s, t) for r, s in zip(found, seeds, strict=True)] for k, found in seen[t].items()
            if size.name == "smoke" or all(r["at_target"] for r in found)} for t in tasks}  # fmt: skip


# %%
def correlations(column, but=()):
    """{task: one value a seed}, of what was forgotten with a column of the dots, some methods left out."""
    of = lambda t, i: np.array([d[i] for k, d in dots[t].items() if k not in but])[:, [column, 2]].T  # noqa: E731
    return {t: [stats.spearman(*of(t, i)) for i in range(size.seeds)] for t in tasks}


rho = {"count": correlations(0), "‖ΔW‖": correlations(1)}
rho |= {"count, no rank 1": correlations(0, ["rank 1"]), "‖ΔW‖, no rank 1": correlations(1, ["rank 1"])}
for t in tasks:
    print(f"{t}: {len(dots[t])} runs a base; the mean of random orders passes {line_of[t]} one time in twenty")
rows = [[k, *(by_base(rho[k][t], "+.2f") for t in tasks)] for k in rho]
print(stats.table(["rho of forgetting with the", *(f"{t}, by base" for t in tasks)], rows))
follows.measure({t: stats.interval(rho["count"][t]) for t in tasks}, chance=dict.fromkeys(tasks, 0.0))
results.record(dots=dots, rho=rho)

# %%
results.figure(
    figures.follows(dots, ranks),
    "follows",
    "Each mark: a run, all at about the same loss on their task: far filled, near open; squares: full at LoRA's rate.",
    alt="Two panels with what was forgotten upwards, against the number of intruders a matrix on the left and against "
    "the size of the update on the right. The near task's runs lie low, the far task's high. Within the near task the "
    "marks rise with the size, and with the count but for rank 1; within the far one there is no clear rise.",
)

# %% [markdown] rests_on="11.follows=not settled"
# On the far task it is open: 0.11, from -0.59 to 0.80. On the near one rho is positive on all three bases, and their
# mean, 0.60, is above the line, but the interval begins at 0.18, below it. And the line takes the bases as independent,
# though the same seven methods stand in each: for one order shared by all it would be 0.68. The size goes with
# forgetting better there (0.86 to 1.00). Rank 1 makes the difference: without it count and size fit equally well (0.83
# to 1.00). On the far task neither fits on all bases.
#
# A correlation over a handful of methods is thin evidence, whatever its value: methods differ in many things at once.
# To learn about a cause, change the cause alone.
#
# ## Shrink the intruder and nothing else
#
# A tuned matrix is `W1 = Σ σ_i u_i v_iᵀ`. Take the place `i` of its top intruder, the one with the largest `σ_i`, and
# multiply that `σ_i` by `λ`. This is the paper's own intervention (section 5):
#
# $$W' = W_1 + (\lambda - 1)\, \sigma_i u_i v_i^\top$$

# %%
name = next(iter(W0[1]))
W1 = weights_of(seen["rot13"]["rank 4"][0])[name]
top = (intruder_dimensions(W0[1][name], W1) or [0])[0]  # where there is none, any place shows the formula
U, sigma, Vt = torch.linalg.svd(W1, full_matrices=False)
shrunk = W1 + (0.7 - 1) * sigma[top] * torch.outer(U[:, top], Vt[top])
torch.testing.assert_close(scale_directions(W1, [top], 0.7), shrunk)
print(f"{name}: place {top}, σ {sigma[top]:.2f} -> {0.7 * sigma[top]:.2f}; the other σ stay")

# %% [markdown]
# If English comes back when the top intruder shrinks, does that show that intruders cause forgetting? Not yet. Anything
# that takes `W1` part of the way back to `W0` brings some English back. So there are three controls, applied matrix by
# matrix. Two of them move the weights as far, in the Frobenius norm, as shrinking the intruder does:
#
# - **neighbour**, the paper's: the place next to the intruder that is not an intruder, the same `λ`. (It is a direction
#   of `W0`, so it carries English, and making it smaller can hardly help.)
# - **all of ΔW, as far**: `W0 + t ΔW`, with `t` chosen to move as far;
# - **the rest of ΔW, as far**: what `ΔW` writes at right angles to the intruder `u_i`, made smaller by as much.
#   (Shrinking the intruder changes only what is written along `u_i`; this is all the other.)
#
# At rank 1 the intruder is nearly all of the update. The whole of the rest is then taken away, and still it does not
# move as far; so that row says nothing at rank 1. The tests ask ranks 4 and 16. And we add **all intruders** among the
# ten leading vectors, which is what PEFT's `reduce_intruder_dimension` scales.


# %%
def top_intruder(W0, W1, places, c):
    return scale_directions(W1, places[:1], c)


def all_intruders(W0, W1, places, c):
    return scale_directions(W1, places, c)


def neighbour(W0, W1, places, c):
    return scale_directions(W1, [min(set(range(min(W1.shape))) - {*places}, key=lambda i: (abs(i - places[0]), i))], c)


# %%
def all_of_delta(W0, W1, places, c):
    moved = (top_intruder(W0, W1, places, c) - W1).norm()
    return W1 - min(moved / (W1 - W0).norm(), 1) * (W1 - W0)


def rest_of_delta(W0, W1, places, c):
    u = torch.linalg.svd(W1, full_matrices=False).U[:, places[:1]]
    rest = (W1 - W0) - u @ (u.T @ (W1 - W0))
    moved = (top_intruder(W0, W1, places, c) - W1).norm()
    return W1 - min(moved / rest.norm(), 1) * rest


treatments = {
    "top intruder": top_intruder,
    "all intruders": all_intruders,
    "neighbour": neighbour,
    "all of ΔW, as far": all_of_delta,
    "the rest of ΔW, as far": rest_of_delta,
}

# %% [markdown]
# **The null has learnt nothing.** Replace each `ΔW` by a random matrix with the very same singular values
# (`random_update_like`), all of them times the one factor at which English has lost as much as in the trained model. It
# has intruders too (chapter 10). What comes back when its top intruder shrinks comes back from any intruder, learnt or
# not.
#
# That cannot refute that intruders cause forgetting: it has some. For this claim chance is the control that has no eye
# for intruders, all of `ΔW`, as far. (The null stood there first; the verdict was the same.) The null is chance for the
# question whether forgetting sits in the *learnt* intruder rather than in the rest.

# %%
cause = results.claim(
    "cause",
    says="the top intruder of each matrix at λ = 0.7 brings back much of what was forgotten",
    source="arXiv 2410.21228v3, section 5, figure 8",
    read="full text",
    published="-33.2 % of the forgetting (RoBERTa on QQP, λ = 0.7)",
    test={task: AtLeast(0.1, "a third of what is published") for task in tasks},
    scope={"task": "rot13 and cipher-6", "ranks": "4 and 16, mean"},
)
cheap = results.claim(
    "price",
    says="it costs next to nothing of what was learnt",
    source="arXiv 2410.21228v3, section 5, figure 8",
    read="full text",
    published="equal test accuracy",
    test={task: AtMost(0.05, "5 % of what the loss had fallen by") for task in tasks},
    scope={"task": "rot13 and cipher-6", "ranks": "4 and 16, mean"},
)

# %%
located = results.claim(
    "located",
    says="more comes back than when the rest of the update is made smaller by as much",
    source="arXiv 2410.21228v3, abstract (the control is ours)",
    read="full text",
    published="forgetting is vastly localized to the intruder dimension",
    test={f"rank {r}, {task}": Higher(0.02, "2 % of what was forgotten") for task in tasks for r in (4, 16)},
    scope={"task": "rot13 and cipher-6"},
)
dearer = {
    r: results.finding(
        f"dearer_{r}",
        says=f"rank {r}: at one loss on English, shrinking all intruders costs more of the task than all of ΔW",
        test=Higher(0.02, "1 % of the loss"),
        seen_first="rot13, one base",
        tested_on="cipher-6, three bases",
        scope={"task": "cipher-6"},
    )
    for r in (4, 16)
}

# %% [markdown]
# **Write down your predictions** for `λ = 0.7`: which share of the forgetting comes back, and which share of the
# learning goes? Which control comes nearest? What does the null do?

# %%
KEPT = 0.7  # λ
length = size.model.max_position_embeddings
windows = {t: fixed_windows(task_ids(t, "held_out"), size.eval_windows // 2, length) for t in ("text", *tasks)}
models = {s: pretrained(size, s) for s in seeds}


@torch.no_grad()
def loss_with(weights, s, text):
    """The loss on `text` of base s with these weights in its linear layers."""
    layers = find_targets(models[s], "all-linear")
    for n, w in weights.items():
        layers[n].weight.copy_(w)
    return evaluate(models[s], windows[text])


def losses_with(weights, s, task):
    return loss_with(weights, s, task), loss_with(weights, s, "text")


# %%
def treat(weights, places, s, treatment):
    return {n: treatment(W0[s][n], w, places[n], KEPT) if places[n] else w for n, w in weights.items()}


def shares(weights, s, task):
    """{treatment: (share of the forgetting that comes back, share of the learning that is lost)}."""
    places = {n: intruder_dimensions(W0[s][n], w) for n, w in weights.items()}
    start, whole = losses_with(W0[s], s, task), losses_with(weights, s, task)
    ends = {k: losses_with(treat(weights, places, s, treatment), s, task) for k, treatment in treatments.items()}
    return {k: [float(np.divide(whole[i] - e[i], whole[i] - start[i])) for i in (1, 0)] for k, e in ends.items()}


# %%
def random_like(weights, s):
    """The null: (its weights, the factor at which it has forgotten as much)."""
    draw = torch.Generator().manual_seed(s)
    moved = {n: random_update_like(w - W0[s][n], draw).to(w.dtype) for n, w in weights.items()}
    aim, small, large = loss_with(weights, s, "text"), 0.5, 8.0
    for _ in range(9):
        factor = math.sqrt(small * large)
        null = {n: W0[s][n] + factor * m for n, m in moved.items()}
        small, large = (factor, large) if loss_with(null, s, "text") < aim else (small, factor)
    return null, factor


# %%
low = ("rank 1", "rank 4", "rank 16")
treated, of_null, forgets = {}, {}, {}
for task in tasks:
    for label in low:
        for s, result in zip(seeds, seen[task][label], strict=True):
            weights, key = weights_of(result), (task, label, s)
            null, factor = random_like(weights, s)
            treated[key], of_null[key] = shares(weights, s, task), shares(null, s, task)
            ends = [loss_with(w, s, "text") for w in (W0[s], weights, null)]
            forgets[key] = {"trained": ends[1] - ends[0], "null": ends[2] - ends[0], "factor": factor}
for name, values in {"treated": treated, "of_null": of_null, "forgets": forgets}.items():
    results.record(**{name: {", ".join(map(str, key)): v for key, v in values.items()}})


def back(found, task, words, labels=low[1:], which=0):
    """One value a seed, the mean over `labels`. `which`: 0 what comes back, 1 what is lost."""
    return [float(np.mean([found[task, k, s][words][which] for k in labels])) for s in seeds]


# %%
def percent(found, task, words, label):
    return stats.shown([100 * v for v in back(found, task, words, [label])], 1)


for task in tasks:
    rows = []
    for words in treatments:
        per_rank = [percent(treated, task, words, k) for k in low]
        prices = [100 * np.mean(back(treated, task, words, labels=[k], which=1)) for k in low]
        rows.append([words, *per_rank, by_base(prices, ".1f")])
    for words in ("top intruder", "all of ΔW, as far", "the rest of ΔW, as far"):
        rows.append([f"null, {words}", *(percent(of_null, task, words, k) for k in low), ""])
    for n in ("trained", "null"):
        nats = [stats.shown([forgets[task, k, s][n] for s in seeds], 2) for k in low]
        rows.append([f"{n}, forgotten in nats", *nats, ""])
    print(f"{task}, λ = {KEPT}: % of the forgetting that comes back, by rank; % of the learning that is lost")
    print(stats.table(["what is made smaller", *low, "lost, by rank"], rows), "\n")


# %%
def more(found, task, label):
    """How much more the top intruder brings back than the rest of the update, paired over seeds."""
    ways = ("top intruder", "the rest of ΔW, as far")
    return stats.paired(*(back(found, task, words, [label]) for words in ways))


learnt = [{t: stats.interval(back(treated, t, "top intruder", which=i)) for t in tasks} for i in (0, 1)]
cause.measure(learnt[0], chance={t: stats.interval(back(treated, t, "all of ΔW, as far")) for t in tasks})
cheap.measure(learnt[1], chance="a null that has learnt nothing has nothing to lose")
located.measure(*({f"{k}, {t}": more(f, t, k) for t in tasks for k in low[1:]} for f in (treated, of_null)))

# %% [markdown]
# ## The simplest alternative
#
# `W0 + t ΔW` costs no SVD, keeps the rank, and every LoRA has it built in: it is a smaller scaling. A treatment is
# worth its trouble if, at the same loss on English, it costs less of the task than that line.
#
# Any other treatment may cost more than the line, so there is a null here too: half of the pieces of `ΔW`, drawn at
# random, made smaller by as much as all intruders are; the mean of four draws. (It was added, and the mean over ranks
# taken apart, after the values had been seen.)


# %%
def half_of_delta(draw, W0, W1, places, c):
    """A random half of the pieces of ΔW, made smaller by as much as all intruders are."""
    U, sigma, Vt = torch.linalg.svd(W1 - W0, full_matrices=False)
    rank = int((sigma > 1e-4 * sigma[0]).sum())
    some = torch.randperm(rank, generator=draw)[: max(1, rank // 2)]
    half = (U[:, some] * sigma[some]) @ Vt[some]
    moved = (all_intruders(W0, W1, places, c) - W1).norm()
    return W1 - min(moved / half.norm(), 1) * half


line = np.linspace(0.3, 1.0, 8)


def above_line(task, label, s, *ways):
    """How much more loss on the task than W0 + t ΔW with the same loss on English, for each way of treating."""
    weights = weights_of(seen[task][label][s - 1])
    places = {n: intruder_dimensions(W0[s][n], w) for n, w in weights.items()}
    ends = [losses_with({n: W0[s][n] + t * (w - W0[s][n]) for n, w in weights.items()}, s, task) for t in line]
    costs, texts = np.array(sorted(ends, key=lambda e: e[1])).T
    treats = [losses_with(treat(weights, places, s, way), s, task) for way in ways]
    return [e[0] - float(np.interp(e[1], texts, costs, left=math.nan, right=math.nan)) for e in treats]


def halves(s, count=4):
    return [functools.partial(half_of_delta, torch.Generator().manual_seed(10 * s + i)) for i in range(count)]


# %%
excess = {t: {k: [above_line(t, k, s, all_intruders)[0] for s in seeds] for k in low} for t in tasks}
lot = {k: [float(np.mean(above_line("cipher-6", k, s, *halves(s)))) for s in seeds] for k in low[1:]}
rows = [[t, *(stats.shown(excess[t][k], 3) for k in low)] for t in tasks]
rows += [["cipher-6, a random half", "", *(stats.shown(lot[k], 3) for k in low[1:])]]
print("loss on the task above that of W0 + t ΔW at the same loss on English (below 0: the treatment is better)")
print(stats.table(["task", *low], rows))
for r, row in dearer.items():
    row.measure(stats.interval(excess["cipher-6"][f"rank {r}"]), chance=stats.interval(lot[f"rank {r}"]))
results.record(excess=excess, excess_of_random_half=lot)

# %%
results.figure(
    figures.shrink(treated, of_null, tasks, low, seeds),
    "shrink",
    "What comes back of the forgotten at λ = 0.7; bars are 95 % intervals over bases. The hollow marks are the null: "
    "the top intruder of a random update that has forgotten as much.",
    alt="Two panels, far and near task, with three ranks each. For every rank five marks and a hollow one show the "
    "share of the forgetting that comes back when the intruder, its neighbour, or the update as a whole is made "
    "smaller. The neighbour stands at or below zero, the hollow mark above that of the trained top intruder.",
)

# %% [markdown] rests_on="11.cause=not settled, 11.price=reproduced, 11.located=not settled"
# **The top intruder** brings back 8 to 15 % of the forgetting at ranks 4 and 16, for 1 to 2 % of the learning, while
# its neighbour, a direction of the old weight, brings back nothing in the mean. Taken alone that looks like the paper's
# finding. (At rank 1, where it is nearly all of the update, it is 26 and 35 %, for 4 and 9 % of the learning. With rank
# 1 in the mean, as it first was, the price was not settled on the near task. Its *reproduced* holds for ranks 4 and 16,
# and shows nothing of intruders: all of ΔW and the rest, moved as far, stay below 5 % too.)
#
# But shrink *all* of the update by as much, and 20 to 23 % come back, for less than 1 % of the learning in the mean. So
# "brings back much" is not settled: the control passes the test too, and on the far task the interval (8 to 12 %) holds
# the line of 10. And the top intruder of an update that has learnt nothing and has forgotten as much gives back 23 to
# 25 %, more than the learnt one. But that update is 1.2 to 1.9 times as large, and shrinking all of it gives back
# double too (40 to 45 %). So compare within each: the intruder with the rest.
#
# **Is forgetting located there?** Shrink the rest of the update by as much. On the far task that brings back *more* at
# ranks 4 and 16: there the claim fails. On the near one it is open: intruder minus rest is -0.7 ± 7.5 points at rank 4
# and 0.3 ± 2.5 at rank 16, and the intruder costs more of the learning (1.3 and 1.5 % against 0.4 and 0.3). In the null
# it is -13 and -12 points on the near task, so the learnt intruders do more than chance there; on the far one -4 and 0
# against -8 and -13, so they do not. (No test was drawn for that.) *Located* holds at neither rank on either task.

# %% [markdown] rests_on="11.dearer_4=not settled, 11.dearer_16=not settled"
# **As a tool** on the near task: at one loss on English, shrinking all intruders costs 0.02 nats of the task (rank 4)
# and 0.06 (rank 16) more than shrinking all of the update; at rank 1 it is open. But a random half of the update costs
# 0.03 and 0.02 more, beyond the test's line by its value too (both intervals hold the line; so does rank 4's own, by a
# hair). So both rows are not settled. At rank 4 it is open whether intruders are a worse choice than a random half. At
# rank 16 they cost 0.04 more than the random half, on every base by about as much; the test was not drawn for that.
#
# ## Exercises
#
# **1. Shrink the intruders.** Write the function that multiplies the singular values of *all* intruders by `c`, with
# an SVD of your own. (`intruder_dimensions(W0, W1)` gives their places.)

# %%
from lora_from_scratch.book.checks import ch11 as check


def my_shrink(W0, W1, c):
    return W0 + c * (W1 - W0)  # change this


print(check.check_shrink(my_shrink))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_shrink(W0, W1, c):
#     U, s, Vt = torch.linalg.svd(W1, full_matrices=False)
#     places = intruder_dimensions(W0, W1)
#     return W1 + (c - 1) * (U[:, places] * s[places]) @ Vt[places]
# ```
#
# </details>
#
# **2. The same loss.** Two runs were watched at the points below. How much more has the first forgotten than the
# second, at a loss of 2.0 on the task? Read each off on a straight line between two points.

# %%
print("first: ", check.FIRST)
print("second:", check.SECOND)
my_difference = 4.0 - 3.8  # change this
print(check.check_difference(my_difference))

# %% [markdown] rests_on="11.cause=not settled"
# <details><summary>Solution</summary>
#
# First: 2.0 lies 0.2 of 0.5 past 2.2, so 3.0 + 0.4 · 1.0 = 3.4. Second: half of the way, so 3.5. The first has
# forgotten 0.1 *less*: -0.1, although its end lies higher.
#
# </details>
#
# ## The same with PEFT
#
# ```python
# from peft.tuners.lora.intruders import reduce_intruder_dimension
#
# reduce_intruder_dimension(peft_model, top_k=10, threshold_epsilon=0.5, mitigation_lambda=0.75)  # 0.75 stays
# peft_model.set_adapter("default")  # back to the adapter as it was
# ```
#
# It scales all intruders among the `top_k`. Each of their pieces of `W1` may add one to the rank of the change: two
# intruders make rank 4 into 6 at most. So it cuts the update to the adapter's rank again. Its docstring calls
# `mitigation_lambda` the portion that is *subtracted*; the code leaves that portion and subtracts the rest. Pass what
# you want to keep. The equal shrink needs no function: multiply the `scaling` of each LoRA layer by `t`.
#
# ## What to take along
#
# - Say at which loss on the task two methods are compared, and at which learning rate. Both decide who forgets more.
# - Draw the level of letter frequencies into a loss on English. Above it, the model is worse than one that knows no two
#   letters in a row.
# - A cause needs controls that change as much, and a null that has learnt nothing. Here intruders were not shown to be
#   the cause of forgetting, nor cleared: shrinking all of the update brings back more.

# %%
results.save()
