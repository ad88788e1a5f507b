"""Training on answers alone: a question and its answer as token ids, and the loss of the answer's tokens.

A chat model reads one long text. Special tokens mark who speaks, and one of them, the end, tells that an answer is
over. In training, the question's tokens are read and not learnt: their labels are left out of the loss. The end is
part of the answer: a model that does not learn it never stops.

Shapes: B examples, T tokens of the longest one, less one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_from_scratch.lab.tokens import Tokenizer

LEFT_OUT = -100  # the label that cross_entropy skips


def chat(question: str) -> str:
    """A question in SmolLM2's chat format (ChatML, without a system message), up to where the answer begins."""
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True)
class Example:
    """`ids` of a whole conversation; those from `start` on are the answer, the end included."""

    ids: tuple[int, ...]
    start: int


def example(tokenizer: Tokenizer, question: str, answer: str) -> Example:
    """A question and its answer. They are cut into tokens apart, as at use, where the answer is not there yet."""
    asked = tokenizer.encode(chat(question))
    return Example((*asked, *tokenizer.encode(answer), tokenizer.eos), len(asked))


def as_batch(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """(inputs, labels), both (B, T): each input is to be followed by its label, or its label is LEFT_OUT.

    Short rows are filled up with id 0 behind their end, where no token looks back at them and no label asks for them.
    What is left out is told by its place, never by its id: the fill may be a token that an answer needs.
    Raises ValueError for no examples.
    """
    if not examples:
        raise ValueError("no examples; give at least one")
    T = max(len(e.ids) for e in examples) - 1
    inputs, labels = torch.zeros(len(examples), T, dtype=torch.long), torch.full((len(examples), T), LEFT_OUT)
    for row, e in enumerate(examples):
        ids = torch.tensor(e.ids)
        inputs[row, : len(ids) - 1] = ids[:-1]
        labels[row, e.start - 1 : len(ids) - 1] = ids[e.start :]  # the answer's first token follows the question's last
    return inputs, labels


def answer_loss(model: nn.Module, examples: Sequence[Example]) -> Tensor:
    """The mean of -log p over all tokens of the answers, in nats a token."""
    inputs, labels = (part.to(next(model.parameters()).device) for part in as_batch(examples))
    return F.cross_entropy(model(inputs).flatten(0, 1).float(), labels.flatten(), ignore_index=LEFT_OUT)


@torch.no_grad()
def answered(model: nn.Module, examples: Iterable[Example], batch: int = 16) -> list[bool]:
    """Whether greedy decoding would give each answer to its end, without generating a token.

    It would if, after the question and the right answer so far, the likeliest token is the right one, at every place.
    """
    examples, right = list(examples), []
    for first in range(0, len(examples), batch):
        inputs, labels = (p.to(next(model.parameters()).device) for p in as_batch(examples[first : first + batch]))
        chosen = model(inputs).argmax(dim=-1)
        right += ((chosen == labels) | (labels == LEFT_OUT)).all(dim=1).tolist()
    return right
