# %% [markdown]
# # 01 · The LoRA layer
#
# **The question.** A linear layer of a language model holds millions of weights. How can it learn something new if
# we freeze all of them and train a few thousand numbers beside them?
#
# **What you will be able to do.** Write the LoRA layer from memory. Say why one of its two matrices starts at zero
# and the other at random. Predict what rank and alpha do. Compare it with full fine-tuning without fooling yourself.
#
# **What you need.** PyTorch. Chapter 00 shows why a low-rank update can be enough; this chapter stands without it.
#
# **The published claims.** LoRA (Hu et al., 2021, arXiv 2106.09685) reports that training the small matrices does
# "on par or better" than training everything (section 1), and that rank 1 is about as good as rank 64: 73.4 against
# 73.5 on WikiSQL, 91.3 against 91.4 on MNLI, for GPT-3 (table 6). We test both on a model small enough for a laptop.

# %%
import torch
from torch import nn

from lora_from_scratch import AdapterConfig, LoRALinear, add_adapters, count_parameters, rslora_scaling
from lora_from_scratch.book import plots, stats
from lora_from_scratch.book.results import Results
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab import tasks, train
from lora_from_scratch.lab.finetune import Run, measure
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.sweep import compare

size = preset().on_one_base()
results = Results("01_lora_layer", size)
base = pretrained(size)
total = count_parameters(base)[1]
print(f"preset {size.name}: a Llama of width {size.model.hidden_size}, {total:,} weights")

# %% [markdown]
# ## What would count as success
#
# Before anything is measured, we write down what would decide each claim. The task will be new to the model: English
# whose letters are moved 13 places along (rot13). The *gain* of a method is how far it lowers the loss on that task,
# from where the base model stands. A judge is a function from the measured number to a verdict.

# %%
on_par = results.claim(
    "on_par",
    says="LoRA does as well as full fine-tuning",
    source="2106.09685, §1 and tables 2 to 4",
    published="on par or better",
    criterion="LoRA's best rank keeps at least 98 % of full fine-tuning's gain: reproduced; at least 90 %: partly",
    judge=lambda share: "reproduced" if share >= 0.98 else "partly" if share >= 0.90 else False,
)
rank_one = results.claim(
    "rank_one",
    says="rank 1 does about as well as rank 64",
    source="2106.09685, table 6",
    published="73.4 / 91.3 against 73.5 / 91.4 (WikiSQL / MNLI)",
    criterion="rank 1 keeps at least 98 % of rank 64's gain: reproduced; at least 90 %: partly",
    judge=lambda share: "reproduced" if share >= 0.98 else "partly" if share >= 0.90 else False,
)

# %% [markdown]
# ## From `W0 x` to LoRA, in raw lines
#
# A linear layer computes `W0 x`. Fine-tuning moves the weight to `W0 + ΔW`, and by linearity
#
# $$(W_0 + \Delta W)\,x = W_0\,x + \Delta W\,x .$$
#
# So the old layer can stay as it is, and what was learnt is a second path beside it. LoRA makes that path cheap by
# writing `ΔW` as a product of a tall matrix and a wide one, with a fixed factor `s` in front:
#
# $$h = W_0\,x + s \cdot B A\,x, \qquad A: (r, d_{in}), \quad B: (d_{out}, r), \quad s = \alpha / r .$$
#
# Predict: how many numbers do `A` and `B` hold together, for `d_in` = 6, `d_out` = 4 and rank `r` = 2? And `W0`?

# %%
torch.manual_seed(0)
d_in, d_out, r, alpha = 6, 4, 2, 8
W0 = torch.randn(d_out, d_in, dtype=torch.float64)
A = torch.randn(r, d_in, dtype=torch.float64)
B = torch.randn(d_out, r, dtype=torch.float64)  # not zero yet, so that there is something to see
x = torch.randn(d_in, dtype=torch.float64)
s = alpha / r

one_path = (W0 + s * B @ A) @ x  # build the whole (4, 6) update, then multiply
two_paths = W0 @ x + s * (B @ (A @ x))  # never build it: two thin products instead
print("the same output:", torch.allclose(one_path, two_paths))
print(f"W0 holds {W0.numel()} numbers, A and B together {A.numel() + B.numel()} = r · (d_in + d_out)")
print("rank of the update:", torch.linalg.matrix_rank(B @ A).item())

# %% [markdown]
# At these sizes the saving is small. The ratio is `r (d_in + d_out) / (d_in d_out)`: for a 4096 × 4096 layer and
# rank 16 it is under one percent. Chapter 02 counts.
#
# Mind the parentheses in `B @ (A @ x)`. `(B @ A) @ x` gives the same numbers, but builds the big matrix that we
# wanted to avoid.
#
# ## The same as a layer
#
# As a module it takes a dozen lines. It wraps the old layer, freezes it, and adds the second path. `x` now has batch
# dimensions in front, so the products are written the way `nn.Linear` does it: `x @ A.T`.


# %%
class RawLoRA(nn.Module):
    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        super().__init__()
        self.base = base.requires_grad_(False)  # frozen
        self.A = nn.Parameter((torch.rand(rank, base.in_features) * 2 - 1) / base.in_features**0.5)  # (r, d_in)
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))  # (d_out, r)
        self.scaling = alpha / rank

    def forward(self, x):  # (..., d_in) -> (..., d_out)
        return self.base(x) + self.scaling * (x @ self.A.T) @ self.B.T


# %% [markdown]
# The package's `LoRALinear` is this, plus dropout, checks of its input, and merging. We give both the same `A` and
# `B` and demand the same output, and the same gradients. We set `B` to something other than zero: at `B` = 0 the
# second path is silent, and a test there would pass for almost any mistake.

# %%
torch.manual_seed(1)
linear = nn.Linear(48, 32)
raw, packaged = RawLoRA(linear, rank=4, alpha=8), LoRALinear(linear, rank=4, alpha=8)
with torch.no_grad():
    raw.B.normal_()
    packaged.A.copy_(raw.A)
    packaged.B.copy_(raw.B)

x = torch.randn(5, 7, 48)  # two batch dimensions
for layer in (raw, packaged):
    layer(x).square().sum().backward()
torch.testing.assert_close(raw(x), packaged(x))
torch.testing.assert_close(raw.A.grad, packaged.A.grad)
torch.testing.assert_close(raw.B.grad, packaged.B.grad)
print("the same output and the same gradients;", packaged)

# %% [markdown]
# From here on we use the package's class.
#
# ## Why one matrix is zero and the other is not
#
# There are four ways to start: `B` zero (LoRA's), `A` zero, both random, both zero. For each, predict three things
# before you run the cell: is the layer's output still the old one, does `A` get a gradient, does `B`?
#
# The chain rule answers. With `G` the gradient that would reach a full weight matrix, the factors get `∂L/∂A = s Bᵀ
# G` and `∂L/∂B = s G Aᵀ`. Each one's gradient contains the *other* one.

# %%
starts = {"B zero": (1, 0), "A zero": (0, 1), "both random": (1, 1), "both zero": (0, 0)}
rows = []
for name, (a, b) in starts.items():
    torch.manual_seed(2)
    layer = LoRALinear(nn.Linear(48, 32), rank=4, alpha=8)
    with torch.no_grad():
        layer.A.mul_(a)
        layer.B.copy_(b * torch.randn(32, 4))
    moved = (layer(x) - layer.base(x)).abs().max().item()
    layer(x).square().mean().backward()
    rows.append([name, f"{moved:.3f}", f"{layer.A.grad.norm():.4f}", f"{layer.B.grad.norm():.4f}"])
print(stats.table(["start", "output moved by", "|grad A|", "|grad B|"], rows))

# %% [markdown]
# Read the rows one by one.
#
# - **B zero**: the output is untouched, and `B` has a gradient. After one step `B` is no longer zero, and `A` gets
# one too.
# - **A zero**: the same with the roles exchanged. This also works.
# - **Both random**: both learn at once, but the layer is disturbed before it has seen any data.
# - **Both zero**: each gradient contains the other factor, and both are zero. Nothing will ever move.
#
# The last one is worth breaking on purpose, on the real model. The training loop of this book looks at the first
# gradient and refuses to go on when it is zero everywhere. Without that check the loss would simply stay where it
# is.

# %%
model = add_adapters(pretrained(size), AdapterConfig(rank=4, alpha=32))
for layer in filter(is_adapter, model.modules()):
    nn.init.zeros_(layer.A)
batches = train.Batches(tasks.task_ids("rot13", "task"), size.batch, size.model.max_position_embeddings, seed=0)
try:
    train.fit(model, batches, steps=3, lr=1e-3)
except ValueError as error:
    print("refused:", error)

# %% [markdown]
# ## Rank, alpha and the scaling
#
# The factor `s = alpha / r` is meant to keep the size of the update from depending on the rank. Does it? `B A` is a
# sum of `r` rank-one matrices.
#
# Predict: under `s = alpha / r`, does the update of a random `A` and `B` grow, shrink, or stay as the rank grows? By
# what factor from rank 1 to rank 64? And under `alpha / √r`, which is rsLoRA (chapter 07)?

# %%
wide = nn.Linear(256, 256)
rows = []
for rank in (1, 4, 16, 64):
    norms = []
    for scaling in (lambda a, r: a / r, rslora_scaling):
        torch.manual_seed(3)  # the same A and B under both scalings
        layer = LoRALinear(wide, rank, alpha=32, scaling=scaling)
        nn.init.normal_(layer.B)
        norms.append(layer.delta_weight().norm().item())
    rows.append([rank, 32 / rank, f"{norms[0]:.0f}", f"{norms[1]:.0f}"])
print(stats.table(["rank", "alpha / r", "size of the update under alpha/r", "under alpha/sqrt(r)"], rows))

# %% [markdown]
# A sum of `r` independent terms grows as `√r`, so for random factors `alpha / r` over-corrects, and `alpha / √r`
# keeps the size. Trained factors are not random, so this is a hint and no verdict: what it means for learning is
# measured in chapter 07.
#
# ## Dropout, on one path only
#
# LoRA may drop entries of `x` at random while it trains, but on its own path alone. The frozen path always sees all
# of `x`. So with `B` = 0 even a dropout of one half changes nothing; and in eval mode there is none.

# %%
torch.manual_seed(4)
layer = LoRALinear(nn.Linear(48, 32), rank=4, alpha=8, dropout=0.5)
print("train mode, B = 0: output moved by", (layer(x) - layer.base(x)).abs().max().item())
nn.init.normal_(layer.B)
different = (layer(x) - layer(x)).abs().max().item()
print(f"train mode, B ≠ 0: two calls differ by {different:.2f}")
layer.eval()
print("eval mode,  B ≠ 0: two calls differ by", (layer(x) - layer(x)).abs().max().item())

# %% [markdown]
# ## Training it, beside full fine-tuning
#
# Now the real thing: the base model has read English, and must learn rot13. Every linear layer but the output head
# gets an adapter. We compare full fine-tuning with ranks 1 to 64. Full fine-tuning also trains what has no adapter
# here: the embedding, the norms and the output head. That favours it, as rot13 is a permutation of letters and the
# embedding alone can permute. (Chapter 00 has the stricter comparison, with full rank in just those layers that LoRA
# adapts.)
#
# One trap spoils most such comparisons: **the learning rate**. LoRA usually wants a higher one than full
# fine-tuning, so at a shared rate one of the two is handicapped. Here each method tries the same number of rates
# (0.001, 0.0032, 0.01, 0.032, then around its best), picks its best on one seed, and is measured on other seeds and
# on other text. At the preset `quick` the rates are those that `full` found, so that you need not wait for the
# search.
#
# **Write down your prediction:** the loss of the base on rot13, of full fine-tuning, of rank 1 and of rank 64, in
# nats a character. (On plain English the base reaches what the next cell prints. Guessing blindly among 128 symbols
# costs log 128 = 4.85.)

# %%
before = measure(base, "rot13", size)
print(f"{size.steps} steps of {size.batch} windows, AdamW, {size.seeds} seeds after tuning; alpha is 32 for every rank")
print(f"the base model: {before['text_loss']:.2f} nats a character on English, {before['task_loss']:.2f} on rot13")

ranks = [1, 4, 16, 64] if size.name != "smoke" else [1, 4]
lora = {f"LoRA rank {r}": Run(adapter=AdapterConfig(rank=r, alpha=32)) for r in ranks}
tuned = compare({"full": Run(), **lora}, size, known=results.known_rates("ranks"))
results.record_sweep("ranks", tuned)
results.record(before=before)

# %% [markdown]
# The table gives each method's best learning rate, the number of trained weights, and the loss on held-out rot13 and
# on held-out English. With more than one seed, `±` is the 95 % interval of the mean. (The last column says how much
# English was forgotten on the way. That is a subject of its own, for a later chapter.)

# %%
rows = [
    [
        label,
        f"{t.run.lr:.4f}",
        f"{t.values('trained')[0]:,}",
        stats.shown(t.values("task_loss")),
        stats.shown(t.values("text_loss")),
    ]
    for label, t in tuned.items()
]
print(stats.table(["method", "rate", "trained", "rot13", "English"], rows))


# %%
def gain(label):
    """How far a method lowers the loss on the task, seed by seed, from where the base stands."""
    return [before["task_loss"] - loss for loss in tuned[label].values("task_loss")]


def share_of(label, other):
    """The gain of one method as a share of another's, seed by seed."""
    return [own / whole for own, whole in zip(gain(label), gain(other), strict=True)]


def percent(shares):
    mean, half = stats.interval(shares)
    return f"{mean:.2%}" + (f" ± {half:.2%}" if half == half else "")


best = min(lora, key=lambda label: stats.interval(tuned[label].values("task_loss"))[0])
highest = f"LoRA rank {ranks[-1]}"
shares = share_of(best, "full"), share_of("LoRA rank 1", highest)
on_par.measure(stats.interval(shares[0])[0], f"{best} keeps {percent(shares[0])} of full fine-tuning's gain")
rank_one.measure(stats.interval(shares[1])[0], f"rank 1 keeps {percent(shares[1])} of rank {ranks[-1]}'s gain")


# %%
fig, (ax,) = plots.canvas()
means, halves = zip(*(stats.interval(tuned[f"LoRA rank {r}"].values("task_loss")) for r in ranks), strict=True)
plots.band(ax, ranks, means, halves, plots.BLUE)
ax.annotate("LoRA", (ranks[0], means[0]), xytext=(8, 4), textcoords="offset points", color=plots.BLUE)
plots.reference(ax, stats.interval(tuned["full"].values("task_loss"))[0], "full fine-tuning", plots.BLACK)
ax.set(xscale="log", xticks=ranks, xticklabels=ranks, xlabel="rank", ylabel="loss on rot13 (nats a character)")
ax.minorticks_off()
ax.set_title("What each rank reaches, at its own best learning rate")
results.figure(
    fig, "ranks", f"The base stands at {before['task_loss']:.2f}, far above the picture; bars are 95 % intervals."
)

# %% [markdown]
# ### What the learning rate does
#
# The next figure shows every rate that was tried while tuning. Look at where each curve has its lowest point, and at
# what a comparison at one shared rate would have claimed. (At `quick` the curves are not measured, and the cell says
# so.)

# %%
if all(len(t.tried) > 1 for t in tuned.values()):
    fig, (ax,) = plots.canvas()
    for label, t in tuned.items():
        rates = sorted(t.tried)
        colour = plots.rank_colour(t.run.adapter.rank, ranks) if t.run.adapter else plots.BLACK
        ax.plot(rates, [t.tried[rate] for rate in rates], color=colour, marker="o", ms=4, label=label)
    ax.set(xscale="log", xlabel="learning rate", ylabel="loss on rot13 (nats a character)")
    ax.legend(title="method")
    ax.set_title("Every learning rate that was tried, one seed")
    ratios = [tuned[label].run.lr / tuned["full"].run.lr for label in lora]
    low, high = f"{min(ratios):.1f}", f"{max(ratios):.1f}"
    spread = f"{low} times" if low == high else f"{low} to {high} times"
    results.figure(fig, "rates", f"The best LoRA rates are {spread} full fine-tuning's, {tuned['full'].run.lr:.4f}.")
    shared = sorted(set.intersection(*(set(t.tried) for t in tuned.values())))
    for rate in shared:
        order = sorted(tuned, key=lambda label, rate=rate: tuned[label].tried[rate])
        print(f"at the shared rate {rate:.4f}, from the lowest loss: {', '.join(order)}")
else:
    print("this preset takes its rates from the committed results; run the preset full to see the curves")

# %% [markdown]
# ### Is a step cheaper?
#
# LoRA trains few weights. Does that make a step of *this* model faster? Predict, then look at the seconds that the
# runs took.

# %%
step_ms = {label: 1000 * min(t.values("seconds")) / size.steps for label, t in tuned.items()}
for label, ms in step_ms.items():
    print(f"{label:13}{ms:6.0f} ms a step, {ms / step_ms['full']:.2f} of full fine-tuning's")

# %% [markdown]
# A linear layer's step has three big products: `W0 x`, then the gradient of `x`, then the gradient of `W0`. LoRA
# spares the last one, and in large layers that shows. In a model this narrow the small products and the bookkeeping
# of the second path can cost as much as that saves, or more where the rank is high. (Runs share the machine with one
# another, so take a tenth more or less for noise.) The benchmark of a layer with `d` = 2048 (`make bench`) shows the
# other regime.
#
# ### The four starts, trained
#
# At the beginning "both random" only disturbed the layer, and "A zero" looked as good as "B zero". Does training
# agree? All three are tuned like everything else, at rank 4. (The fourth start is the one that was refused above.)
# How much "both random" disturbs depends on the size of the numbers; here `B` follows the rule of `A`, uniform in
# ±1/√r.
#
# Predict: which of the three ends lowest, and does "both random" recover?

# %%
config = AdapterConfig(rank=4, alpha=32)
begin = {name: Run(adapter=config, start=name) for name in ("B zero", "A zero", "both random")}
begun = compare(begin, size, known=results.known_rates("starts"))
results.record_sweep("starts", begun)
rows = [
    [name, f"{t.run.lr:.4f}", stats.shown(t.values("task_loss")), f"{t.results[0]['losses'][0]:.2f}"]
    for name, t in begun.items()
]
print(stats.table(["start", "rate", "rot13 after training", "training loss at step 0"], rows))
difference, half = stats.paired(begun["A zero"].values("task_loss"), begun["B zero"].values("task_loss"))
certain = f"95 % interval ± {half:.3f}" if half == half else "one seed, so no interval"
print(f"A zero minus B zero: {difference:+.3f} nats ({certain})")

# %% [markdown]
# Why should it matter which of the two is zero? The starts are not mirror images. Kaiming's rule looks at the number
# of inputs: `d_in` for `A`, only `r` for `B`. So a random `B` holds numbers `√(d_in / r)` times as large as a random
# `A`, and everything that is learnt through it moves the output further at the same rate. Hayou et al. (arXiv
# 2406.08447) compare the two in theory and on large models: `B` zero allows a larger learning rate, and ends better
# on average. Whether it is the place of the zero or the size of the numbers, our comparison cannot tell. You can:
# give `A zero` a smaller `B`.
#
# ## The verdict
#
# Printed from what was measured above:

# %%
for claim in (on_par, rank_one):
    print(f"{claim.says}: {claim.verdict.upper()}. {claim.shown}.\n   (criterion: {claim.criterion})")
path = results.save()
print("written:", path.name)

# %% [markdown]
# Three things to keep in mind. First, a share of the gain flatters every method: the base begins worse than blind
# guessing, and a part of the way down is cheap (chapter 00 prints what letter frequencies alone give). The losses in
# the table say more than the shares. Second, the paper's rank-1 result is for GPT-3, whose matrices are 12,288 wide,
# on tasks close to what it knew. Here the matrices are 128 wide and the task changes every letter, so each layer has
# to change a lot. What a rank can hold depends on how much there is to learn. Third, the intervals are over seeds of
# the fine-tuning: all runs start from the same pretrained base.
#
# ## Exercises
#
# **1. The forward pass.** Write it without looking above. The check compares with the package at `B` ≠ 0 and tells
# the usual mistakes apart.


# %%
from lora_from_scratch.book.checks import ch01 as check


def my_forward(x, base, A, B, alpha, rank):
    """x (..., d_in), base an nn.Linear, A (rank, d_in), B (d_out, rank) -> (..., d_out)."""
    return None  # your code here


print(check.check_forward(my_forward))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_forward(x, base, A, B, alpha, rank):
#     return base(x) + (alpha / rank) * (x @ A.T) @ B.T
# ```
#
# </details>
#
# **2. Where to multiply by s.** The package scales the rank-`r` numbers in the middle (`scaling * z`), not the
# output. Both give the same. For `d_out` = 4096, rank 16 and 512 tokens, how many multiplications by `s` does each
# way take?

# %%
my_count = {"on the output": None, "in the middle": None}  # your two numbers here
print(check.check_count(my_count))

# %% [markdown]
# <details><summary>Solution</summary>
#
# On the output there are 512 · 4096 = 2,097,152 numbers, in the middle 512 · 16 = 8,192: 256 times fewer.
#
# </details>
#
# **3. The first step.** With `B` zero, one step of plain gradient descent with rate `lr` sets `B` to `-lr · s · G
# Aᵀ`, and leaves `A` as it was. Write the update `ΔW` after that first step as a formula in `lr`, `s`, `G` and `A`,
# then as code.


# %%
def my_first_update(lr, s, G, A):
    """ΔW (d_out, d_in) after one step of gradient descent from B = 0. G (d_out, d_in), A (r, d_in)."""
    return None  # your code here


print(check.check_first_update(my_first_update))

# %% [markdown]
# <details><summary>Solution</summary>
#
# `ΔW = s · B A = -lr · s² · G Aᵀ A`: the full gradient, seen through the random projection `AᵀA`.
#
# ```python
# def my_first_update(lr, s, G, A):
#     return -lr * s**2 * G @ A.T @ A
# ```
#
# </details>
#
# **4. Your own layer.** Put your class into a file and let the book's property tests judge it: `make check
# LAYER=my_lora.py:MyLoRA`. It tells you in words which property fails, and what usually causes that. `RawLoRA` is a
# good beginning. It lacks two things that the tests ask for: `A` and `B` should have the dtype of the base's weight,
# and `merge()` should give back a fresh `nn.Linear` with the weight `W0 + s · B A` and the base's bias (chapter 03).
#
# ## The same with PEFT
#
# ```python
# from peft import LoraConfig, get_peft_model
#
# config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.0)
# model = get_peft_model(model, config)
# model.print_trainable_parameters()
# ```
#
# Ours is `add_adapters(model, AdapterConfig(rank=16, alpha=32, targets="all-linear"))`, and `make parity` checks
# that logits, gradients, merged weights, and the choice of layers are PEFT's.
