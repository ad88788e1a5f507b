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
import statistics

import torch

from lora_from_scratch import AdapterConfig, add_adapters, merge_adapters
from lora_from_scratch.analysis.spectra import effective_rank, energy, low_rank_factors, singular_values
from lora_from_scratch.book import plots, stats
from lora_from_scratch.book.results import Results
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab.corpus import corpus
from lora_from_scratch.lab.finetune import Run, measure
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.pretrain import pretrained, untrained
from lora_from_scratch.lab.sweep import compare
from lora_from_scratch.lab.tasks import TASKS, task_ids
from lora_from_scratch.targets import find_targets

size = preset().on_one_base()
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
    says="the change uses fewer directions than chance would give",
    source="2106.09685, §4.1 (the control is ours)",
    published="lower",
    criterion="effective rank below that of the same entries with random signs in every layer: reproduced; "
    "on average: partly",
    judge=lambda ratios: "reproduced" if max(ratios) < 1 else "partly" if sum(ratios) < len(ratios) else False,
)

# %% [markdown]
# ## A matrix as a sum of rank-one pieces
#
# The SVD writes a matrix as $\sum_i \sigma_i\, u_i v_i^T$: a sum of pieces, each the outer product of two vectors,
# in order of size. We build a matrix from an 8 × 2 and a 2 × 10 matrix, multiplied, and a little noise, and look at
# its singular values.
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
    A = Vt[:r] + 0.01 * torch.randn(r, 10, dtype=torch.float64)  # other rows than the best ones ...
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
# The base has read English. It now learns three new tasks, one at a time: to continue English in which every letter
# is moved 13 places on (`rot13`), that is all capitals (`upper`), or that runs backwards (`reversed`). Nothing is
# translated: the model still predicts the next character, of a transformed text.

# %%
sample = " ".join(corpus()["held_out"].replace("*", "").split())[:70]
for name, transform in TASKS.items():
    print(f"{name:10}{transform(sample)}")

# %% [markdown]
# We train the full weight of every linear layer that an adapter would touch, and leave embeddings, norms and the
# output head alone: so the changes of these matrices are the whole of what was learnt.
#
# Each task gets its own best learning rate. The search tries the same number of rates for every method, on a log
# grid first, then between the best and its neighbours; chapter 01 shows one. (`known_rates` hands the preset `quick`
# the rates that `full` found, to spare you the search. It holds no losses.) The losses are measured on text that no
# training saw. `±` is the 95 % interval of the mean over the seeds; a seed decides the batches of the fine-tuning,
# and the base is the same for all.
#
# Two numbers to hold losses against: blind guessing, and knowing how often each character occurs, but nothing else.

# %%
tasks = ["rot13", "upper", "reversed"]
full = {task: Run(task=task, scope="linear", keep=True) for task in tasks}
tuned = compare(full, size, known=results.known_rates("full"))
results.record_sweep("full", tuned)
before = {task: measure(base, task, size)["task_loss"] for task in tasks}
guessing = math.log(size.model.vocab_size)


def frequencies_alone(task):
    """The loss of a model that knows the frequency of every character of the task's training text."""
    seen = torch.bincount(task_ids(task, "task"), minlength=size.model.vocab_size) + 1.0
    return -(seen / seen.sum()).log()[task_ids(task, "held_out")].mean().item()


rows = []
for task, t in tuned.items():
    ends = stats.shown(t.values("task_loss"))
    rows.append([task, f"{t.run.lr:.4f}", f"{before[task]:.2f}", ends, f"{frequencies_alone(task):.2f}"])
print(stats.table(["task", "rate", "loss before", "loss after", "frequencies alone"], rows))
print(f"blind guessing among {size.model.vocab_size} characters: {guessing:.2f}")


# %%
def changes(task, index):
    """{layer: ΔW = W - W0} of the model that the seed at this index gave."""
    state = tuned[task].results[index]["state"]
    return {name: state[f"{name}.weight"] - w0 for name, w0 in W0.items()}


first = changes("rot13", 0)
name = max(first, key=lambda n: first[n].norm())
size_of = first[name].norm() / W0[name].norm()
print(f"the largest change is in {name}: |ΔW| is {size_of:.2f} of |W0|")

# %% [markdown]
# ## The spectrum, beside a control
#
# A random matrix has a spectrum, too. To see what is special about a trained change we need a fair control: the very
# same numbers at the same places, each with a random sign. That keeps every entry's size, so that large rows stay
# large, and destroys how the entries work together.
#
# Predict: draw the two curves before you look. Each is divided by its own largest value, so both start at 1.


# %%
def random_signs(matrix, seed=0):
    """`matrix` with a coin toss for every sign."""
    coins = torch.randint(0, 2, matrix.shape, generator=torch.Generator().manual_seed(seed))
    return matrix * (2 * coins - 1)


fig, axes = plots.canvas(2, width=9.5, height=3.8, sharey=True)
chosen = ["model.layers.0.self_attn.q_proj", f"model.layers.{size.model.num_hidden_layers - 1}.mlp.down_proj"]
for ax, layer in zip(axes, chosen, strict=True):
    change = first[layer]
    for matrix, text, colour in ((change, "the change", plots.BLUE), (random_signs(change), "random signs", plots.RED)):
        s = singular_values(matrix)
        ax.plot(range(1, len(s) + 1), s / s[0], color=colour)
        at = int(len(s) * 0.3)
        ax.annotate(text, (at, s[at] / s[0]), xytext=(6, 6), textcoords="offset points", color=colour)
    ax.set(title=layer.removeprefix("model.layers."), xlabel="which singular value")
axes[0].set_ylabel("size, relative to the largest")
words = "Singular values of two changes (rot13, first seed), and of the same entries with random signs."
results.figure(fig, "spectrum", words)

# %% [markdown]
# One number for a spectrum: the *effective rank*. Divide the singular values by their sum, take the entropy of these
# shares, and its exponential: a matrix with `k` equal singular values has effective rank `k`. A second number: the
# share of the squared norm that the first singular values hold, the *energy*. The table has the means over layers
# and seeds.

# %%
eighth = max(1, size.model.hidden_size // 8)
ratios, rows = [], []
for task in tasks:
    found = [d for index in range(size.seeds) for d in changes(task, index).values()]
    own, chance = [effective_rank(d) for d in found], [effective_rank(random_signs(d)) for d in found]
    ratios += [a / b for a, b in zip(own, chance, strict=True)]
    held = [energy(d)[eighth - 1].item() for d in found]
    means = [statistics.fmean(values) for values in (own, chance, held)]
    rows.append([task, f"{means[0]:.1f}", f"{means[1]:.1f}", f"{means[2]:.0%}"])
print(stats.table(["task", "effective rank", "with random signs", f"energy in the first {eighth}"], rows))
beyond_chance.measure(ratios, f"{min(ratios):.2f} to {max(ratios):.2f} of the control's, over {len(ratios)} matrices")

# %% [markdown]
# "Fewer than chance" is not yet "few". A spectrum can have a heavy head and a long, thin tail. Whether the tail
# matters is a question about the task, and not about the matrix.
#
# ## How much of the task survives the cut?
#
# Now the question that counts. We cut the change of *every* layer to rank `r`, put `W0 + cut` into the model, and
# measure the loss. A control stands beside it: **pretraining**, too, was a change, from the random weights that the
# model started with to `W0`. If every change that training makes were low rank, fine-tuning would be nothing
# special. So we cut that change to rank `r`, add it to the starting weights, and ask for plain English.
#
# The measure is the same for all: the share of the gain that is left. It is 1 for the whole change and 0 for none of
# it.
#
# Predict: at which rank is half of the gain there? At which rank nine tenths? (Full rank is the model's width.) And
# for pretraining, sooner or later?


# %%
def with_weights(weights):
    """A copy of the base with other weights in its linear layers."""
    model = copy.deepcopy(base)
    for layer, weight in weights.items():
        model.get_submodule(layer).weight.data = weight
    return model


def cut(matrix, rank):
    """The best approximation of that rank."""
    B, A = low_rank_factors(matrix, min(rank, *matrix.shape))
    return B @ A


# %% [markdown]
# Every change is cut to every rank, and then pretraining's.


# %%
ranks = [r for r in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if r <= size.model.hidden_size]
after_cut = {task: {r: [] for r in ranks} for task in tasks}
for task in tasks:
    for index in range(size.seeds):
        own = changes(task, index)
        for r in ranks:
            model = with_weights({layer: W0[layer] + cut(d, r) for layer, d in own.items()})
            after_cut[task][r].append(measure(model, task, size)["task_loss"])

begun = untrained(size)
start = {layer: begun.get_submodule(layer).weight.detach() for layer in W0}
english = {0: measure(with_weights(start), "text", size)["text_loss"]}
for r in ranks:
    weights = {layer: start[layer] + cut(w0 - start[layer], r) for layer, w0 in W0.items()}
    english[r] = measure(with_weights(weights), "text", size)["text_loss"]
results.record(before=before, after_cut=after_cut, english_with_pretraining_cut=english)


# %%
def share_kept(task, rank):
    """The share of the gain that is left at a rank, seed by seed; 1 is all of it, below 0 is worse than the base."""
    ends = tuned[task].values("task_loss")
    return [(before[task] - cut) / (before[task] - end) for cut, end in zip(after_cut[task][rank], ends, strict=True)]


whole = english[0] - measure(base, "text", size)["text_loss"]
pretraining = [(english[0] - english[r]) / whole for r in ranks]

fig, (ax,) = plots.canvas(height=4.4)
for task, colour in zip(tasks, (plots.BLUE, plots.ORANGE, plots.GREEN), strict=True):
    means, halves = zip(*(stats.interval(share_kept(task, r)) for r in ranks), strict=True)
    plots.band(ax, ranks, means, halves, colour, label=f"fine-tuning on {task}")
ax.plot(ranks, pretraining, color=plots.RED, linestyle=":", marker="s", markersize=4, label="pretraining (control)")
plots.reference(ax, 0.9, "90 %")
ax.set(xlabel="rank that the change is cut to", ylabel="share of the gain that is left")
ax.set(xscale="log", xticks=ranks, xticklabels=ranks, ylim=(max(-0.6, ax.get_ylim()[0]), None))
ax.minorticks_off()
ax.legend(loc="lower right")
ax.set_title("How much of what was learnt survives when every change is cut")
words = "Shares below 0 are worse than no change at all. Bars: 95 % intervals over seeds, where there are several."
results.figure(fig, "cut", words)

# %%
shares = [stats.interval(share_kept(task, eighth))[0] for task in tasks]
words = ", ".join(f"{task} {share:.1%}" for task, share in zip(tasks, shares, strict=True))
low_rank.measure(shares, f"rank {eighth} of {size.model.hidden_size} keeps {words} of the gain")
kept = {task: [stats.interval(share_kept(task, r))[0] for r in ranks] for task in tasks} | {"pretraining": pretraining}
rows = []
for name, by_rank in kept.items():
    needed = [[r for r, share in zip(ranks, by_rank, strict=True) if share >= part] for part in (0.5, 0.9)]
    rows.append([name, *(enough[0] if enough else f"over {ranks[-1]}" for enough in needed)])
print(stats.table(["change", "rank for half of the gain", "rank for 90 %"], rows))

# %% [markdown]
# Three cautions. A first part of each gain is cheap: the table before the spectra lets you work out which share of
# it somebody would get who knows the letter frequencies alone. The control's embeddings, norms and output head stay
# as pretraining left them, and there is one pretraining, so it has no interval. And the cut that is closest in norm
# need not be the best in loss, so a curve may dip. The ranks tried are powers of two, and so is every rank in the
# table.
#
# ## An adapter, extracted
#
# A LoRA layer computes `W0 x + s · B A x` with a fixed number `s`, its *scaling*; `B` and `A` together are called an
# *adapter* (chapter 01 builds it). `B` and `A` from `low_rank_factors` fit into such a layer as they are, with
# scaling 1, which the package writes as alpha = rank. The model with adapters must give the same loss as the model
# with cut changes, and so must the merged one, whose weights are `W0 + B A`.

# %%
rank = eighth
adapted = add_adapters(copy.deepcopy(base), AdapterConfig(rank=rank, alpha=rank))
for layer, module in adapted.named_modules():
    if is_adapter(module):
        B, A = low_rank_factors(first[layer], rank)
        module.B.data, module.A.data = B, A
extracted = measure(adapted, "rot13", size)["task_loss"]
merged = measure(merge_adapters(adapted), "rot13", size)["task_loss"]
print(f"cut: {after_cut['rot13'][rank][0]:.6f}   extracted: {extracted:.6f}   merged: {merged:.6f}")
assert abs(extracted - after_cut["rot13"][rank][0]) < 1e-4 and abs(merged - extracted) < 1e-4

# %% [markdown]
# ## Cut afterwards, or trained at that rank?
#
# Cutting takes the best approximation *of the change*. That need not be the best change of that rank *for the task*.
# LoRA trains at rank `r` from the start. Both start from the same base, on the same batches. Each has the learning
# rate that is best for it before any cut.
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
plots.reference(ax, frequencies_alone("rot13"), "letter frequencies alone")
ax.margins(y=0.12)
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
# Two limits of these verdicts. The first one hangs on a line at 90 % that somebody had to draw somewhere: the figure
# says more than the word. And the tasks here change every letter, so that the weights move far (the size of the
# largest change is printed above). Fine-tuning on text closer to the pretraining moves them less.
#
# What this chapter does not show: that the rank needed stays small as models grow. The paper's matrices are a
# hundred times wider, and its tasks are closer to what the model knew. Here an eighth of full rank is 16 directions
# out of 128; there, rank 8 is less than a thousandth.
#
# ## Exercises
#
# **1. Cut a matrix.** Write the best rank-`r` approximation with `torch.linalg.svd`. Take care with the shapes.


# %%
from lora_from_scratch.book.checks import ch00 as check


def my_cut(matrix, rank):
    """(d_out, d_in) -> the closest matrix of that rank, of the same shape."""
    return None  # your code here


print(check.check_cut(my_cut))

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
print(check.check_rank(my_rank))

# %% [markdown]
# <details><summary>Solution</summary>
#
# 128 · 352 / (128 + 352) = 93.87, so from rank 94 on. For a square matrix the limit is half its width.
#
# </details>
#
# **3. Which layers?** Cut only the attention layers to rank 4 and leave the MLP's changes whole; then the other way
# round. Which of the two costs more of the gain? Write it in a new cell: `with_weights`, `cut`, `first`, `W0` and
# `measure` are all there is to it. Predict first.
#
# <details><summary>Solution</summary>
#
# ```python
# for part in ("self_attn", "mlp"):
#     weights = {n: W0[n] + (cut(d, 4) if part in n else d) for n, d in first.items()}
#     print(part, "cut:", measure(with_weights(weights), "rot13", size)["task_loss"])
# ```
#
# </details>
#
# ## The same elsewhere
#
# PEFT trains adapters and does not extract them in its core. A fully fine-tuned checkpoint can be turned into an
# adapter just as above, if nothing but linear layers was trained: subtract the base, cut each difference, write the
# factors as `lora_A` and `lora_B` with `lora_alpha = r`.
