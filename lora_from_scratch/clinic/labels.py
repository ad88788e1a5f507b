"""What a loss counts, beside what it should: the answer, all of it, and nothing of the prompt.

Where a batch says which of its tokens are the answer, the places that the loss counts (look.py) are held against them.
Token p of a row is predicted at place p - 1, so the first token of an answer is counted at the last of the prompt. A
batch says it by `completion_mask` (as in TRL) beside `input_ids`, or by being a list of examples with `ids` and the
`start` of the answer (lab/answers.py). Labels alone tell two things more: that they are off by one, and that the end
of every answer is left out.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lora_from_scratch.clinic.finding import Finding
from lora_from_scratch.clinic.look import MASKS

LEFT_OUT = -100  # the label that cross_entropy skips
NO_END = "the end of an answer is not learnt"


def of_labels(model: nn.Module, batch: object, counted: Tensor | None) -> list[Finding]:
    """What is wrong with the places that a loss counts. `counted` is (B, T), or None where it could not be seen."""
    found = _of_answers(_answers(batch), counted) if counted is not None else []
    shifted = _off_by_one(batch)
    ends = [] if any(f.name == NO_END for f in found) else _ends_left_out(model, batch)
    return [*found, *shifted, *ends]


def _answers(batch: object) -> list[tuple[int, int]]:
    """(first, last) token of the answer of each row, where the batch says so; else nothing."""
    if isinstance(batch, Mapping):
        mask = next((batch[name] for name in MASKS if isinstance(batch.get(name), Tensor)), None)
        if mask is None or mask.dim() != 2 or not (mask > 0).any(dim=1).all():
            return []
        places = [torch.nonzero(row).flatten() for row in mask > 0]
        return [(int(p[0]), int(p[-1])) for p in places]
    if isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch):
        if all(hasattr(row, "ids") and hasattr(row, "start") for row in batch):
            return [(int(row.start), len(row.ids) - 1) for row in batch]
    return []


def _of_answers(answers: list[tuple[int, int]], counted: Tensor) -> list[Finding]:
    """The loss on the prompt or behind the answer, and the ends of the answer left out."""
    if not answers or len(answers) != len(counted) or not all(1 <= first <= last for first, last in answers):
        return []
    missing = max(last for _, last in answers) - counted.shape[1]  # places that the model was not even given
    counted = torch.nn.functional.pad(counted, (0, max(0, missing)), value=False)
    prompt = sum(int(row[: first - 1].sum()) for row, (first, _) in zip(counted, answers, strict=True))
    inside = sum(int(row[first - 1 : last].sum()) for row, (first, last) in zip(counted, answers, strict=True))
    behind = sum(int(row[last:].sum()) for row, (_, last) in zip(counted, answers, strict=True))
    openings = sum(bool(row[first - 1]) for row, (first, _) in zip(counted, answers, strict=True))
    endings = sum(bool(row[last - 1]) for row, (_, last) in zip(counted, answers, strict=True))
    between = sum(max(0, last - first - 1) for first, last in answers)  # what is neither first nor last
    middle = sum(int(row[first : last - 1].sum()) for row, (first, last) in zip(counted, answers, strict=True))
    found, rows = [], len(answers)
    few = 0.5 * middle / between * rows if between else 0.0  # a loss may choose among tokens; these as often as others
    if not inside:
        return []
    if prompt:
        numbers = {"places of the prompt counted": prompt, "places of the answer counted": inside}
        found.append(Finding("the loss counts the prompt", numbers, "label the prompt's tokens -100: it is given"))
    if behind:
        numbers = {"places behind the answers counted": behind, "places of the answer counted": inside}
        found.append(Finding("the loss counts the padding", numbers, "label what stands behind an answer's end -100"))
    if openings <= few and openings < endings:
        found.append(
            Finding(
                "the loss leaves out the first token of the answer",
                {"first tokens counted": openings, "of": rows},
                "the prompt's last place predicts it: mask labels[:start], then shift; else mask labels[:start - 1]",
            )
        )
    if endings <= few and endings <= openings:
        found.append(_no_end(rows, endings))
    return found


def _no_end(rows: int, counted: int = 0) -> Finding:
    mend = "give the padding a token of its own, or mask it by its place (the attention mask), never by its id"
    return Finding(NO_END, {"ends counted": counted, "of": rows}, mend)


def _off_by_one(batch: object) -> list[Finding]:
    """Labels that are the input itself where they should be the next token, or the other way round."""
    if isinstance(batch, Mapping):
        ids, labels, right = batch.get("input_ids"), batch.get("labels"), 0  # transformers shifts them itself
        mend = "a transformers model shifts the labels itself: give labels = input_ids, masked but not moved"
    elif isinstance(batch, (tuple, list)) and len(batch) == 2:
        (ids, labels), right = batch, 1
        mend = "place i predicts the token at i + 1: labels = ids[:, 1:] beside the inputs ids[:, :-1]"
    else:
        return []
    if not all(isinstance(part, Tensor) and part.dim() == 2 for part in (ids, labels)) or ids.shape != labels.shape:
        return []
    same = {0: _agree(ids, labels), 1: _agree(ids[:, 1:], labels[:, :-1])}
    if same[right] > 0.5 or same[1 - right] < 0.95:
        return []
    numbers = {"labels that are the same place's token": same[0], "the next place's": same[1]}
    return [Finding("the labels are off by one", numbers, mend)]


def _agree(ids: Tensor, labels: Tensor) -> float:
    given = labels != LEFT_OUT
    return float((ids == labels)[given].double().mean()) if given.any() else 0.0


def _ends_left_out(model: nn.Module, batch: object) -> list[Finding]:
    """Rows that end in an end token, or in what the padding is made of, whose last label is always left out."""
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if not isinstance(ids, Tensor) or not isinstance(labels, Tensor) or ids.shape != labels.shape or ids.dim() != 2:
        return []
    mask = batch.get("attention_mask")
    attended = mask > 0 if isinstance(mask, Tensor) and mask.shape == ids.shape else torch.ones_like(ids, dtype=bool)
    ends = _end_ids(model) | {int(i) for i in ids[~attended].unique()}
    last = [int(at[-1]) for row in attended if len(at := row.nonzero().flatten())] if attended.any(dim=1).all() else []
    for r, p in enumerate(last):  # a mask by id hides the true end too: it stands behind the last that is attended
        if int(ids[r, p]) not in ends and p + 1 < ids.shape[1] and int(ids[r, p + 1]) in _end_ids(model):
            last[r] = p + 1
    rows = [(ids[r, p], labels[r, p]) for r, p in enumerate(last)]
    closed = [int(label) for token, label in rows if int(token) in ends]
    if not closed or any(label != LEFT_OUT for label in closed) or not (labels != LEFT_OUT).any():
        return []
    return [_no_end(len(closed))]


def _end_ids(model: nn.Module) -> set[int]:
    """The end tokens that the model's settings name."""
    ids = getattr(getattr(model, "config", None), "eos_token_id", None)
    return {int(i) for i in (ids if isinstance(ids, (list, tuple)) else [ids]) if i is not None}
