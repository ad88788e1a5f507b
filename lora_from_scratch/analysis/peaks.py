"""How many bytes are alive during training steps, operation by operation, and what to plan a step with.

The first step is not the one that decides whether a run fits: AdamW's state is made at its end. From the second step on
the state lies there while activations are at their most. That moment is the start of backward, when the loss makes two
tensors more, each as large as the logits in float32: its gradient at the log-probabilities, and at the logits.

    planned = weights + constants + gradients + state + activations + 8 · vocabulary · tokens

`activations` holds the log-probabilities themselves. For full fine-tuning that is too much, by up to the gradients,
which are complete only when the activations are gone.

`alive` follows real or fake tensors (torch's FakeTensorMode: shapes without numbers) through a TorchDispatchMode. It
sees what operations give back, not the workspace inside one, and no allocator: what that rounds up or holds back comes
on top. This file imports nothing of the project: copy it and it runs.
"""

import weakref
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Watch(TorchDispatchMode):
    """Counts the bytes of every storage from the operation that makes it to its end. `history` has one entry each."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.known, self.history = 0, {}, []

    def add(self, tensor: Tensor) -> None:
        """Count the storage of a tensor, once."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.known[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._gone, storage._cdata)

    def _gone(self, key: int) -> None:
        self.now -= self.known.pop(key)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        self.history.append(self.now)
        return out


def alive(
    build: Callable[[], nn.Module],
    batch: int,
    length: int,
    steps: int = 2,
    fake: bool = False,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
) -> list[dict[str, list[int]]]:
    """The bytes alive after every operation, one {"forward", "backward", "optimizer": [...]} a step.

    Args:
        build: makes the model; with `fake`, where every new tensor is fake and nothing is allocated.
        batch, length: sequences in a step, and positions in each. steps: how many are run.
        optimizer: makes one from the list of what is trainable; by default AdamW, one tensor at a time.

    Gradients are freed before each step's forward, as `zero_grad()` does. Raises ValueError if nothing is trainable.
    """
    optimizer = optimizer or (lambda found: torch.optim.AdamW(found, foreach=False))
    with FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext():
        model = build()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trained:
            raise ValueError("nothing in this model is trainable; add adapters first")
        ids = torch.zeros(batch, length, dtype=torch.long, device=trained[0].device)
        watch, step, found = Watch(), optimizer(trained), []
        for tensor in (*model.parameters(), *model.buffers()):
            watch.add(tensor)
        for _ in range(steps):
            step.zero_grad()
            parts, start = {}, len(watch.history)
            with watch:
                logits = model(ids)  # (B, T, V)
                loss = F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten())
                del logits  # as in a function that gives back the loss alone
                parts["forward"], middle = watch.history[start:], len(watch.history)
                loss.backward()
                parts["backward"], end = watch.history[middle:], len(watch.history)
                step.step()
                parts["optimizer"] = watch.history[end:]
            del loss
            found.append(parts)
    return found


def most(step: dict[str, list[int]]) -> int:
    """The largest number of bytes in one step of `alive`."""
    return max(max(values) for values in step.values() if values)


def logits_bytes(vocabulary: int, tokens: int) -> int:
    """Two float32 tensors as large as the logits: what the loss holds besides the activations as backward begins."""
    return 8 * vocabulary * tokens


def planned(parts: object, vocabulary: int, tokens: int) -> int:
    """What to plan a step with: the `total` of memory.training_bytes, and the logits' term."""
    return parts.total + logits_bytes(vocabulary, tokens)
