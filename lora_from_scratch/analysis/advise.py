"""A plan for fine-tuning a Llama on one card: method, batch, checkpointing, rank, with the bytes and each reason.

    need = 1.1 · (weights + constants + gradients + state + activations + 8 · vocabulary · tokens)

by the formulas of memory.py and peaks.py (chapter 06); the tenth on top is for what they fall short of and for the
allocator. The first of these that fits is taken:

    LoRA, all tokens at once  →  fewer sequences at once, gradients summed up  →  the same with checkpointing
    →  QLoRA, in the same order

So what costs no pass comes before what costs a forward pass, and 16 bits before 4, which cost some loss (row
05.recovers). DoRA is not planned: it keeps more than LoRA does. A count says what fits, not what learns best: that is
in figures/GUIDE.md, whose rows the reasons name.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real

from lora_from_scratch.analysis.activations import shapes_of
from lora_from_scratch.analysis.memory import ADAPTERS32, Bytes, Precision, _names, _sizes, training_bytes
from lora_from_scratch.analysis.peaks import planned

ROOM = 1.1  # chapter 06 plans a card with a tenth to spare
METHODS = ("lora", "qlora")
ALPHA = 32  # 2 · 16, kept whatever the rank
RESTS_ON = (  # the rows behind the reasons; `make sync-check` fails when one comes out otherwise
    "05.recovers=not reproduced, 06.extra=reproduced, 06.plan=holds, 12.fits=holds, "
    "A2.plan_close=does not hold, 13.on_par=reproduced, 20.alpha_raised=holds"
)


@dataclass(frozen=True)
class Plan:
    """What to run, its bytes, and why. print() shows all of it.

    `batch` sequences of `length` tokens at once, `accumulate` times before each step of the optimizer; `parts` are the
    bytes by part and `need` the sum with the logits' term and a tenth to spare. `reasons` has one for each number. For
    "full" `rank` and `alpha` are 0.
    """

    method: str
    batch: int
    length: int
    accumulate: int
    checkpoint: bool
    rank: int
    alpha: int
    parts: Bytes
    need: int
    memory: int
    reasons: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{name:12}{getattr(self, name)!s:>16}   {why}" for name, why in self.reasons.items()]
        return "\n".join([*lines, "", str(self.parts), f"{'to plan with':12}{self.need:20,} bytes"])


def advise(
    model_shapes: object,
    memory: float,
    tokens: int,
    length: int = 512,
    rank: int = 16,
    targets: str | Iterable[str] = "all-linear",
    methods: Iterable[str] = METHODS,
    precision: Precision = ADAPTERS32,
) -> Plan:
    """The first plan, in the order above, that fits `memory` bytes.

    Args:
        model_shapes: as memory.training_bytes takes it: a Llama-like model, its config, or a counting.Transformer.
        memory: bytes of the card that are free, such as 24e9.
        tokens: in one step of the optimizer; a multiple of `length`, the positions in a sequence.
        rank, targets, precision: as in memory.training_bytes; the default is a base in bfloat16, adapters in float32.
        methods: those that may be chosen, in order, of "lora", "qlora" and "full"; for full the plan is too much, by up
            to its gradients.

    Raises ValueError for an argument out of range, for a model's name in place of its shapes, and where nothing fits,
    with the least that would be needed.
    """
    _check(memory, tokens, length)
    if isinstance(model_shapes, str):
        raise ValueError(f"model_shapes is {model_shapes!r}; give the model, its config, or one of counting.MODELS")
    targets, methods = targets if isinstance(targets, str) else list(targets), _checked(methods)
    _check_rank(model_shapes, rank, targets)
    tokens, length, rank = int(tokens), int(length), int(rank)
    vocabulary, least = _vocabulary(model_shapes), None
    for method in methods:
        for batch, checkpoint in _ways(tokens // length):
            options = {"precision": precision, "checkpoint": checkpoint}
            parts = training_bytes(model_shapes, method, batch, length, rank, targets, **options)
            need = round(ROOM * planned(parts, vocabulary, batch * length))
            least = min(need, least or need)
            if need <= memory:
                accumulate = tokens // length // batch
                ours = (0, 0) if method == "full" else (rank, ALPHA)
                plan = (method, batch, length, accumulate, checkpoint, *ours, parts, need, int(memory))
                return Plan(*plan, _reasons(method, methods, accumulate, checkpoint, rank, targets, precision))
    raise ValueError(_too_small(memory, methods, length, least))


def _too_small(memory: float, methods: Iterable[str], length: int, least: int) -> str:
    tenth = f"the count, {least / ROOM:,.0f}, fits, and only the tenth to spare does not; "
    return (
        f"memory is {memory:,.0f} bytes, and {' and '.join(methods)} need {least:,} at least, for one sequence of "
        f"{length} with checkpointing; {tenth * (least / ROOM <= memory)}take a shorter length, a smaller model or a "
        "larger card"
    )


def _ways(sequences: int) -> Iterator[tuple[int, bool]]:
    """(sequences at once, checkpointing) in the order of preference: ever smaller divisors, then those checkpointed."""
    for checkpoint in (False, True):
        yield from ((batch, checkpoint) for batch in range(sequences, 0, -1) if sequences % batch == 0)


def _reasons(
    method: str,
    methods: list[str],
    accumulate: int,
    checkpoint: bool,
    rank: int,
    targets: object,
    precision: Precision,
) -> dict[str, str]:
    earlier = methods[: methods.index(method)]
    chosen = f"the first asked for that fits; {' and '.join(earlier)} did not" if earlier else "the first asked for"
    costs = {"qlora": ", and 4 bits cost some loss that training does not bring back (05.recovers)"}.get(method, "")
    fits = "without it one sequence does not fit; it costs at most one forward pass more (06.extra)"
    split = "a step's tokens do not fit at once: gradients of so many batches are summed up"
    bears = "it ended as low as full fine-tuning on a real model (13.on_par)"
    ranks = bears if rank == 16 else "compare with 16, the one that a row bears (13.on_par)"
    alpha = "kept whatever the rank: raised beside it at one rate it did harm (20.alpha_raised); search the rate"
    need = "within 5 % of a real process in float32 (12.fits); up to 6.3 % too much in bfloat16 (A2.plan_close)"
    if method == "full":
        ranks = alpha = "not used: every weight is trained"
        need = (
            f"too much, by up to the gradients; a state of AdamW takes {precision.state} bytes a number, as asked for"
        )
    return {
        "method": chosen + costs,
        "batch": "the most sequences at once, of those that divide the step, that fit",
        "length": "as asked for",
        "accumulate": split if accumulate > 1 else "all of a step's tokens fit at once",
        "checkpoint": fits if checkpoint else "it fits without",
        "rank": ranks if method == "full" else f"as asked for, on {targets}; {ranks}",
        "alpha": alpha,
        "need": f"the plan (06.plan) times {ROOM}: {need}",
        "memory": "as given",
    }


def _vocabulary(model_shapes: object) -> int:
    config = getattr(model_shapes, "config", model_shapes)
    return getattr(config, "vocab_size", None) or getattr(config, "vocabulary", None) or 0


def _check(memory: float, tokens: int, length: int) -> None:
    if not isinstance(memory, Real) or isinstance(memory, bool) or not 0 < memory < float("inf"):
        raise ValueError(f"memory is {memory!r}; it must be a number of bytes above 0, such as 24e9")
    for name, value in (("tokens", tokens), ("length", length)):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1")
    if tokens % length:
        raise ValueError(
            f"tokens is {tokens} and length {length}; a step is whole sequences, so give a multiple, such as "
            f"{max(1, round(tokens / length)) * length}"
        )


def _checked(methods: object) -> list[str]:
    found = [methods] if isinstance(methods, str) else list(methods) if isinstance(methods, Iterable) else None
    if not found:
        raise ValueError(f"methods is {methods!r}; give at least one of lora, qlora, full")
    for method in found:
        if method not in ("lora", "qlora", "full"):
            raise ValueError(f"methods has {method!r}; give lora, qlora or full (LoRA's plan is too little for DoRA)")
    return found


def _check_rank(model_shapes: object, rank: object, targets: str | list[str]) -> None:
    """A rank beyond the smaller side of a matrix is refused; what is no rank at all is left to training_bytes."""
    shapes = shapes_of(_sizes(model_shapes))
    side, name = min((min(shapes[name]), name) for name in _names(targets))
    if isinstance(rank, Integral) and rank > side:
        raise ValueError(f"rank is {rank}; {name} has a side of {side}, and no update of it a higher rank: take less")
