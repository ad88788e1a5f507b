"""How many bytes a training step of a Llama holds, in closed form, by part.

    weights       (base + adapters) · w              in 4 bits (arXiv 2305.14314, section 3): half a byte a weight
    constants     4 bytes for 64 weights in 4 bits   double quantized: 1 byte, and 4 for 256 such blocks
    gradients     trained · g
    optimizer     trained · (master + states · b)    AdamW keeps two states a number, Lion one, SGD none
    activations   batch · length · (a sum over the layers): what forward keeps for backward

Only the last depends on the batch, and hardly on what is trained: a gradient passes through every layer on its way to
the adapters. So LoRA shrinks gradients and optimizer, QLoRA the weights besides; checkpointing shrinks activations
(arXiv 1604.06174): it keeps the input of each block, and runs the block again in backward.

Not counted: the batch, what lives for a moment, biases, norms of q and k. This file builds on activations.py alone.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from numbers import Integral

from lora_from_scratch.analysis.activations import ATTENTION, MLP, Sizes, kept, shapes_of

STATES = {"adamw": 2, "lion": 1, "sgd": 0}  # numbers that an optimizer keeps for each that it trains
LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3")  # what `transformers` calls the models that are built alike
READS = (
    f"only Llama-like models can be read ({', '.join(LLAMA_LIKE)}): a gated MLP, no experts; simulate.py runs others"
)


@dataclass(frozen=True)
class Precision:
    """Bytes a number: weights and activations, gradients, a second copy of what is trained (or 0), optimizer state.

    `adapter`, if not 0, is what A and B take instead, with their gradients and states, as `add_adapters` makes them
    over 16 bits: 4.
    """

    weight: int = 4
    gradient: int = 4
    master: int = 0
    state: int = 4
    adapter: int = 0

    def of_adapters(self) -> "Precision":
        """The bytes of what adapters train."""
        return Precision(self.adapter, self.adapter, 0, self.adapter) if self.adapter else self

    def trained(self, optimizer: str = "adamw") -> int:
        """Bytes a trained number, without activations. Raises ValueError for an unknown optimizer."""
        if optimizer not in STATES:
            raise ValueError(f"optimizer is {optimizer!r}; it must be one of {', '.join(STATES)}")
        return self.weight + self.gradient + self.master + STATES[optimizer] * self.state


FLOAT32 = Precision()  # with AdamW 16 bytes a trained number
BFLOAT16 = Precision(2, 2, 0, 2)  # 8: model.bfloat16(), for which torch keeps the state in bfloat16 too
STATE32 = Precision(2, 2, 0, 4)  # 12: the state in float32, as arXiv 2305.14314 counts
ADAPTERS32 = Precision(2, 2, 0, 2, adapter=4)  # a bfloat16 model with the adapters of this project
MIXED = Precision(2, 2, 4, 4)  # 16: and a copy of the weights in float32 (arXiv 1710.03740, section 3.1)


@dataclass(frozen=True)
class Bytes:
    """Bytes by part. print() shows them as a table."""

    weights: int
    constants: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return sum(asdict(self).values())

    def __str__(self) -> str:
        rows = asdict(self) | {"total": self.total}
        return "\n".join(f"{part:12}{n:20,} bytes{n / self.total:8.1%}" for part, n in rows.items())


def training_bytes(
    model_or_shape: object,
    method: str,
    batch: int,
    length: int,
    rank: int = 16,
    targets: str | Iterable[str] = "all-linear",
    precision: Precision = FLOAT32,
    optimizer: str = "adamw",
    checkpoint: bool = False,
    block_size: int = 64,
    double: bool = True,
) -> Bytes:
    """The bytes of a training step, from the sizes of the model alone.

    Args:
        model_or_shape: a Llama-like model whose `config` names its sizes as `transformers` does; such a config; or
            sizes as analysis.counting.Transformer names them, where a head is taken to be 128 wide.
        method: "full" trains every weight, "lora" adapters on a frozen base, "qlora" adapters on a base whose linear
            layers but the head, whatever the targets, are in NF4, in blocks of `block_size`, `double` quantized.
        batch, length: sequences in a step, and positions in a sequence.
        rank, targets: of the adapters; "all-linear" (all but the head), or a list of the layers' last names.
        precision, optimizer: bytes a number; "adamw", "lion" or "sgd". checkpoint: blocks run again in backward.

    Raises ValueError for a model of another kind, or 2 % off in its weights, and for an argument out of range.
    """
    if method not in ("full", "lora", "qlora"):
        raise ValueError(f"method is {method!r}; it must be full, lora or qlora")
    if not isinstance(precision, Precision):
        raise ValueError(f"precision is {precision!r}; give a Precision, such as FLOAT32 or MIXED")
    _check_counts(batch=batch, length=length, rank=rank, block_size=block_size)
    m, w = _sizes(model_or_shape), precision.weight
    shapes = shapes_of(m)
    rank, names = (0, set(shapes)) if method == "full" else (rank, _names(targets))
    adapters = sum(rank * sum(shapes[n]) * (1 if n == "lm_head" else m.layers) for n in names)
    linear = m.layers * sum(shapes[n][0] * shapes[n][1] for n in ATTENTION + MLP)
    other = (2 * m.layers + 1) * m.width + (1 if m.tied else 2) * m.vocabulary * m.width  # norms, embedding, head
    if hasattr(model_or_shape, "named_parameters"):
        _check_weights(model_or_shape, linear + other)
    trained, own = adapters or linear + other, precision if method == "full" else precision.of_adapters()
    packed, constants = _nf4_bytes(m, block_size, double) if method == "qlora" else (linear * w, 0)
    return Bytes(
        weights=packed + other * w + adapters * own.weight,
        constants=constants,
        gradients=trained * own.gradient,
        optimizer=trained * (own.trained(optimizer) - own.weight - own.gradient),
        activations=kept(m, w, batch * length, length, names, rank, own.weight, checkpoint),
    )


def _sizes(source: object) -> Sizes:
    config, of = getattr(source, "config", source), f" of {type(source).__name__}"
    for name in ("num_local_experts", "num_experts", "n_routed_experts", "model_type"):
        if (value := getattr(config, name, None)) and value not in LLAMA_LIKE:
            raise ValueError(f"{name}{of} is {value!r}; {READS}")
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")
    names = names if hasattr(config, "hidden_size") else ("layers", "width", "mlp", "vocabulary")
    L, C, M, V = (getattr(config, name, None) for name in names)
    _check_counts(of, **dict(zip(names, (L, C, M, V), strict=True)))
    H = getattr(config, "num_attention_heads", None) or max(1, C // 128)
    head = getattr(config, "head_dim", None)  # where it is not width / heads, q and what o reads are not C wide
    q, head = (H * head, head) if head else (C, C // H)
    kv = getattr(config, "kv", None) or head * (getattr(config, "num_key_value_heads", None) or H)
    tied = getattr(config, "tied", False) or getattr(config, "tie_word_embeddings", False)
    return Sizes(L, C, M, V, H, head, q, kv, tied)


def _check_weights(model: object, closed: int) -> None:
    """Compare with the base weights that there are: two to a byte in 4 bits, adapters (A, B, lora_...) left out."""
    tensors = [*model.named_parameters(), *(b for b in model.named_buffers() if b[0].endswith("packed"))]
    base = [t for name, t in tensors if "lora_" not in name and not name.endswith((".A", ".B"))]
    real = sum(t.numel() * (2 if str(t.dtype) == "torch.uint8" else 1) for t in base)
    if abs(real / closed - 1) > 0.02:
        raise ValueError(f"this {type(model).__name__} has {real:,} weights, its sizes give {closed:,}; {READS}")


def _nf4_bytes(m: Sizes, block_size: int, double: bool) -> tuple[int, int]:
    """Bytes of codes and of constants, each matrix quantized by itself."""
    counts = [d_out * d_in for name, (d_out, d_in) in shapes_of(m).items() if name != "lm_head"]
    blocks = [-(-n // block_size) for n in counts]
    constants = sum(b + 4 * -(-b // 256) + 4 for b in blocks) if double else 4 * sum(blocks)  # + 4: their mean
    return m.layers * sum(-(-n // 2) for n in counts), m.layers * constants


def _names(targets: str | Iterable[str]) -> set[str]:
    known, names = (*ATTENTION, *MLP, "lm_head"), ATTENTION + MLP if targets == "all-linear" else targets
    if isinstance(names, str) or not isinstance(names, Iterable) or not (found := set(names)) or found - set(known):
        raise ValueError(f'targets is {targets!r}; give "all-linear", or a list of names from {", ".join(known)}')
    return found


def _check_counts(of: str = "", **values: object) -> None:
    for name, value in values.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}{of} is {value!r}; it must be an integer of at least 1" + (of and f"; {READS}"))
