# %% [markdown]
# # 00 · Why low rank
#
# **The question.** Fine-tuning moves every weight of a model. How much of that movement matters? If most of a
# matrix's change could be thrown away, it would never have to be trained.
#
# **What you will be able to do.** Take the update of a fine-tuned matrix apart into rank-one pieces. Cut it to any
# rank in the best way there is, and know the error in advance. Measure how much of a task survives the cut. Extract
# an adapter from a fully fine-tuned model.
#
# **What you need.** PyTorch, and what a singular value decomposition is: $M = U S V^T$, with orthonormal columns in
# `U` and `V` and non-negative numbers, in falling order, in `S`.
#
# **The published claim.** The LoRA paper rests on a hypothesis: "the change in weights during model adaptation also
# has a low intrinsic rank" (arXiv 2106.09685, section 1). It builds on measurements of how few numbers are enough to
# fine-tune a language model (Aghajanyan et al., arXiv 2012.13255). We look at the change itself.

# %%
import copy
import math

import torch

from lora_from_scratch import AdapterConfig, add_adapters, merge_adapters
from lora_from_scratch.analysis.spectra import effective_rank, energy, low_rank_factors, singular_values
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab import plots, stats
from lora_from_scratch.lab.finetune import Run, measure
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.results import Results
from lora_from_scratch.lab.sweep import compare
from lora_from_scratch.targets import find_targets

size = preset()
results = Results("00_why_low_rank", size)
base = pretrained(size)
W0 = {name: layer.weight.detach() for name, layer in find_targets(base, "all-linear").items()}
print(f"preset {size.name}: {len(W0)} linear layers, width {size.model.hidden_size}, the output head not counted")

# %% [markdown]
# ## What would count as success
#
# The *gain* of fine-tuning is how far it lowers the loss on a new task. We will cut the change of every matrix to
# rank `r` and see what is left of the gain. The criteria are written down now, before anything is trained.

# %%
low_rank = results.claim(
    "low_rank_update",
    says="the change of the weights in fine-tuning has a low intrinsic rank",
    source="2106.09685, §1 (hypothesis)",
    published="low rank; r of 1 to 8 is used for matrices 12,288 wide",
    criterion="cut to an eighth of full rank, it keeps 90 % of the gain on every task: reproduced; on some: partly",
    judge=lambda shares: "reproduced" if min(shares) >= 0.9 else "partly" if max(shares) >= 0.9 else False,
)
beyond_chance = results.claim(
    "lower_than_chance",
    says="the change uses fewer directions than a random matrix with the very same entries",
    source="2106.09685, §4.1 (what 'low intrinsic rank' has to mean)",
    published="lower",
    criterion="its effective rank is below the shuffled change's in every layer: reproduced; on average: partly",
    judge=lambda ratios: "reproduced" if max(ratios) < 1 else "partly" if sum(ratios) < len(ratios) else False,
)

# %% [markdown]
# ## A matrix as a sum of rank-one pieces
#
# The SVD writes a matrix as $\sum_i \sigma_i\, u_i v_i^T$: a sum of pieces, each the outer product of two vectors,
# in order of size. We build a matrix from two strong pieces and a little noise, and look at its singular values.
#
# Predict: how many of the eight values will be large?

# %%
torch.manual_seed(0)
u, v = torch.randn(8, 2, dtype=torch.float64), torch.randn(2, 10, dtype=torch.float64)
M = u @ v + 0.1 * torch.randn(8, 10, dtype=torch.float64)
U, S, Vt = torch.linalg.svd(M, full_matrices=False)  # (8, 8), (8,), (8, 10)
print("singular values:", [round(s, 2) for s in S.tolist()])

# %% [markdown]
# Keep the first `r` pieces and drop the rest. How far is the result from `M`? The dropped pieces are orthogonal to
# one another, so their squares add up:
#
# $$\| M - M_r \|_F = \sqrt{\sigma_{r+1}^2 + \sigma_{r+2}^2 + \dots}$$
#
# Eckart and Young (1936) proved that **no** matrix of rank `r` comes closer. We check the formula, and let a
# thousand random rivals try to beat it.

# %%
r = 2
M_r = U[:, :r] @ torch.diag(S[:r]) @ Vt[:r]
bound = S[r:].square().sum().sqrt()
print(f"distance of the cut: {(M - M_r).norm():.6f}, by the formula: {bound:.6f}")

rivals = []
for _ in range(1000):
    A = Vt[:r] + 0.05 * torch.randn(r, 10, dtype=torch.float64)  # other rows than the best ones ...
    B = torch.linalg.lstsq(A.T, M.T).solution.T  # ... with the best columns there are for them
    rivals.append((M - B @ A).norm().item())
print(f"the best of 1000 rivals: {min(rivals):.6f}")
assert min(rivals) >= bound

B, A = low_rank_factors(M, r)  # the package's version: B is U sqrt(S), A is sqrt(S) Vt
torch.testing.assert_close(B @ A, M_r)

# %% [markdown]
# From here on we use `low_rank_factors`. Note its shapes: `B` is (out, r) and `A` is (r, in). A matrix that has been
# cut to rank `r` *is* a LoRA update.
#
# ## Fine-tune everything, then look at the change
#
# The base has read English. It now learns three new tasks, one at a time: `rot13` (every letter 13 places on),
# `upper` (capitals), and `reversed` (backwards). We train the full weight of every linear layer that an adapter
# would touch, and leave embeddings, norms and the output head alone: so the changes of these matrices are the whole
# of what was learnt.
#
# Each task gets its own best learning rate, by the search that every comparison of this book goes through.

# %%
tasks = ["rot13", "upper", "reversed"]
full = {task: Run(task=task, scope="linear", keep=True) for task in tasks}
tuned = compare(full, size, known=results.known_rates("full"))
results.record_sweep("full", tuned)
before = {task: measure(base, task, size)["task_loss"] for task in tasks}
rows = [
    [task, f"{t.run.lr:.4f}", f"{before[task]:.2f}", stats.shown(t.values("task_loss"))] for task, t in tuned.items()
]
print(stats.table(["task", "rate", "loss before", "loss after"], rows))


# %%
def changes(task, seed):
    """{layer: ΔW = W - W0} of one fine-tuned model."""
    state = tuned[task].results[seed]["state"]
    return {name: state[f"{name}.weight"] - w0 for name, w0 in W0.items()}


delta = changes("rot13", seed=0)
name = max(delta, key=lambda n: delta[n].norm())
print(f"the largest change is in {name}: |ΔW| = {delta[name].norm():.2f}, |W0| = {W0[name].norm():.2f}")

# %% [markdown]
# ## The spectrum, beside a control
#
# A random matrix has a spectrum, too. To see what is special about a trained change we need a fair control: the very
# same numbers, in a random order. Shuffling keeps every entry, the size and the shape, and destroys the structure.
#
# Predict: draw the two curves before you look. Both start at their largest singular value, at the left.


# %%
def shuffled(matrix, seed=0):
    """The entries of `matrix` in a random order."""
    order = torch.randperm(matrix.numel(), generator=torch.Generator().manual_seed(seed))
    return matrix.flatten()[order].view(matrix.shape)


fig, axes = plots.canvas(2, width=9.5, height=3.8, sharey=True)
chosen = ["model.layers.0.self_attn.q_proj", f"model.layers.{size.model.num_hidden_layers - 1}.mlp.down_proj"]
for ax, layer in zip(axes, chosen, strict=True):
    for matrix, text, colour in (
        (delta[layer], "the change", plots.BLUE),
        (shuffled(delta[layer]), "shuffled", plots.RED),
    ):
        s = singular_values(matrix)
        ax.plot(range(1, len(s) + 1), s / s[0], color=colour)
        ax.annotate(
            text, (len(s) * 0.3, s[int(len(s) * 0.3)] / s[0]), xytext=(6, 6), textcoords="offset points", color=colour
        )
    ax.set(title=layer.removeprefix("model.layers."), xlabel="singular value, by rank")
axes[0].set_ylabel("size, relative to the largest")
results.figure(fig, "spectrum", "Singular values of two changes (rot13, seed 1), and of the same entries shuffled.")

# %% [markdown]
# One number for a spectrum: the *effective rank*, the exponential of its entropy. A matrix with `k` equal singular
# values has effective rank `k`. The next cell compares it with the shuffled control for every layer, task and seed.

# %%
ratios, rows = [], []
for task in tasks:
    for seed in range(size.seeds):
        pairs = [(effective_rank(d), effective_rank(shuffled(d))) for d in changes(task, seed).values()]
        ratios += [own / control for own, control in pairs]
    own, control = (sum(side) / len(pairs) for side in zip(*pairs, strict=True))
    eighth = max(1, size.model.hidden_size // 8)
    held = sum(energy(d)[eighth - 1].item() for d in changes(task, seed).values()) / len(W0)
    rows.append([task, f"{own:.1f}", f"{control:.1f}", f"{held:.0%}"])
print(stats.table(["task", "effective rank", "of the shuffled change", f"energy in the first {eighth}"], rows))
beyond_chance.measure(
    ratios, f"{min(ratios):.2f} to {max(ratios):.2f} of the shuffled control's, over {len(ratios)} matrices"
)

# %% [markdown]
# ## How much of the task survives the cut?
#
# Now the question that counts. We cut the change of *every* layer to rank `r`, put `W0 + cut` into the model, and
# measure the loss. Two controls stand beside it:
#
# - **the weights themselves, cut**: `W0` cut to rank `r`, and the model asked for plain English. If everything in a
#   network were low rank, low-rank *changes* would be no news.
# - **rank 0**: the base as it is.
#
# Predict: at which rank is half of the gain there? At which rank nine tenths? (Full rank is the model's width.)


# %%
def with_weights(weights):
    """A copy of the base with other weights in its linear layers."""
    model = copy.deepcopy(base)
    for layer, weight in weights.items():
        model.get_submodule(layer).weight.data = weight.to(weight.device)
    return model


def cut(matrix, rank):
    """The best approximation of that rank."""
    B, A = low_rank_factors(matrix, min(rank, *matrix.shape))
    return B @ A


ranks = [r for r in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if r <= size.model.hidden_size]
after_cut = {task: {r: [] for r in ranks} for task in tasks}
for task in tasks:
    for seed in range(size.seeds):
        delta = changes(task, seed)
        for r in ranks:
            model = with_weights({layer: W0[layer] + cut(d, r) for layer, d in delta.items()})
            after_cut[task][r].append(measure(model, task, size)["task_loss"])
english = {r: measure(with_weights({n: cut(w, r) for n, w in W0.items()}), "text", size)["text_loss"] for r in ranks}
results.record(before=before, after_cut=after_cut, english_with_w0_cut=english)


# %%
def share_kept(task, rank):
    """The share of the gain that is left at a rank, seed by seed; 1 is all of it, below 0 is worse than the base."""
    ends = tuned[task].values("task_loss")
    return [(before[task] - cut) / (before[task] - end) for cut, end in zip(after_cut[task][rank], ends, strict=True)]


fig, (left, right) = plots.canvas(2, width=10, height=4)
for task, colour in zip(tasks, (plots.BLUE, plots.ORANGE, plots.GREEN), strict=True):
    means, halves = zip(*(stats.interval(share_kept(task, r)) for r in ranks), strict=True)
    plots.band(left, ranks, means, halves, colour, label=task)
plots.reference(left, 0.9, "90 %")
left.set(xlabel="rank of the change", ylabel="share of the gain that is left", title="The change, cut")
left.legend(loc="lower right")
left.set_ylim(bottom=max(-0.5, left.get_ylim()[0]))
right.plot(ranks, list(english.values()), color=plots.RED, marker="o", markersize=4)
plots.reference(right, measure(base, "text", size)["text_loss"], "the base, uncut", plots.BLACK)
plots.reference(right, math.log(size.model.vocab_size), "blind guessing")
right.set(
    xlabel="rank of the weights", ylabel="loss on English (nats a character)", title="The weights themselves, cut"
)
for ax in (left, right):
    ax.set(xscale="log", xticks=ranks, xticklabels=ranks)
    ax.minorticks_off()
results.figure(
    fig,
    "cut",
    "Left: what is left of the gain when every change is cut. Right: the same cut on W0, measured on English.",
)

# %%
eighth = max(r for r in ranks if r <= max(1, size.model.hidden_size // 8))
shares = [stats.interval(share_kept(task, eighth))[0] for task in tasks]
words = ", ".join(f"{task} {share:.0%}" for task, share in zip(tasks, shares, strict=True))
low_rank.measure(shares, f"rank {eighth} of {size.model.hidden_size} keeps {words} of the gain")
for task in tasks:
    enough = [r for r in ranks if stats.interval(share_kept(task, r))[0] >= 0.9]
    print(f"{task}: 90 % of the gain needs rank {enough[0] if enough else 'above ' + str(ranks[-1])}")
cost = english[eighth] - measure(base, "text", size)["text_loss"]
print(f"W0 itself, cut to rank {eighth}, costs {cost:.2f} nats a character on English")

# %% [markdown]
# ## An adapter, extracted
#
# `B` and `A` from `low_rank_factors` fit into a LoRA layer as they are, with scaling 1 (that is, alpha = rank). The
# model with adapters must give the same loss as the model with cut changes, and so must the merged one.

# %%
rank = eighth
delta = changes("rot13", seed=0)
adapted = add_adapters(copy.deepcopy(base), AdapterConfig(rank=rank, alpha=rank))
for layer, module in adapted.named_modules():
    if is_adapter(module):
        B, A = low_rank_factors(delta[layer], rank)
        module.B.data, module.A.data = B, A
extracted = measure(adapted, "rot13", size)["task_loss"]
merged = measure(merge_adapters(adapted), "rot13", size)["task_loss"]
print(f"cut: {after_cut['rot13'][rank][0]:.6f}   extracted: {extracted:.6f}   merged: {merged:.6f}")
assert abs(extracted - after_cut["rot13"][rank][0]) < 1e-4 and abs(merged - extracted) < 1e-4

# %% [markdown]
# ## Cut afterwards, or trained at that rank?
#
# Cutting takes the best approximation *of the change*. That need not be the best change of that rank *for the task*:
# the small pieces that are dropped still belonged to the solution. LoRA trains at rank `r` from the start, so that
# its few directions can make up for the missing ones.
#
# Predict: at rank 1, which has the lower loss?

# %%
trained_ranks = [r for r in (1, 4, 16) if r <= size.model.hidden_size]
lora = {f"LoRA rank {r}": Run(adapter=AdapterConfig(rank=r, alpha=32)) for r in trained_ranks}
trained = compare(lora, size, known=results.known_rates("lora"))
results.record_sweep("lora", trained)
rows = []
for r in trained_ranks:
    own = trained[f"LoRA rank {r}"].values("task_loss")
    difference, half = stats.paired(own, after_cut["rot13"][r])
    rows.append([r, stats.shown(after_cut["rot13"][r]), stats.shown(own), f"{difference:+.3f}", f"{half:.3f}"])
print(stats.table(["rank", "cut afterwards", "trained at that rank", "difference", "half width"], rows))
lower = [r for r, _, _, difference, _ in rows if float(difference) < 0]
print(f"training at the rank ends lower than cutting to it at {len(lower)} of {len(rows)} ranks: {lower}")

# %%
fig, (ax,) = plots.canvas()
for values, colour, text in (
    ({r: after_cut["rot13"][r] for r in ranks}, plots.BLUE, "cut afterwards"),
    (
        {r: trained[f"LoRA rank {r}"].values("task_loss") for r in trained_ranks},
        plots.ORANGE,
        "trained at that rank (LoRA)",
    ),
):
    means, halves = zip(*(stats.interval(v) for v in values.values()), strict=True)
    plots.band(ax, list(values), means, halves, colour, label=text)
plots.reference(ax, stats.interval(tuned["rot13"].values("task_loss"))[0], "full rank, uncut", plots.BLACK)
ax.set(xscale="log", xticks=ranks, xticklabels=ranks, xlabel="rank", ylabel="loss on rot13 (nats a character)")
ax.minorticks_off()
ax.legend()
ax.set_title("The same rank, reached in two ways")
results.figure(fig, "two_ways", f"The base stands at {before['rot13']:.2f}; lower is better.")

# %% [markdown]
# ## The verdict

# %%
for claim in results.claims.values():
    print(f"{claim.says}: {claim.verdict.upper()}. {claim.shown}.\n   (criterion: {claim.criterion})")
print("written:", results.save().name)

# %% [markdown]
# What this chapter does not show: that the rank needed stays small as models grow. The paper's matrices are a
# hundred times wider, and its tasks are closer to what the model knew. Here an eighth of full rank is 16 directions
# out of 128; there, rank 8 is less than a thousandth.
#
# ## Exercises
#
# **1. Cut a matrix.** Write the best rank-`r` approximation with `torch.linalg.svd`. Take care with the shapes.


# %%
def my_cut(matrix, rank):
    """(d_out, d_in) -> the closest matrix of that rank, of the same shape."""
    return None  # your code here


def check_cut(function):
    torch.manual_seed(1)
    matrix = torch.randn(5, 9, dtype=torch.float64)
    got = function(matrix, 2)
    if got is None:
        return "replace `return None` by your code and run the cell again"
    if got.shape != matrix.shape:
        return f"the shape is {tuple(got.shape)}: pass full_matrices=False, and remember that svd gives Vᵀ, not V"
    if torch.linalg.matrix_rank(got) != 2:
        return f"the rank is {torch.linalg.matrix_rank(got)}, not 2: how many singular values did you keep?"
    best = singular_values(matrix)[2:].norm()
    return "right" if torch.isclose((matrix - got).norm(), best) else "not the closest: keep the *largest* values"


print(check_cut(my_cut))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_cut(matrix, rank):
#     U, S, Vt = torch.linalg.svd(matrix, full_matrices=False)
#     return (U[:, :rank] * S[:rank]) @ Vt[:rank]
# ```
#
# </details>
#
# **2. Where does it stop paying?** Two factors of rank `r` hold `r (d_out + d_in)` numbers, the matrix `d_out ·
# d_in`. From which rank on do the factors of a 128 × 352 matrix hold *more* numbers than the matrix?

# %%
my_rank = None  # your number here


def check_rank(rank):
    if rank is None:
        return "fill in a number and run the cell again"
    more, less = rank * (128 + 352) > 128 * 352, (rank - 1) * (128 + 352) <= 128 * 352
    return "right" if more and less else "too small" if not more else "too large: a smaller rank holds more already"


print(check_rank(my_rank))

# %% [markdown]
# <details><summary>Solution</summary>
#
# 128 · 352 / (128 + 352) = 93.87, so from rank 94 on. For a square matrix the limit is half its width.
#
# </details>
#
# **3. Which layers?** Change the cell that cuts so that only the attention layers, or only the MLP layers, are cut
# to rank 4 while the others stay whole. Which of the two costs more of the gain? (There is no check: measure it.)
#
# ## The same elsewhere
#
# PEFT trains adapters and does not extract them in its core. A fully fine-tuned checkpoint can be turned into an
# adapter just as above: subtract the base, cut each difference, write the factors as `lora_A` and `lora_B` with
# `lora_alpha = r`.
