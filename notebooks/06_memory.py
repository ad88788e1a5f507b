# %% [markdown]
# # 06 · Memory
#
# **The question.** Where do the bytes of a training step go, and which of them does LoRA save? People switch to LoRA,
# look at `nvidia-smi`, and find that it has hardly moved. How can that be, when so few numbers are trained?
#
# **What you will be able to do.** Name the five parts of a training step and compute each on paper. Look at what
# autograd keeps, tensor by tensor. Say before a run whether a model fits a card of 24, 48 or 80 GB. Predict two numbers
# of tokens a step: the *crossover*, where activations have caught up with all that LoRA saves, and the one from which
# on LoRA saves *next to nothing*, by which this chapter means a fifth of the bytes or less. And know what to do then.
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
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from lora_from_scratch import AdapterConfig, NF4Linear, add_adapters, nf4, qlora, quantize_model, trainable_parameters
from lora_from_scratch.analysis.counting import ALL_LINEAR, MODELS, lora_parameters, prints_as
from lora_from_scratch.analysis.memory import BFLOAT16, FLOAT32, MIXED, STATE32, training_bytes
from lora_from_scratch.analysis.simulate import checkpoint_blocks, measured_bytes, simulated_bytes
from lora_from_scratch.book import plots, stats
from lora_from_scratch.book.results import Results
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama
from lora_from_scratch.lab.presets import preset

torch.set_num_threads(1)
size = preset().on_one_base()
results = Results("06_memory", size)
METHODS, QV, GB = ("full", "lora", "qlora"), ("q_proj", "v_proj"), 1e9
PARTS = ("weights", "constants", "gradients", "optimizer", "activations")

# %% [markdown]
# ## What would count as success
#
# Ten claims are checked. Each is written down, with its criterion, in the section that measures it, and before the
# measurement. They are of three kinds.
#
# - **Our accounting.** A formula, a simulation and a real step must give the same bytes. Activations get a wider
#   tolerance than what is stored, because they depend on the details of a model.
# - **A check of arithmetic, no measurement.** A paper computed a figure, and we compute it again. A figure *adds up* if
#   ours, rounded or cut to the digits printed, is that figure. That it adds up says nothing about any machine.
# - **Our count beside what others say about a card.** No GPU is used here. Where they measured, 10 % are allowed: an
#   allocator rounds, and holds more than we count.
#
# The verdict words mean:
#
# - **reproduced**: all of the criterion is met;
# - **partly**: some of it is, and the claim says which part;
# - **does not add up**: arithmetic or a definition contradicts the printed figures;
# - **not at this scale**: our model does not show it, whatever the reason.


# %%
def all_or_some(found):
    good, total = found
    return "reproduced" if good == total else "partly" if good else "does not add up"


rule = "all figures are ours, to the digits printed: reproduced; some: partly; none: does not add up"
near = "ours are within 10 % of all measured figures: reproduced; some: partly; none: does not add up"
claims = {}

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
# weights trained: if the weights take one unit, how many units are the gradients and the state? (`training_bytes`, our
# closed form, takes everything in float32 unless it is told otherwise.)

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
print("all in float32:")
for part, found in by_hand.items():
    print(f"{part:10} {found:12,} bytes = {found / numbers:.0f} a weight; the closed form: {getattr(closed, part):,}")
    assert found == getattr(closed, part)

# %% [markdown]
# Four, four and eight: sixteen bytes for every weight that is trained, before the first activation. Freeze a weight,
# and twelve of the sixteen are gone. That is what LoRA saves, and as good as all that it saves.
#
# Then the last part. Autograd tells what it keeps, if we ask: `saved_tensors_hooks` calls a function of ours for
# every tensor that the forward pass puts aside. A tensor may be put aside twice, or be a view of another one, so we
# count storages, not tensors. Weights and the batch are there anyway, and do not count. Hooks on the modules tell us
# which part of the model was running: `running[-1]`.

# %%
LABELS = {"input_layernorm": "norm", "post_attention_layernorm": "norm", "norm": "norm"}
LABELS |= {name: name for name in ("self_attn", "mlp", "lm_head")}


def kept_by_autograd(model, ids, labels):
    """{address of a storage: (bytes, shape, the part of the model that was running)}, and the loss."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), ids, labels)}
    kept, running = {}, ["loss"]

    for name, module in model.named_modules():
        if label := LABELS.get(name.split(".")[-1]):
            module.register_forward_pre_hook(lambda module, inputs, label=label: running.append(label))
            module.register_forward_hook(lambda module, inputs, output: running.pop() and None)

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept.setdefault(storage.data_ptr(), (storage.nbytes(), tuple(tensor.shape), running[-1]))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = F.cross_entropy(model(ids).flatten(0, 1), labels)
    return kept, loss


# %% [markdown]
# Three models: everything trained, adapters on all linear layers, and adapters over a 4-bit base. The next output says
# which share of its numbers LoRA trains. Predict: by how much does it shrink the activations?


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


trained = sum(p.numel() for p in trainable_parameters(made("lora")))
print(f"LoRA trains {trained:,} numbers beside {numbers:,} frozen ones: {trained / (trained + numbers):.1%} of all")

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
# - **Measured**: `measured_bytes` runs the step for real. It adds up the sizes of the tensors that there are, and with
#   the hook from above of those that autograd saves. It asks no allocator, so what an allocator rounds up or holds back
#   is not in it. (On a GPU it gives the allocator's peak besides.)
#
# They must agree, part by part. The closed form is ours, and can forget a tensor. The other two run the model's own
# code: they see each tensor that it makes or saves, as far as the tracker and the hook can see.


# %%
def beside(columns):
    """A table of bytes by part: a column is a dictionary of them, or what training_bytes gives."""
    found = [column if isinstance(column, dict) else vars(column) for column in columns.values()]
    parts = dict.fromkeys(part for column in found for part in column)
    return stats.table(
        ["bytes", *columns], [[part, *(f"{c[part]:,}" if part in c else "" for c in found)] for part in parts]
    )


# %% [markdown]
# The first claim. It is about our own accounting:

# %%
claims["three_ways"] = results.claim(
    "three_ways",
    says="closed form, simulation and a real step agree on the bytes of every part",
    source="this book",
    published="the same bytes, however one counts",
    criterion="full, LoRA and QLoRA: weights, constants, gradients and state within 2 %, activations within 10 %",
    judge=lambda worst: worst[0] <= 0.02 and worst[1] <= 0.10,
)

# %% [markdown]
# Mind the last two columns: the model's own code made them, once on fakes and once for real. All is in float32 (but for
# the 4-bit codes).

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
# step on it lies there all the time. So the sum of the parts is a safe figure to plan with, but an upper bound for
# them: the gradients are complete only when the activations are gone. For LoRA that makes next to no difference; for
# full fine-tuning it is up to the size of the gradients.
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
# **Mistake 1** makes the base cost what full fine-tuning costs: a gradient and two states for each of its numbers. The
# activations grow as well, even past those of full fine-tuning, because each adapter keeps its `s · A x` on top.
#
# **Mistake 2** leaves what is stored as it is, and adds the decoded weights to the activations: the very bytes that
# 4 bits were meant to save. Not all of them, though. A frozen layer's weight is kept only to pass a gradient on to the
# layer's input. The input of q, k and v in the first block is a norm of the embedding; nothing is trained below it, so
# it needs no gradient, and these three weights are not kept. The next cell puts numbers beside both sentences.

# %%
kinds = [("gradients", "LoRA", "nothing frozen"), ("optimizer", "LoRA", "nothing frozen")]
kinds += [("activations", "LoRA", "nothing frozen"), ("activations", "QLoRA", "decoded kept")]
more = [f"{part} of {bad} {broken[bad][part] - broken[good][part]:+,}" for part, good, bad in kinds]
print("; ".join(more))
above = broken["nothing frozen"]["activations"] - by_part["sum"]["full"]
layers, width, tokens = config.num_hidden_layers, config.hidden_size, batch * length
pieces = 4 * len(ALL_LINEAR) * layers * rank * tokens  # float32: rank numbers for each adapter and token
print(f"nothing frozen keeps {above:,} more than full fine-tuning; the adapters' s · A x are {pieces:,}")
added = broken["decoded kept"]["activations"] - broken["QLoRA"]["activations"]
linear = 4 * sum(m.in_features * m.out_features for m in made("qlora").modules() if isinstance(m, NF4Linear))
kv = width // config.num_attention_heads * config.num_key_value_heads
spared = 4 * width * (width + 2 * kv)
print(f"decoded kept adds {added:,}; linear weights {linear:,} less q, k, v of block 0 {spared:,}: {linear - spared:,}")

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
# Now that we trust the formula, hold it against what the papers print. Papers mean different things by "16 bits". Four
# ways to hold a trained number are usual, and the package has a name for each:

# %%
PRECISIONS = {"FLOAT32": FLOAT32, "BFLOAT16": BFLOAT16, "STATE32": STATE32, "MIXED": MIXED}
rows = [
    [name, p.weight, p.gradient, p.master, f"2 · {p.state}", p.trained("adamw"), p.trained("lion")]
    for name, p in PRECISIONS.items()
]
print(stats.table(["bytes", "weight", "gradient", "second copy", "AdamW's state", "sum", "sum with Lion"], rows))

# %% [markdown]
# FLOAT32 is the default of `training_bytes`, and what the small models here use. BFLOAT16 is what `model.bfloat16()`
# gives. STATE32 is how the QLoRA paper counts: 16 bits, but AdamW's state in float32. MIXED keeps a second copy of what
# is trained in float32. (Lion is an optimizer with one state a number, AdamW has two.) A frozen number takes the first
# column alone.
#
# A row of the next tables is a set-up, our figure, the printed one, and whether it adds up.


# %%
def hold(claim, rows, show=None):
    """Rows are (what, our value, printed figure, unit). Prints the first `show`, and judges by how many add up."""
    fits = [prints_as(value, printed) for _, value, printed, _ in rows]
    shown = [
        [what, f"{value:.5g} {unit}", f"{printed} {unit}", "adds up" if fit else "does not"]
        for (what, value, printed, unit), fit in zip(rows, fits, strict=True)
    ]
    print(stats.table(["what", "ours", "published", "adds up?"], shown[:show]))
    print(f"(and {len(rows) - show} more such rows, which count as well)\n" if show else "")
    missed = [what for (what, *_), fit in zip(rows, fits, strict=True) if not fit]
    words = f"{sum(fits)} of {len(fits)} figures add up" + (f"; not {', '.join(missed)}" if missed else "")
    claim.measure([sum(fits), len(fits)], words)


# %% [markdown]
# **Bits of NF4.** On paper: 4 bits and a float32 for each block of 64 is `4 + 32/64`. Double quantized, the constant is
# one byte and a float32 for each 256 of them: `4 + 8/64 + 32/(64 · 256)`. We read ours off a real quantized matrix of
# the size of a layer. **16-bit fine-tuning of 65B** is a check of arithmetic, no measurement: STATE32.

# %%
bits, big = "NF4 needs 4.127 bits a weight", "a check of arithmetic: 16-bit fine-tuning of 65B takes 780 GB"
sources = {
    "nf4": (bits, "2305.14314, section 3", "4.5 to 4.127 bits, 3 GB at 65B", rule),
    "full_65b": (big, "2305.14314, section 1", "more than 780 GB", rule),
}
for name, (says, source, published, criterion) in sources.items():
    claims[name] = results.claim(name, says, source, published, criterion, all_or_some)

# %% [markdown]
# Now both, figure by figure:

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
hold(claims["full_65b"], [(f"weights, 65 billion, {per_weight} bytes each", per_weight * 65, "780", "GB")])
own = training_bytes(MODELS["LLaMA-65B"], "full", 1, 512, precision=STATE32)
without = (own.total - own.activations) / GB
print(f"LLaMA-65B's exact {MODELS['LLaMA-65B'].parameters():,} weights give {without:.0f} GB, without activations")

# %% [markdown]
# **Adam and Lion in mixed precision.** *LoRA Learns Less and Forgets Less* counts, without activations: weights,
# gradients, a second copy of the weights, and the states. With Adam that makes 16 bytes a trained number, with Lion
# 12. For LoRA it counts 2 bytes for every frozen weight, and those 16 or 12 for 1 % of them. Again a check of
# arithmetic, no measurement:

# %%
claims["tables"] = results.claim(
    "tables",
    says="a check of arithmetic: model states with Adam and Lion",
    source="2405.09673, tables S14 to S16",
    published="twelve sizes in GB",
    criterion=rule,
    judge=all_or_some,
)

# %% [markdown]
# Twelve figures are compared; the four of one size are shown.

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
        rows.append((f"{way}, {billions}B", round(billions * each, 6), figure, "GB"))
hold(claims["tables"], rows, show=4)

# %% [markdown]
# Mind the 1 %: a frozen weight of 2 bytes outweighs its adapter by far, so LoRA ends close to the size of the weights.
#
# **GPT-3.** The LoRA paper gives 1.2 TB for fine-tuning with Adam, 350 GB for LoRA, and 35 MB for the file of the
# adapters at r = 4 on q and v. (The paper calls that file a checkpoint. It has nothing to do with the checkpointing of
# this chapter.) A check of arithmetic too:

# %%
claims["gpt3"] = results.claim(
    "gpt3",
    says="a check of arithmetic: GPT-3 from 1.2 TB to 350 GB",
    source="2106.09685, section 4.2",
    published="1.2 TB, 350 GB, 35 MB",
    criterion=rule,
    judge=all_or_some,
)

# %% [markdown]
# We try every usual way of counting, without activations. The last column says whether it prints as 1.2 TB.

# %%
accountings = {
    "weights and two states, no gradients (16 bits)": 6,
    "all in 16 bits": BFLOAT16.trained(),
    "states in float32, the rest in 16 bits": STATE32.trained(),
    "mixed precision, with a copy": MIXED.trained(),
    "all in float32": FLOAT32.trained(),
}
rows = [
    [what, each, f"{175 * each:,}", "yes" if prints_as(0.175 * each, "1.2") else "no"]
    for what, each in accountings.items()
]
print(stats.table(["accounting", "bytes a weight", "GB at 175B", "1.2 TB?"], rows))
closest = min(accountings.values(), key=lambda each: abs(0.175 * each - 1.2))
file_mb = 2 * lora_parameters(MODELS["GPT-3 175B"].shapes(QV), 4) / 1e6
hold(
    claims["gpt3"],
    [
        (f"fine-tuning (closest: {closest} bytes)", 0.175 * closest, "1.2", "TB"),
        ("LoRA: the weights in 16 bits, nothing else", 175 * 2.0, "350", "GB"),
        ("adapter file at r 4", file_mb, "35", "MB"),
    ],
)
print(f"1.2 TB are {1200 / 175:.2f} bytes a weight. The adapter file is {file_mb * 1e6 / 2**20:.1f} MiB.")
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
# for the adapters, and a total. Our count, with STATE32 and checkpointing, stands beside its totals:

# %%
claims["figure_8"] = results.claim(
    "figure_8",
    says="QLoRA's totals",
    source="2305.14314, figure 8",
    published="6.9, 11.3, 24.7 and 45.0 GB",
    criterion=near,
    judge=all_or_some,
)

# %% [markdown]
# First the two parts. The adapters' figures are MiB: 18 · width · rank · layers values of two bytes give them exactly
# (the `assert`). The real linear layers of a Llama have somewhat more. We convert all to GB.

# %%
figure_8 = {"7B": (5046, 288, 6.9), "13B": (8476, 450, 11.3), "33B": (19302, 877.5, 24.7), "65B": (37074, 1440, 45.0)}
parts, ours = {}, {}
for name, (model_mb, adapters_mib, _) in figure_8.items():
    shape = MODELS[f"LLaMA-{name}"]
    assert 18 * shape.width * 64 * shape.layers * 2 / 2**20 == adapters_mib
    added = 2 * lora_parameters(shape.shapes(ALL_LINEAR), 64)
    closed = training_bytes(shape, "qlora", 1, 512, 64, precision=STATE32, checkpoint=True)
    ours[name] = (closed.weights + closed.constants - added) / GB, added / GB, closed.total / GB
    parts[name] = model_mb / 1000, adapters_mib * 2**20 / GB
rows = [
    [f"LLaMA-{name}", f"{parts[name][0]:.2f}", f"{model:.2f}", f"{parts[name][1]:.3f}", f"{adapters:.3f}"]
    for name, (model, adapters, _) in ours.items()
]
print(stats.table(["GB", "model, printed", "ours", "adapters, printed", "ours"], rows))

# %% [markdown]
# Under "model" we count codes, constants, and a 16-bit rest (embedding, head, norms). The paper does not say what else
# is in its figure. Now the totals. "All but the model" is the total less the model: adapters, gradients, state,
# activations.

# %%
rows, good, opposite = [], 0, []
for name, (_, _, total) in figure_8.items():
    model, _, mine = ours[name]
    off, off_model = mine / total - 1, model / parts[name][0] - 1
    rest, my_rest = total - parts[name][0], mine - model
    good += abs(off) <= 0.1
    if off_model * (my_rest - rest) < 0:
        opposite.append(name)
    rows.append([f"LLaMA-{name}", total, f"{mine:.2f}", f"{off:+.1%}", f"{rest:.2f}", f"{my_rest:.2f}"])
head = ["GB", "total, printed", "ours", "off", "all but the model, printed", "ours"]
print(stats.table(head, rows))
totals = {name: mine for name, (_, _, mine) in ours.items()}
claims["figure_8"].measure(
    [good, 4], f"{good} of 4 totals within 10 %: " + ", ".join(f"{t:.1f}" for t in totals.values())
)
print("model and rest are off in opposite directions, which cancels in the total, for:", ", ".join(opposite) or "none")
results.record(figure_8_totals_gb=totals)

# %% [markdown]
# So read the total with care: it may agree although its parts do not, and the last line says for which sizes that is
# so. Do the paper's own parts add up to its totals? Model, adapters, gradients (taken as large as the adapters) and 8
# bytes of state for each adapter weight of two. That depends on what its "MB" of the model is.

# %%
for unit, mega, giga in (("the model in MB, the total in GB", 1e6, GB), ("all in MiB and GiB", 2**20, 2**30)):
    sums = {n: (model * mega + 6 * adapters * 2**20) / giga for n, (model, adapters, _) in figure_8.items()}
    above = [name for name, found in sums.items() if found > figure_8[name][2] + 0.05]
    print(f"{unit}: the printed parts are", ", ".join(f"{found:.2f}" for found in sums.values()), end="; ")
    print("more than the printed total for:", ", ".join(above) or "none")
print(f"input gradients, 567 MB over {llama.layers} layers: {567 / llama.layers:.1f} MB a layer (printed: 18 MB)")

# %% [markdown]
# The last line: the paper says that checkpointing takes "input gradients" from 567 to 18 MB a sequence. The second is
# one layer's share of the first. But it is not our count: we find several times as much a layer (below), and the inputs
# of all blocks besides. What the paper counts as "input gradients" it does not say.
#
# ## A giant that is not there
#
# The formula agreed with a real step of a tiny model. Does it hold for 7 billion weights? Nobody needs a GPU to find
# out: on fake tensors the step of a LLaMA-7B runs on any machine, and takes no memory.
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
rows_before, qlora.ROWS = qlora.ROWS, giant.intermediate_size


def simulated_giant(method, layers):
    """Bytes by part of a step of `layers` blocks of the giant, bfloat16, batch 1, 512 tokens, r 16. No memory taken."""
    fields = {name: getattr(giant, name) for name in giant.__dataclass_fields__} | {"num_hidden_layers": layers}
    with torch.device("meta"):
        model = TinyLlama(LlamaConfig(**fields))
        if method == "qlora":
            quantize_model(model)
        if method != "full":
            add_adapters(model, AdapterConfig(rank=16, alpha=32, targets=adapted))
    return simulated_bytes(model.to(torch.bfloat16), 1, 512)  # the adapters too, as BFLOAT16 counts them


def line(two, three, layers):
    """The bytes of `layers` blocks, from those of 2 and of 3."""
    return {part: two[part] + (three[part] - two[part]) * (layers - 2) for part in PARTS}


# %% [markdown]
# Predict before you look: with BFLOAT16, full fine-tuning takes 8 bytes a weight, LoRA a little over 2, QLoRA a little
# over half a byte. And the activations of 512 tokens? Estimate from the table of shapes how many tensors of the model's
# width a block keeps, 2 bytes a number, and multiply.

# %%
bend = {}
check, off = {} if small else {"full": 32, "lora": 16}, 0.0
for method in METHODS:
    two, three = simulated_giant(method, 2), simulated_giant(method, 3)
    extended = line(two, three, 32)
    closed = training_bytes(giant, method, 1, 512, 16, adapted, precision=BFLOAT16)
    print(f"{method}, BFLOAT16\n{beside({'closed form': closed, 'simulated, to 32': extended})}\n")
    off = max(off, *(abs(extended[part] / (getattr(closed, part) or 1) - 1) for part in PARTS if extended[part]))
    if method in check:
        whole, straight = simulated_giant(method, check[method]), line(two, three, check[method])
        bends = {part: whole[part] / straight[part] - 1 for part in PARTS if straight[part]}
        bend[method] = max(bends.values(), key=abs)
qlora.ROWS = rows_before
print(f"largest difference from the closed form: {off:.2%}")
for method, layers in check.items():
    print(f"{method} with {layers} layers, simulated, against the line through 2 and 3: {bend[method]:+.2%}")
if not check:
    print("(no larger models at this preset)")
results.record(giant_off=off, giant_bend=bend)

# %% [markdown]
# The activations once more, as bytes a token. Divided by layers and width they say how many tensors of the model's
# width a block keeps. Does that number depend on the model?

# %%
for name, shape in {"LLaMA-7B": llama, "LLaMA-13B": MODELS["LLaMA-13B"], "LLaMA-65B": MODELS["LLaMA-65B"]}.items():
    kept = training_bytes(shape, "lora", 1, 512, 16, precision=BFLOAT16).activations / 512
    each = kept / (2 * shape.layers * shape.width)
    print(f"{name}, LoRA: {kept / 1e6:.2f} MB of activations a token, {each:.1f} tensors of its width in a block")

# %% [markdown]
# The table of shapes above has 4 + 2 + 1 + 1 tensors of the width, and four of the MLP's width, which is 2.7 times as
# wide. Most of the rest are the norms: they compute in float32 and keep that, also in a 16-bit model, so their two
# tensors count twice. The head and the last norm come on top, shared by all blocks.

# %% [markdown]
# ## The stack of bytes
#
# The picture to keep. LLaMA-7B, weights and activations in bfloat16, AdamW's state in float32 (STATE32), rank 16, four
# sequences of 512 tokens. Three methods, each with and without *checkpointing*: keeping only the input of each block,
# and running the block again in backward. (More on it below.)

# %%
(fig, (ax,)), stack = plots.canvas(width=8.2, height=4.0), {}
colours = dict(zip(PARTS, (plots.BLUE, plots.BLUE, plots.SKY, plots.ORANGE, plots.RED), strict=True))
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
words = "LoRA takes away the orange and the light blue, QLoRA most of the dark blue, checkpointing most of the red. "
words += "The dark blue of QLoRA holds its constants too."
results.record(stack=stack)
results.figure(fig, "stack", words)

# %% [markdown]
# ### What fits on which card?
#
# The same for four sizes of model: STATE32, batch 1, 512 tokens, rank 64, as in QLoRA's figure 8. The parts that we
# count are not all that a card holds: the CUDA context takes several hundred MB, and some tensors live for a moment. So
# a "fit" leaves at least 1 GB of the card. A claim that one remembers:

# %%
claims["one_card"] = results.claim(
    "one_card",
    says="QLoRA fine-tunes a 65B model on one 48 GB GPU (by our count; no GPU was used)",
    source="2305.14314, abstract",
    published="65B on a single 48 GB GPU",
    criterion="r 64, batch 1, 512 tokens, checkpointing: at least 1 GB of 48 GB is left: reproduced; less: partly",
    judge=lambda left: "reproduced" if left >= 1 else "partly" if left >= 0 else "does not add up",
)


def room(left):
    return f"{left:.1f} GB left" if left >= 0 else f"{-left:.1f} GB too much"


# %% [markdown]
# It is about the last line of the table.

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
            rows.append([f"LLaMA-{name}", method, "yes" if checkpointed else "no", f"{total:.1f}", *fits])
print(stats.table(["model", "method", "checkpointing", "GB", *(f"{card} GB?" for card in cards)], rows))
left = 48 - grid["65B", "qlora", True]
claims["one_card"].measure(left, f"{grid['65B', 'qlora', True]:.1f} GB: {room(left)}")
single = training_bytes(MODELS["LLaMA-65B"], "qlora", 1, 512, 64, precision=STATE32, checkpoint=True, double=False)
print(f"Without double quantization, {single.total / GB:.1f} GB: {room(48 - single.total / GB)}.")
print(f"Without checkpointing, {grid['65B', 'qlora', False]:.1f} GB: {room(48 - grid['65B', 'qlora', False])}.")
results.record(fits={f"{name} {method}, checkpointing {c}": gb for (name, method, c), gb in grid.items()})

# %% [markdown]
# The same as a picture. The dashed lines stand 1 GB below each card, so what is left of a line fits. Mind that the axis
# is logarithmic.

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
    ax.axvline(card - 1, color=plots.GREY, linestyle="--", linewidth=1.2, zorder=0)
ax.set(
    xscale="log", xticks=[5, 10, *cards, 200, 400, 800], xticklabels=[5, 10, *cards, 200, 400, 800], xlim=(3.4, 1000)
)
ax.minorticks_off()
ax.set(yticks=[0, -1, -2, -3], yticklabels=["LLaMA-7B", "13B", "33B", "65B"], xlabel="GB, batch 1, 512 tokens, rank 64")
ax.grid(visible=False)
ax.set_title("What fits a card of 24, 48 or 80 GB (dashed: the card less 1 GB)")
results.figure(fig, "fits", "Dots: with checkpointing. The thick line leads to what it takes without.")

# %% [markdown]
# ## When LoRA saves next to nothing
#
# LoRA saves gradients and state. They do not grow with the batch; activations do. So the more tokens in a step, the
# smaller the share that LoRA can save. Call `a` the bytes of activations a token, and `S` all the bytes that LoRA
# saves. At
#
# `tokens = S / a`
#
# activations are as large as the saving. We call it the **crossover**. LoRA does not stop saving there. Full
# fine-tuning then holds the frozen weights, `S`, and activations that are about `S` again; LoRA holds the weights and
# activations. So the ratio there is nearer to 2 the smaller the weights are beside `S`. Only well beyond the crossover
# LoRA saves next to nothing: a fifth or less, a ratio of 1.25 or less. (All ratios here compare sums of parts. The
# peaks of full fine-tuning are lower than its sum, so LoRA's saving is, if anything, smaller than shown.)
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


def falls_to(ratio, config, length, precision, rank, checkpoint=False):
    """The tokens at which full is `ratio` times LoRA: bytes grow by the same amount with each sequence."""
    options = {"precision": precision, "checkpoint": checkpoint}
    (f1, f2), (l1, l2) = (
        [training_bytes(config, m, n, length, rank, **options).total for n in (1, 2)] for m in ("full", "lora")
    )
    left, closing = f1 - ratio * l1, ratio * (l2 - l1) - (f2 - f1)
    return length * (1 + left / closing) if closing > 0 else float("inf")


# %% [markdown]
# The claim about "3 times", counted with STATE32. It holds if it holds for few tokens a step and for many:

# %%
claims["three_times"] = results.claim(
    "three_times",
    says="LoRA needs 3 times less memory than full fine-tuning (by our count)",
    source="2106.09685, abstract and section 4.2",
    published="3 times (GPT-3 175B)",
    criterion="the ratio is at least 3 for LLaMA-7B in 16 bits (state in float32) at 512 tokens and at 65,536: "
    "reproduced; at one of them: partly",
    judge=lambda ratios: [False, "partly", "reproduced"][sum(ratio >= 3 for ratio in ratios)],
)

# %% [markdown]
# The crossovers of the giants, at STATE32 and rank 16, and the ratio that the claim is about:

# %%
rows = []
for name in ("LLaMA-7B", "LLaMA-13B", "LLaMA-33B", "LLaMA-65B"):
    (saved, a), (_, again) = (saving(MODELS[name], STATE32, 16, 512, c) for c in (False, True))
    rows.append([name, MODELS[name].width, f"{saved / GB:.1f}", f"{a / 1e6:.2f}"])
    rows[-1] += [f"{saved / a:,.0f}", f"{saved / again:,.0f}"]
head = ["STATE32", "width", "LoRA saves, GB", "activations a token, MB", "crossover, tokens", "with checkpointing"]
print(stats.table(head, rows), end="\n\n")
ratios = [ratio_at(llama, tokens, 512, STATE32, 16) for tokens in (512, 65_536)]
claims["three_times"].measure(ratios, f"{ratios[0]:.2f} times at 512 tokens a step, {ratios[1]:.2f} at 65,536")

# %% [markdown]
# And how small does the ratio get? At the crossover, and where it has fallen to 1.25, without checkpointing and with:

# %%
rows = []
for name in ("LLaMA-7B", "LLaMA-13B", "LLaMA-33B", "LLaMA-65B"):
    row = [name]
    for again in (False, True):
        saved, a = saving(MODELS[name], STATE32, 16, 512, again)
        row.append(f"{ratio_at(MODELS[name], round(saved / a), 1, STATE32, 16, again):.2f}")
        row.append(f"{falls_to(1.25, MODELS[name], 512, STATE32, 16, again):,.0f}")
    rows.append(row)
head = ["STATE32", "ratio at crossover", "1.25 at, tokens", "checkpointing: ratio", "1.25 at, tokens"]
print(stats.table(head, rows))
saved, again = saving(llama, STATE32, 16, 512, True)
with_logits = saved / (again + 8 * llama.vocabulary)
print(f"LLaMA-7B's crossover with checkpointing: {saved / again:,.0f} tokens; {with_logits:,.0f} with float32 logits")

# %% [markdown]
# Take the columns with checkpointing as upper bounds. What lives for a moment is not in them, and with so few
# activations left it weighs: the last line adds the logits in float32 and their gradient, 8 bytes for each word of the
# vocabulary.
#
# **What is left is `d`.** `S / a` is proportional to layers · d² / (layers · d): a model twice as wide has twice the
# crossover, however deep it is. A small model reaches it with few tokens, and so it can be *measured* here, on models
# small enough to run. The claim, about our own accounting:

# %%
claims["crossover"] = results.claim(
    "crossover",
    says="from a number of tokens that the closed form predicts, activations outweigh all that LoRA saves",
    source="this book; the question is peft#1514",
    published="LoRA takes as much memory as full fine-tuning when the context is long",
    criterion="the predicted crossover is within 5 % of the measured one at every width, and the measured ratio of "
    "full to LoRA at the most tokens is below 1.5",
    judge=lambda found: found[0] <= 0.05 and found[1] < 1.5,
)

# %% [markdown]
# For a few widths we run real steps of full fine-tuning and of LoRA at growing batches, in float32, and count every
# byte. The predicted crossovers first. (The formula knows only tokens. Does it matter whether they come
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
    there, low = ratio_at(shape, round(predicted[w]), 1, FLOAT32, 8), falls_to(1.25, shape, 64, FLOAT32, 8)
    print(f"width {w}: predicted crossover at {predicted[w]:.0f} tokens a step", end=" ")
    print(f"(a ratio of {there:.2f}); a ratio of 1.25 at {low:,.0f}")
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
        found.append((64 * b, sum(full[p] for p in PARTS) / sum(lora[p] for p in PARTS), lora["activations"]))
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
# Is the crossover proportional to the width? Then crossover / width is the same in every row:

# %%
rows = [[f"small, {w}", f"{predicted[w]:,.0f}", f"{predicted[w] / w:.2f}", ""] for w in widths]
for name in ("LLaMA-7B", "LLaMA-13B", "LLaMA-33B", "LLaMA-65B"):
    plain, again = (saved / a for saved, a in (saving(MODELS[name], STATE32, 16, 512, c) for c in (False, True)))
    rows.append([name, f"{plain:,.0f}", f"{plain / MODELS[name].width:.2f}", f"{again / MODELS[name].width:.1f}"])
print(stats.table(["model", "crossover", "crossover / width", "with checkpointing / width"], rows))

# %% [markdown]
# Where it is not the same, look for what is not proportional to layers · d² or layers · d:
#
# - **the rank**: adapters take `rank` times the width, in weights and in what they keep. At rank 8 that is a large part
#   of a width of 64, and nothing of 4096. It makes small models' crossovers smaller;
# - **the vocabulary**: the embedding and the head, which LoRA freezes, are vocabulary · d. A token's log-probabilities
#   are vocabulary numbers, whatever the width;
# - **the precision**: small models are counted in float32, giants in 16 bits, so do not compare the one with the other;
# - **checkpointing**: it keeps the inputs of all blocks, and the inside of *one*. That one is shared by all layers, so
#   a deeper model gains more by it, and its crossover grows faster than the width.
#
# The measured points on the predicted lines, for the small models:


# %%
def diamond(ax, tokens, ratio, colour):
    ax.plot([tokens], [ratio], "D", color="white", markeredgecolor=colour, markeredgewidth=1.6, markersize=8, zorder=5)


def small_models(ax):
    """Predicted lines, measured dots, and a diamond at each crossover."""
    tokens = [64 * 2**k for k in range(7)]
    for w, colour in zip(widths, (plots.SKY, plots.BLUE, plots.BLACK), strict=False):
        curve = [ratio_at(shapes[w], n, 64, FLOAT32, 8) for n in tokens]
        ax.plot(tokens, curve, color=colour)
        ax.plot([n for n, _, _ in points[w]], [r for _, r, _ in points[w]], "o", color=colour, markersize=5)
        crossing = round(predicted[w])
        diamond(ax, crossing, ratio_at(shapes[w], crossing, 1, FLOAT32, 8), colour)
        ax.annotate(f"width {w}", (tokens[0], curve[0]), (5, 6), textcoords="offset points", color=colour, size=9)
    ax.set(xlabel="tokens a step", xscale="log", ylim=(0.8, 3.4), ylabel="full fine-tuning over LoRA, in bytes")
    ax.set_title("Small models, float32 (dots: measured)")


# %% [markdown]
# Beside them two giants, with checkpointing (dotted) and without (solid).


# %%
def giants(ax):
    """The ratio of LLaMA-7B and LLaMA-65B, in 16 bits with the state in float32."""
    tokens, ends = [512 * 2**k for k in range(11)], {}
    for name, colour in (("LLaMA-7B", plots.ORANGE), ("LLaMA-65B", plots.RED)):
        for checkpointed in (False, True):
            curve = [ratio_at(MODELS[name], n, 512, STATE32, 16, checkpointed) for n in tokens]
            ax.plot(tokens, curve, color=colour, linestyle=":" if checkpointed else "-")
            saved, a = saving(MODELS[name], STATE32, 16, 512, checkpointed)
            crossing = round(saved / a)
            diamond(ax, crossing, ratio_at(MODELS[name], crossing, 1, STATE32, 16, checkpointed), colour)
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
far = all(ratio_at(shapes[w], round(predicted[w]), 1, FLOAT32, 8) > 1.4 for w in widths)
words = (
    "The more tokens in a step, the less LoRA saves. Diamonds mark the crossovers: there, LoRA's activations are as "
)
words += "many bytes as it saves, and the ratio is still far above 1." if far else "many bytes as it saves."
results.figure(fig, "ratio", words)

# %% [markdown]
# So "3 times" is a statement about a batch as much as about LoRA. And the question that users ask, *why did LoRA save
# no memory?* (peft#1514, peft#1469), has an answer that can be computed. Go through it in this order:
#
# 1. Is the base frozen? If not, you saw above what happens.
# 2. How many tokens are in a step? Beyond the crossover, activations are the larger part: switch checkpointing on. It
#    moves the crossover, and the 1.25, to many more tokens (the tables above have both). Or take fewer tokens at a
#    time, and add up the gradients of several passes before a step: what counts are the tokens of one pass.
# 3. Is the tool showing what is *reserved*? `nvidia-smi` shows all that torch's allocator holds, used or not, and the
#    CUDA context.
#
# ### Beside a measurement on a GPU
#
# PEFT's own comparison publishes a result file for each method, here from June 2025: Llama-3.2-3B in bfloat16, AdamW,
# batch 4, at most 768 tokens, rank 32 on q and v, one NVIDIA L40S. It gives what was *allocated* on average after a
# step, which should be weights, gradients and state; and the largest amount *reserved*, activations and all.

# %%
claims["peft"] = results.claim(
    "peft",
    says="memory between steps",
    source="PEFT's comparison, Llama-3.2-3B",
    published="26.07 GB full, 6.92 GB LoRA",
    criterion=near,
    judge=all_or_some,
)

# %% [markdown]
# Ours is counted with BFLOAT16 and the most tokens that a step may have, 4 · 768.

# %%
llama_3b = LlamaConfig(128256, 3072, 8192, 28, 24, 8, 131072, tie_word_embeddings=True)
measured = {"full": (26.07, 37.24), "lora": (6.92, 22.27)}  # GB: allocated on average, largest reserved
rows, good, ours = [], 0, {}
for method, (allocated, reserved) in measured.items():
    found = training_bytes(llama_3b, method, 4, 768, 32, QV, precision=BFLOAT16)
    stored, total = (found.total - found.activations) / GB, found.total / GB
    ours[method] = total, total - found.gradients / GB
    good += abs(stored / allocated - 1) <= 0.1
    rows.append([method, f"{stored:.2f}", allocated, f"{total:.1f}", f"{ours[method][1]:.1f}", reserved])
head = ["GB", "stored", "allocated there", "with activations", "less gradients", "largest reserved there"]
print(stats.table(head, rows))
claims["peft"].measure([good, 2], f"{rows[0][1]} GB full, {rows[1][1]} GB LoRA")
there = measured["full"][1] / measured["lora"][1]
print(f"largest amounts, full over LoRA: {there:.2f} there, {ours['full'][0] / ours['lora'][0]:.2f} in our accounting")
for what, tokens, each in (("logits in 16 bits, 840 tokens", 840, 2), ("logits in float32, 3,072 tokens", 3072, 4)):
    print(f"{what}: {tokens * llama_3b.vocab_size * each / GB:.2f} GB")

# %% [markdown]
# What is **stored** is the solid part. Two small things are in theirs and not in ours. Their script still holds the
# batch's logits when it looks, 840 tokens on average. And its adapters are in float32.
#
# Of the **largest amounts** we can only expect the order of size. Two things can make ours too large:
#
# - the peak is not the sum of the parts. When forward ends, all activations are there, but the gradients are not yet;
#   when the last gradient comes, the activations are gone. For full fine-tuning the gradients are many GB ("less
#   gradients" leaves them out), for LoRA they are next to none;
# - ours assumes 3,072 tokens in the step. Theirs had 840 on average; its largest step may have had fewer than 3,072.
#
# Other things are in theirs and not in ours, about the same for both methods: evaluation, the logits in float32 and
# what the loss makes of that size, and blocks that the allocator holds and nobody uses. So ours may be above theirs for
# full fine-tuning and below theirs for LoRA. Is it so?

# %%
for method, (_, reserved) in measured.items():
    side = "above" if ours[method][0] > reserved else "below"
    print(
        f"{method}: ours with activations is {abs(ours[method][0] - reserved):.1f} GB {side} the largest reserved there"
    )

# %% [markdown]
# Whatever both methods share and we do not count pulls a ratio towards 1. (A later version of the comparison gives 36.2
# and 20.8 GiB, 1.7 times.)
#
# ## Gradient checkpointing
#
# The cure for large activations (Chen et al., arXiv 1604.06174); it has nothing to do with files. Keep only the input
# of each block; when backward arrives there, run the block again. In raw lines, it is one call around each block:


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
# Now the bytes. Forward keeps the inputs of the blocks. In backward one block is run again at a time, so what matters
# is the largest moment: the inputs and one block's inside. Only the simulation sees that moment. Predict it from the
# table of the first part: (layers · input) + one block.

# %%
NAMES = {"full": ("full", False), "LoRA": ("lora", False), "full + ckpt": ("full", True), "LoRA + ckpt": ("lora", True)}


def prepared(name):
    method, wrapped = NAMES[name]
    return checkpoint_blocks(made(method)) if wrapped else made(method)


rows = []
for name, (method, wrapped) in NAMES.items():
    closed = training_bytes(config, method, batch, length, rank, checkpoint=wrapped).activations
    forward = measured_bytes(prepared(name), batch, length)["activations"]
    largest = simulated_bytes(prepared(name), batch, length)["activations"] if wrapped else forward
    rows.append([name, f"{forward:,}", f"{largest:,}", f"{closed:,}", f"{closed / largest - 1:+.1%}"])
print(stats.table(["float32", "kept after forward", "largest at a time", "closed form", "off"], rows))
moment = 4 * batch * length * (config.hidden_size + rank) + 4
print(f"LoRA + ckpt: simulated less closed form {largest - closed:,} bytes; W x and A x of one layer {moment:,}")

# %% [markdown]
# The last line explains what is "off" for LoRA. The largest moment comes when the block has been run again up to the
# last tensor that backward needs. With adapters that is `s · A x` of the last layer, `down_proj`. At that moment the
# layer's `W x` and its unscaled `A x` are still alive (and the loss, one number). Backward does not need them, they
# live for a moment, and so the closed form leaves them out. Without adapters the run stops before that layer.
#
# Then the price. We count multiplications, with torch's own counter. A step of full fine-tuning costs three units:
# forward one, gradients of the activations one, gradients of the weights one. Predict LoRA, and LoRA with
# checkpointing. (`set_checkpoint_early_stop(False)` makes torch run a block again to its very end.)


# %%
def multiplications(name, early=True):
    """(forward, the whole step): multiplications of one step."""
    model = prepared(name)
    with FlopCounterMode(display=False) as counter, set_checkpoint_early_stop(early):
        loss = F.cross_entropy(model(ids).flatten(0, 1), labels)
        forward = counter.get_total_flops()
        loss.backward()
    return forward, counter.get_total_flops()


flops = {name: multiplications(name) for name in NAMES}
flops |= {f"{name}, to the end": multiplications(name, early=False) for name in NAMES if name.endswith("ckpt")}
unit = flops["full"][1]
rows = [[name, *(f"{count / unit:.3f}" for count in counts)] for name, counts in flops.items()]
print(stats.table(["share of full", "forward", "step"], rows))
for name in ("full", "LoRA"):
    early, late = ((flops[f"{name} + ckpt{end}"][1] - flops[name][1]) / unit for end in ("", ", to the end"))
    print(f"checkpointing adds {early:.3f} to {name}, {late:.3f} if blocks are run to their end;", end=" ")
    print(f"a forward pass of {name} is {flops[name][0] / unit:.3f}")
results.record(flops={name: step for name, (_, step) in flops.items()})

# %% [markdown]
# Checkpointing adds about one forward pass, and not exactly one. Three things explain the differences:
#
# - *what runs again is the blocks*, and not the head;
# - *torch stops early*: it runs a block again only up to the last tensor that backward needs. In full fine-tuning that
#   is the input of `down_proj`, so the product of `down_proj`, a large one, is spared. With an adapter on `down_proj`
#   the last such tensor is `s · A x`, which comes after that product, so only the small product with `B` is spared;
# - *LoRA's forward pass is longer than full fine-tuning's*: the adapters' own products are in it.
#
# LoRA's step itself needs no gradients of frozen weights: one of three units falls away, and the adapters' products
# come on top. On a wide model these are nothing, and 2/3 is left, as *LoRA Without Regret* says (Schulman and Thinking
# Machines Lab, 2025, thinkingmachines.ai/blog/lora). On a narrow one they eat up part of it. How much on LLaMA-7B?

# %%
share = lora_parameters(llama.shapes(ALL_LINEAR), 16) / sum(o * i for o, i in llama.shapes(ALL_LINEAR))
plain, again = (2 + 3 * share) / 3, (3 + 4 * share) / 3
print(f"LLaMA-7B, rank 16, without attention and head: (2 + 3 · {share:.3f}) / 3 = {plain:.2f} of full")
print(f"and with checkpointing, blocks run again to their end: (3 + 4 · {share:.3f}) / 3 = {again:.2f}")

# %% [markdown]
# So on a wide model LoRA with checkpointing costs about as many multiplications as full fine-tuning without.
# (Multiplications are not time: a tiny model's LoRA step was no faster in chapter 01.)
#
# ## Your own model
#
# All of it in one call, for a model *built like a Llama*: a gated MLP (gate, up, down), no experts. Llama, Mistral,
# Qwen2 and Qwen3 are. Give the `transformers` config of one, a model that has such a config, or sizes. For a config of
# another kind (GPT-2) or one with experts (Mixtral) `training_bytes` raises an error. It leaves out biases and norms of
# q and k, which some of these models have: a small fraction of a per cent.
#
# Given a model, it also compares the weights that its sizes make with those that are there, and raises if they differ
# by more than 2 %. Given a config it cannot, so do it yourself, with the first line of the next output: `sum(p.nbytes
# for p in model.parameters())` against `.weights`. Print the result and you get the table.

# %%
model = made("lora")
print(f"in the model {sum(p.nbytes for p in model.parameters()):,} bytes of weights", end="; ")
print(f"in the closed form {training_bytes(model, 'lora', 1, 1, rank).weights:,}")
mine = LlamaConfig(128256, 4096, 14336, 32, 32, 8, 8192)  # or AutoConfig.from_pretrained("...")
for checkpointed in (False, True):
    print(f"\nQLoRA of an 8B Llama, STATE32, 8 sequences of 2048 tokens, checkpointing {checkpointed}:")
    print(training_bytes(mine, "qlora", batch=8, length=2048, rank=16, precision=STATE32, checkpoint=checkpointed))
moment = 8 * mine.vocab_size * 8 * 2048 / GB
print(f"\nnot counted: the logits in float32 and their gradient, {moment:.1f} GB for a moment")

# %% [markdown]
# What it does not count, so that you leave room for it:
#
# - the CUDA context, and the workspaces of cuBLAS and others: from several hundred MB to 1 GB;
# - tensors that live for a moment: the logits once more in float32 and their gradient (with a vocabulary of 128,000
#   that is 0.5 MB a token, each; the last line above has the sum), the decoded slice of a 4-bit weight, the
#   optimizer's temporary copies;
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
from lora_from_scratch.book.checks import ch06 as check


def my_bytes(base, added):
    """Weights, gradients and state of a LoRA step, in bytes."""
    return None  # your code here


print(check.check_bytes(my_bytes))

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


print(check.check_kept(my_kept))  # it counts what autograd really keeps

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
# **3. A longer context.** You train LLaMA-7B by LoRA: rank 64, all linear layers, bfloat16 with state in float32,
# batch 1. The card has 24 GB of 10⁹ bytes, and 1 GB must be left. What is the longest sequence without checkpointing?
# With it? (Use `training_bytes` with `precision=STATE32`. To the nearest 128 tokens below is enough.)

# %%
my_lengths = {"plain": None, "checkpointing": None}  # your numbers here
print(check.check_lengths(my_lengths))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def longest(wrapped):
#     n, llama = 128, MODELS["LLaMA-7B"]
#     while training_bytes(llama, "lora", 1, n + 128, 64, precision=STATE32, checkpoint=wrapped).total <= 23e9:
#         n += 128
#     return n
#
# my_lengths = {"plain": longest(False), "checkpointing": longest(True)}
# ```
#
# In a usual run something comes on top: the logits in float32 and their gradient, 8 bytes for each word of the
# vocabulary and each token. They live for a moment and are not in `training_bytes`. Leave room for them, and you get
# the shorter lengths that fit even so:
#
# ```python
# def longest_with_logits(wrapped):
#     n, each = 128, 8 * llama.vocabulary
#     while (
#         training_bytes(llama, "lora", 1, n + 128, 64, precision=STATE32, checkpoint=wrapped).total + each * (n + 128)
#         <= 23e9
#     ):
#         n += 128
#     return n
#
# print(longest_with_logits(False), longest_with_logits(True))
# ```
#
# And mind the context: LLaMA-7B was trained on 2,048 positions. What fits in memory is not what the model can use.
#
# </details>
#
# **4. Adapters in the last layers only.** You put adapters into the upper half of the blocks and leave the lower half
# frozen without any. Which parts shrink? Think first. Then write a regular expression that matches the whole name of
# each linear layer in the upper half of a model of twelve blocks, and of no other. Such a name is printed below.

# %%
print([name for name, module in TinyLlama(check.CONFIG).named_modules() if name.endswith("down_proj")][-1])
my_upper = None  # your regular expression here
print(check.check_upper(my_upper))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# upper = "|".join(str(block) for block in range(6, 12))
# my_upper = rf".*layers\.({upper})\..*_proj"
# ```
#
# Gradients and state halve with the adapters. And the activations fall to about a half: below the lowest adapter
# nothing needs a gradient, so the lower blocks keep nothing at all. It is the largest way in which LoRA saves
# activations, and the reason why training only the upper layers is so cheap. There is a smaller one, fewer targets: a
# layer without an adapter need not keep its input. Compare:
#
# ```python
# half = config.num_hidden_layers // 2
# upper = "|".join(str(block) for block in range(half, config.num_hidden_layers))
# for targets in ("all-linear", QV, rf".*layers\.({upper})\..*_proj"):
#     print(targets, measured_bytes(made("lora", targets=targets), batch, length)["activations"])
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
