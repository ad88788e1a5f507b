# %% [markdown]
# # 07 · rsLoRA
#
# **The question.** LoRA divides its update by the rank. Why divide at all, and should it be by the rank or by its
# square root?
#
# **What you will be able to do.** Say what a scaling does to the first gradient, to the first step and to a
# trained update, and measure each against the rank. Turn an rsLoRA layer into a plain LoRA layer. Tell a better
# method from a better default.
#
# **What you need.** Chapter 01 (the LoRA layer, and why every method gets its own learning rate).
#
# **The published claims.** rsLoRA (Kalajdzievski, 2023, arXiv 2312.03732) shows in section 3 that only a factor of
# order `1/√r` keeps the layer's output and its gradients at one size when the rank `r` grows. In section 4 it
# fine-tunes Llama 2 at ranks from 4 to 2048 with one learning rate: with LoRA's `alpha / r` the loss hardly
# changes with the rank, with `alpha / √r` it falls.

# %%
import math
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from lora_from_scratch import AdapterConfig, LoRALinear, add_adapters, lora_scaling, rslora_scaling
from lora_from_scratch.book import plots, stats
from lora_from_scratch.book.results import Results
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab import tasks, train
from lora_from_scratch.lab.finetune import Run, measure, prepare
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.sweep import compare
from lora_from_scratch.lab.workers import carry_out_all

size = preset().on_one_base()
results = Results("07_rslora", size)
width = size.model.hidden_size
print(f"preset {size.name}: a Llama of width {width}")

# %% [markdown]
# A verdict is one of three in this chapter: *reproduced*, *partly*, or *not at this scale*, which says only that
# our small model does not show it. Each claim is written down, with the criterion that decides it, in the section
# that measures it and before the measurement. Where a preset has a single seed there is no interval. Then the sign
# of the mean decides alone, and the printed line says so.
#
# ## One factor, three choices
#
# A LoRA layer computes `h = W0 x + s · B A x`. `B A` is a sum of `r` rank-one matrices, one for each column of `B`
# with its row of `A`. If those terms are unrelated, the sum grows like `√r`. If they all pull the same way, it
# grows like `r`. The factor `s` is there to undo that growth:
#
# | name | `s` | undoes |
# |---|---|---|
# | LoRA | `alpha / r` | a sum of terms that all pull the same way |
# | rsLoRA | `alpha / √r` | a sum of unrelated terms |
# | no scaling | `alpha` | nothing |
#
# That one factor is the whole of rsLoRA. In raw lines, beside the package's function and layer:

# %%
torch.manual_seed(0)
d_in, d_out, r, alpha = 48, 32, 16, 8
linear, x = nn.Linear(d_in, d_out).double(), torch.randn(5, 7, d_in, dtype=torch.float64)
layer = LoRALinear(linear, rank=r, alpha=alpha, scaling=rslora_scaling)
nn.init.normal_(layer.B)  # not zero: at B = 0 every factor looks right

s = alpha / math.sqrt(r)
raw = linear(x) + s * (x @ layer.A.T) @ layer.B.T
torch.testing.assert_close(layer(x), raw)
print(f"alpha / r = {lora_scaling(alpha, r)}, alpha / √r = {rslora_scaling(alpha, r)}; the layer uses {layer.scaling}")

# %% [markdown]
# ## rsLoRA is plain LoRA with another alpha
#
# `alpha / √r` is `(alpha · √r) / r`. So an rsLoRA layer *is* a LoRA layer whose alpha is `√r` times as large.
#
# Predict: after ten steps of training, how far apart are an rsLoRA layer at alpha 8 and rank 16, and a LoRA layer
# at alpha 32 and rank 16, if both start from the same `A`?


# %%
def trained_update(alpha, rank, scaling, steps=10):
    """ΔW after a few AdamW steps on a small regression, in float64."""
    torch.manual_seed(1)
    layer = LoRALinear(nn.Linear(d_in, d_out).double(), rank, alpha, scaling=scaling)
    x, y = torch.randn(64, d_in, dtype=torch.float64), torch.randn(64, d_out, dtype=torch.float64)
    optimizer = torch.optim.AdamW([layer.A, layer.B], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (layer(x) - y).square().mean().backward()
        optimizer.step()
    return layer.delta_weight().detach()


for rank in (4, 16, 64):  # powers of 4: their roots are exact in floating point
    rs = trained_update(8, rank, rslora_scaling)
    plain = trained_update(8 * math.sqrt(rank), rank, lora_scaling)
    print(f"rank {rank}: the two updates differ by at most {(rs - plain).abs().max():.1e} (size {rs.abs().max():.3f})")
    assert torch.equal(rs, plain)

# %% [markdown]
# Not close: equal, to the last bit. (At other ranks the root is rounded, and they differ by about 1e-16.) So
# rsLoRA cannot do anything that LoRA with a well-chosen alpha cannot do. What it may be is a better *default*: a
# rule that chooses alpha well when the rank changes, so that there is one knob fewer to turn. Everything below
# asks how good that rule is.
#
# ## The first gradient and the first step
#
# At the start `B` is zero and `A` is random, so everything can be worked out. Write `G` for the gradient that a
# full weight matrix would get. Then `∂L/∂B = s G Aᵀ`. Its size grows like `s √r`, as `A` has `r` rows.
#
# A step of plain gradient descent, `B = -lr · s G Aᵀ`, changes the output at an input `x` by `-lr · s² G Aᵀ (A
# x)`, a sum of `r` terms. For an input that is alone in its batch they all pull the same way, and the sum grows
# like `s² r`. But a window has many positions, and most of `G` comes from other inputs than `x`. For those the sum
# grows like `s² √r`. The truth is between the two.
#
# A step of Adam is another matter. Adam divides each gradient by its own size, so the gradient's `s` is lost, and
# the output changes by a single `s` times a sum of `r` terms. Again it grows like `r` where they agree and like
# `√r` where they do not.
#
# **Write down your prediction.** Each quantity goes like `r` to some exponent. Which one, for each scaling: the
# first gradient of `B`; the change of the outputs after one step of gradient descent; the same after one step of
# Adam?
#
# We measure on the real base, with its adapters on all linear layers and a batch of the task, and fit the
# exponents.

# %%
stable = results.claim(
    "stable",
    says="the first gradient shrinks as the rank grows under alpha / r, and keeps its size under alpha / √r",
    source="2312.03732, section 3",
    published="exponents -1/2 and 0",
    criterion="the fitted exponent of |∂L/∂B| over the rank is within 0.1 of -1/2 and within 0.1 of 0: reproduced; "
    "one of the two: partly",
    judge=lambda e: {2: "reproduced", 1: "partly", 0: False}[(abs(e[0] + 0.5) <= 0.1) + (abs(e[1]) <= 0.1)],
)

SCALINGS = {
    "alpha/r": lambda r: {"alpha": 16},
    "alpha/sqrt(r)": lambda r: {"alpha": 16, "rslora": True},
    "alpha": lambda r: {"alpha": 16 * r},  # alpha·r / r: no scaling at all
}
NAMES = {"alpha/r": "alpha / r (LoRA)", "alpha/sqrt(r)": "alpha / √r (rsLoRA)", "alpha": "alpha (no scaling)"}
COLOURS = {"alpha/r": plots.BLUE, "alpha/sqrt(r)": plots.ORANGE, "alpha": plots.GREEN}
every_rank = [2**k for k in range(int(math.log2(width)) + 1)]
some = tasks.fixed_windows(tasks.task_ids("rot13", "task"), 32, size.model.max_position_embeddings)

# %% [markdown]
# The next functions build the adapters, take the first gradient, and make one step with each optimizer. They
# measure how far the outputs of the adapted layers move (root mean square), at the very windows that made the
# gradient: a single one, or 32 of them.


# %%
def inputs_of(model, windows):
    """{layer: the input it sees}, for every adapted layer of `model`."""
    seen, hooks = {}, []
    for layer in filter(is_adapter, model.modules()):
        hooks.append(layer.register_forward_pre_hook(lambda m, args: seen.__setitem__(m, args[0].detach())))
    train.loss_of(model, windows).backward()
    for hook in hooks:
        hook.remove()
    return seen


def first_step(config, windows, seed, lr=1e-4):
    """(|∂L/∂B|, change of the outputs after one step of gradient descent, the same after one step of Adam)."""
    torch.manual_seed(seed)
    model = add_adapters(pretrained(size), config)
    squares = torch.zeros(3)
    for layer, x in inputs_of(model, windows).items():
        gradient, z = layer.B.grad, x @ layer.A.detach().T  # (d_out, r), (N, T, r)
        by_descent = layer.scaling * z @ (lr * gradient).T
        by_adam = layer.scaling * z @ (lr * gradient.sign()).T  # the first step of Adam is lr · sign
        squares += torch.stack([gradient.square().sum(), by_descent.square().mean(), by_adam.square().mean()])
    return squares.sqrt().tolist()


# %%
quantities = ("gradient of B", "descent step", "Adam step")
draws = range(1 if size.name == "smoke" else 2)
start = {}  # {(what, scaling): one number a rank}
for what, windows in {"one window": some[:1], "all windows": some}.items():
    for name, config_of in SCALINGS.items():
        found = [
            np.mean([first_step(AdapterConfig(rank=r, **config_of(r)), windows, seed) for seed in draws], axis=0)
            for r in every_rank
        ]
        for i, quantity in enumerate(quantities):
            start[f"{quantity}, {what}", name] = [float(f[i]) for f in found]


def exponent(ranks, values):
    """The slope of log(value) over log(rank), by least squares."""
    return float(np.polyfit(np.log(ranks), np.log(values), 1)[0])


# %%
kinds = [f"{quantity}, {what}" for quantity in quantities for what in ("one window", "all windows")]
middle = len(every_rank) // 2
parts = {"all ranks": slice(None), "lower half": slice(None, middle + 1), "upper half": slice(middle, None)}


def exponents_of(kind, name):
    """The exponent over all ranks, and over the lower and the upper half of them."""
    return [exponent(every_rank[part], start[kind, name][part]) for part in parts.values()]


rows = [[kind, *(" ".join(f"{e:+.2f}" for e in exponents_of(kind, name)) for name in SCALINGS)] for kind in kinds]
print("exponents over the rank: all ranks, the lower half of them, the upper half")
print(stats.table(["what", *SCALINGS], rows))
fitted = [exponent(every_rank, start[kinds[1], name]) for name in ("alpha/r", "alpha/sqrt(r)")]
stable.measure(fitted, f"exponents {fitted[0]:+.2f} and {fitted[1]:+.2f}, ranks 1 to {every_rank[-1]}")
results.record(first={f"{kind}: {name}": values for (kind, name), values in start.items()}, ranks=every_rank)

# %% [markdown]
# The rows of the gradient and of the descent step are the theory: `s √r`, and between `s² √r` and `s² r`. For
# plain gradient descent, `alpha / r` starves a high rank.
#
# The last two rows are about Adam, which is what everybody trains with. The next cell says where they lie.

# %%
for part in ("lower half", "upper half"):
    place = list(parts).index(part)
    at = {name: exponents_of(kinds[5], name)[place] for name in SCALINGS}
    flattest = min(at, key=lambda name: abs(at[name]))
    ends_of = every_rank[parts[part]]
    print(f"One Adam step, ranks {ends_of[0]} to {ends_of[-1]}: flattest under {NAMES[flattest]}, {at[flattest]:+.2f}")
print("Near 1/2 under 'alpha' the terms of the sum are unrelated, and √r is right; near 1 they agree, and r is right:")
print(", ".join(f"{e:+.2f} ({part})" for part, e in zip(parts, exponents_of(kinds[5], "alpha"), strict=True)))

# %%
fig, axes = plots.canvas(2, width=9.5, height=3.8)
for ax, kind, title in zip(
    axes, (kinds[1], kinds[5]), ("The first gradient of B", "One Adam step: the output"), strict=True
):
    for name in SCALINGS:
        y = np.array(start[kind, name]) / start[kind, name][0]
        ax.plot(every_rank, y, color=COLOURS[name], marker="o", ms=4)
        plots.label_end(ax, every_rank, y, name, COLOURS[name])
    ax.set(xscale="log", yscale="log", xlabel="rank", ylabel="relative to rank 1", xlim=(0.8, every_rank[-1] * 5))
    ax.set_xticks(every_rank, every_rank)
    ax.minorticks_off()
    ax.set_title(title)
results.figure(
    fig, "first", "The size of the first gradient, and of what one step of Adam does to the layers' outputs, by rank."
)

# %% [markdown]
# ## Training at every rank
#
# A start is not a training. So each scaling is trained on rot13 (English with every letter moved 13 places along),
# at several ranks, twice:
#
# - at **one shared learning rate**, as in the paper. We take the best rate of rank 1, where all three scalings are
#   the same method, so that it favours none of them.
# - each at **its own best learning rate**, from the same number of tries: five rates half a decade apart, and one
#   more half way to the better neighbour of the best (or beyond it, where the best is at an edge).

# %%
shared_claim = results.claim(
    "shared",
    says="at one learning rate, more rank helps under alpha / √r and hardly under alpha / r",
    source="2312.03732, section 4",
    published="LoRA's loss is about the same at ranks 4 to 2048, rsLoRA's falls",
    criterion="from the lowest rank above 1 to the highest, at the shared rate, the loss under alpha / √r falls, its "
    "interval without 0, and by more than twice what it falls under alpha / r: reproduced; by more, not twice: partly",
    judge=lambda v: "reproduced" if v[0] and v[1] > 2 * v[2] else "partly" if v[0] and v[1] > v[2] else False,
)
tuned_claim = results.claim(
    "tuned",
    says="at the highest rank rsLoRA is better than LoRA, each at its own best rate",
    source="2312.03732, section 4, with the rate tuned",
    published="better, at one rate for all",
    criterion="the difference has an interval below 0 and a mean below -0.02 nats: reproduced; only the first: partly",
    judge=lambda v: "reproduced" if v[1] and v[0] < -0.02 else "partly" if v[1] else False,
)

# %%
rate_claim = results.claim(
    "one_rate",
    says="under alpha / √r one learning rate serves all ranks better than under alpha / r",
    source="2312.03732, section 3 (stable learning at every rank)",
    published="stable",
    criterion="the ratio of the largest to the smallest best rate over the ranks is smaller under alpha / √r than "
    "under alpha / r: reproduced",
    judge=lambda v: v[0] < 0.99 * v[1],  # equal ratios of a grid may differ in their last bit
)

# %% [markdown]
# Predict: at the highest rank, by how much (in nats a character) does rsLoRA beat LoRA at the shared rate? And at
# each one's own best rate? Which way does the best rate move with the rank, under each scaling?

# %%
ranks = {"smoke": [1, 4], "quick": [1, 8, 128]}.get(size.name, [1, 8, 32, 128])
grid = tuple(10 ** (k / 2) for k in (-7, -6, -5, -4, -3))
methods = {"rank 1": Run(adapter=AdapterConfig(rank=1, alpha=16), keep=True)}
for name, config_of in SCALINGS.items():
    for r in ranks[1:]:
        methods[f"{name}, rank {r}"] = Run(adapter=AdapterConfig(rank=r, **config_of(r)), keep=True)
tuned = compare(methods, size, known=results.known_rates("scalings"), grid=grid)
results.record_sweep("scalings", tuned)

shared_rate = tuned["rank 1"].run.lr
runs = [replace(run, lr=shared_rate, seed=1 + seed) for run in methods.values() for seed in range(size.seeds)]
found = carry_out_all(runs, size)
shared = {label: found[i * size.seeds : (i + 1) * size.seeds] for i, label in enumerate(methods)}
before = measure(pretrained(size), "rot13", size)
print(f"the base stands at {before['task_loss']:.2f} on rot13; the shared rate is {shared_rate:.4f}")


# %%
def label_of(name, rank):
    """The method's label; at rank 1 the three scalings are one method."""
    return "rank 1" if rank == 1 else f"{name}, rank {rank}"


def losses_at(where, name, rank):
    """The loss on the task, one number a seed, at the shared rate or at the method's own best."""
    label = label_of(name, rank)
    return [r["task_loss"] for r in (shared[label] if where == "shared" else tuned[label].results)]


rows = []
for name in SCALINGS:
    for r in ranks:
        own = tuned[label_of(name, r)]
        texts = [stats.shown(losses_at(where, name, r)) for where in ("shared", "own")]
        rows.append([NAMES[name], r, texts[0], f"{own.run.lr:.4f}", texts[1], stats.shown(own.values("text_loss"), 2)])
print(stats.table(["scaling", "rank", "at the shared rate", "own rate", "at its own rate", "English, own rate"], rows))
results.record(shared_rate=shared_rate, shared={k: [r["task_loss"] for r in v] for k, v in shared.items()})

# %% [markdown]
# The columns are losses on rot13 in nats a character, with 95 % intervals over the seeds, and in the last one the
# loss on English after it. Read down each block: does a higher rank help? Then across: what did one shared rate
# hide?


# %%
def below_zero(mean, half):
    """Whether a difference is below 0: its whole interval, or with a single seed the mean alone."""
    return mean < 0 if math.isnan(half) else mean + half < 0


def with_interval(mean, half):
    return f"{mean:+.3f} (one seed, no interval)" if math.isnan(half) else f"{mean:+.3f} ± {half:.3f}"


# %%
low, high = ranks[1] if len(ranks) > 2 else 1, ranks[-1]
falls = {n: stats.paired(losses_at("shared", n, high), losses_at("shared", n, low)) for n in SCALINGS}
rs, plain = falls["alpha/sqrt(r)"], falls["alpha/r"]
shared_claim.measure(
    [below_zero(*rs), -rs[0], -plain[0]],
    f"from rank {low} to {high}: {with_interval(*rs)} under alpha / √r, {with_interval(*plain)} under alpha / r",
)
gap = {w: stats.paired(losses_at(w, "alpha/sqrt(r)", high), losses_at(w, "alpha/r", high)) for w in ("shared", "own")}
tuned_claim.measure(
    [gap["own"][0], below_zero(*gap["own"])],
    f"rsLoRA - LoRA at rank {high}: {with_interval(*gap['own'])} nats, each at its own rate; "
    f"{with_interval(*gap['shared'])} at the shared rate",
)
best = {n: [tuned[label_of(n, r)].run.lr for r in ranks] for n in SCALINGS}
spread = {n: max(rates) / min(rates) for n, rates in best.items()}
rate_claim.measure(
    [spread["alpha/sqrt(r)"], spread["alpha/r"]],
    "largest over smallest best rate: " + ", ".join(f"{spread[n]:.1f} under {NAMES[n]}" for n in SCALINGS),
)
results.record(gap=gap, falls=falls, spread=spread)

# %%
if -rs[0] <= -plain[0]:
    at = [stats.interval(losses_at("shared", "alpha/sqrt(r)", r))[0] for r in ranks]
    print(f"At the shared rate LoRA gains at least as much. rsLoRA by rank: {', '.join(f'{v:.3f}' for v in at)}")
    if at[-1] > min(at):
        print("It is best below the highest rank: the rate that suits rank 1 is already too high for it there.")
else:
    print("At the shared rate rsLoRA gains more from the rank than LoRA does.")

# %%
fig, axes = plots.canvas(2, width=9.5, height=3.9, sharey=True)
first = stats.interval(losses_at("own", "alpha", 1))[0]
top = first + 0.1  # what leaves the picture is named at its edge
titles = {"shared": f"All at the rate {shared_rate:.4f}", "own": "Each at its own best rate"}
for ax, (where, title) in zip(axes, titles.items(), strict=True):
    ends = {}
    for name in SCALINGS:
        means, halves = zip(*(stats.interval(losses_at(where, name, r)) for r in ranks), strict=True)
        plots.band(ax, ranks, means, halves, COLOURS[name])
        ends[name] = min(means[-1], top - 0.03)
    ax.set(xscale="log", xlabel="rank", xlim=(0.8, ranks[-1] * 6))
    ax.set_xticks(ranks, ranks)
    ax.minorticks_off()
    ax.set_title(title)
    ax.set_ylim(None, top)
    for name, nudge in plots.apart(ax, ends).items():
        mean = stats.interval(losses_at(where, name, high))[0]
        text = name if mean < top else f"{name}: up to {mean:.2f}"
        plots.label_end(ax, ranks, [ends[name]], text, COLOURS[name], dy=nudge)
axes[0].set_ylabel("loss on rot13 (nats a character)")
results.figure(fig, "ranks", "Loss by rank under the three scalings; bars are 95 % intervals over seeds.")

# %% [markdown]
# ### Where each scaling wants its learning rate
#
# The next figure shows every rate that was tried. Under a scaling that keeps learning at one size, the lowest
# points would lie above one another. (At `quick` the curves are not measured, and the cell says so.)

# %%
if all(len(t.tried) > 1 for t in tuned.values()):
    fig, axes = plots.canvas(3, width=10.5, height=3.8, sharey=True, sharex=True)
    top = before["task_loss"]
    for ax, name in zip(axes, SCALINGS, strict=True):
        for r in ranks:
            tried = sorted(tuned[label_of(name, r)].tried.items())
            x, y = zip(*tried, strict=True)
            ax.plot(x, y, color=plots.rank_colour(r, ranks), marker="o", ms=4, label=f"rank {r}")
            ax.plot(
                *min(tried, key=lambda point: point[1]),
                marker="o",
                ms=10,
                mfc="none",
                color=plots.rank_colour(r, ranks),
            )
        ax.set(xscale="log", xlabel="learning rate", ylim=(None, min(top, 3.4)))
        ax.set_title(NAMES[name])
    axes[0].set_ylabel("loss on rot13 (nats a character)")
    axes[0].legend()
    results.figure(fig, "rates", "Every learning rate tried, on one seed; a ring marks the best one of each rank.")
else:
    print("The rates were taken from the committed results, so there are no curves to draw.")

# %% [markdown]
# Look at the left edge of each panel, at rates far below the best. A run there is still at the beginning of its
# learning when it ends, and the scaling decides how far it comes. The paper's runs share one rate, 0.00005, for
# all ranks. The next cell makes the same comparison at a low rate of ours.

# %%
if all(grid[1] in t.tried for t in tuned.values()):
    for name in SCALINGS:
        at_low = [tuned[label_of(name, r)].tried[grid[1]] for r in ranks]
        change = at_low[-1] - at_low[1 if len(ranks) > 2 else 0]
        words = ", ".join(f"{loss:.3f}" for loss in at_low)
        print(
            f"{NAMES[name]} at the rate {grid[1]}: {words}; from rank {low} to {high} the loss changes by {change:+.3f}"
        )
    print(
        "One seed each. Where only rsLoRA's loss falls here, this is the paper's picture, and a picture of a low rate:"
    )
    print("compare the same change at the best rate of rank 1, in the verdict above, and at each one's own best rate.")
else:
    print("Not measured at this preset; the committed chapter has it.")

# %% [markdown]
# If one step of Adam changes the outputs like the rank to some exponent, the best learning rate should go like the
# rank to minus that exponent. So the first table predicts the next one.

# %%
for name in SCALINGS:
    slope = exponent(ranks, best[name])
    rates = ", ".join(f"{rate:.4f}" for rate in best[name])
    wanted = -exponents_of(kinds[5], name)[0]
    print(f"{NAMES[name]}: best rates {rates}; exponent {slope:+.2f}, predicted from Adam's first step {wanted:+.2f}")
print(
    "The grid has half a decade between its rates, and the best is refined once, so an exponent is known to about "
    f"± {math.log(10**0.25) / math.log(ranks[-1] / ranks[0]):.2f}."
)

# %% [markdown]
# ## After training
#
# The theory also speaks of the size of the update and of the gradients while the model learns. We take the models
# that were trained at the shared rate and look at both at the end.
#
# Predict: under which scaling does the size of the trained update depend least on the rank?

# %%
trained_claim = results.claim(
    "trained_size",
    says="the size of the trained update depends less on the rank under alpha / √r than under alpha / r",
    source="2312.03732, section 3 (stability at any time in training)",
    published="exponent 0",
    criterion="the exponent of |ΔW| over the rank, at the shared rate, is nearer to 0 under alpha / √r: reproduced",
    judge=lambda v: abs(v[0]) < abs(v[1]),
)


# %%
def at_the_end(run, state):
    """(|ΔW|, |gradient of A and B|) of a trained model: over all adapters, the gradient on held-out text."""
    model = pretrained(size)
    torch.manual_seed(run.seed)
    prepare(model, run)
    model.load_state_dict(state)
    train.loss_of(model, held_out).backward()
    layers = list(filter(is_adapter, model.modules()))
    update = sum(layer.delta_weight().detach().square().sum() for layer in layers).sqrt()
    gradient = sum(p.grad.square().sum() for layer in layers for p in (layer.A, layer.B)).sqrt()
    return update.item(), gradient.item()


held_out = tasks.fixed_windows(tasks.task_ids("rot13", "held_out"), 32, size.model.max_position_embeddings)
ends = {}  # {label: (sizes of the update, sizes of the gradient), one number a seed}
for label, run in methods.items():
    pairs = [at_the_end(run, result["state"]) for result in shared[label]]
    ends[label] = [list(column) for column in zip(*pairs, strict=True)]

# %%
rows, slopes = [], {}
for name in SCALINGS:
    sizes, gradients = (np.array([ends[label_of(name, r)][i] for r in ranks]) for i in (0, 1))  # (ranks, seeds)
    slopes[name] = [[exponent(ranks, column) for column in values.T] for values in (sizes, gradients)]
    numbers = (f"{a:.1f} / {b:.2f}" for a, b in zip(sizes.mean(1), gradients.mean(1), strict=True))
    rows.append([NAMES[name], *numbers, *(stats.shown(slope, 2) for slope in slopes[name])])
print("size of the trained update / of the gradient at the end, at the shared rate, and their exponents")
print(stats.table(["scaling", *(f"rank {r}" for r in ranks), "of the update", "of the gradient"], rows))
pair = [stats.interval(slopes[name][0])[0] for name in ("alpha/sqrt(r)", "alpha/r")]
words = [stats.shown(slopes[name][0], 2) for name in ("alpha/sqrt(r)", "alpha/r")]
trained_claim.measure(pair, f"exponents of |ΔW|: {words[0]} under alpha / √r, {words[1]} under alpha / r")
results.record(ends=ends, end_exponents=slopes)
by = [np.mean(ends[label_of("alpha/r", high)][0]) / np.mean(ends["rank 1"][0]), 1 / high]
print(
    f"Under alpha / r, from rank 1 to {high}, s changes by a factor of {by[1]:.4f}, the trained update by {by[0]:.2f}."
)

# %% [markdown]
# So the update under `alpha / r` shrinks far less than `s` does. That is Adam's doing: its steps have one size
# whatever the gradient's size is, and what the terms of the sum learn from the same data pulls the same way.
#
# ## What is left when alpha is tuned
#
# Why should alpha matter at all once the rate is tuned? Because the rate moves two matrices. Under Adam, `λ` times
# the alpha is the same as a rate of `B` that is `λ` times as high at the old alpha (chapter 08 proves it). So
# alpha says how fast `B` learns compared with `A`, and the rate says how fast both do.
#
# At one rank, the three scalings are three values of alpha. So the best of the three, each at its own rate, is
# plain LoRA with alpha tuned on a coarse grid. rsLoRA is one of its candidates. The next cell says what each fixed
# rule loses against the best of the three.

# %%
for r in ranks[1:]:
    means = {n: stats.interval(losses_at("own", n, r))[0] for n in SCALINGS}
    winner = min(means, key=means.get)
    alphas = {"alpha/r": 16, "alpha/sqrt(r)": 16 * math.sqrt(r), "alpha": 16 * r}
    gaps = {n: stats.paired(losses_at("own", n, r), losses_at("own", winner, r)) for n in SCALINGS if n != winner}
    others = ", ".join(f"{NAMES[n]} {with_interval(*gaps[n])}" for n in gaps)
    print(f"rank {r}: the best alpha of the three is {alphas[winner]:.0f}, {NAMES[winner]}; above it: {others}")
    clear = [NAMES[n] for n, (mean, half) in gaps.items() if mean > (0 if math.isnan(half) else half)]
    print(f"        measurably worse than the best: {', '.join(clear) or 'none of them'}")

# %%
own, at_shared = gap["own"][0], gap["shared"][0]
print(
    f"Rank {high}, rsLoRA - LoRA: {with_interval(*gap['shared'])} at one rate, {with_interval(*gap['own'])} at own ones"
)
if own >= 0:
    print("So with the rate tuned there is no advantage left.")
elif own < at_shared:
    print("So tuning each rate brings the difference out: the shared one suited neither.")
elif abs(at_shared) > 2 * abs(own):
    print("So most of what one learning rate shows is the learning rate.")
else:
    print("So tuning the rate leaves a good part of the difference standing.")
pairs = {
    where: [
        stats.interval([r["text_loss"] for r in (shared[k] if where == "shared" else tuned[k].results)])[0]
        for k in (label_of("alpha/sqrt(r)", high), label_of("alpha/r", high))
    ]
    for where in ("shared", "own")
}
print(
    f"English stood at {before['text_loss']:.2f}. At the shared rate it stands at {pairs['shared'][0]:.2f} after rsLoRA"
)
print(f"and {pairs['shared'][1]:.2f} after LoRA; at own rates {pairs['own'][0]:.2f} and {pairs['own'][1]:.2f}.")

# %% [markdown]
# PEFT's own comparison (Llama-3.2-3B on MetaMathQA, one seed, one rate for all) has rsLoRA at rank 64 raise the
# loss on other text by 0.111 nats, and LoRA at rank 64 by 0.059. Its accuracies are 51.3 for rsLoRA at rank 64 and
# 47.8 for LoRA at rank 32. Rank 64 under rsLoRA is LoRA at eight times the alpha. Both numbers fit what a larger
# alpha would do.
#
# Where would the gain be expected? At high ranks with alpha left at its default and a rate that was tuned at a low
# rank. The paper goes to rank 2048. Our model is as wide as its highest rank here, so the range ends where the
# paper's begins to be interesting.
#
# ## Exercises
#
# **1. Keep the gradient.** Write a scaling that keeps the first gradient of `B` at the size it has at rank 1,
# whatever the rank, and equals `alpha` at rank 1.


# %%
from lora_from_scratch.book.checks import ch07 as check


def my_scaling(alpha, rank):
    return alpha / rank  # change this line


print(check.check_scaling(my_scaling))

# %% [markdown]
# <details><summary>Solution</summary>
#
# The gradient goes like `s √r`, so `s` has to go like `1/√r`: `return alpha / math.sqrt(rank)`. That is rsLoRA.
#
# </details>
#
# **2. Translate.** A colleague trained with rsLoRA at rank 64 and alpha 16, and your serving software knows only
# `alpha / r`. Which alpha do you write into its configuration?

# %%
my_alpha = 16  # change this number
print(check.check_alpha(my_alpha))

# %% [markdown]
# <details><summary>Solution</summary>
#
# `alpha · √r` = 16 · 8 = 128: 128 / 64 = 2 = 16 / √64.
#
# </details>
#
# **3. Think first.** You tuned the learning rate at rank 4, and now you train at rank 64 at the same rate and
# alpha. Which optimizer makes you regret `alpha / r` most, plain gradient descent or Adam, and why?
#
# <details><summary>Solution</summary>
#
# Plain gradient descent. Its first change of the outputs carries `s²`, and Adam's carries one `s`, as Adam divides
# the other one out. From rank 4 to rank 64 the first shrinks at least 16 times (`s² r`), the second at most 4
# times (`s √r`). The table of exponents says where between these bounds they lie.
#
# </details>
#
# ## The same with PEFT
#
# ```python
# from peft import LoraConfig, get_peft_model
#
# model = get_peft_model(model, LoraConfig(r=64, lora_alpha=16, use_rslora=True, target_modules="all-linear"))
# ```
#
# `use_rslora=True` changes the one factor, as `AdapterConfig(rslora=True)` does here. The same without it is
# `lora_alpha=128`.
#
# ## What to take along
#
# - `alpha / √r` and `alpha / r` are the same family. Translate one into the other by `√r`.
# - The theory of the first gradient is about gradients. Adam divides by their size, and keeps one `s` of two.
# - When you change the rank, look at alpha and at the learning rate again. rsLoRA is a rule for the first.

# %%
results.save()
print("verdicts:", {name: claim.verdict for name, claim in results.claims.items()})
