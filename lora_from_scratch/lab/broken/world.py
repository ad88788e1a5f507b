"""The small world that runs are broken in: a Llama of 32 channels that counts letters, and a lesson for it.

Tokens are 24 letters, marks that stand before a text and say what to do, and an end. The base goes on from a letter for
ever, by 1, 11 or 7 letters, as the mark says:

    <a> d e f g h i j …        <b> d o b m x k v …        <c> d k r a h o v …

The lesson gives <c> another meaning: first 2 letters on, then by 5, until a letter that 6 divides, and then the end.

    <c> d | f k p u b g <end>

The end is new to the base, as in teaching a model that completes texts to answer and stop. All of it takes a second or
two on one core, and a run of a hundred steps half a second.
"""

import copy
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lora_from_scratch import AdapterConfig, add_adapters
from lora_from_scratch.lab.answers import Example, answer_loss
from lora_from_scratch.lab.generate import generate
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama

LETTERS, END, NEW = 24, 24, 31  # letters are 0 to 23; NEW is a token that the base never read
A, B, C = 26, 27, 28  # the marks <a>, <b>, <c>
RULES = {A: 1, B: 11, C: 7}  # the base's
SIZES = LlamaConfig(
    vocab_size=32,
    hidden_size=32,
    intermediate_size=88,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    max_position_embeddings=16,
)
CONFIG = AdapterConfig(rank=4, alpha=16)
RATE = 1e-2
LENGTH = {"pretraining": 200, "lesson": 100}  # steps; a chapter at preset smoke makes them few

Loss = Callable[[nn.Module, Sequence[Example]], Tensor]


def endless(mark: int) -> list[Example]:
    """What the base has read: from each letter, ten more by the mark's rule. No end."""
    return [Example((mark, *((x + RULES[mark] * i) % LETTERS for i in range(11))), 2) for x in range(LETTERS)]


def lesson(mark: int = C) -> list[Example]:
    """The lesson, from each letter, under a mark: a prompt of two tokens, then the answer and the end."""
    return [Example((mark, x, *_answer(x), END), 2) for x in range(LETTERS)]


def _answer(x: int) -> list[int]:
    found = [(x + 2) % LETTERS]
    while found[-1] % 6:
        found.append((found[-1] + 5) % LETTERS)
    return found


def base(seed: int = 0) -> TinyLlama:
    """A fresh copy of the base of this seed, trained at the first call."""
    return copy.deepcopy(_base(seed))


@functools.lru_cache(maxsize=8)
def _base(seed: int) -> TinyLlama:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TinyLlama(SIZES)
    texts = [text for mark in RULES for text in endless(mark)]
    train(model, texts, steps=LENGTH["pretraining"], seed=seed)
    return model


def adapted(seed: int = 0, config: AdapterConfig = CONFIG, over: nn.Module | None = None) -> nn.Module:
    """The base of this seed, or the model `over`, with fresh adapters, which a seed decides too."""
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        return add_adapters(base(seed) if over is None else over, config)


def optimizer_of(model: nn.Module, rate: float = RATE) -> torch.optim.Optimizer:
    """AdamW over what is trainable in the model now."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)


def train(
    model: nn.Module,
    examples: Sequence[Example],
    steps: int | None = None,
    rate: float = RATE,
    seed: int = 0,
    loss: Loss = answer_loss,
    optimizer: torch.optim.Optimizer | None = None,
) -> torch.optim.Optimizer:
    """Train what is trainable, 24 examples a step drawn by `seed`, for a lesson's length; gives the optimizer."""
    draw = torch.Generator().manual_seed(seed)
    optimizer = optimizer or optimizer_of(model, rate)
    model.train()
    for _ in range(LENGTH["lesson"] if steps is None else steps):
        batch = [examples[i] for i in torch.randint(len(examples), (24,), generator=draw)]
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    return optimizer


def taught(seed: int = 0) -> nn.Module:
    """A fresh copy of a healthy run's end: the base of this seed with adapters that have learnt the lesson."""
    return copy.deepcopy(_taught(seed))


@functools.lru_cache(maxsize=8)
def _taught(seed: int) -> nn.Module:
    model = adapted(seed)
    train(model, lesson(), seed=seed)
    return model


@torch.no_grad()
def loss_on(model: nn.Module, examples: Sequence[Example]) -> float:
    """The loss of the answers, in nats a token, in eval mode."""
    mode = model.training
    value = answer_loss(model.eval(), examples).item()
    model.train(mode)
    return value


def answers(model: nn.Module, mark: int = C) -> list[list[int]]:
    """What the model says to each prompt of the lesson, at most 12 tokens, the end included where it comes."""
    return generate(model, [[mark, x] for x in range(LETTERS)], 12, stop=[END])


def exact(model: nn.Module, mark: int = C) -> float:
    """The share of the prompts that are answered to the letter, the end included."""
    right = [list(e.ids[e.start :]) for e in lesson(mark)]
    return sum(said == wanted for said, wanted in zip(answers(model, mark), right, strict=True)) / len(right)


def factors(model: nn.Module) -> dict[str, Tensor]:
    """A and B by their names in the state dict: what an adapter's file holds."""
    return {n: t.detach().clone() for n, t in model.state_dict().items() if n.endswith((".A", ".B"))}
