"""A plan for fine-tuning a Llama on one card: method, batch, checkpointing, rank, with the bytes and each reason.

    need = 1.1 · (weights + constants + gradients + state + activations + 8 · vocabulary · tokens)

by the formulas of memory.py and peaks.py (chapter 06); the tenth on top is for what they fall short of and for the
allocator. The first of these that fits is taken:

    LoRA, all tokens at once  →  with checkpointing  →  fewer sequences at once, gradients summed up
    →  QLoRA, in the same order

So what costs nothing comes before what costs a forward pass, and 16 bits before 4, which cost some loss (row
05.recovers). A count says what fits, not what learns best: that is in figures/GUIDE.md, whose rows the reasons name.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Real

from lora_from_scratch.analysis.memory import ADAPTERS32, Bytes, Precision, training_bytes
from lora_from_scratch.analysis.peaks import planned

ROOM = 1.1  # chapter 06 plans a card with a tenth to spare
METHODS = ("lora", "qlora")
RESTS_ON = (  # the rows behind the reasons; `make sync-check` fails when one comes out otherwise
    "05.recovers=not reproduced, 06.extra=reproduced, 06.plan=holds, 07.same=holds, 12.fits=holds, "
    "01.rank_one_far=reproduced, 13.higher_rate=holds"
)


@dataclass(frozen=True)
class Plan:
    """What to run, its bytes, and why. print() shows all of it.

    `batch` sequences of `length` tokens at once, `accumulate` times before each step of the optimizer; `parts` are the
    bytes by part and `need` the sum with the logits' term and a tenth to spare. `reasons` has one for each number.
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
        methods: those that may be chosen, in order, of "lora", "qlora" and "full".

    Raises ValueError for an argument out of range, and where nothing fits, with the least that would be needed.
    """
    _check(memory, tokens, length)
    targets = targets if isinstance(targets, str) else list(targets)
    methods = [methods] if isinstance(methods, str) else list(methods)
    if not methods:
        raise ValueError("methods is empty; give at least one of lora, qlora, full")
    vocabulary, least = _vocabulary(model_shapes), None
    for method in methods:
        for batch, checkpoint in _ways(tokens // length):
            options = {"precision": precision, "checkpoint": checkpoint}
            parts = training_bytes(model_shapes, method, batch, length, rank, targets, **options)
            need = round(ROOM * planned(parts, vocabulary, batch * length))
            least = min(need, least or need)
            if need <= memory:
                accumulate = tokens // length // batch
                plan = (method, batch, length, accumulate, checkpoint, rank, 2 * rank, parts, need, int(memory))
                return Plan(*plan, _reasons(method, methods, accumulate, checkpoint, targets))
    raise ValueError(
        f"memory is {memory:,.0f} bytes, and {' and '.join(methods)} need {least:,} at least, for one sequence of "
        f"{length} with checkpointing; take a shorter length, a smaller model or a larger card"
    )


def _ways(sequences: int) -> Iterator[tuple[int, bool]]:
    """(sequences at once, checkpointing) in the order of preference: all, checkpointed, then ever smaller divisors."""
    yield sequences, False
    for batch in range(sequences, 0, -1):
        if sequences % batch == 0:
            yield batch, True


def _reasons(method: str, methods: list[str], accumulate: int, checkpoint: bool, targets: object) -> dict[str, str]:
    earlier = methods[: methods.index(method)]
    chosen = f"the first asked for that fits; {' and '.join(earlier)} did not" if earlier else "the first asked for"
    costs = {"qlora": ", and 4 bits cost some loss that training does not bring back (05.recovers)"}.get(method, "")
    fits = "with it the step fits; it costs at most one forward pass more (06.extra)"
    split = "a step's tokens do not fit at once, even checkpointed: gradients of so many batches are summed up"
    return {
        "method": chosen + costs,
        "batch": "the most sequences at once, of those that divide the step, that fit",
        "length": "as asked for",
        "accumulate": split if accumulate > 1 else "all of a step's tokens fit at once",
        "checkpoint": fits if checkpoint else "it fits without",
        "rank": f"as asked for, on {targets}; rank 1 was too small on the tiny model (01.rank_one_far)",
        "alpha": "2 · rank, a convention: alpha acts as a rate (07.same), so search the rate alone (13.higher_rate)",
        "need": f"the plan of 06.plan times {ROOM}; on a real process the plan was within 5 % (12.fits)",
        "memory": "as given",
    }


def _vocabulary(model_shapes: object) -> int:
    config = getattr(model_shapes, "config", model_shapes)
    return getattr(config, "vocab_size", None) or getattr(config, "vocabulary", None) or 0


def _check(memory: float, tokens: int, length: int) -> None:
    if not isinstance(memory, Real) or isinstance(memory, bool) or not 0 < memory < float("inf"):
        raise ValueError(f"memory is {memory!r}; it must be a number of bytes above 0, such as 24e9")
    for name, value in (("tokens", tokens), ("length", length)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1")
    if tokens % length:
        raise ValueError(
            f"tokens is {tokens} and length {length}; a step is whole sequences, so give a multiple, such as "
            f"{max(1, round(tokens / length)) * length}"
        )
