# %% [markdown]
# # 06 · Memory
#
# **The question.** Where do the bytes of a training step go, and which of them does LoRA save? People switch to LoRA,
# look at `nvidia-smi`, and find that it has hardly moved. How can that be, when so few numbers are trained?
#
# **What you will be able to do.** Name the five parts of a training step and compute each on paper. Look at what
# autograd keeps, tensor by tensor. Say before a run whether a model fits a card of 24, 48 or 80 GB. Predict the batch
# from which on LoRA saves next to nothing, and know what to do then.
#
# **What you need.** PyTorch, the LoRA layer of chapter 01, and the 4-bit layer of chapter 05.
#
# **Units.** 1 MB is 10⁶ bytes and 1 GB is 10⁹. 1 MiB is 2²⁰ bytes and 1 GiB is 2³⁰, 7 % more than a GB. Papers mix
# them, and this chapter always says which.
#
# **The published claims.** LoRA (arXiv 2106.09685, abstract and section 4.2) cuts GPT-3's training memory "by 3
# times", from 1.2 TB to 350 GB. QLoRA (2305.14314) fine-tunes 65 billion weights on one 48 GB card, where 16-bit
# fine-tuning takes 780 GB. PEFT's own comparison on Llama-3.2-3B measured less: LoRA took 1.7 times less, not 3.

# %%
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lora_from_scratch import AdapterConfig, NF4Linear, add_adapters, nf4, qlora, quantize_model, trainable_parameters
from lora_from_scratch.analysis.counting import ALL_LINEAR, MODELS, lora_parameters, prints_as
from lora_from_scratch.analysis.memory import BFLOAT16, FLOAT32, MIXED, STATE32, training_bytes
from lora_from_scratch.analysis.simulate import checkpoint_blocks, measured_bytes, simulated_bytes
from lora_from_scratch.lab import plots, stats
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.results import Results

torch.set_num_threads(1)
size = preset()
results = Results("06_memory", size)
METHODS, QV, GB = ("full", "lora", "qlora"), ("q_proj", "v_proj"), 1e9
PARTS = ("weights", "constants", "gradients", "optimizer", "activations")

# %% [markdown]
# ## What would count as success
#
# Two kinds of claims. The first kind is about *our* accounting: a formula, a simulation and a real step must give the
# same bytes. Activations get a wider tolerance than what is stored, because they depend on the details of a model.


# %%
def all_or_some(found):
    good, total = found
    return "reproduced" if good == total else "partly" if good else "does not add up"


claims = {
    "three_ways": results.claim(
        "three_ways",
        says="closed form, simulation and a real step agree on the bytes of every part",
        source="this book",
        published="the same bytes, however one counts",
        criterion="full, LoRA and QLoRA: weights, constants, gradients and state within 2 %, activations within 10 %",
        judge=lambda worst: worst[0] <= 0.02 and worst[1] <= 0.10,
    ),
    "crossover": results.claim(
        "crossover",
        says="from a number of tokens that the closed form predicts, activations outweigh all that LoRA saves",
        source="this book; the question is peft#1514",
        published="LoRA takes as much memory as full fine-tuning when the context is long",
        criterion="the predicted crossover is within 5 % of the measured one at every width, and the measured ratio of "
        "full to LoRA at the most tokens is below 1.5",
        judge=lambda found: found[0] <= 0.05 and found[1] < 1.5,
    ),
}

# %% [markdown]
# The second kind are figures that others printed. A figure *adds up* if ours, rounded or cut to the digits printed,
# is that figure. A source is "reproduced" if all its figures add up, "partly" if some do. Where a figure was measured
# on a card, we allow 10 %: an allocator rounds, and holds more than we count.

# %%
rule = "all figures are ours, to the digits printed: reproduced; some: partly; none: does not add up"
near = "all measured figures are within 10 % of ours: reproduced; some: partly; none: does not add up"
sources = {
    "nf4": ("NF4 needs 4.127 bits a weight", "2305.14314, section 3", "4.5 to 4.127 bits, 3 GB at 65B", rule),
    "full_65b": ("16-bit fine-tuning of 65B takes 780 GB", "2305.14314, section 1", "more than 780 GB", rule),
    "tables": ("model states with Adam and Lion", "2405.09673, tables S14 to S16", "twelve sizes in GB", rule),
    "gpt3": ("GPT-3 from 1.2 TB to 350 GB", "2106.09685, section 4.2", "1.2 TB, 350 GB, 35 MB", rule),
    "figure_8": ("QLoRA's totals", "2305.14314, figure 8", "6.9, 11.3, 24.7 and 45.0 GB", near),
    "peft": ("memory between steps", "PEFT's comparison, Llama-3.2-3B", "26.07 GB full, 6.92 GB LoRA", near),
}
for name, (says, source, published, criterion) in sources.items():
    claims[name] = results.claim(name, says, source, published, criterion, all_or_some)

# %% [markdown]
# And two claims that one remembers. The parts that we count are not all that a card holds: the CUDA context takes
# several hundred MB, and some tensors live for a moment. So "fits" means that at least 1 GB is left over.

# %%
claims["one_card"] = results.claim(
    "one_card",
    says="QLoRA fine-tunes a 65B model on one 48 GB GPU",
    source="2305.14314, abstract",
    published="65B on a single 48 GB GPU",
    criterion="r 64, batch 1, 512 tokens, checkpointing: at least 1 GB of 48 GB is left: reproduced; less: partly",
    judge=lambda left: "reproduced" if left >= 1 else "partly" if left >= 0 else "does not add up",
)
claims["three_times"] = results.claim(
    "three_times",
    says="LoRA needs 3 times less memory than full fine-tuning",
    source="2106.09685, abstract and section 4.2",
    published="3 times (GPT-3 175B)",
    criterion="the ratio is at least 3 for LLaMA-7B in 16 bits (state in float32) at 512 tokens and at 65,536: "
    "reproduced; at one of them: partly",
    judge=lambda ratios: [False, "partly", "reproduced"][sum(ratio >= 3 for ratio in ratios)],
)

# %% [markdown]
# ## Five parts, by hand
#
# A training step holds
#
# 1. the **weights**, frozen or not;
# 2. the **constants** that decode them, if they are in 4 bits;
# 3. a **gradient** for each trained number;
# 4. the **optimizer's state**: AdamW keeps two numbers for each trained one;
# 5. the **activations**: what the forward pass keeps because the backward pass needs it.
#
# The first four depend on the model, and the last on the batch as well. Predict for the book's Llama in float32, all
# weights trained: if the weights take one unit, how many units are the gradients and the state?

# %%
config, rank = size.model, 8
batch, length = 2, config.max_position_embeddings


def random_batch(batch, length, vocabulary=config.vocab_size):
    ids = torch.randint(vocabulary, (batch, length), device=size.device)
    return ids, ids.flatten()


model = TinyLlama(config).to(size.device)
numbers = sum(p.numel() for p in model.parameters())
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
ids, labels = random_batch(batch, length)
F.cross_entropy(model(ids).flatten(0, 1), labels).backward()
optimizer.step()
by_hand = {
    "weights": sum(p.nbytes for p in model.parameters()),
    "gradients": sum(p.grad.nbytes for p in model.parameters()),
    "optimizer": sum(s["exp_avg"].nbytes + s["exp_avg_sq"].nbytes for s in optimizer.state.values()),
}
closed = training_bytes(config, "full", batch, length)
for part, found in by_hand.items():
    print(f"{part:10} {found:12,} bytes = {found / numbers:.0f} a weight; the closed form: {getattr(closed, part):,}")
    assert found == getattr(closed, part)

# %% [markdown]
# Four, four and eight: sixteen bytes for every weight that is trained, before the first activation. Freeze a weight,
# and twelve of the sixteen are gone. That is what LoRA saves, and as good as all that it saves.
#
# Then the last part. Autograd tells what it keeps, if we ask: `saved_tensors_hooks` calls a function of ours for
# every tensor that the forward pass puts aside. A tensor may be put aside twice, or be a view of another one, so we
# count storages, not tensors. Weights and the batch are there anyway, and do not count.


# %%
def kept_by_autograd(model, ids, labels):
    """{address of a storage: (bytes, shape, the part of the model that was running)}, and the loss."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), ids, labels)}
    kept, running = {}, ["loss"]
    for name, module in model.named_modules():
        if name.endswith(("norm", "self_attn", "mlp", "lm_head")):
            label = (
                name.split(".")[-1].replace("post_attention_", "").replace("input_", "").replace("layernorm", "norm")
            )
            module.register_forward_pre_hook(lambda m, x, label=label: running.append(label))
            module.register_forward_hook(lambda m, x, y: running.pop() and None)

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept.setdefault(storage.data_ptr(), (storage.nbytes(), tuple(tensor.shape), running[-1]))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = F.cross_entropy(model(ids).flatten(0, 1), labels)
    return kept, loss


# %% [markdown]
# Three models: everything trained, adapters on all linear layers, and adapters over a 4-bit base. Predict: LoRA trains
# a few per cent of the numbers. By how much does it shrink the activations?


# %%
def made(method, config=config, rank=rank, targets="all-linear"):
    """The model that a method trains."""
    torch.manual_seed(0)
    model = TinyLlama(config)
    if method == "qlora":
        quantize_model(model)
    if method != "full":
        add_adapters(model, AdapterConfig(rank=rank, alpha=32, targets=targets))
    return model.to(size.device)


# %% [markdown]
# Every piece goes to the part of the model that was running when it was kept; what belongs to no part (the residual
# sums, the loss) goes to the loss.

# %%
by_part = {}
for method in METHODS:
    kept, loss = kept_by_autograd(made(method), ids, labels)
    closed = training_bytes(config, method, batch, length, rank=rank)
    total = sum(nbytes for nbytes, _, _ in kept.values())
    assert abs(total - closed.activations) <= 0.1 * total
    for nbytes, _, label in kept.values():
        by_part.setdefault(label, dict.fromkeys(METHODS, 0))[method] += nbytes
    by_part.setdefault("sum", {})[method] = total
by_part["sum"] = by_part.pop("sum")
rows = [[label, *(f"{found[m]:,}" for m in METHODS)] for label, found in by_part.items()]
print(stats.table(["kept by (all layers), bytes", *METHODS], rows))
for method in METHODS[1:]:
    print(f"{method} keeps {by_part['sum'][method] / by_part['sum']['full']:.1%} of full fine-tuning's activations")
results.record(kept_by_part=by_part)

# %% [markdown]
# Why does a frozen base keep activations at all? Two reasons, and both are the chain rule.
#
# - The gradient must pass *through* the frozen layers to reach adapters further down. Through a frozen linear layer
#   it passes with `W` alone, which is there anyway. But attention, SiLU, the product of gate and up, the norms: each
#   needs its own inputs to pass a gradient on, frozen or not.
# - The gradient of `A` is a product with the layer's input `x`. So an adapted layer keeps `x`, just as a trained one.
#
# What LoRA does spare: the input of the head (if it has no adapter), one tensor at each norm, and all that the very
# first norm would keep, below which nothing is trained. What it adds is `s · A x` for each adapter, as wide as the
# rank. Here are the largest pieces of LoRA, one line a shape:

# %%
kept, loss = kept_by_autograd(made("lora"), ids, labels)
shapes = {}
for nbytes, shape, label in kept.values():
    count, before = shapes.get((label, shape), (0, 0))
    shapes[label, shape] = count + 1, before + nbytes
rows = [
    [label, str(shape), count, f"{nbytes:,}"]
    for (label, shape), (count, nbytes) in sorted(shapes.items(), key=lambda item: -item[1][1])[:10]
]
print(stats.table(["kept by", "shape", "how many", "bytes"], rows))
print(f"batch {batch}, length {length}, width {config.hidden_size}, MLP {config.intermediate_size}, rank {rank}")
square = [shape for _, shape in shapes if shape[-2:] == (length, length)]
print(f"tensors that end in (length, length), as attention weights do: {len(square)}")

# %% [markdown]
# The attention weights have the shape (batch, heads, length, length), and the last line looks for them.
# `scaled_dot_product_attention` need not keep them: it can compute them again in backward (FlashAttention, arXiv
# 2205.14135). Attention that is written out with a softmax keeps them, and then activations grow with the *square* of
# the length.
#
# ## Three ways to count
#
# - **Closed form**: `training_bytes` adds up sizes. It never builds a model.
# - **Simulated**: `simulated_bytes` runs the real step on *fake* tensors, which have a shape and no numbers, while
#   torch's `MemTracker` follows each of them. It allocates nothing, whatever the size.
# - **Measured**: `measured_bytes` runs the step for real, with the hook from above.
#
# They must agree, part by part. The closed form is ours, and could forget something; the simulation runs the model's
# own code and cannot.


# %%
def beside(columns):
    """A table of bytes by part: a column is a dictionary of them, or what training_bytes gives."""
    found = [column if isinstance(column, dict) else vars(column) for column in columns.values()]
    parts = dict.fromkeys(part for column in found for part in column)
    return stats.table(
        ["bytes", *columns], [[part, *(f"{c[part]:,}" if part in c else "" for c in found)] for part in parts]
    )


# %% [markdown]
# Mind the last two columns: the model's own code made them, once on fakes and once for real.

# %%
worst = [0.0, 0.0]
for method in METHODS:
    model = made(method)
    columns = {
        "closed form": training_bytes(model, method, batch, length, rank=rank),
        "simulated": simulated_bytes(model, batch, length),
        "measured": measured_bytes(model, batch, length),
    }
    print(f"{method}\n{beside(columns)}\n")
    for part in PARTS:
        closed = getattr(columns["closed form"], part)
        for way in ("simulated", "measured"):
            off = abs(closed / columns[way][part] - 1) if columns[way][part] else float(closed > 0)
            worst[part == "activations"] = max(worst[part == "activations"], off)
claims["three_ways"].measure(
    worst, f"largest difference {worst[0]:.2%} on what is stored, {worst[1]:.2%} on activations"
)

# %% [markdown]
# What is left: the optimizer also keeps a step counter of 4 bytes for each tensor, a 4-bit layer keeps its shape as
# three integers, and the loss itself is a number.
#
# `peak` is the most bytes there were at any one time, temporary tensors included. Do not expect it to be the sum of
# the parts. In the first step the optimizer's state is made when the activations are gone already. From the second
# step on it lies there all the time, so the sum of the parts is what to plan with.
#
# ## Breaking it on purpose
#
# Three mistakes that raise no error. Predict for each which part grows, and to how much.
#
# 1. **Nothing frozen.** The adapters are in, but the base still requires gradients, and the optimizer gets all of
#    `model.parameters()`. (So it goes if one writes an adapter layer and forgets `requires_grad_(False)`.)
# 2. **The decoded weight is kept.** A 4-bit layer whose forward is `F.linear(x, decode(codes))`, without a backward of
#    its own.
# 3. **No `no_grad`.** An evaluation in the training loop whose losses are collected with their graphs.


# %%
class Naive(nn.Module):
    """A 4-bit layer that lets autograd do what it likes."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return F.linear(x, self.inner.weight)  # decoded here, and kept until backward


naive = made("qlora")
for module in list(naive.modules()):
    for name, child in list(module.named_children()):
        if isinstance(child, NF4Linear):
            setattr(module, name, Naive(child))
broken = {
    "LoRA": measured_bytes(made("lora"), batch, length),
    "nothing frozen": measured_bytes(made("lora").requires_grad_(True), batch, length),
    "QLoRA": measured_bytes(made("qlora"), batch, length),
    "decoded kept": measured_bytes(naive, batch, length),
}
print(beside(broken))
results.record(broken=broken)

# %% [markdown]
# The third needs a loop. Four evaluations, their losses put into a list, as `losses.append(loss)` does:

# %%
model = made("lora")
in_a_list, held = [], 0
for _ in range(4):
    kept, loss = kept_by_autograd(model, *random_batch(batch, length))
    in_a_list.append(loss)  # the loss holds its graph, and the graph holds the activations
    held += sum(nbytes for nbytes, _, _ in kept.values())
    print(f"{len(in_a_list)} losses hold {held:12,} bytes", end="")
    with torch.no_grad():
        kept, _ = kept_by_autograd(model, *random_batch(batch, length))
    print(f"; under no_grad one holds {sum(nbytes for nbytes, _, _ in kept.values())}")

# %% [markdown]
# `loss.item()` or `torch.no_grad()` cures that. For the first mistake, print the trainable parameters and look at
# them, always. For the second, use a layer that decodes twice (chapter 05): what it trades for memory is time.
#
# ## Published numbers
#
# Now that we trust the formula, hold it against what the papers print. A row of the next tables is a set-up, our
# figure, the printed one, and whether they agree.


# %%
def hold(claim, rows):
    """Rows are (what, our value, printed figure, unit). Prints them, and judges by how many add up."""
    fits = [prints_as(value, printed) for _, value, printed, _ in rows]
    shown = [
        [what, f"{value:.5g} {unit}", f"{printed} {unit}", "reproduced" if fit else "does not add up"]
        for (what, value, printed, unit), fit in zip(rows, fits, strict=True)
    ]
    print(stats.table(["what", "ours", "published", "verdict"], shown), end="\n\n")
    missed = [what for (what, *_), fit in zip(rows, fits, strict=True) if not fit]
    words = f"{sum(fits)} of {len(fits)} figures add up" + (f"; not {', '.join(missed)}" if missed else "")
    claim.measure([sum(fits), len(fits)], words)


# %% [markdown]
# **Bits of NF4.** On paper: 4 bits and a float32 for each block of 64 is `4 + 32/64`. Double quantized, the constant is
# one byte and a float32 for each 256 of them: `4 + 8/64 + 32/(64 · 256)`. We read ours off a real quantized matrix of
# the size of a layer. **16-bit fine-tuning of 65B**: 2 bytes a weight, 2 a gradient, and two states in float32.

# %%
weight = torch.randn(1024, 4096).numpy()
single, double = (nf4.quantize(weight, double=d).bits_per_parameter for d in (False, True))
hold(
    claims["nf4"],
    [
        ("bits a weight, constants in float32", single, "4.5", "bits"),
        ("double quantized", double, "4.127", "bits"),
        ("saved", single - double, "0.373", "bits"),
        ("saved on 65 billion weights", (single - double) / 8 * 65, "3.0", "GB"),
    ],
)
per_weight = STATE32.trained()
hold(claims["full_65b"], [("65 billion weights, 12 bytes each", per_weight * 65, "780", "GB")])
own = training_bytes(MODELS["LLaMA-65B"], "full", 1, 512, precision=STATE32)
without = (own.total - own.activations) / GB
print(f"LLaMA-65B's exact {MODELS['LLaMA-65B'].parameters():,} weights give {without:.0f} GB, without activations")

# %% [markdown]
# **Adam and Lion in mixed precision.** *LoRA Learns Less and Forgets Less* counts, without activations: weights,
# gradients, a second copy of the weights, and the states. With Adam that makes 16 bytes a trained number, with Lion
# 12. For LoRA it counts 2 bytes for every frozen weight, and those 16 or 12 for 1 % of them.

# %%
assert (MIXED.trained("adamw"), MIXED.trained("lion")) == (16, 12)
printed = {
    7: ("112", "84", "15.12", "14.84"),
    70: ("1120", "840", "151.2", "148.4"),
    405: ("6480", "4860", "874.8", "858.6"),
}
rows = []
for billions, figures in printed.items():
    adam, lion = MIXED.trained("adamw"), MIXED.trained("lion")
    ways = {"Adam": adam, "Lion": lion, "LoRA, Adam": 2 + 0.01 * adam, "LoRA, Lion": 2 + 0.01 * lion}
    for (way, each), figure in zip(ways.items(), figures, strict=True):
        rows.append((f"{billions}B {way}", round(billions * each, 6), figure, "GB"))
hold(claims["tables"], rows)

# %% [markdown]
# Mind the 1 %: a frozen weight of 2 bytes outweighs its adapter by far, so LoRA ends close to the size of the weights.
#
# **GPT-3.** The LoRA paper gives 1.2 TB for fine-tuning with Adam, 350 GB for LoRA, and 35 MB for a checkpoint at r = 4
# on q and v. We try every usual way of counting, without activations.

# %%
accountings = {
    "weights and two states, no gradients (16 bits)": 6,
    "all in 16 bits": BFLOAT16.trained(),
    "16 bits, states in float32": STATE32.trained(),
    "mixed precision, with a copy": MIXED.trained(),
    "all in float32": FLOAT32.trained(),
}
rows = [[what, each, f"{175 * each:,}", prints_as(0.175 * each, "1.2")] for what, each in accountings.items()]
print(stats.table(["accounting", "bytes a weight", "GB at 175B", "1.2 TB?"], rows))
closest = min(accountings.values(), key=lambda each: abs(0.175 * each - 1.2))
checkpoint_mb = 2 * lora_parameters(MODELS["GPT-3 175B"].shapes(QV), 4) / 1e6
hold(
    claims["gpt3"],
    [
        (f"fine-tuning (closest: {closest} bytes)", 0.175 * closest, "1.2", "TB"),
        ("LoRA: the weights in 16 bits, nothing else", 175 * 2.0, "350", "GB"),
        ("checkpoint at r 4, in MB", checkpoint_mb, "35", "MB"),
    ],
)
print(f"1.2 TB are {1200 / 175:.2f} bytes a weight. The checkpoint is {checkpoint_mb * 1e6 / 2**20:.1f} MiB.")
print(f"1.2 TB over 350 GB is {1200 / 350:.2f}; and weights with two states of the same width over weights alone is 3.")

# %% [markdown]
# The last line may be where "3 times" comes from: the paper says that the saving is up to two thirds *because the
# optimizer's states go*. Leave out gradients and activations, keep everything in one width, and it is two thirds.
#
# **An adapter takes about 50 MB?** One reads that often, without a source. Count it:

# %%
llama = MODELS["LLaMA-7B"]
for what, targets in (("q and v", QV), ("all linear", ALL_LINEAR)):
    count = lora_parameters(llama.shapes(targets), 16)
    print(f"LLaMA-7B, rank 16, {what}, in 16 bits: {2 * count / 1e6:.2f} MB; for 50 MB: rank {50e6 / count * 8:.0f}")

# %% [markdown]
# **QLoRA's figure 8** breaks the memory down: rank 64, batch 1, 512 tokens. The paper prints a size for the model, one
# for the adapters, and a total. First the adapters: 18 · width · rank · layers values of two bytes give their figures
# exactly, and all linear layers of a Llama have somewhat more.

# %%
figure_8 = {"7B": (5046, 288, 6.9), "13B": (8476, 450, 11.3), "33B": (19302, 877.5, 24.7), "65B": (37074, 1440, 45.0)}
rows, good, totals = [], 0, {}
for name, (model_mb, adapters_mib, total_gb) in figure_8.items():
    shape = MODELS[f"LLaMA-{name}"]
    assert 18 * shape.width * 64 * shape.layers * 2 / 2**20 == adapters_mib
    added = 2 * lora_parameters(shape.shapes(ALL_LINEAR), 64)
    closed = training_bytes(shape, "qlora", 1, 512, 64, precision=STATE32, checkpoint=True)
    base = (closed.weights + closed.constants - added) / 1e6
    parts = model_mb + 6 * adapters_mib  # adapters, gradients as large, 8 bytes of state for every 2 of them
    off = closed.total / GB / total_gb - 1
    good += abs(off) <= 0.1
    totals[name] = closed.total / GB
    rows.append([name, adapters_mib, f"{added / 2**20:.0f}", f"{model_mb:,}", f"{base:,.0f}"])
    rows[-1] += [total_gb, f"{totals[name]:.2f}", f"{off:+.1%}", f"{parts / 1000:.2f}", f"{parts / 1024:.2f}"]
head = ["", "adapters, MiB", "ours", "model, MB", "ours", "total, GB", "ours", "off", "parts / 1000", "parts / 1024"]
print(stats.table(head, rows))
claims["figure_8"].measure(
    [good, 4], f"{good} of 4 totals within 10 %: " + ", ".join(f"{t:.1f}" for t in totals.values())
)
results.record(figure_8_totals_gb=totals)

# %% [markdown]
# The other columns tell more than the verdict. Under "model" the closed form has codes, constants, and a 16-bit rest
# (embedding, head, norms); the printed sizes are larger, and the paper does not say what else is in them. The last two
# columns add up the paper's own parts: model, adapters, gradients (taken as large as the adapters) and 8 bytes of
# state for each adapter weight. They depend on what a "GB" is: 1000 of the printed MB, or 1024.

# %%
gap = [f"{row[0]} {(figure_8[row[0]][0] - float(row[4].replace(',', ''))) / 1000:.2f}" for row in rows]
print("printed model minus ours, GB:", ", ".join(gap))
for column, unit in ((8, "1000 MB"), (9, "1024 MB")):
    above = [row[0] for row in rows if float(row[column]) > row[5] + 0.05]
    print(f"where a GB is {unit}, the printed parts exceed the printed total for:", ", ".join(above) or "none")
print(f"input gradients, 567 MB over {llama.layers} layers: {567 / llama.layers:.1f} MB a layer (printed: 18 MB)")

# %% [markdown]
# The last line: the paper says that checkpointing takes "input gradients" from 567 to 18 MB a sequence. That is one
# layer out of 32, as it should be if only one block at a time is in memory.
#
# ## A giant that is not there
#
# The formula agreed with a real step of a tiny model. Does it hold for 7 billion weights? Nobody needs a GPU to find
# out: on fake tensors the step of a LLaMA-7B runs in a minute, and takes no memory.
#
# Every block is alike (but for the first, below which LoRA trains nothing), so bytes grow by the same amount with each
# layer. We simulate 2 and 3 layers and draw the line through both to all 32. As a check that the line may be drawn,
# we simulate models with more layers, up to the whole. (`ROWS` sets how many rows of a 4-bit weight are decoded at a
# time. One large slice makes far fewer operations to follow. It changes what lives for a moment, and none of the
# parts.)

# %%
small = size.name == "smoke"
giant = LlamaConfig(1000, 256, 688, 32, 2, 2, 512) if small else LlamaConfig(32000, 4096, 11008, 32, 32, 32, 2048)
adapted = QV if small else ALL_LINEAR
qlora.ROWS = giant.intermediate_size


def simulated_giant(method, layers):
    """Bytes by part of a step of `layers` blocks of the giant, bfloat16, batch 1, 512 tokens, r 16. No memory taken."""
    fields = {name: getattr(giant, name) for name in giant.__dataclass_fields__} | {"num_hidden_layers": layers}
    with torch.device("meta"):
        model = TinyLlama(LlamaConfig(**fields)).to(torch.bfloat16)
        if method == "qlora":
            quantize_model(model)
        if method != "full":
            add_adapters(model, AdapterConfig(rank=16, alpha=32, targets=adapted))
    return simulated_bytes(model, 1, 512)


def line(two, three, layers):
    """The bytes of `layers` blocks, from those of 2 and of 3."""
    return {part: two[part] + (three[part] - two[part]) * (layers - 2) for part in PARTS}


# %% [markdown]
# Predict before you look: full fine-tuning of 7 billion weights in bfloat16 takes 8 bytes a weight, LoRA a little over
# 2, QLoRA a little over half a byte. And the activations of 512 tokens?

# %%
bend = {}
check, off = {} if small else {"full": 32, "lora": 16}, 0.0
for method in METHODS:
    two, three = simulated_giant(method, 2), simulated_giant(method, 3)
    extended = line(two, three, 32)
    closed = training_bytes(giant, method, 1, 512, 16, adapted, precision=BFLOAT16)
    print(f"{method}\n{beside({'closed form': closed, 'simulated, to 32': extended})}\n")
    off = max(off, *(abs(extended[part] / (getattr(closed, part) or 1) - 1) for part in PARTS if extended[part]))
    if method in check:
        whole, straight = simulated_giant(method, check[method]), line(two, three, check[method])
        bends = {part: whole[part] / straight[part] - 1 for part in PARTS if straight[part]}
        bend[method] = max(bends.values(), key=abs)
print(f"largest difference from the closed form: {off:.2%}")
for method, layers in check.items():
    print(f"{method} with {layers} layers, simulated, against the line through 2 and 3: {bend[method]:+.2%}")
if not check:
    print("(no larger models at this preset)")
results.record(giant_off=off, giant_bend=bend)

# %% [markdown]
# ## The stack of bytes
#
# The picture to keep. LLaMA-7B, weights and activations in bfloat16, AdamW's state in float32, rank 16, four sequences
# of 512 tokens. Three methods, each with and without *checkpointing*: keeping only the input of each block, and
# running the block again in backward. (More on it below.)

# %%
fig, (ax,) = plots.canvas(width=8.2, height=4.0)
colours = dict(zip(PARTS, (plots.BLUE, plots.BLUE, plots.SKY, plots.ORANGE, plots.RED), strict=True))
stack = {}
white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
for place, (method, checkpointed) in enumerate((m, c) for c in (False, True) for m in METHODS):
    found = training_bytes(llama, method, 4, 512, 16, precision=STATE32, checkpoint=checkpointed)
    name = {"full": "full", "lora": "LoRA", "qlora": "QLoRA"}[method] + (" + checkpointing" if checkpointed else "")
    stack[name], left = vars(found) | {"total": found.total}, 0.0
    for part in PARTS:
        width = getattr(found, part) / GB
        ax.barh(-place, width, left=left, color=colours[part], edgecolor="white", linewidth=0.8)
        if place == 0 and width > 1:
            ax.text(left + width / 2, 0.55, part, ha="center", color=colours[part], fontsize=9)
        left += width
    ax.text(left + 0.9, -place, f"{left:.1f} GB", va="center", fontsize=9, bbox=white)
for card in (24, 48, 80):
    ax.plot([card, card], [-6, 0.42], "--", color=plots.GREY, linewidth=1.1, zorder=0)
    ax.text(card + 0.4, -5.75, f"{card} GB card", color=plots.GREY, fontsize=9)
ax.set(yticks=[-i for i in range(6)], yticklabels=list(stack), xlabel="GB (10⁹ bytes)", ylim=(-5.9, 0.85))
ax.set_xlim(0, 1.12 * max(found["total"] for found in stack.values()) / GB)
ax.grid(visible=False)
ax.set_title("A training step of LLaMA-7B, 4 × 512 tokens", pad=12)
words = "LoRA takes the orange and the light blue, QLoRA most of the dark blue, checkpointing most of the red."
results.record(stack=stack)
results.figure(fig, "stack", words)

# %% [markdown]
# ### What fits on which card?
#
# The same for four sizes of model: batch 1, 512 tokens, rank 64, as in QLoRA's figure 8. A "fit" leaves 1 GB of the
# card for what we do not count. The claim about 65 billion weights is the last line of the table.

# %%
cards, rows, grid = (24, 48, 80), [], {}
for name in ("7B", "13B", "33B", "65B"):
    for method in METHODS:
        for checkpointed in (False, True):
            closed = training_bytes(
                MODELS[f"LLaMA-{name}"], method, 1, 512, 64, precision=STATE32, checkpoint=checkpointed
            )
            grid[name, method, checkpointed] = total = closed.total / GB
            fits = ["yes" if total + 1 <= card else "-" for card in cards]
            rows.append([name, method, "yes" if checkpointed else "no", f"{total:.1f}", *fits])
print(stats.table(["LLaMA", "method", "checkpointing", "GB", *(f"{card} GB?" for card in cards)], rows))
left = 48 - grid["65B", "qlora", True]
claims["one_card"].measure(left, f"{grid['65B', 'qlora', True]:.1f} GB, which leaves {left:.1f} GB")
single = training_bytes(MODELS["LLaMA-65B"], "qlora", 1, 512, 64, precision=STATE32, checkpoint=True, double=False)
print(f"Without double quantization, {single.total / GB:.1f} GB: {48 - single.total / GB:.1f} GB would be left.")
print(f"Without checkpointing, {grid['65B', 'qlora', False]:.1f} GB: {48 - grid['65B', 'qlora', False]:.1f} GB.")
results.record(fits={f"{name} {method}, checkpointing {c}": gb for (name, method, c), gb in grid.items()})

# %% [markdown]
# The same as a picture. Mind that the axis is logarithmic: each card is about twice the one before.

# %%
fig, (ax,) = plots.canvas(width=7.4, height=4.2)
colour_of = {"full": plots.RED, "lora": plots.BLUE, "qlora": plots.GREEN}
for place, name in enumerate(("7B", "13B", "33B", "65B")):
    for row, method in enumerate(METHODS):
        ends = [grid[name, method, True], grid[name, method, False]]
        y = -place - 0.24 * (row - 1)
        ax.plot(ends, [y, y], color=colour_of[method], linewidth=3, solid_capstyle="round")
        ax.plot(ends[:1], [y], "o", color=colour_of[method], markersize=6)
        if place == 0:
            label = {"full": "full", "lora": "LoRA", "qlora": "QLoRA"}[method]
            ax.text(0.93 * ends[0], y, label, color=colour_of[method], fontsize=9, ha="right", va="center")
for card in cards:
    ax.axvline(card, color=plots.GREY, linestyle="--", linewidth=1.2, zorder=0)
ax.set(
    xscale="log", xticks=[5, 10, *cards, 200, 400, 800], xticklabels=[5, 10, *cards, 200, 400, 800], xlim=(3.4, 1000)
)
ax.minorticks_off()
ax.set(yticks=[0, -1, -2, -3], yticklabels=["LLaMA-7B", "13B", "33B", "65B"], xlabel="GB, batch 1, 512 tokens, rank 64")
ax.grid(visible=False)
ax.set_title("What fits a card of 24, 48 or 80 GB (dashed)")
results.figure(fig, "fits", "Dots: with checkpointing. The line leads to what it takes without.")

# %% [markdown]
# ## When LoRA saves next to nothing
#
# LoRA saves gradients and state. They do not grow with the batch; activations do. So the more tokens in a step, the
# smaller the share that LoRA can save. Call `a` the bytes of activations a token, and `S` all the bytes that LoRA
# saves. At
#
# `tokens = S / a`
#
# activations are as large as the saving. Beyond that they rule. We call it the **crossover**.
#
# Predict how it depends on the model's width `d`. `S` is proportional to the number of weights, so to layers · d². `a`
# is proportional to layers · d. What is left?


# %%
def saving(config, precision=FLOAT32, rank=8, length=64, checkpoint=False):
    """(S, a): the bytes that LoRA saves, and its activations a token."""
    options = {"precision": precision, "checkpoint": checkpoint}
    full, lora = (training_bytes(config, m, 1, length, rank, **options) for m in ("full", "lora"))
    return full.total - full.activations - (lora.total - lora.activations), lora.activations / length


def ratio_at(config, tokens, length, precision, rank, checkpoint=False):
    """Bytes of full fine-tuning over those of LoRA, at this many tokens in sequences of `length`."""
    options = {"precision": precision, "checkpoint": checkpoint}
    full, lora = (training_bytes(config, m, tokens // length, length, rank, **options) for m in ("full", "lora"))
    return full.total / lora.total


# %% [markdown]
# For the giants, at QLoRA's precision and rank 16, and the ratio that the claim is about:

# %%
rows = []
for name in ("LLaMA-7B", "LLaMA-13B", "LLaMA-33B", "LLaMA-65B"):
    (saved, a), (_, again) = (saving(MODELS[name], STATE32, 16, 512, c) for c in (False, True))
    rows.append([name, MODELS[name].width, f"{saved / GB:.1f}", f"{a / 1e6:.2f}"])
    rows[-1] += [f"{saved / a:,.0f}", f"{saved / again:,.0f}"]
head = ["model", "width", "LoRA saves, GB", "activations a token, MB", "crossover, tokens", "with checkpointing"]
print(stats.table(head, rows))
ratios = [ratio_at(llama, tokens, 512, STATE32, 16) for tokens in (512, 65_536)]
claims["three_times"].measure(ratios, f"{ratios[0]:.2f} times at 512 tokens a step, {ratios[1]:.2f} at 65,536")

# %% [markdown]
# The crossover grows with the width: a small model reaches it with few tokens. Then it can be *measured* here, on
# models small enough to run. For a few widths we run real steps of full fine-tuning and of LoRA at growing batches,
# and count every byte. The predicted crossovers first. (The formula knows only tokens. Does it matter whether they come
# as many short sequences or as few long ones? The last line of the output looks at one case. It would matter to an
# attention that keeps its matrix.)

# %%
widths = (32, 64) if small else (64, 128, 256)
batches = (1, 4, 16) if small else (1, 2, 4, 8, 16, 32)
shapes = {w: LlamaConfig(128, w, 11 * w // 4, 4, max(1, w // 32), max(1, w // 32), 512) for w in widths}
predicted = {}
for w, shape in shapes.items():
    saved, a = saving(shape)
    predicted[w] = saved / a
    print(f"width {w}: predicted crossover at {predicted[w]:.0f} tokens a step")
many, long = (measured_bytes(made("lora", shapes[widths[0]]), *shape)["activations"] for shape in ((8, 64), (1, 512)))
print(f"batch or length? 8 sequences of 64 tokens keep {many:,} bytes, 1 of 512 keeps {long:,}")

# %% [markdown]
# And now the steps. From the measured bytes we also get a measured crossover: activations of LoRA lie on a straight
# line, and we look where it reaches what LoRA was measured to save.

# %%
points, crossed = {}, {}
for w, shape in shapes.items():
    found = []
    for b in batches:
        full, lora = (measured_bytes(made(m, shape), b, 64) for m in ("full", "lora"))
        found.append((64 * b, sum(full.values()) / sum(lora.values()), lora["activations"]))
    saved = sum(full[part] - lora[part] for part in PARTS if part != "activations")
    (first, _, low), (last, _, high) = found[0], found[-1]
    slope = (high - low) / (last - first)  # measured bytes of activations a token
    points[w], crossed[w] = found, first + (saved - low) / slope
    print(f"width {w}: measured crossover at {crossed[w]:.0f} tokens, predicted {predicted[w]:.0f}")
worst = max(abs(predicted[w] / crossed[w] - 1) for w in widths)
last = max(found[-1][1] for found in points.values())
shown = f"predictions off by at most {worst:.1%}; the ratio at {64 * batches[-1]:,} tokens is {last:.2f} or less"
claims["crossover"].measure([worst, last], shown)
results.record(crossover={"predicted": predicted, "measured": crossed}, ratio_points=points)

# %% [markdown]
# The measured points on the predicted lines, for the small models:


# %%
def small_models(ax):
    """Predicted lines, measured dots, and a bar at each crossover."""
    tokens = [64 * 2**k for k in range(7)]
    for w, colour in zip(widths, (plots.SKY, plots.BLUE, plots.BLACK), strict=False):
        curve = [ratio_at(shapes[w], n, 64, FLOAT32, 8) for n in tokens]
        ax.plot(tokens, curve, color=colour)
        ax.plot([n for n, _, _ in points[w]], [r for _, r, _ in points[w]], "o", color=colour, markersize=5)
        crossing = round(predicted[w])
        ax.plot([crossing], [ratio_at(shapes[w], crossing, 1, FLOAT32, 8)], "|", color=colour, markersize=20)
        ax.annotate(f"width {w}", (tokens[0], curve[0]), (5, 6), textcoords="offset points", color=colour, size=9)
    ax.set(xlabel="tokens a step", xscale="log", ylim=(0.8, 3.4), ylabel="full fine-tuning over LoRA, in bytes")
    ax.set_title("Small models, float32 (dots: measured)")


# %% [markdown]
# Beside them two giants, with checkpointing (dotted) and without (solid).


# %%
def giants(ax):
    """The ratio of LLaMA-7B and LLaMA-65B, in 16 bits with the state in float32."""
    tokens, ends = [512 * 2**k for k in range(9)], {}
    for name, colour in (("LLaMA-7B", plots.ORANGE), ("LLaMA-65B", plots.RED)):
        for checkpointed in (False, True):
            curve = [ratio_at(MODELS[name], n, 512, STATE32, 16, checkpointed) for n in tokens]
            ax.plot(tokens, curve, color=colour, linestyle=":" if checkpointed else "-")
            ends[f"{name[6:]}{', checkpointing' if checkpointed else ''}"] = curve[-1:], colour
    ax.set(xlabel="tokens a step", xscale="log", ylim=(0.5, 6.5))
    nudges = plots.apart(ax, {label: y[0] for label, (y, _) in ends.items()})
    for label, (y, colour) in ends.items():
        plots.label_end(ax, tokens[-1:], y, label, colour, dy=nudges[label])
    ax.set_title("Giants, 16 bits (dotted: checkpointing)")


# %% [markdown]
# Note the two different vertical axes.

# %%
fig, (left, right) = plots.canvas(2, width=10.5, height=4.2)
small_models(left)
giants(right)
for ax, place in ((left, 0.97), (right, 0.03)):
    plots.reference(ax, 1, "no saving")
    ax.axhline(3, color=plots.GREY, linestyle="--", linewidth=1.2)
    side = "right" if place > 0.5 else "left"
    ax.text(place, 3.03, "3 times", color=plots.GREY, fontsize=9, ha=side, transform=ax.get_yaxis_transform())
words = "The more tokens in a step, the less there is to save. A bar marks the crossover, where activations equal it."
results.figure(fig, "ratio", words)

# %% [markdown]
# So "3 times" is a statement about a batch as much as about LoRA. And the question that users ask, *why did LoRA save
# no memory?* (peft#1514, peft#1469), has an answer that can be computed. Go through it in this order:
#
# 1. Is the base frozen? If not, you saw above what happens.
# 2. How many tokens are in a step, against the crossover? Beyond it, switch checkpointing on: it moves the crossover to
#    many more tokens (the table above has both).
# 3. Is the tool showing what is *reserved*? `nvidia-smi` shows what torch's allocator has ever asked for.
#
# ### Beside a measurement on a GPU
#
# PEFT's own comparison publishes a result file for each method, here from June 2025: Llama-3.2-3B in bfloat16, AdamW,
# batch 4, at most 768 tokens, rank 32 on q and v, one NVIDIA L40S. It gives what was *allocated* on average after a
# step, which should be weights, gradients and state; and the largest amount *reserved*, activations and all.

# %%
llama_3b = LlamaConfig(128256, 3072, 8192, 28, 24, 8, 131072, tie_word_embeddings=True)
measured = {"full": (26.07, 37.24), "lora": (6.92, 22.27)}  # GB: allocated on average, largest reserved
rows, good, ours = [], 0, {}
for method, (allocated, reserved) in measured.items():
    found = training_bytes(llama_3b, method, 4, 768, 32, QV, precision=BFLOAT16)
    stored, total = (found.total - found.activations) / GB, found.total / GB
    ours[method] = total
    good += abs(stored / allocated - 1) <= 0.1
    rows.append([method, f"{stored:.2f}", allocated, f"{total:.1f}", reserved])
print(stats.table(["method", "stored, GB", "allocated there", "with activations", "largest reserved there"], rows))
claims["peft"].measure([good, 2], f"{rows[0][1]} GB full, {rows[1][1]} GB LoRA")
there = measured["full"][1] / measured["lora"][1]
print(f"largest amounts, full over LoRA: {there:.2f} there, {ours['full'] / ours['lora']:.2f} in our accounting")

# %% [markdown]
# What is stored is the solid part. (Their script still holds the batch's logits when it looks: 840 tokens a step on
# average, 128,256 words, 2 bytes, or 0.2 GB. And its adapters are in float32.) Of the largest amounts we can only
# expect the order of size. Theirs include evaluation, tensors that live for a moment (here the float32 logits: 3,072
# tokens, 128,256 words, 4 bytes, or 1.6 GB, and the loss makes more of that size), and blocks that the allocator
# holds and nobody uses. Whatever both methods share and we do not count pulls a ratio towards 1. (A later version of
# the comparison gives 36.2 and 20.8 GiB, 1.7 times.)
#
# ## Gradient checkpointing
#
# The cure for large activations (Chen et al., arXiv 1604.06174). Keep only the input of each block; when backward
# arrives there, run the block again. In raw lines, it is one call around each block:


# %%
class Again(nn.Module):
    """A block whose inside is forgotten after forward, and computed again in backward."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, *inputs):
        return checkpoint(self.block, *inputs, use_reentrant=False)


raw = made("lora")
raw.model.layers = nn.ModuleList(Again(block) for block in raw.model.layers)
packaged, plain = checkpoint_blocks(made("lora")), made("lora")
losses = {}
for name, model in (("plain", plain), ("raw", raw), ("packaged", packaged)):
    loss = F.cross_entropy(model(ids).flatten(0, 1), labels)
    loss.backward()
    losses[name] = loss, [p.grad for p in trainable_parameters(model)]
for name in ("raw", "packaged"):
    pairs = list(zip(losses[name][1], losses["plain"][1], strict=True))
    apart = max((a - b).abs().max().item() for a, b in pairs)
    print(f"{name}: {len(pairs)} gradients, the largest difference from those without checkpointing is {apart:g}")
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)

# %% [markdown]
# Now the bytes, and the price. Forward keeps the inputs of the blocks. In backward one block is run again at a time,
# so what matters is the largest moment: the inputs and one block's inside. Only the simulation sees that moment;
# predict it from the table of the first part: (layers · input) + one block.
#
# The price we count in multiplications, with torch's own counter. A step of full fine-tuning costs three units:
# forward one, gradients of the activations one, gradients of the weights one. Predict LoRA, and LoRA with
# checkpointing.

# %%
rows, flops = [], {}
for name in ("full", "LoRA", "full + ckpt", "LoRA + ckpt"):
    method, wrapped = name.split()[0].lower(), name.endswith("ckpt")
    model = made(method)
    model = checkpoint_blocks(model) if wrapped else model
    closed = training_bytes(config, method, batch, length, rank, checkpoint=wrapped).activations
    forward = measured_bytes(model, batch, length)["activations"]
    largest = simulated_bytes(model, batch, length)["activations"] if wrapped else forward
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(ids).flatten(0, 1), labels).backward()
    flops[name] = counter.get_total_flops()
    off, cost = closed / largest - 1, flops[name] / flops["full"]
    rows.append([name, f"{forward:,}", f"{largest:,}", f"{closed:,}", f"{off:+.1%}", f"{cost:.2f}"])
head = ["", "kept after forward", "largest at a time", "closed form", "off", "multiplications, over full"]
print(stats.table(head, rows))
results.record(flops=flops)
more = (flops["LoRA + ckpt"] - flops["LoRA"]) / flops["full"]
print(f"one forward pass is a third of full; checkpointing adds {more:.2f} to LoRA")
share = lora_parameters(llama.shapes(ALL_LINEAR), 16) / sum(o * i for o, i in llama.shapes(ALL_LINEAR))
print(
    f"on LLaMA-7B, rank 16, without attention and head: (2 + 3 · {share:.3f}) / 3 = {(2 + 3 * share) / 3:.2f} of full"
)

# %% [markdown]
# LoRA's step needs no gradients of frozen weights: one of three units falls away, and the adapters' own products come
# on top. On a wide model these are nothing, and 2/3 is left, as *LoRA Without Regret* says; on a narrow one they eat
# up part of it. (Multiplications are not time: a tiny model's LoRA step was no faster in chapter 01.) Checkpointing
# adds one forward pass of the blocks, whatever is trained. So on a wide model LoRA with checkpointing costs about as
# many multiplications as full fine-tuning without.
#
# ## Your own model
#
# All of it in one call. Give a `transformers` config, a model that has one, or sizes. Print the result and you get the
# table. The tables of this chapter are this function in a loop.

# %%
mine = LlamaConfig(128256, 4096, 14336, 32, 32, 8, 8192)  # or AutoConfig.from_pretrained("...") of any Llama
for checkpointed in (False, True):
    print(f"QLoRA of an 8B Llama, 8 sequences of 2048 tokens, checkpointing {checkpointed}:")
    print(training_bytes(mine, "qlora", batch=8, length=2048, rank=16, precision=STATE32, checkpoint=checkpointed))

# %% [markdown]
# What it does not count, so that you leave room for it:
#
# - the CUDA context, and the workspaces of cuBLAS and others: from several hundred MB to 1 GB;
# - tensors that live for a moment: the logits once more in float32 and their gradient (with a vocabulary of 128,000
#   that is 0.5 MB a token, each), the decoded slice of a 4-bit weight, the optimizer's temporary copies;
# - fragmentation: memory that the allocator holds in pieces that nobody can use;
# - attention that keeps its T × T matrix, norms or rotary positions that keep more than ours, dropout masks.
#
# Everything measured here at the CPU presets ran on a CPU. The parts are the same on a GPU, but which attention kernel
# runs there, and what it keeps, may differ.
#
# ## The verdict
#
# Printed from what was counted and measured above:

# %%
for claim in claims.values():
    print(f"{claim.says}: {claim.verdict.upper()}. {claim.shown}.\n   (criterion: {claim.criterion})")
path = results.save()
print("written:", path.name)

# %% [markdown]
# ## Exercises
#
# **1. Bytes by hand.** A base of `base` weights, frozen, in 2 bytes. Adapters with `added` weights, trained by AdamW:
# weights and gradients in 2 bytes, two states in 4 bytes each. How many bytes without activations?


# %%
def my_bytes(base, added):
    """Weights, gradients and state of a LoRA step, in bytes."""
    return None  # your code here


def check_bytes(function):
    base, added = 1000, 10
    got = function(base, added)
    slips = {
        2 * base + 12 * added: "right",
        2 * base + 10 * added: "the adapters' own weights are missing (or their gradients)",
        2 * base + 8 * added: "AdamW keeps two states of 4 bytes; and there are weights and gradients besides",
        12 * (base + added): "that is full fine-tuning: frozen weights have no gradient and no state",
        4 * base + 12 * added: "a frozen weight has no gradient",
        12 * added: "the frozen base is still in memory",
    }
    if got is None:
        return "replace `return None` by your code and run the cell again"
    return slips.get(got, "not yet: 2 bytes for each frozen weight, and 2 + 2 + 4 + 4 for each trained one")


print(check_bytes(my_bytes))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_bytes(base, added):
#     return 2 * base + (2 + 2 + 2 * 4) * added
# ```
#
# </details>
#
# **2. What does one layer keep?** A linear layer of shape (d_out, d_in), frozen, with a LoRA adapter of rank `r` that
# is trained. Its input `x` has N rows and needs a gradient itself. How many *numbers* does autograd keep for this
# layer, weights not counted? (The layer computes `W x`, then `s · A x`, then `B` times that.)


# %%
def my_kept(N, d_in, d_out, r):
    """Numbers kept for backward by one adapted layer."""
    return None  # your code here


# %% [markdown]
# The check counts what autograd really keeps:


# %%
def check_kept(function):
    N, d_in, d_out, r = 5, 24, 40, 3
    got = function(N, d_in, d_out, r)
    layer = add_adapters(nn.Sequential(nn.Linear(d_in, d_out, bias=False)), AdapterConfig(rank=r, targets=["0"]))
    own, kept = {p.data_ptr() for p in layer.parameters()}, {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.update({t.data_ptr(): t}) or t, lambda t: t):
        layer(torch.randn(N, d_in, requires_grad=True))
    right = sum(t.untyped_storage().nbytes() // 4 for address, t in kept.items() if address not in own)
    slips = {
        right: "right",
        N * d_in: "and what B needs for its gradient?",
        N * r: "and what A needs for its gradient?",
        N * (d_in + d_out): "nobody needs the output; B reads something of width r",
        N * (2 * d_in + r): "the frozen W keeps no x of its own, and a tensor that two use is still one tensor",
        N * (d_in + r + d_out): "nobody needs the output for a gradient",
        N * (d_in + 2 * r): "A x before the scaling is not needed: only what B reads is kept",
    }
    if got is None:
        return "replace `return None` by your code and run the cell again"
    return slips.get(got, "not yet: which two tensors stand in the gradients of A and of B?")


print(check_kept(my_kept))

# %% [markdown]
# <details><summary>Solution</summary>
#
# The gradient of `A` needs `x`, that of `B` needs `s · A x`. The gradient of `x` needs only weights.
#
# ```python
# def my_kept(N, d_in, d_out, r):
#     return N * (d_in + r)
# ```
#
# </details>
#
# **3. A longer context.** You train LLaMA-7B by LoRA: rank 16, all linear layers, bfloat16 with state in float32, batch
# 1. The card has 24 GB, and 1 GB must be left. What is the longest sequence without checkpointing? With it? (Use
# `training_bytes`. To the nearest 128 tokens below is enough.)

# %%
my_lengths = {"plain": None, "checkpointing": None}  # your numbers here


def check_lengths(answers):
    if None in answers.values():
        return "fill in both numbers and run the cell again"
    if any(n != int(n) or n < 1 for n in answers.values()):
        return "a length is a whole number of tokens, at least 1"
    words = []
    for name, wrapped in (("plain", False), ("checkpointing", True)):
        total = [
            training_bytes(llama, "lora", 1, n, 16, precision=STATE32, checkpoint=wrapped).total / GB
            for n in (int(answers[name]), int(answers[name]) + 128)
        ]
        if total[0] > 23:
            words.append(f"{name}: too long, {total[0]:.2f} GB")
        elif total[1] <= 23:
            words.append(f"{name}: there is room, 128 tokens more take {total[1]:.2f} GB")
        else:
            words.append(f"{name}: right")
    return "; ".join(words)


print(check_lengths(my_lengths))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def longest(wrapped):
#     n = 128
#     while training_bytes(llama, "lora", 1, n + 128, 16, precision=STATE32, checkpoint=wrapped).total <= 23e9:
#         n += 128
#     return n
#
# my_lengths = {"plain": longest(False), "checkpointing": longest(True)}
# ```
#
# In a real run the float32 logits and their gradient need room as well, and at such lengths it is not little.
#
# </details>
#
# **4. Adapters in the last layers only.** You put adapters into the upper half of the blocks and leave the lower half
# frozen without any. Which parts shrink? Think first, then change `targets` in `made` to a regular expression that
# matches the upper layers, and look at `measured_bytes`.
#
# <details><summary>Solution</summary>
#
# Gradients and state halve with the adapters. And the activations fall to about a half: below the lowest adapter
# nothing needs a gradient, so the lower blocks keep nothing at all. It is the one way in which LoRA saves activations,
# and the reason why training only the upper layers is so cheap. At the book's `quick` size:
#
# ```python
# print(measured_bytes(made("lora", targets=r".*layers\.[23]\..*_proj"), batch, length))
# ```
#
# </details>
#
# ## The same with PEFT and transformers
#
# ```python
# model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
# model.enable_input_require_grads()  # with reentrant checkpointing: else no gradient reaches the adapters
# model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
# model.print_trainable_parameters()  # is the base frozen?
#
# torch.cuda.reset_peak_memory_stats()
# ...                                         # a step
# print(torch.cuda.max_memory_allocated())    # the peak of what was in use; nvidia-smi shows max_memory_reserved()
# ```
#
# With the `Trainer`, `gradient_checkpointing=True` does the first line. The second matters because a frozen embedding
# gives an output that needs no gradient, and the older, reentrant checkpointing then takes the whole block for frozen:
# the adapters learn nothing, and only a warning says so. With `use_reentrant=False`, as in this chapter, that cannot
# happen.
