# %% [markdown]
# # 02 · Counting parameters
#
# **The question.** How many numbers does LoRA train? Papers print these counts everywhere. Can we get each of them
# from the shapes of the matrices? And for the same number of parameters, does it matter *which* matrices get them?
#
# **What you will be able to do.** Count the parameters of any adapter on paper. Count them on a model of 175 billion
# weights that you cannot load. Spot a printed count that does not add up. Compare two choices of layers fairly.
#
# **What you need.** PyTorch, and the layer of chapter 01: `A` of shape (r, d_in) and `B` of shape (d_out, r).
#
# **The published claims.** LoRA (2106.09685) trains "10,000 times" fewer parameters than GPT-3 has, and prints a
# count for every experiment. DoRA (2402.09353) and PEFT's documentation print counts too. *LoRA Without Regret*
# (Thinking Machines, 2025) adds that adapters on attention alone do worse than adapters on the MLP alone, at about
# equal counts. PEFT's own comparison points the same way: an accuracy of 49.4 % for the MLP against 47.8 % for q and
# v, at equal parameters (Llama-3.2-3B on MetaMathQA).

# %%
from dataclasses import replace

import torch
from torch import nn

from lora_from_scratch import AdapterConfig, LoRALinear, add_adapters, count_parameters, print_trainable_parameters
from lora_from_scratch.analysis import counting
from lora_from_scratch.analysis.counting import ALL_LINEAR, ATTENTION, MLP, MODELS, lora_parameters, prints_as
from lora_from_scratch.book import plots, stats
from lora_from_scratch.book.results import Results
from lora_from_scratch.lab.finetune import Run, measure
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.sweep import compare
from lora_from_scratch.targets import find_targets

size = preset().on_one_base()
results = Results("02_counting_parameters", size)
QV = ("q_proj", "v_proj")

# %% [markdown]
# ## What would count as success
#
# A count is exact, but papers print it rounded, and some cut digits off instead of rounding (18.87 becomes "18.8").
# Both are fine. So a printed figure *adds up* if our number, rounded or cut to the digits printed, is that figure. A
# source is "reproduced" if all its figures add up, "partly" if some do.


# %%
def all_or_some(found):
    good, total = found
    return "reproduced" if good == total else "partly" if good else "does not add up"


said = "the parameter counts printed follow from the set-ups stated"
rule = "all figures, rounded or cut to the digits printed, are ours: reproduced; some: partly; none: does not add up"
sources = {
    "lora": ("LoRA", "2106.09685, tables 2 to 4, 9 to 11 and 15", "nine counts, from 0.3 M to 301.9 M"),
    "dora": ("LoRA and DoRA on Llamas", "2402.09353, table 1", "nine percentages, from 0.35 to 0.84"),
    "peft": ("PEFT's examples", "PEFT's README and documentation", "seven counts, to the last digit"),
    "regret": ("attention and MLP", "LoRA Without Regret (2025)", "0.49, 0.25, 0.70 and 0.24 B"),
}
claims = {
    name: results.claim(name, f"{what}: {said}", source, published, rule, all_or_some)
    for name, (what, source, published) in sources.items()
}
claims["ratio"] = results.claim(
    "ratio",
    says="LoRA trains 10,000 times fewer parameters than GPT-3 175B has",
    source="2106.09685, abstract",
    published="10,000 times",
    criterion="175,255.8 M over the count at rank 4 is within 10 % of 10,000",
    judge=lambda ratio: "reproduced" if abs(ratio / 10_000 - 1) <= 0.1 else "does not add up",
)

# %% [markdown]
# The claims about quality need training, and a criterion with error bars. `difference` below is the loss of
# attention alone minus the loss of the MLP alone, seed by seed, at one budget. We look at two budgets. With a single
# seed there is no interval (it is NaN, and no comparison with NaN is true); then the sign can give "partly" at best.


# %%
def judge_placement(differences):
    """differences: (mean, half width of its 95 % interval) of attention minus MLP, at each budget."""
    if all(mean > half for mean, half in differences):
        return "reproduced"
    return "partly" if all(mean > 0 for mean, _ in differences) else False


claims["placement"] = results.claim(
    "placement",
    says="adapters on the MLP alone beat adapters on attention alone, at matched parameters",
    source="LoRA Without Regret (2025)",
    published="attention at 0.25 B does worse than MLP at 0.24 B (Llama-3.1-8B)",
    criterion="MLP's loss is lower at both budgets, 95 % intervals clear of zero: reproduced; by sign alone: partly",
    judge=judge_placement,
)
claims["qv"] = results.claim(
    "qv",
    says="adapters on q and v do as well as adapters on q, k, v and o, at matched parameters",
    source="2106.09685, table 5",
    published="73.7 / 91.3 against 73.7 / 91.7 (WikiSQL / MNLI, GPT-3)",
    criterion="at the large budget q and v's loss is not clearly higher (95 % interval of the paired difference): "
    "reproduced; higher by less than 0.05 nats: partly",
    judge=lambda d: "reproduced" if d[0] <= d[1] else "partly" if d[0] < 0.05 else False,
)

# %% [markdown]
# ## One layer, by hand
#
# Take the square layer that everyone quotes: 4096 × 4096, rank 16. `A` is (16, 4096) and `B` is (4096, 16).
#
# Prediction, on paper: 16 · 4096 + 4096 · 16 = 131,072. The matrix has 4096 · 4096 = 16,777,216 weights, so the
# share is 131,072 / 16,777,216 = 1/128, or 0.78125 %.

# %%
d_in, d_out, r = 4096, 4096, 16
A = torch.empty(r, d_in)
B = torch.empty(d_out, r)
by_hand = A.numel() + B.numel()
print(f"{by_hand:,} numbers, {by_hand / (d_in * d_out):.5%} of the matrix")

layer = LoRALinear(nn.Linear(d_in, d_out, device="meta"), rank=r, alpha=32)
assert by_hand == 131_072
assert by_hand == r * (d_in + d_out) == lora_parameters([(d_out, d_in)], rank=r)
assert by_hand == sum(p.numel() for p in layer.parameters() if p.requires_grad)
print("the formula, the package and the layer itself agree")

# %% [markdown]
# Two things to see in `r · (d_in + d_out)`. It is linear in the rank: twice the rank, twice the parameters. And it
# grows with the *sum* of the sides where the matrix grows with their *product*: the wider the layer, the smaller the
# share.
#
# ## A real model
#
# Now the base of this book, with adapters on every q and v. `find_targets` gives the layers, and each layer's weight
# has the shape (out, in). Predict: width 128, 4 layers, rank 8. (At `smoke` it is width 32 and 2 layers.)

# %%
base = pretrained(size)
shapes = [tuple(layer.weight.shape) for layer in find_targets(base, QV).values()]
print(f"{len(shapes)} matrices of shape {shapes[0]}")
formula = lora_parameters(shapes, rank=8)

model = add_adapters(base, AdapterConfig(rank=8, alpha=32, targets=QV))
print_trainable_parameters(model)
assert count_parameters(model)[0] == formula
print(f"the formula gives {formula:,}")

# %% [markdown]
# ## A model that you cannot load
#
# The shapes are all that counts. So a handful of sizes is enough: `Transformer` in `analysis/counting.py` lists the
# shapes of a model from its depth and widths, and `MODELS` holds the published ones.
#
# But a formula can forget a layer. To be sure, we build the real thing on the `meta` device: tensors there have a
# shape and no memory behind it. The model's own code makes the layers, and the package's own code puts in the
# adapters.
#
# Prediction for LLaMA-7B, all linear layers, rank 64. Attention: 4 · 64 · (4096 + 4096) = 2,097,152 a layer. MLP: 3
# · 64 · (4096 + 11008) = 2,899,968 a layer. Together, times 32 layers: **159,907,840**.


# %%
def on_meta(sizes, head_size=128):
    """A Llama of these sizes (`Transformer`) without memory behind its weights."""
    config = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.width // head_size,
        num_key_value_heads=(sizes.kv or sizes.width) // head_size,
    )
    with torch.device("meta"):
        return TinyLlama(config)


giants = {name: on_meta(MODELS[name]) for name in ("LLaMA-7B", "Llama-3-8B")}
for name, giant in giants.items():
    add_adapters(giant, AdapterConfig(rank=64, alpha=32))
    trained, total = count_parameters(giant)
    assert trained == lora_parameters(MODELS[name].shapes(ALL_LINEAR), rank=64)
    assert total == MODELS[name].parameters() + trained
    print(f"{name}: {trained:,} trainable, {total - trained:,} frozen: {4 * total / 1e9:.0f} GB, if it were in memory")

# %% [markdown]
# GPT-3 is no Llama, but for LoRA on q and v we need nothing of it except 96 pairs of 12288 × 12288 matrices.
#
# Prediction for rank 4: 96 · 2 · 4 · (12288 + 12288) = **18,874,368**.

# %%
with torch.device("meta"):
    gpt3 = nn.ModuleList(nn.ModuleDict({name: nn.Linear(12288, 12288) for name in QV}) for _ in range(96))
add_adapters(gpt3, AdapterConfig(rank=4, alpha=32, targets=QV))
at_rank_4 = count_parameters(gpt3)[0]
assert at_rank_4 == lora_parameters(MODELS["GPT-3 175B"].shapes(QV), rank=4)
print(f"GPT-3, q and v, rank 4: {at_rank_4:,}")

ratio = 175_255.8e6 / at_rank_4  # the paper's own count of GPT-3's parameters
claims["ratio"].measure(ratio, f"{ratio:,.0f} times at rank 4")

# %% [markdown]
# "10,000 times" is a round number for one setting. It depends on the rank like everything here: at rank 1 the ratio
# is four times as large, at rank 64 it is a sixteenth.
#
# ## The counts of the LoRA paper
#
# Each row is a set-up, our exact count, and the printed figure. The verdict comes from the digits, as defined above.


# %%
def hold(claim, rows):
    """Print our count beside the published figure, row by row, and judge the claim by how many figures add up.

    A row is (set-up, our count, the same in the unit printed, the figure as printed, unit).
    """
    shown, missed = [], []
    for what, count, value, printed, unit in rows:
        fits = prints_as(value, printed)
        missed += [] if fits else [what]
        verdict = "reproduced" if fits else "does not add up"
        ours = f"{value:.5g} {unit}" if unit else f"{value:,}"
        shown.append([what, f"{count:,}", ours, f"{printed.replace('_', ',')} {unit}".strip(), verdict])
    print(stats.table(["set-up", "our count", "that is", "published", "verdict"], shown), end="\n\n")
    good = len(rows) - len(missed)
    words = f"{good} of {len(rows)} figures add up" + (f"; not those of {', '.join(missed)}" if missed else "")
    claim.measure([good, len(rows)], words)
    return missed


# %% [markdown]
# All of these put adapters on q and v. The ranks are the ones that the paper states (tables 9, 10, 11 and 15).

# %%
stated = [
    ("GPT-3 175B", 1, "4.7"),
    ("GPT-3 175B", 4, "18.8"),
    ("GPT-3 175B", 8, "37.7"),
    ("GPT-3 175B", 64, "301.9"),
    ("RoBERTa base", 8, "0.3"),
    ("RoBERTa large", 8, "0.8"),
    ("DeBERTa XXL", 8, "4.7"),
    ("GPT-2 M", 4, "0.35"),
    ("GPT-2 L", 4, "0.77"),
]
rows = []
for name, rank, printed in stated:
    count = lora_parameters(MODELS[name].shapes(QV), rank)
    rows.append((f"{name} r {rank}", count, count / 1e6, printed, "M"))
missed = hold(claims["lora"], rows)

for (what, *_), (name, rank, printed) in zip(rows, stated, strict=True):
    if what in missed:
        needed = float(printed) * 1e6 / lora_parameters(MODELS[name].shapes(QV), rank=1)
        print(f"{name}: {printed} M would need rank {needed:.2f}; the paper says {rank}")

# %% [markdown]
# A needed rank close to an integer suggests that another rank was used than the one stated. A needed rank far from
# any integer means that no rank gives the figure, so something else was counted or a digit slipped. Either way the
# figure and the set-up cannot both be right. It changes nothing in the paper's findings. It does show why you should
# count for yourself before you compare "at equal parameters".
#
# ## The percentages of the DoRA paper
#
# DoRA (chapter 09) trains one more number for each output of a layer, the magnitude: `r (d_in + d_out) + d_out`. The
# paper prints percentages, of base *and* adapters together, as PEFT's `trainable%` does. Adapters are on q, k, v, up
# and down. So we need the total of each base as well.
#
# Prediction for LLaMA-7B: 6,738,415,616. The embedding and the head are 2 · 32000 · 4096. Each of 32 layers has 4 ·
# 4096² + 3 · 4096 · 11008 weights and two norms of 4096, and one more norm ends the model.

# %%
targets = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
printed = {
    "LLaMA-7B": {"LoRA r 32": "0.83", "DoRA r 16": "0.43", "DoRA r 32": "0.84"},
    "LLaMA-13B": {"LoRA r 32": "0.67", "DoRA r 16": "0.35", "DoRA r 32": "0.68"},
    "Llama-3-8B": {"LoRA r 32": "0.70", "DoRA r 16": "0.35", "DoRA r 32": "0.71"},
}
assert MODELS["LLaMA-7B"].parameters() == 6_738_415_616
rows = []
for name, figures in printed.items():
    total, shapes = MODELS[name].parameters(), MODELS[name].shapes(targets)
    for method, figure in figures.items():
        count_of = counting.dora_parameters if method.startswith("DoRA") else lora_parameters
        count = count_of(shapes, rank=int(method.split()[-1]))
        rows.append((f"{name} {method}", count, 100 * count / (total + count), figure, "%"))
missed = hold(claims["dora"], rows)

# %% [markdown]
# Where a DoRA figure does not add up, the first suspect is the magnitude. The next cell counts again without it.

# %%
for name, figures in printed.items():
    for method, figure in figures.items():
        if f"{name} {method}" in missed:
            count = lora_parameters(MODELS[name].shapes(targets), rank=int(method.split()[-1]))
            share = 100 * count / (MODELS[name].parameters() + count)
            same = "which is" if prints_as(share, figure) else "which is not"
            print(f"{name} {method} without magnitudes: {share:.3f} %, {same} the printed {figure} %")

# %% [markdown]
# ## What PEFT prints
#
# PEFT's documentation shows the output of `print_trainable_parameters()` for many models. These are exact, so ours
# must be equal to the last digit. Mind the shapes: Qwen2.5-3B has narrow k and v (grouped-query attention). Whisper,
# FLAN-T5 and mT0 have an encoder and a decoder, and the decoder attends twice in each layer, so they have 1 + 2
# attention modules for every pair of layers.

# %%
documented = [
    ("Qwen2.5-3B", QV, 16, "3_686_400"),
    ("Llama-3.2-1B", ("q_proj",), 8, "524_288"),
    ("OPT-6.7B", QV, 16, "8_388_608"),
    ("Whisper large-v2", QV, 32, "15_728_640"),
    ("FLAN-T5 large", QV, 16, "4_718_592"),
    ("OPT-350M", QV, 16, "1_572_864"),
    ("mT0 large", QV, 8, "2_359_296"),
]
rows = []
for name, targets, rank, printed in documented:
    count = lora_parameters(MODELS[name].shapes(targets), rank)
    letters = "".join(target[0] for target in targets)
    rows.append((f"{name} {letters} r {rank}", count, count, printed, ""))
missed = hold(claims["peft"], rows)

# %% [markdown]
# ## LoRA Without Regret, and QLoRA
#
# The blog post compares attention alone with the MLP alone on Llama-3.1-8B, and prints a count for each. We take its
# words at face value first: the layers named, and no others. Then we add an adapter on the output head (`lm_head`,
# also called unembedding), which the words do not mention.

# %%
llama3 = MODELS["Llama-3-8B"]  # Llama-3.1-8B has the same sizes
places = {"MLP": MLP, "attention": ATTENTION, "all": ALL_LINEAR, "the head": ("lm_head",)}
compared = [("MLP", 256, "0.49"), ("attention", 256, "0.25"), ("all", 256, "0.70"), ("MLP", 128, "0.24")]


def counted(*extra):
    rows = []
    for what, rank, printed in compared:
        count = lora_parameters(llama3.shapes([*places[what], *extra]), rank)
        rows.append((f"{what} r {rank}", count, count / 1e9, printed, "B"))
    return rows


hold(claims["regret"], counted())
fits = [prints_as(value, printed) for _, _, value, printed, _ in counted("lm_head")]
print(f"\nWith an adapter on the head too, {sum(fits)} of {len(fits)} figures add up:")
print("  " + ", ".join(f"{what} {value:.3f} B" for what, _, value, _, _ in counted("lm_head")))
print("For each unit of rank:", ", ".join(f"{n} {lora_parameters(llama3.shapes(t), 1):,}" for n, t in places.items()))

# %% [markdown]
# The head is one matrix, but a wide one: it maps 4096 to 128,256. That is why leaving it in or out moves the count.
# In this book "all linear" leaves it out, as PEFT does.
#
# QLoRA (2305.14314) states its set-up, rank 64 on all linear layers, and prints no counts. So there is no figure to
# hold ours against, and the next table gives no verdict. It will be useful in chapter 06, where these adapters take
# memory.

# %%
rows = []
for name in ("LLaMA-7B", "LLaMA-13B", "LLaMA-33B", "LLaMA-65B"):
    total, count = MODELS[name].parameters(), lora_parameters(MODELS[name].shapes(ALL_LINEAR), rank=64)
    rows.append([name, f"{total:,}", f"{count:,}", f"{100 * count / (total + count):.3f}"])
print(stats.table(["base", "its parameters", "all linear, r 64", "%"], rows))
results.record(qlora_counts={row[0]: row[2] for row in rows})

# %% [markdown]
# ## Counting wrongly, on purpose
#
# Every miscount below raises no error. Predict for each whether it comes out too high or too low, and by how much.
#
# 1. Llama-3-8B has 32 query heads and 8 key-value heads, so k and v are 1024 wide. Forget that, and take 4096.
# 2. Count the output head as one of "all linear", where the set-up leaves it out (as the words above do).
# 3. Take a fused qkv layer, one matrix of shape (3d, d), for three matrices. It gets one `A` and one `B`, not three.
# 4. Halve the count of the adapters when the base is in 4 bits, as QLoRA's own script does (artidoro/qlora#260). The
#    *base* packs two weights into a byte, so what torch counts of it has to be doubled. The adapters are never
# packed.

# %%
truth = count_parameters(giants["Llama-3-8B"])[0]
d = 4096
wrong = {
    "k and v as wide as q": (lora_parameters(replace(llama3, kv=None).shapes(ALL_LINEAR), 64), truth),
    "the head counted too": (lora_parameters(llama3.shapes([*ALL_LINEAR, "lm_head"]), 64), truth),
    "a fused qkv taken for three": (lora_parameters(3 * [(d, d)], 64), lora_parameters([(3 * d, d)], 64)),
    "halved, as the base is in 4 bits": (truth // 2, truth),
}
rows = []
for what, (count, right) in wrong.items():
    rows.append([what, f"{count:,}", f"{right:,}", f"{100 * (count / right - 1):+.1f}"])
print(stats.table(["mistake", "counted", "right", "off by %"], rows))

# %% [markdown]
# The third is more than a matter of bookkeeping. In the fused layer q, k and v share one `A`, so they all read the
# same `r` directions of the input. Three separate adapters of rank `r` can each read their own. That is another
# model, not only another number.
#
# The right count for the first two is taken from the model on the `meta` device, whose layers were made by the
# model's own code. When in doubt, do that.
#
# ## Do parameters count the same wherever they are?
#
# So far this was arithmetic. Now the claim about quality. We teach the base rot13, as in chapter 01, with four
# placements: all linear layers; attention (q, k, v, o); the MLP (gate, up, down); q and v. Each gets the rank that
# brings it closest to one of two budgets.

# %%
shape = size.model
kv = shape.hidden_size // shape.num_attention_heads * shape.num_key_value_heads
tiny = counting.Transformer(shape.num_hidden_layers, shape.hidden_size, kv, shape.intermediate_size, shape.vocab_size)
placements = {"all linear": ALL_LINEAR, "attention": ATTENTION, "MLP": MLP, "q and v": QV}
budgets = {"small": lora_parameters(tiny.shapes(MLP), rank=2), "large": lora_parameters(tiny.shapes(MLP), rank=7)}

methods, rows = {}, []
for budget_name, budget in budgets.items():
    for place, targets in placements.items():
        rank = counting.rank_for_budget(tiny.shapes(targets), budget)
        methods[f"{place}, {budget_name}"] = Run(adapter=AdapterConfig(rank=rank, alpha=32, targets=targets))
        rows.append([budget_name, place, rank, f"{lora_parameters(tiny.shapes(targets), rank):,}", f"{32 / rank:.2f}"])
print(stats.table(["budget", "placement", "rank", "parameters", "alpha / r"], rows))
for budget_name in budgets:
    counts = [int(row[3].replace(",", "")) for row in rows if row[0] == budget_name]
    print(f"{budget_name}: the largest has {max(counts) / min(counts) - 1:.0%} more parameters than the smallest")

# %% [markdown]
# Two things in this table could spoil the comparison. The budgets are matched as well as whole ranks allow, not
# exactly; check the column. And the scaling `alpha / r` differs, because the ranks do. A method with a larger
# scaling takes larger steps at the same learning rate. Therefore each method gets its own best rate, from the same
# number of tries, so no method is held back by a rate that suits another.
#
# **Write down your prediction**: the order of the four placements at the larger budget. The blog post expects the
# MLP ahead of attention. And does the MLP with the small budget beat attention with the large one?

# %%
before = measure(pretrained(size), "rot13", size)
tuned = compare(methods, size, known=results.known_rates("placement"))
results.record_sweep("placement", tuned)
results.record(before=before, budgets=budgets)
for label, t in tuned.items():
    config = t.run.adapter
    assert t.values("trained")[0] == lora_parameters(tiny.shapes(config.targets), config.rank), label
rows = [
    [label, t.run.adapter.rank, f"{t.values('trained')[0]:,}", f"{t.run.lr:.4f}", stats.shown(t.values("task_loss"))]
    for label, t in tuned.items()
]
print(f"the base stands at {before['task_loss']:.2f} nats a character on rot13")
print(stats.table(["method", "rank", "trained", "rate", "rot13"], rows))

# %% [markdown]
# The comparison itself is paired: with the same seed, both methods see the same batches, and what the seeds have in
# common cancels in the difference.

# %%
losses = {label: t.values("task_loss") for label, t in tuned.items()}
differences = [stats.paired(losses[f"attention, {b}"], losses[f"MLP, {b}"]) for b in budgets]
words = []
for budget_name, (mean, half) in zip(budgets, differences, strict=True):
    certain = "one seed, so no interval" if half != half else f"± {half:.3f}"
    words.append(f"{mean:+.3f} ({certain}) at the {budget_name} budget")
claims["placement"].measure(differences, "attention minus MLP: " + ", ".join(words) + " nats a character")

mean, half = stats.paired(losses["q and v, large"], losses["attention, large"])
certain = "one seed, so no interval" if half != half else f"± {half:.3f}"
claims["qv"].measure([mean, half], f"q and v minus q, k, v and o: {mean:+.3f} ({certain}) nats a character")

gap, half = stats.paired(losses["attention, large"], losses["MLP, small"])
times = tuned["attention, large"].values("trained")[0] / tuned["MLP, small"].values("trained")[0]
certain = "one seed, so no interval" if half != half else f"± {half:.3f}"
print(f"\nAttention at the large budget minus the MLP at the small one, {times:.1f} times fewer parameters: ", end="")
word = "which is no difference" if abs(gap) <= half else "where below 0 means attention ahead"
print(f"{gap:+.3f} ({certain}), {word}.")


# %% [markdown]
# In the figure, height at the same place on the horizontal axis is what a placement is worth. Bars are 95 %
# intervals of the mean, where there is more than one seed.


# %%
fig, (ax,) = plots.canvas()
colours = dict(zip(placements, (plots.BLACK, plots.RED, plots.BLUE, plots.ORANGE), strict=True))
lines = {}
for place, colour in colours.items():
    found = [tuned[f"{place}, {b}"] for b in budgets]
    means, halves = zip(*(stats.interval(t.values("task_loss")) for t in found), strict=True)
    lines[place] = [t.values("trained")[0] for t in found], means
    plots.band(ax, lines[place][0], means, halves, colour)
ticks = list(budgets.values())
ax.set(xscale="log", xticks=ticks, xticklabels=[f"{n:,}" for n in ticks], xlim=(ticks[0] * 0.8, ticks[1] * 1.5))
ax.minorticks_off()
ax.set(xlabel="trained parameters", ylabel="loss on rot13 (nats a character)")
ax.set_title("Four places for the adapters, at two budgets")
nudges = plots.apart(ax, {place: means[-1] for place, (_, means) in lines.items()})
edge = max(x[-1] for x, _ in lines.values())  # one column of labels, right of the last point
for place, (_, means) in lines.items():
    plots.label_end(ax, [edge], means[-1:], place, colours[place], dy=nudges[place])
words = "Bars: 95 % intervals over seeds, where there are several; placements whose bars overlap may be tied."
results.figure(fig, "placement", f"The base stands at {before['task_loss']:.2f}. {words}")


# %% [markdown]
# ## The verdict
#
# Printed from what was counted and measured above:

# %%
for claim in claims.values():
    print(f"{claim.says}: {claim.verdict.upper()}. {claim.shown}.\n   (criterion: {claim.criterion})")
path = results.save()
print("written:", path.name)

# %% [markdown]
# Keep in mind what the last two verdicts are about. The model is small, the task changes every letter, and the run
# is short. The MLP's matrices are also wider than attention's, so at equal counts the ranks differ: "where" and
# "which rank" cannot be separated entirely.
#
# ## Exercises
#
# **1. The formula.** Write the count for a list of (out, in) shapes. The check knows the usual slips.


# %%
from lora_from_scratch.book.checks import ch02 as check


def my_count(shapes, rank):
    """The number of LoRA parameters on matrices of these (out, in) shapes."""
    return None  # your code here


print(check.check_count(my_count))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_count(shapes, rank):
#     return rank * sum(d_out + d_in for d_out, d_in in shapes)
# ```
#
# </details>
#
# **2. Break-even.** From which rank on does LoRA train as many numbers as the matrix has? Give the rank, as a number
# that need not be whole, for any shape. What does it come to for 4096 × 4096?


# %%
def my_break_even(d_out, d_in):
    """The rank at which r · (d_in + d_out) equals d_in · d_out."""
    return None  # your code here


print(check.check_break_even(my_break_even))

# %% [markdown]
# <details><summary>Solution</summary>
#
# `r = d_in d_out / (d_in + d_out)`: half the side of a square matrix, 2048 here. Beyond it LoRA trains more numbers
# than full fine-tuning would, though its update has at most the rank of the matrix.
#
# ```python
# def my_break_even(d_out, d_in):
#     return d_in * d_out / (d_in + d_out)
# ```
#
# </details>
#
# **3. A slip in print.** Section D.4 of the LoRA paper says that 37.7 M parameters on GPT-3 are "r_q = r_v = 8 or
# r_q = r_k = r_v = r_o = 2". One of the two does not give 37.7 M. Which is it, and which rank should stand there?

# %%
my_slip = {"matrices": None, "rank": None}  # "qv" or "qkvo", and the rank that gives 37.7 M
print(check.check_slip(my_slip))

# %% [markdown]
# <details><summary>Solution</summary>
#
# Twice the matrices at the same count means half the rank: q, k, v and o take rank 4, as table 15 of the paper has
# it.
#
# ```python
# my_slip = {"matrices": "qkvo", "rank": 4}
# ```
#
# </details>
#
# **4. A budget.** You may train at most 59 million parameters on Llama-3-8B, on all linear layers but the head. What
# is the largest rank? (`MODELS["Llama-3-8B"].shapes(ALL_LINEAR)` gives the shapes.)

# %%
my_rank = None  # your number here
print(check.check_rank(my_rank))

# %% [markdown]
# <details><summary>Solution</summary>
#
# One unit of rank costs 2,621,440 parameters, and 59,000,000 / 2,621,440 is 22.5. So 22, which trains 57,671,680. With
# `k` and `v` as wide as `q` one would say 20, with the head 21: under a budget each slip costs rank.
#
# </details>
#
# ## The same with PEFT
#
# PEFT counts on a model, and that model may be on the `meta` device too:
#
# ```python
# import torch
# from peft import LoraConfig, get_peft_model
# from transformers import LlamaConfig, LlamaForCausalLM
#
# with torch.device("meta"):
#     model = LlamaForCausalLM(LlamaConfig())  # its defaults are LLaMA-7B's sizes
# model = get_peft_model(model, LoraConfig(r=64, target_modules="all-linear"))
# model.print_trainable_parameters()
# trainable, total = model.get_nb_trainable_parameters()
# ```
#
# It prints the count that we predicted above, 159,907,840. For a base in 4 bits PEFT corrects for the packing, so
# its total is one of weights, not of bytes.
