"""One forward and one backward pass, watched: how adapters were called, what reached them, and what the loss counts.

`counted` asks the loss itself which places of the batch it learns from: where it does not look, its gradient with
respect to the logits is zero, however its labels were made.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lora_from_scratch.clinic.layers import Adapter
from lora_from_scratch.clinic.still import still

MASKS = ("completion_mask", "assistant_masks")  # what a batch may say of its answers, and no model takes


@dataclass
class Look:
    """What one pass showed.

    loss: its value. `called`: for each adapter, by the place in the list, one (gradients were on, inside a
    checkpoint) a call. `finite`: whether the logits are numbers. `gradients`: {id of a parameter: its gradient} for
    those that one reached. `counted`: (B, T), True where the loss counts what the model said; None where the logits
    cannot be seen.
    """

    loss: float = float("nan")
    called: dict[int, list[tuple[bool, bool]]] = field(default_factory=dict)
    gradients: dict[int, Tensor] = field(default_factory=dict)
    counted: Tensor | None = None
    finite: bool = True


def look(model: nn.Module, adapters: list[Adapter], batch: object, loss: Callable | None) -> Look:
    """Run `batch` forward and backward, and leave `model` as it was. Raises what the forward raises."""
    found, logits, hooks = Look(), [], []
    for place, adapter in enumerate(adapters):
        calls = found.called.setdefault(place, [])
        note = lambda *_, calls=calls: calls.append((torch.is_grad_enabled(), _in_checkpoint()))  # noqa: E731
        hooks.append(adapter.layer.register_forward_pre_hook(note))
    hooks.append(model.register_forward_hook(lambda m, args, out: logits.append(_logits(out))))
    try:
        with still(model), torch.enable_grad():
            value = _loss(model, batch, loss)
            found.loss = float(value.detach())
            found.finite = not logits or logits[-1] is None or bool(logits[-1].detach().isfinite().all())
            if value.requires_grad:
                _backward(value, model, logits[-1] if logits else None, found)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def has_loss(batch: object, loss: Callable | None) -> bool:
    """Whether there is something to learn from: a loss, or labels in the batch."""
    return batch is not None and (loss is not None or isinstance(batch, Mapping) and batch.get("labels") is not None)


def _loss(model: nn.Module, batch: object, loss: Callable | None) -> Tensor:
    if loss is not None:
        value = loss(model, batch)
    else:
        value = model(**{name: part for name, part in batch.items() if name not in MASKS}).loss
    if not isinstance(value, Tensor) or value.numel() != 1:
        said = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"the loss is {said}; loss(model, batch) must give one number, a tensor")
    return value


def _backward(value: Tensor, model: nn.Module, logits: Tensor | None, found: Look) -> None:
    """Gradients without a trace: by autograd.grad, which calls no hook of a parameter, wherever it can be used."""
    trained = [p for p in model.parameters() if p.requires_grad]
    seen = logits is not None and logits.requires_grad and logits.dim() == 3
    if _reentrant(value):  # such a checkpoint works under backward() alone
        if seen:
            logits.retain_grad()
        value.backward()
        given = [logits.grad if seen else None, *(p.grad for p in trained)]
    else:
        asked = [*([logits] if seen else []), *trained]
        given = list(torch.autograd.grad(value, asked, allow_unused=True))
        given = given if seen else [None, *given]
    found.counted = None if given[0] is None else given[0].detach().abs().sum(dim=-1) > 0  # (B, T)
    found.gradients = {id(p): g for p, g in zip(trained, given[1:], strict=True) if g is not None}


def _logits(out: object) -> Tensor | None:
    out = getattr(out, "logits", out)
    return out if isinstance(out, Tensor) else None


def _reentrant(value: Tensor) -> bool:
    """Whether a checkpoint that runs forward again under backward() stands in the graph of `value`."""
    waiting, seen = [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if "CheckpointFunction" in node.name():
            return True
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
    return False


def _in_checkpoint() -> bool:
    """Whether torch.utils.checkpoint is among the functions that are running."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.replace("\\", "/").endswith("torch/utils/checkpoint.py"):
            return True
        frame = frame.f_back
    return False
