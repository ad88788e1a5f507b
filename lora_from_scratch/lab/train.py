"""The one training loop of the book: it trains whatever is trainable in a model, and measures losses.

Losses are in nats a character: the mean of -log p(next character). Divide by log 2 for bits.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_from_scratch.inject import trainable_parameters
from lora_from_scratch.lab.tasks import random_windows


@dataclass
class Batches:
    """An endless stream of (batch, length + 1) windows of `ids` from random places, the same for the same seed."""

    ids: Tensor
    batch: int
    length: int
    seed: int

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield random_windows(self.ids, self.batch, self.length, generator)


def fit(
    model: nn.Module,
    batches: Batches,
    steps: int,
    lr: float,
    weight_decay: float = 0.0,
    on_step: Callable[[], object] = lambda: None,
    groups: list[dict] | None = None,
) -> list[float]:
    """Train the trainable parameters of `model` with AdamW; give the loss of every step, in nats a character.

    `groups` are parameter groups with rates of their own, such as LoRA+'s; a rate that they leave open is `lr`. Every
    rate rises over the first 5 % of the steps and falls to zero in a straight line.
    Raises ValueError if nothing is trainable, if `groups` hold something else, if `batches` end too soon, or if the
    first step gives a parameter no gradient (the model never calls it) or all of them zero.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps!r}; training takes at least one")
    parameters = trainable_parameters(model)
    device = parameters[0].device
    if groups is not None and {id(p) for g in groups for p in g["params"]} != {id(p) for p in parameters}:
        raise ValueError("groups do not hold just the trainable parameters; build them from this model, adapters in it")
    optimizer = torch.optim.AdamW(groups or parameters, lr=lr, weight_decay=weight_decay)
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min((t + 1) / warmup, (steps - t) / (steps - warmup + 1))
    )
    model.train()
    losses = []
    for step, windows in zip(range(steps), batches, strict=False):
        optimizer.zero_grad()
        loss = loss_of(model, windows.to(device))
        loss.backward()
        if step == 0:
            _check_reached(model)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        on_step()
    if len(losses) < steps:
        raise ValueError(f"the batches ended after {len(losses)} of {steps} steps; give more, or ask for fewer steps")
    return losses


def _check_reached(model: nn.Module) -> None:
    """Raise ValueError if training cannot reach a trainable parameter, by what the first backward pass left."""
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    if not any(gradient is not None and gradient.any() for gradient in gradients.values()):
        raise ValueError("the first step's gradient is zero for every trainable parameter, so nothing can be learnt")
    if deaf := [name for name, gradient in gradients.items() if gradient is None]:
        raise ValueError(
            f"no gradient reaches {', '.join(deaf[:6])}{f' and {len(deaf) - 6} more' * (len(deaf) > 6)}: the model "
            "never calls these layers where they now stand (does it hold the old ones in a plain list?); freeze them, "
            "or leave them out of the targets"
        )


def loss_of(model: nn.Module, windows: Tensor) -> Tensor:
    """Mean cross-entropy of the next character, in nats, over windows (B, T + 1)."""
    logits = model(windows[:, :-1])  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


@torch.no_grad()
def evaluate(model: nn.Module, windows: Tensor, batch: int = 64) -> float:
    """The loss over all windows, in eval mode, in nats a character. Infinite where the model's output is not finite."""
    modes, device = {module: module.training for module in model.modules()}, next(model.parameters()).device
    model.eval()
    try:
        total = sum(loss_of(model, part.to(device)).item() * len(part) for part in windows.split(batch))
    finally:  # interrupted too, every part is in the mode that it was in
        for module, mode in modes.items():
            module.training = mode
    loss = total / len(windows)
    return loss if math.isfinite(loss) else math.inf


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run the block on `count` threads of torch's, which decides the last digits of its numbers."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
