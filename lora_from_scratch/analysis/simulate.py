"""How many bytes a training step holds, by running one: on tensors without memory, or for real.

`simulated_bytes` runs forward, loss, backward and optimizer on fake tensors, which have a shape and no numbers, while
torch's MemTracker follows every storage from birth to end. `measured_bytes` runs them on a copy of the model. Parts:

    weights       parameters and buffers, trained or not       gradients    after backward
    constants     of them, those that decode 4-bit layers      optimizer    its state after the step
    activations   what forward keeps for backward: at its end, or where more, while blocks run again

Every storage counts once, and the batch not at all. `peak` is the most at any time, batch and temporary tensors too.
This file imports nothing of the project: copy it and it runs.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterable
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.checkpoint import checkpoint


def simulated_bytes(
    build: Callable[[], nn.Module] | nn.Module,
    batch: int,
    length: int,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] = torch.optim.AdamW,
) -> dict[str, int]:
    """Bytes by part, and `peak`, of one step that allocates nothing.

    Args:
        build: makes the model, called where every new tensor is fake; or a model, real or on the meta device. It gives
            logits (B, T, V) for token ids (B, T). No MemTracker can run two steps, so there is one.
        batch, length: sequences in the step, and positions in each.
        optimizer: makes one from the list of what is trainable.

    Raises ValueError if batch or length is below 1, or nothing is trainable.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = _fake_copy(build) if isinstance(build, nn.Module) else build()
        trained, constants = _trainable(model), _stored(model)[1]
        ids, labels = _batch(model, batch, length)
        _frozen_to_buffers(model)
        tracker = MemTracker()
        tracker.track_external(model, ids, labels)
        with tracker:
            step = optimizer(trained)
            loss = _loss(model, ids, labels)
            forward = _by_kind(tracker.get_tracker_snapshot())
            loss.backward()
            backward = _by_kind(tracker.get_tracker_snapshot())
            step.step()
            after = _by_kind(tracker.get_tracker_snapshot())
        runs = (module.snapshots.items() for module in tracker.memory_tracking.values())
        again = [_by_kind(s) for run in runs for state, taken in run if state.value.endswith("-AC") for s in taken]
    return {
        "weights": after["Parameter"] + after["Buffer"] - constants,
        "constants": constants,
        "gradients": backward["Gradient"],
        "optimizer": after["Optstate"],
        "activations": max(kinds["Activation"] for kinds in (forward, *again)),
        "peak": _by_kind(tracker.get_tracker_snapshot("peak"))["Total"],
    }


def measured_bytes(
    model: nn.Module,
    batch: int,
    length: int,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] = torch.optim.AdamW,
) -> dict[str, int]:
    """Bytes by part of one real step of a copy of `model`; on a GPU, `peak` too, from its allocator.

    Activations are all that autograd saves in forward, without parameters and buffers: of checkpointed blocks, their
    inputs. Arguments and errors are those of `simulated_bytes`; `model` is left as it is.
    """
    cuda = _trainable(model)[0].is_cuda
    before = torch.cuda.memory_allocated() if cuda else 0
    model = copy.deepcopy(model)
    trained, (ids, labels) = _trainable(model), _batch(model, batch, length)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.untyped_storage()) or t, lambda t: t):
        loss = _loss(model, ids, labels)
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers(), ids, labels)}
    activations = _size(storage for storage in saved if storage._cdata not in own)
    saved.clear()
    loss.backward()
    step = optimizer(trained)
    step.step()
    weights, constants = _stored(model)
    state = [t for values in step.state.values() for t in values.values() if isinstance(t, Tensor)]
    found = {
        "weights": weights,
        "constants": constants,
        "gradients": _size(p.grad.untyped_storage() for p in trained if p.grad is not None),
        "optimizer": _size(t.untyped_storage() for t in state),
        "activations": activations,
    }
    return found | ({"peak": torch.cuda.max_memory_allocated() - before} if cuda else {})


class Checkpointed(nn.Module):
    """A block that keeps only its inputs, and runs again when backward reaches it (arXiv 1604.06174)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *inputs: Tensor) -> Tensor:
        return checkpoint(self.block, *inputs, use_reentrant=False)


def checkpoint_blocks(model: nn.Module) -> nn.Module:
    """Put every block into a Checkpointed, in place, after adding adapters. Raises ValueError without model.layers."""
    decoder = getattr(model, "model", None)
    if not isinstance(getattr(decoder, "layers", None), nn.ModuleList):
        raise ValueError(f"{type(model).__name__} has no list model.layers; wrap its blocks in Checkpointed yourself")
    decoder.layers = nn.ModuleList(Checkpointed(block) for block in decoder.layers)
    return model


def _loss(model: nn.Module, ids: Tensor, labels: Tensor) -> Tensor:
    logits = model(ids)  # (B, T, V)
    logits = getattr(logits, "logits", logits)  # `transformers` gives them by name
    return F.cross_entropy(logits.flatten(0, 1).float(), labels)


def _batch(model: nn.Module, batch: int, length: int) -> tuple[Tensor, Tensor]:
    if not all(isinstance(n, Integral) and not isinstance(n, bool) and n >= 1 for n in (batch, length)):
        raise ValueError(f"batch is {batch!r} and length {length!r}; each must be an integer of at least 1")
    ids = torch.zeros(batch, length, dtype=torch.long, device=next(model.parameters()).device)
    return ids, ids.flatten().clone()


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    found = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not found:
        raise ValueError("nothing in this model is trainable; add adapters first, or call model.requires_grad_(True)")
    return found


def _stored(model: nn.Module) -> tuple[int, int]:
    """Bytes of parameters and buffers, without the constants of 4-bit layers, and of those."""
    layers, names = [m for m in model.modules() if hasattr(m, "packed")], ("absmax", "absmax2", "offset")
    constants = [getattr(layer, name) for layer in layers for name in names if hasattr(layer, name)]
    size = _size(t.untyped_storage() for t in constants)
    return _size(t.untyped_storage() for t in (*model.parameters(), *model.buffers())) - size, size


def _size(storages: Iterable[torch.UntypedStorage]) -> int:
    return sum({s._cdata: s.nbytes() for s in storages}.values())  # _cdata: which storage it is, fake ones too


def _fake_copy(model: nn.Module) -> nn.Module:
    """A copy that is tied where the model is, whose tensors are made anew: fake, where new ones are."""
    new = {id(t): torch.empty(t.shape, dtype=t.dtype) for t in (*model.parameters(), *model.buffers())}
    new |= {id(p): nn.Parameter(new[id(p)], p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, new)  # where deepcopy has seen a tensor before, it takes what it made of it


def _frozen_to_buffers(model: nn.Module) -> None:
    """MemTracker watches the gradient of every parameter; a frozen one has none, so it becomes a buffer here."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and not parameter.requires_grad:
                module.register_buffer(name, module._parameters.pop(name).detach())


def _by_kind(snapshot: dict) -> Counter:
    """MemTracker counts by device, then by kind."""
    total = Counter()
    for kinds in snapshot.values():
        total.update({getattr(kind, "value", kind): n for kind, n in kinds.items()})
    return total
