# %% [markdown]
# # 10 · Intruder dimensions
#
# **The question.** LoRA and full fine-tuning can reach the same loss. Do they reach it with the same weights?
#
# **What you will be able to do.** Compare two weights by their singular vectors. Say which of a tuned weight's
# directions are new, and how likely chance is to make them look new. Compare methods at the same loss, not at the
# same step. Tell an effect of the method from an effect of its learning rate.
#
# **What you need.** Chapters 00 and 01. What an SVD is.
#
# **The published claims.** The LoRA paper (Hu et al., 2021, arXiv 2106.09685, section 7) looks at what LoRA learns:
# small ranks find the same top direction as large ones, and the update amplifies directions that the old weight does
# not emphasize. "LoRA vs Full Fine-tuning: An Illusion of Equivalence" (Shuttleworth et al., 2024, arXiv 2410.21228)
# compares the tuned weights themselves. LoRA's hold new, large singular vectors, which it calls *intruder
# dimensions*. Full fine-tuning's do not. What intruders do to the model is the question of chapter 11.
#
# **The task.** The base was pretrained on English. It is tuned to the same English in rot13 (each letter moved by
# thirteen places), which it has never seen. Losses are in nats a character (the natural logarithm; less is better), and
# `a ± b` is a mean over seeds with its 95 % interval.

# %%
import functools
import math
import time
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from lora_from_scratch import AdapterConfig
from lora_from_scratch.analysis.spectra import (
    effective_rank,
    intruder_dimensions,
    intruders_by_layer,
    similarity,
    singular_values,
    stable_rank,
)
from lora_from_scratch.analysis.subspaces import amplification, subspace_similarity
from lora_from_scratch.book import plots, stats
from lora_from_scratch.book.results import Results
from lora_from_scratch.lab.finetune import Run
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.sweep import best_rate, compare, sweep
from lora_from_scratch.lab.watch import at_loss, intruder_counts, watch
from lora_from_scratch.lab.workers import carry_out_all
from lora_from_scratch.targets import find_targets

size = preset().on_one_base()
results = Results("10_intruder_dimensions", size)
W0 = {name: layer.weight.detach() for name, layer in find_targets(pretrained(size), "all-linear").items()}
print(f"preset {size.name}: {len(W0)} matrices of the tiny Llama, {size.model.hidden_size} wide")

# %% [markdown]
# A verdict is one of four: *reproduced*, *partly*, *not at this scale* (our small model does not show it), and
# *does not add up* (what we measured speaks against the sentence itself). Each claim is written down with its
# criterion before it is measured. Where a preset has a single seed there is no interval. Then the sign decides
# alone, and the printed line says so.
#
# Three things changed after a first run. The criterion of the first claim was made stricter. And at width 256 the
# target was raised a little (from 2.28 to 2.34), because one run of rank 1 had not reached it. With that, the verdict
# on the width went from *partly* to *reproduced*. And one claim, on the leading vector, was added, as told there.
#
# First the training, for the whole chapter. The task is English in rot13. Every method gets its own best learning
# rate. Full fine-tuning trains the same linear layers that the adapters sit on, so that the same matrices change.
# Alpha is 32 at every rank, as in the chapters before. Two more adapters have the other usual choice, alpha = 2r. (The
# preset `quick` leaves these two out, and further on the lowest of the shared rates, to stay within minutes.)


# %%
def lora(rank, alpha=32, **options):
    return Run(adapter=AdapterConfig(rank=rank, alpha=alpha, **options))


ranks = (1, 4, 16, 64)
methods = {
    "full": Run(scope="linear"),
    **{f"rank {r}": lora(r) for r in ranks},
    "rank 1, alpha 2r": lora(1, alpha=2),
    "rank 64, alpha 2r": lora(64, alpha=128),
    "rsLoRA rank 64": lora(64, rslora=True),
    "DoRA rank 16": lora(16, dora=True),
}
if size.name == "quick":
    methods = {label: run for label, run in methods.items() if "2r" not in label}
tuned = compare(methods, size, known=results.known_rates("methods"))
results.record_sweep("methods", tuned)
rows = [
    [label, f"{t.run.lr:.4f}", f"{t.values('trained')[0]:,}", stats.shown(t.values("task_loss"))]
    for label, t in tuned.items()
]
print(stats.table(["method", "rate", "trained", "loss on rot13 after training"], rows))

# %% [markdown]
# ## What LoRA finds: the subspaces of A
#
# `A` has a row for each direction of the input that the adapter reads. Do two trained adapters read the same ones?
# Single rows say little, since `B` can mix them. The LoRA paper compares subspaces: `V_i` are the first `i` right
# singular vectors of one `A`, `V_j` the first `j` of another, and
#
# $$\varphi(i, j) = \frac{\lVert V_i^\top V_j \rVert_F^2}{\min(i, j)}$$
#
# It is 1 if the smaller subspace lies within the larger, and 0 if they are at right angles.

# %%
torch.manual_seed(0)
first, second = torch.randn(3, 20).double(), torch.randn(5, 20).double()
V_first, V_second = (torch.linalg.svd(a, full_matrices=False).Vh.T for a in (first, second))  # (20, 3), (20, 5)
phi = torch.zeros(3, 5).double()
for i in range(3):
    for j in range(5):
        shared = V_first[:, : i + 1].T @ V_second[:, : j + 1]
        phi[i, j] = shared.square().sum() / min(i + 1, j + 1)
torch.testing.assert_close(subspace_similarity(first, second), phi)
print("two random A, φ(1, 1) and φ(3, 5):", *(f"{phi[i, j]:.2f}" for i, j in ((0, 0), (2, 4))))

# %% [markdown]
# Even random subspaces share something: `j` random directions of `d` hold `j/d` of any other. So we need a floor,
# two random `A`, and a ceiling, two seeds of the same rank.
#
# The claims of this section, from the paper's section 7.2 and 7.3, are about the query matrices of its model.

# %%
top = results.claim(
    "top_direction",
    says="the top direction of A at rank 8 is the top direction at rank 64, and the others are not shared",
    source="2106.09685, section 7.2",
    published="φ above 0.5 for the first direction alone",
    criterion="for the query matrices, mean over layers and seeds: φ(1, 1) of ranks 8 and 64 above 0.5, and φ(8, 8) "
    "below 0.5: reproduced; φ(1, 1) above φ(8, 8), and above 3 times the floor: partly",
    judge=lambda v: "reproduced" if v[0] > 0.5 > v[1] else "partly" if v[0] > max(v[1], 3 * v[2]) else False,
)
amplified = results.claim(
    "amplification",
    says="ΔW amplifies directions that W0 does not emphasize, and at a low rank by a large factor",
    source="2106.09685, section 7.3, table 7",
    published="21.5 times at rank 4, 1.9 times at rank 64 (GPT-3)",
    criterion="for the query matrices, mean over layers and seeds: the factor at rank 4 is at least 10, and at least 3 "
    "times that at rank 64: reproduced; it is above 1 and above that at rank 64: partly",
    judge=lambda f: "reproduced" if f[0] >= max(10, 3 * f[1]) else "partly" if f[0] > max(1, f[1]) else False,
)

# %% [markdown]
# **Write down your predictions.** How much do the top directions share, from 0 to 1: of ranks 8 and 64? Of two seeds
# of rank 64? Which grows faster with the rank: the size of ΔW, or what W0 does along the directions of ΔW?

# %%
seeds = range(1, size.seeds + 1)
wanted = [(4, 0), (8, 100), (64, 0), (64, 200)]  # (rank, what is added to the seed): no two start from the same A
jobs = [
    replace(lora(r), lr=tuned["rank 64"].run.lr, seed=seed + more, keep=True) for r, more in wanted for seed in seeds
]
found = carry_out_all(jobs, size)
states = {key: [found[i * size.seeds + s]["state"] for s in range(size.seeds)] for i, key in enumerate(wanted)}
queries = [name for name in W0 if name.endswith("q_proj")]


def mean_phi(one, other):
    """φ of the query matrices' A, up to 8 and 8: mean over layers, one entry a seed."""
    return [
        torch.stack([subspace_similarity(a[f"{n}.A"], b[f"{n}.A"])[:8, :8] for n in queries]).mean(0)
        for a, b in zip(states[one], states[other], strict=True)
    ]


# %%
width = size.model.hidden_size
torch.manual_seed(1)
shares = {
    "ranks 8 and 64": mean_phi((8, 100), (64, 0)),
    "rank 64, two seeds": mean_phi((64, 0), (64, 200)),
    "two random A": [subspace_similarity(torch.randn(8, width), torch.randn(64, width))[:8, :8] for _ in seeds],
}
rows = [[label, *(stats.shown([p[i, i].item() for p in ps], 2) for i in (0, 1, 3, 7))] for label, ps in shares.items()]
print(stats.table(["query matrices", "φ(1, 1)", "φ(2, 2)", "φ(4, 4)", "φ(8, 8)"], rows))
one, eight, floor = (
    stats.interval([p[i, i].item() for p in shares[k]])[0]
    for k, i in (("ranks 8 and 64", 0), ("ranks 8 and 64", 7), ("two random A", 0))
)
top.measure([one, eight, floor], f"φ(1, 1) {one:.2f}, φ(8, 8) {eight:.2f}; random {floor:.3f}")
results.record(phi={label: [p.tolist() for p in ps] for label, ps in shares.items()})

# %%
fig, axes = plots.canvas(3, width=10, height=3.5)
for ax, (label, ps) in zip(axes, shares.items(), strict=True):
    shown = ax.imshow(torch.stack(ps).mean(0), vmin=0, vmax=1, cmap="viridis", extent=(0.5, 8.5, 8.5, 0.5))
    ax.set(xlabel="j", ylabel="i")
    ax.set_title(label)
    ax.grid(visible=False)
fig.colorbar(shown, ax=axes, label="φ(i, j)")
results.figure(fig, "subspaces", "How much the leading i and j directions of two A share; query matrices, mean over "
               "layers and seeds. The panel on the right is chance.")  # fmt: skip

# %% [markdown]
# The ceiling matters for the reading. Two seeds of the *same* rank do not share their top direction here. So two ranks
# could not be expected to, and the low number says nothing about the rank. What is shared is little, but it is above
# chance, and spread over several directions.
#
# Now the update itself. Take the leading directions of `ΔW`, `U` for the outputs and `V` for the inputs. What does
# `W0` do along them? The paper projects `W0` on them, and divides: `‖ΔW‖ / ‖Uᵀ W0 V‖`.


# %%
def along(weight, u, v, rank):
    return (u[:, :rank].T @ weight @ v[:, :rank]).norm().item()


rows, factors = [], {}
for r in (4, 64):
    measured = []
    for state in states[r, 0]:
        for n in queries:
            delta = 32 / r * state[f"{n}.B"] @ state[f"{n}.A"]
            own, old, chance = (torch.linalg.svd(m) for m in (delta, W0[n], torch.randn_like(delta)))
            sizes = [along(W0[n], f.U, f.Vh.T, r) for f in (own, old, chance)]
            measured.append([delta.norm().item(), *sizes, amplification(W0[n], delta, min(r, *delta.shape))])
            assert math.isclose(measured[-1][-1], measured[-1][0] / measured[-1][1], rel_tol=1e-3)
    averages = np.mean(measured, axis=0)
    factors[r] = averages[-1]
    rows.append([f"rank {r}", *(f"{value:.2f}" for value in averages)])
print("W0 along the directions of …")
print(stats.table(["query", "‖ΔW‖", "… ΔW", "… W0 itself", "… chance", "factor"], rows))
amplified.measure([factors[4], factors[64]], f"{factors[4]:.1f} times at rank 4, {factors[64]:.1f} times at rank 64")
results.record(amplification=factors)

# %% [markdown]
# Our `ΔW` is large against `W0`, since rot13 asks a small model for a large change. So a factor above 1 comes
# easily here. The columns between say more. At rank 4 `W0` does somewhat more along the directions of `ΔW` than along
# random ones, and far less than along its own. At rank 64 of a width of 128, half of all directions are "of `ΔW`", and
# chance gives nearly the same: there a factor says little.
#
# ## A direction that was not there
#
# From here on we look at the tuned weight, `W1 = W0 + ΔW`, and not at `ΔW`. Each of its left singular vectors is
# compared with *all* left singular vectors of `W0`:

# %%
name = queries[-1]
torch.manual_seed(2)
noise = 0.2 * torch.randn_like(W0[name])
W1 = W0[name] + noise
U0, U1 = (torch.linalg.svd(w, full_matrices=False).U for w in (W0[name], W1))
cosines = (U0.T @ U1).abs()  # (d, d): old vectors down, new ones across
best = cosines.amax(dim=0)  # of each new vector, the likeness to the old one that it is most like
torch.testing.assert_close(similarity(W0[name], W1), cosines)
by_hand = [j for j in range(10) if best[j] < 0.5]
assert intruder_dimensions(W0[name], W1, k=10, epsilon=0.5) == by_hand
print(f"{name} with noise added that is {noise.norm() / W0[name].norm():.1f} times as large:")
print("the ten leading vectors' best likenesses are", *(f"{b:.2f}" for b in best[:10]))
print("intruders among them:", by_hand)

# %% [markdown]
# An **intruder dimension** is one of the `k` = 10 leading vectors of `W1` whose best likeness is below `ε` = 0.5. It
# is large in the new weight, and like nothing in the old one. (That noise alone makes some is a first warning.)
#
# The paper's appendix has a toy for it. Take `W0`, a random unit vector `v`, and add `λ v vᵀ`. Nothing of this is
# trained. **Predict:** from which `λ` on is there an intruder? Measure `λ` in singular values of `W0`: is it when `λ`
# passes the largest one? The tenth?

# %%
v = F.normalize(torch.randn(width), dim=0)
s0 = singular_values(W0[name])
lambdas = torch.linspace(0, 1.5 * s0[0].item(), 61)
likeness, counts = [], []
for lam in lambdas:
    W1 = W0[name] + lam * torch.outer(v, v)
    likeness.append(similarity(W0[name], W1).amax(dim=0)[:10])
    counts.append(len(intruder_dimensions(W0[name], W1)))
appears = next((lam.item() for lam, count in zip(lambdas, counts, strict=True) if count), math.nan)
print(f"σ1 of W0 is {s0[0]:.2f}, σ10 is {s0[9]:.2f}; the first intruder is there at λ = {appears:.2f}")
print(f"most intruders at any λ: {max(counts)}, although ΔW has rank 1")

# %% [markdown]
# And now the trap. `ΔW` is itself a matrix with singular vectors, and it is tempting to look at those. **Predict**
# for two updates what each way of counting says: a rank-one update along `W0`'s own first directions, twice as large
# as `W0`; and a random one that is tiny.

# %%
U, s, Vt = torch.linalg.svd(W0[name])
updates = {
    "huge, along W0's own": 2 * s[0] * torch.outer(U[:, 0], Vt[0]),
    "tiny, random": 0.01 * s[0] * torch.outer(v, F.normalize(torch.randn(width), dim=0)),
}
for words, delta in updates.items():
    right_way = len(intruder_dimensions(W0[name], W0[name] + delta))
    own = intruder_dimensions(W0[name], delta, k=1)
    print(f"{words}: {right_way} intruders in W0 + ΔW; the leading vector of ΔW alone counts as {len(own)}")

# %% [markdown]
# Only the weight that the model uses tells what the model has. A large update along old directions makes no intruder. A
# small update in a new direction makes none either: it does not reach the ten leading ones. And in the toy, an update
# of rank 1 never made more than one. So a low rank seems to cap the count: keep it in mind when a low rank shows a low
# number.
#
# ## How alike chance is
#
# A threshold of 0.5 means nothing until we know what chance gives. Take two unrelated random bases. How large is the
# best likeness of a vector of one with all vectors of the other? **Predict** it for width 128: 0.01, 0.1, 0.3, 0.6?


# %%
def chance(d_out, d_in, times=8):
    """Best likenesses of the vectors of a random basis of min(d_out, d_in) directions with those of another."""
    bases = [[torch.linalg.qr(torch.randn(d_out, min(d_out, d_in))).Q for _ in range(2)] for _ in range(times)]
    return torch.cat([(a.T @ b).abs().amax(dim=0) for a, b in bases])


torch.manual_seed(3)
inner = size.model.intermediate_size
shapes = sorted({(16, 16), (32, 32), (64, 64), (128, 128), (256, 256), (width, width), (inner, width)})
rows = []
for shape in shapes:
    drawn = chance(*shape)
    theory = math.sqrt(2 * math.log(min(shape)) / shape[0])
    quantiles = (f"{drawn.quantile(q):.2f}" for q in (0.01, 0.5, 0.99))
    rows.append([f"{shape[0]} × {shape[1]}", *quantiles, f"{theory:.2f}", f"{(drawn < 0.5).float().mean():.0%}"])
print(stats.table(["shape", "1 %", "median", "99 %", "sqrt(2 ln n / d)", "below 0.5"], rows))
square = chance(width, width)
low, high = (square.quantile(q).item() for q in (0.01, 0.99))

# %% [markdown]
# Read the last column. A random direction should count as an intruder. In a narrow model it often does not: with few
# dimensions everything is somewhat alike, and `ε` = 0.5 under-counts. At width 128 nearly every random direction
# falls below 0.5, so the count is meaningful. The grey band in the pictures below is this chance: from the 1 % to the
# 99 % point, for a square matrix of our width. A vector inside it is as new as a random one.

# %%
fig, (ax,) = plots.canvas(width=7)
shares_of_top = (lambdas / s0[0]).numpy()
ax.axhspan(low, high, color="#DDDDDD", label="two random bases")
for j in range(10):
    colour = plots.RED if j == 0 else plots.GREY
    ax.plot(shares_of_top, [row[j].item() for row in likeness], ".", color=colour, markersize=4,
            label={0: "the leading vector of W1", 1: "the next nine"}.get(j))  # fmt: skip
ax.axhline(0.5, color=plots.BLACK, linestyle="--", linewidth=1, label="ε = 0.5")
ax.axvline(s0[9].item() / s0[0].item(), color=plots.BLUE, linewidth=1, label="λ = σ10 of W0")
ax.set(xlabel="λ / σ1", ylabel="best likeness with the vectors of W0", ylim=(0, 1.03))
ax.set_title("W0 + λ v vᵀ: a planted direction climbs to the top")
ax.legend(loc="lower left", fontsize=8)
results.figure(fig, "toy", "Each dot is one of the ten leading vectors of W0 + λ v vᵀ. Below the dashed line it counts "
               "as an intruder; the band is what two random bases give.")  # fmt: skip

# %% [markdown]
# When `λ` passes `σ10`, the new vector is among the ten. There it has close neighbours, old vectors with nearly the
# same singular value, and two such vectors mix: each is like the other for half. So the intruder shows later, where the
# old singular values lie further apart. It reaches the band of chance when it is on its own, at the top.
#
# ## Who makes intruders
#
# Now the trained weights. Methods are compared at the same loss on the task: the one that learns more changes more,
# and would have more of everything. We choose a loss that the slowest of the tuned runs just reaches. Every run is
# carried out again and watched: at twenty points of its training we measure the losses and the likenesses of the
# leading vectors of all matrices. What is reported "at the target" is read off on a straight line between the two
# points around it. A count below is intruders per matrix, of ten.


# %%
def by_share(wins):
    """All of them: reproduced; some: partly."""
    return "reproduced" if all(wins) else "partly" if any(wins) else False


have = results.claim(
    "intruders",
    says="LoRA makes intruder dimensions, full fine-tuning does not, at the same performance",
    source="2410.21228, abstract",
    published="LoRA's weights have them, full fine-tuning's do not",
    criterion="at the same loss, full fine-tuning has below 0.1 a matrix, and the counts at ranks 1, 4 and 16 are "
    "above its count, each interval without 0: reproduced; at least one rank is above it: partly",
    judge=lambda v: "reproduced" if v[0] < 0.1 and all(v[1]) else "partly" if any(v[1]) else False,
)
mirror = results.claim(
    "mirror",
    says="high-rank, rank-stabilized LoRA closely mirrors full fine-tuning",
    source="2410.21228 version 1, abstract",
    published="closely mirrors full fine-tuning",
    criterion="at the same loss, rsLoRA at rank 64 has at most a quarter of the count of the low rank (1, 4, 16) that "
    "has most: reproduced; fewer than it, the interval without 0: partly",
    judge=lambda v: "reproduced" if v[0] <= v[1] / 4 else "partly" if v[2] else False,
)
# %%
spread = results.claim(
    "effective_rank",
    says="full fine-tuning's updates have a higher effective rank than LoRA's, even those of a high-rank LoRA",
    source="2410.21228",
    published="full above LoRA",
    criterion="at the same loss, the effective rank of ΔW, mean over matrices, is higher for full than for ranks 1, 4, "
    "16 and 64, each interval without 0: reproduced; for some: partly",
    judge=by_share,
)

# %%
on_purpose = results.claim(
    "not_the_rate",
    says="the intruders come from LoRA, and not from its higher learning rate",
    source="a control of ours",
    published="not separated",
    criterion="at one rate for all, full's best and rank 16's best, and at the same loss: the counts at ranks 1 and 4 "
    "are above full's, each interval without 0: reproduced; for some of the four: partly",
    judge=by_share,
)

# %% [markdown]
# **Write down your predictions.** How many intruders does full fine-tuning make? Which rank makes most? (Rank 1
# changes one direction a matrix.) Is the number larger at the target or at the end of the training? And what happens
# to full fine-tuning's count when it trains at LoRA's learning rate?

# %%
target = 1.02 * max(max(t.values("task_loss")) for t in tuned.values())


def watched(runs, at=size, points=20, loss=None):
    """{label: the watched results, one a seed}."""
    jobs = [replace(run, seed=seed) for run in runs.values() for seed in seeds]
    work = functools.partial(watch, points=min(points, at.steps), target=loss or target)
    found = carry_out_all(jobs, at, work=work)
    return {label: found[i * at.seeds : (i + 1) * at.seeds] for i, label in enumerate(runs)}


def at_target(result, values, loss=None):
    return at_loss(result["task_loss"], values, loss or target)


def count(result, k=10, epsilon=0.5, loss=None):
    """Intruders per matrix at the target."""
    return at_target(result, intruder_counts(result, k, epsilon), loss) / len(result["likeness"])


# %%
def above_zero(mean, half_width):
    """Whether a difference is above 0: its whole interval, or with a single seed the mean alone."""
    return mean > 0 if math.isnan(half_width) else mean - half_width > 0


seen = watched({label: t.run for label, t in tuned.items()})

# %%
counts = {label: [count(r) for r in found] for label, found in seen.items()}
rows = []
for label, found in seen.items():
    steps = stats.interval([at_target(r, r["steps"]) for r in found])[0]
    last = [intruder_counts(r)[-1] / len(W0) for r in found]
    ends = stats.shown(last, 2), stats.shown([r["task_loss"][-1] for r in found], 2)
    rows.append([label, f"{steps:.0f}", stats.shown(counts[label], 2), *ends])
print(f"the target is {target:.2f} nats a character on rot13; the base stands at {seen['full'][0]['task_loss'][0]:.2f}")
print(stats.table(["method", "step", "intruders a matrix", "… at the end", "loss at the end"], rows))
low_ranks = [f"rank {r}" for r in (1, 4, 16)]
more = {label: stats.paired(counts[label], counts["full"]) for label in low_ranks}
full_count = stats.interval(counts["full"])[0]
words = ", ".join(f"{label} {stats.shown(counts[label], 2)}" for label in ("full", *low_ranks))
have.measure([full_count, [above_zero(*d) for d in more.values()]], f"intruders a matrix: {words}")
results.record(target=target, intruders=counts)

# %%
most = max(low_ranks, key=lambda label: stats.interval(counts[label])[0])
fewer = stats.paired(counts[most], counts["rsLoRA rank 64"])
pair = [stats.interval(counts[label])[0] for label in ("rsLoRA rank 64", most)]
mirror.measure(
    [*pair, above_zero(*fewer)],
    f"rsLoRA rank 64 {stats.shown(counts['rsLoRA rank 64'], 2)}, {most} {stats.shown(counts[most], 2)}",
)
print(f"Most intruders: {max(counts, key=lambda label: stats.interval(counts[label])[0])}; fewest: "
      f"{min(counts, key=lambda label: stats.interval(counts[label])[0])}.")  # fmt: skip
for label in ("rank 1", "rank 64") if "rank 64, alpha 2r" in counts else ():
    d = stats.paired(counts[f"{label}, alpha 2r"], counts[label])
    print(f"{label}: alpha = 2r makes {d[0]:+.2f}" + ("" if math.isnan(d[1]) else f" ± {d[1]:.2f}"), "a matrix more")
for label, scaling in {"rank 64": 32 / 64, "rank 64, alpha 2r": 2, "rsLoRA rank 64": 32 / math.sqrt(64)}.items():
    if label not in counts:
        continue
    print(
        f"{label}: rate × scaling {tuned[label].run.lr * scaling:.4f}, {stats.interval(counts[label])[0]:.2f} a matrix"
    )

# %% [markdown]
# Rank 1 makes one intruder in nearly every matrix, at once, and then stands still: it is at its cap. Under Adam an
# alpha acts much like a learning rate (chapter 08), so with a tuned rate the choice of alpha has little left to
# decide. The lines above say how little. And the last ones hint at what may be behind the counts: of the three runs
# at rank 64, the one with the larger step has more. We come back to it.
#
# Over the training, and over the loss:

# %%
colours = {"full": plots.BLACK, "rsLoRA rank 64": plots.RED, "DoRA rank 16": plots.ORANGE}
colours |= {f"rank {r}": plots.rank_colour(r, ranks) for r in ranks}
fig, axes = plots.canvas(2, width=10.5, height=4.3, sharey=True)
ends = {}
for label, colour in colours.items():
    steps = seen[label][0]["steps"]
    lines = np.array([intruder_counts(r) for r in seen[label]]) / len(W0)
    losses = np.array([r["task_loss"] for r in seen[label]])
    axes[0].plot(steps, lines.mean(0), color=colour)
    axes[1].plot(losses.mean(0), lines.mean(0), color=colour)
    ends[label] = lines.mean(0)[-1]
nudges = plots.apart(axes[0], ends)
for label, colour in colours.items():
    at = np.array([seen[label][0]["steps"][-1]]), np.array([ends[label]])
    plots.label_end(axes[0], *at, label, colour, nudges[label])
axes[1].axvline(target, color=plots.GREY, linestyle="--", linewidth=1)
axes[1].annotate("target", (target, 0), xytext=(4, 2), textcoords="offset points", color=plots.GREY, fontsize=9)
axes[1].invert_xaxis()
axes[0].set(xlabel="step", ylabel="intruders a matrix (of ten vectors)")
axes[1].set(xlabel="loss on rot13: learning goes to the right")
axes[0].set_title("Over the steps")
axes[1].set_title("At the same loss")
results.figure(fig, "training", "Intruder dimensions per matrix over the training, mean over seeds; on the right over "
               "the loss, where methods can be compared.")  # fmt: skip

# %% [markdown]
# The similarity matrices themselves, for one matrix, at the first point that reached the target. A bright diagonal
# means that a new vector is an old one. An intruder is a dark column. The last panel is chance.


# %%
def weights_of(result):
    """The weights at the first point that reached the target; where a run never did, those at the end."""
    return result["at_target"] or result["end"]


shown_methods, side = ("full", "rank 1", "rank 16", "rank 64"), min(24, width)
fig, axes = plots.canvas(5, width=13, height=3.2)
for ax, label in zip(axes, (*shown_methods, "two random bases"), strict=True):
    if label in seen:
        image = similarity(W0[name], weights_of(seen[label][0])[name])
        dark = intruder_dimensions(W0[name], weights_of(seen[label][0])[name])
        title = f"{label}: {len(dark)} of ten"
    else:
        image, title = similarity(torch.randn(width, width), torch.randn(width, width)), label
    shown = ax.imshow(image[:side, :side], vmin=0, vmax=1, cmap="magma")
    ax.set_title(title)
    ax.set_xlabel("vectors of W1")
    ax.grid(visible=False)
axes[0].set_ylabel("vectors of W0")
fig.colorbar(shown, ax=axes, label="|cosine|")
results.figure(fig, "similarity", f"The leading {side} left vectors of {name}, before and after, at the same loss "
               "(first seed). The titles count the intruders.")  # fmt: skip

# %% [markdown]
# Does it hang on `ε` = 0.5, or on `k` = 10? Both are conventions.

# %%
compared = ("full", "rank 1", "rank 4", "rank 16", "rank 64", "rsLoRA rank 64", "DoRA rank 16")
epsilons = np.round(np.arange(0.3, 0.81, 0.05), 2)
fig, axes = plots.canvas(2, width=10.5, height=4.3)
by_epsilon = {label: [[count(r, 10, e) for r in seen[label]] for e in epsilons] for label in compared}
by_k = {label: [[count(r, k) for r in seen[label]] for k in range(1, 21)] for label in compared}
for label in compared:
    colour = colours[label]
    axes[0].plot(epsilons, [stats.interval(v)[0] for v in by_epsilon[label]], color=colour, label=label)
    axes[1].plot(range(1, 21), [stats.interval(v)[0] for v in by_k[label]], color=colour)

# %%
random_share = [(square < e).float().mean().item() for e in epsilons]
twin = axes[0].twinx()
twin.fill_between(epsilons, random_share, color="#DDDDDD", zorder=0, alpha=0.6)
twin.set(ylim=(0, 1.05), ylabel="grey: share of random vectors below ε")
twin.grid(visible=False)
axes[0].set_zorder(twin.get_zorder() + 1)
axes[0].patch.set_visible(False)
axes[0].axvline(0.5, color=plots.GREY, linestyle="--", linewidth=1)
axes[1].axvline(10, color=plots.GREY, linestyle="--", linewidth=1)
axes[0].set(xlabel="ε", ylabel="intruders a matrix, of ten")
axes[1].set(xlabel="k, how many leading vectors are looked at", ylabel="intruders a matrix (ε = 0.5)")
axes[0].legend(fontsize=8)
results.figure(fig, "epsilon_k", "Intruders at the same loss over the two conventions. Where the grey is below 1, even "
               "a random direction may not count.")  # fmt: skip
order = {e: sorted(compared, key=lambda label: stats.interval(by_epsilon[label][i])[0]) for i, e in enumerate(epsilons)}
print("fewest to most at ε = 0.4, 0.5, 0.6, 0.7:")
for e in (0.4, 0.5, 0.6, 0.7):
    print(f"  {e}:", ", ".join(order[e]))
results.record(by_epsilon=by_epsilon, by_k=by_k)

# %% [markdown]
# The methods keep their order over much of the range, but the two ends tell something. At the smallest `ε` only
# directions as strange as random ones count. Full fine-tuning has next to none of those, and LoRA has some at every
# rank. And at `k` = 1, the leading vector alone, it is the same. We come back to that, too.
#
# Where in the model are they?

# %%
kinds = list(dict.fromkeys(n.rpartition(".")[2] for n in W0))
layers = size.model.num_hidden_layers
fig, axes = plots.canvas(3, width=11, height=3.6)
for ax, label in zip(axes, ("full", "rank 4", "rank 64"), strict=True):
    grid = np.zeros((layers, len(kinds)))
    for r in seen[label]:
        for i, (n, found) in enumerate(intruders_by_layer(W0, weights_of(r)).items()):
            grid[i * layers // len(W0), kinds.index(n.rpartition(".")[2])] += len(found) / size.seeds
    shown = ax.imshow(grid, vmin=0, vmax=6, cmap="viridis")
    ax.set(xticks=range(len(kinds)), yticks=range(layers), ylabel="layer")
    ax.set_xticklabels([kind.removesuffix("_proj") for kind in kinds], rotation=60)
    ax.set_title(f"{label}: {grid.mean():.2f} a matrix")
    ax.grid(visible=False)
fig.colorbar(shown, ax=axes, label="intruders, of ten")
results.figure(fig, "layers", "Intruders by layer and kind of matrix at the first point that reached the target, mean "
               "over seeds.")  # fmt: skip

# %%
sides = {}
for label in compared:
    sides[label] = [
        [np.mean([len(intruder_dimensions(W0[n], w, side=s)) for n, w in weights_of(r).items()]) for r in seen[label]]
        for s in ("left", "right")
    ]
rows = [[label, *(stats.shown(values, 2) for values in both)] for label, both in sides.items()]
print("at the first point that reached the target, a matrix")
print(stats.table(["method", "left (written)", "right (read)"], rows))
started = time.process_time()
intruders_by_layer(W0, seen["full"][0]["end"])
print(f"counting the intruders of the whole model takes {time.process_time() - started:.2f} s of one core")
results.record(sides=sides)

# %% [markdown]
# The paper looks at left vectors, the directions that a layer writes. The right ones, which it reads, need not agree,
# but here their counts nearly do.
#
# ## What the updates are made of
#
# The spectrum of `ΔW` itself answers another question: into how many directions a change is spread. The *effective
# rank* is the exponential of the entropy of the singular values, the *stable rank* `‖ΔW‖² / σ1²`. **Predict** the
# order of the methods.

# %%
spectra_of = {
    label: [
        [[f(w - W0[n]) for n, w in weights_of(r).items()] for r in seen[label]] for f in (effective_rank, stable_rank)
    ]
    for label in compared
}
rows, effective = [], {}
for label, (effectives, stables) in spectra_of.items():
    effective[label] = [float(np.mean(values)) for values in effectives]
    norm = np.mean([(w - W0[n]).norm() / W0[n].norm() for r in seen[label] for n, w in weights_of(r).items()])
    rows.append(
        [label, stats.shown(effective[label], 1), stats.shown([float(np.mean(v)) for v in stables], 1), f"{norm:.2f}"]
    )
print(stats.table(["method", "effective rank of ΔW", "stable rank of ΔW", "‖ΔW‖ / ‖W0‖"], rows))
higher = [above_zero(*stats.paired(effective["full"], effective[f"rank {r}"])) for r in ranks]
words = ", ".join(
    f"{label} {stats.interval(effective[label])[0]:.1f}" for label in ("full", *(f"rank {r}" for r in ranks))
)
spread.measure(higher, f"effective rank of ΔW: {words}")
results.record(effective_rank=effective)

# %% [markdown]
# Full fine-tuning gets to the same loss with the smallest update, spread over the most directions. A low rank needs a
# larger one.
#
# ## Or is it the learning rate?
#
# LoRA's best learning rate is higher than full fine-tuning's. A higher rate makes larger steps, and larger steps may
# be what makes new, large directions. So we train at one rate for all: once at full's best, once at the best of
# rank 16. And, to see where it leads, at a third of full's best, where some runs are too slow to reach the target.

# %%
rates = {"full's best": tuned["full"].run.lr, "rank 16's best": tuned["rank 16"].run.lr}
slow = {} if size.name == "quick" else {"a third of full's": tuned["full"].run.lr / 10**0.5}
shared = ("full", "rank 1", "rank 4", "rank 16", "rank 64")
matched = {
    words: watched({label: replace(methods[label], lr=rate) for label in shared})
    for words, rate in (slow | rates).items()
}
columns = {"each at its best": {label: seen[label] for label in shared}, **matched}
table = {words: {label: [count(r) for r in found] for label, found in runs.items()} for words, runs in columns.items()}
header = [f"{words} ({(slow | rates)[words]:.4f})" if words in matched else words for words in columns]
rows = [[label, *(stats.shown(table[words][label], 2) for words in columns)] for label in shared]
print("intruders a matrix at the target (nan: a run did not reach it)")
print(stats.table(["method", *header], rows))
gaps = {(words, k): stats.paired(table[words][k], table[words]["full"]) for words in rates for k in low_ranks[:2]}
words = ", ".join(f"{label} {gap[0]:+.2f} at {where}" for (where, label), gap in gaps.items())
on_purpose.measure([above_zero(*gap) for gap in gaps.values()], f"more than full at the same rate: {words}")
results.record(by_rate=table)

# %%
leading = {
    words: {label: [100 * count(r, k=1) for r in found] for label, found in runs.items()}
    for words, runs in columns.items()
}
rows = [[label, *(stats.shown(leading[words][label], 0) for words in columns)] for label in shared]
print("% of the matrices whose leading vector is an intruder, at the target")
print(stats.table(["method", *header], rows))
results.record(leading=leading)

# %%
fig, axes = plots.canvas(2, width=11, height=4.3)
for ax, found in zip(axes, (table, leading), strict=True):
    ends = {}
    for label in shared:
        means, halves = zip(*(stats.interval(found[words][label]) for words in matched), strict=True)
        plots.band(ax, list((slow | rates).values()), means, halves, colours[label])
        ends[label] = means[-1]
    ax.set_ylim(0, 1.1 * max(v for column in found.values() for values in column.values() for v in values) + 0.1)
    if not any(map(math.isnan, ends.values())):
        nudges = plots.apart(ax, ends)
        for label, end in ends.items():
            plots.label_end(ax, [rates["rank 16's best"]], [end], label, colours[label], nudges[label])
    ax.set(xscale="log", xlabel="learning rate, the same for all")
axes[0].set(ylabel="intruders a matrix, of ten vectors")
axes[1].set(ylabel="% of matrices whose leading vector is one")
results.figure(fig, "rates", "Intruders at the same loss, over a shared learning rate, all ten vectors (left) and the "
               "first alone (right); bars are 95 % intervals. Runs that did not get there are left out.")  # fmt: skip

# %% [markdown]
# The count over ten vectors depends on the rate as much as on the method. At one rate full fine-tuning has about as
# many as LoRA, or more; rank 4 is the exception, at the lower rates. But look at the *first* vector alone. At every
# shared rate, and at every rank that gets there, the leading direction is a new one more often under LoRA than in
# full fine-tuning. What full fine-tuning has of intruders is further down among the ten, and less new (see the small
# `ε` above).
#
# That is the picture of the paper, and it survives the control. But we found it by looking at the results, with `k`
# as a free choice. Such a find has to stand a test on data that did not suggest it: the next section is one.

# %% [markdown]
# ## Is it the size of the model?
#
# Width 128 is small. We repeat the central comparison at width 256, with a base of its own (600 steps of
# pretraining), rates swept there, and a target of its own. One more group is full fine-tuning at rank 16's rate. And
# the leading vector, which we had not looked at there when its claim was written down. (Skipped at `quick`.)

# %%
if size.name != "quick":
    shape = replace(size.model, hidden_size=2 * width, intermediate_size=2 * inner)
    wide = replace(size, model=shape, pretrain_steps=min(600, size.pretrain_steps), budget=min(4, size.budget))
    at_width = results.claim(
        "width",
        says="the picture is not an artefact of the small width",
        source="a control of ours",
        published="models from 125M to 7B parameters",
        criterion="at twice the width, the same loss and tuned rates: ranks 1 and 16 have more intruders a matrix than "
        "full, each interval without 0: reproduced; one of them: partly",
        judge=by_share,
    )
    top_vector = results.claim(
        "leading",
        says="the leading direction of a matrix tuned by LoRA is new, and after full fine-tuning it is old",
        source="our own finding at width 128, put to the test",
        published="not separated from the other leading directions",
        criterion="at twice the width and the same loss, the share of matrices whose leading vector is an intruder is "
        "above full fine-tuning's at ranks 1 and 16, full at its own rate and at rank 16's, each interval without 0: "
        "reproduced; in some of the four: partly",
        judge=by_share,
    )

# %%
if size.name != "quick":
    wide_methods = {label: methods[label] for label in ("full", "rank 1", "rank 16")}
    tried = sweep(wide_methods, wide)
    runs = {label: replace(run, lr=best_rate(tried[label])) for label, run in wide_methods.items()}
    runs["full, rank 16's rate"] = replace(runs["full"], lr=runs["rank 16"].lr)
    wide_seen = watched(runs, wide)
    wide_target = 1.02 * max(r["task_loss"][-1] for found in wide_seen.values() for r in found)
    by_vectors = {
        k: {label: [count(r, k, loss=wide_target) for r in found] for label, found in wide_seen.items()}
        for k in (10, 1)
    }
    rows = [
        [label, f"{run.lr:.4f}", *(stats.shown(by_vectors[k][label], 2) for k in (10, 1))]
        + [stats.shown([count(r, k) for r in seen.get(label, matched["rank 16's best"]["full"])], 2) for k in (10, 1)]
        for label, run in runs.items()
    ]
    print(f"width {2 * width}, target {wide_target:.2f}, intruders a matrix; on the right width {width}")
    print(stats.table(["method", "rate", "of ten", "the first alone", "of ten", "the first alone"], rows))

# %%
if size.name != "quick":
    ten, first = by_vectors[10], by_vectors[1]
    words = ", ".join(f"{label} {stats.shown(values, 2)}" for label, values in ten.items())
    gaps = [stats.paired(ten[label], ten["full"]) for label in ("rank 1", "rank 16")]
    at_width.measure([above_zero(*d) for d in gaps], f"intruders a matrix at width {2 * width}: {words}")
    gaps = [
        stats.paired(first[label], first[other])
        for label in ("rank 1", "rank 16")
        for other in ("full", "full, rank 16's rate")
    ]
    words = ", ".join(f"{label} {stats.shown([100 * v for v in values], 0)} %" for label, values in first.items())
    top_vector.measure([above_zero(*d) for d in gaps], f"leading vector an intruder, width {2 * width}: {words}")
    results.record(wide=by_vectors, wide_tried=tried, wide_target=wide_target)
else:
    print("Skipped at this preset; the committed chapter has it.")

# %% [markdown]
# At twice the width the picture is the same. At tuned rates LoRA has more intruders than full fine-tuning. At LoRA's
# rate full fine-tuning has the most of the ten, so the rate matters there as well. And the leading vector tells the
# methods apart at either rate. Two widths are two points, though, and models in use are many times as wide.
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
# - A count hides where things are. Here the first direction says more than ten together.
# - Counting directions says nothing yet about harm. That is the next chapter.

# %%
results.save()
print("verdicts:", {name: claim.verdict for name, claim in results.claims.items()})
