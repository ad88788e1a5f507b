"""What a model can do of two tasks, "records" and "documents" (adapt.py), without a token being generated.

A field of an answer is right if, after the question and the right answer so far, every one of its tokens is the
likeliest. That is kinder than what a model would say: an early error does not spoil what follows. Losses are in nats a
token.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from lora_from_scratch.lab import adapt, records, tasks, train
from lora_from_scratch.lab.answers import LEFT_OUT, as_batch
from lora_from_scratch.lab.checkpoint import Checkpoint


@torch.no_grad()
def marks(
    model: nn.Module,
    checkpoint: Checkpoint,
    half: str,
    count: int,
    windows: int,
    only: Sequence[str] = ("records", "documents"),
) -> dict[str, float]:
    """{"records", "documents": losses; "exact", "fields": shares right} of held-out data, no token generated.

    `half`: "tune" for choosing a weight, "judge" for judging it: other records, other windows. `count` records of new
    values in shapes that were seen, `windows` of 128 tokens of documentation; `only` one of the tasks, or both.
    Raises ValueError for another half, or for numbers below 1.
    """
    if half not in ("tune", "judge"):
        raise ValueError(f"half is {half!r}; it is 'tune' or 'judge'")
    if min(count, windows) < 1:
        raise ValueError(f"count is {count!r} and windows {windows!r}; give at least 1 of each")
    offset, found = {"tune": 0, "judge": 1}[half], {}
    if "documents" in only:
        chosen = tasks.fixed_windows(adapt.document_ids(checkpoint, "held_out"), 2 * windows, adapt.LENGTH)
        found["documents"] = train.evaluate(model, chosen[offset::2], batch=8)
    if "records" in only:
        found |= answers_of(model, records.records("new values", count, seed=offset + 1), checkpoint)
    return found


@torch.no_grad()
def answers_of(model: nn.Module, drawn: Sequence[records.Record], checkpoint: Checkpoint, batch: int = 16) -> dict:
    """Of records: the loss of the answers' tokens, and the shares of exact answers and of right fields."""
    examples, total, tokens, exact, fields = adapt.as_examples(drawn, checkpoint), 0.0, 0, [], []
    for first in range(0, len(examples), batch):
        part = examples[first : first + batch]
        inputs, labels = (p.to(next(model.parameters()).device) for p in as_batch(part))
        logits = model(inputs).float()
        total += F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=LEFT_OUT, reduction="sum").item()
        tokens += int((labels != LEFT_OUT).sum())
        right = logits.argmax(dim=-1) == labels
        for e, row, record in zip(part, right, drawn[first : first + batch], strict=True):
            own = row[e.start - 1 : len(e.ids) - 1].tolist()
            exact.append(all(own))
            wrong = {
                f for f, ok in zip(field_of(record.answer, e.ids[e.start :], checkpoint), own, strict=True) if not ok
            }
            fields += [field not in wrong for field in records.FIELDS]
    return {"records": total / tokens, "exact": sum(exact) / len(exact), "fields": sum(fields) / len(fields)}


def field_of(answer: str, ids: Sequence[int], checkpoint: Checkpoint) -> list[str]:
    """The field that each token of an answer belongs to, by where it begins; the bracket before the first is its."""
    starts = [answer.index(f'"{field}": ') for field in records.FIELDS]
    lengths = [len(checkpoint.tokenizer.decode([i])) for i in ids]
    places = [sum(lengths[:i]) for i in range(len(ids))]
    return [records.FIELDS[max(0, sum(start <= place for start in starts) - 1)] for place in places]
