"""Training shared by processes that have the same model: each reads its own rows of every batch (data parallelism).

    one batch, the same in all ──► rows of process 0 ──► loss, backward ──┐
                               ──► rows of process 1 ──► loss, backward ──┴──► mean gradient ──► the same step in all

So p processes take the step that one takes with the whole batch, but for rounding. How they share the rest is `spread`:

            each process keeps                             it sends, at every step (traffic.py counts)
    DDP     all of everything                              the gradients of A and B
    FSDP2   a p-th of each weight, gradient and moment     the weights, forwards and backwards; those gradients

The base is frozen, so DDP has little to send. FSDP2 sends the frozen base all the same: a weight that is never trained
is still needed where it is used. A base in 4 bits lies in buffers, and FSDP2 shards parameters alone: each process
keeps all of the codes, and they stay where they are. (DDP: arXiv 2006.15704; FSDP: arXiv 2304.11277.)

The base is the tiny Llama with random weights, its text Python's own documentation of its topics: what is learnt here
is only there to be compared. Compare in float64. In float32 the losses agree too, but a few entries of A and B do not:
AdamW divides a gradient by its own size, so one that is little but rounding moves its weight as far as any other.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lora_from_scratch.inject import AdapterConfig, add_adapters, trainable_parameters
from lora_from_scratch.lab.corpus import encode
from lora_from_scratch.lab.llama import TinyLlama
from lora_from_scratch.lab.tasks import random_windows
from lora_from_scratch.peft_format import save_adapter
from lora_from_scratch.quantize import quantize_model


@dataclass(frozen=True)
class Settings:
    """What decides the numbers of a run, but for its length. `batch` is the rows of a step, of all processes together.

    Raises ValueError for values out of range.
    """

    lr: float = 1e-2
    batch: int = 8
    rank: int = 8
    dropout: float = 0.0
    quantize: bool = False
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        AdapterConfig(rank=self.rank, dropout=self.dropout)  # it checks these two
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr is {self.lr!r}; it must be positive and finite, such as 1e-2")
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch!r}; a step needs at least 1 row")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype is {self.dtype!r}; there are float32 and float64")


@dataclass(frozen=True)
class Place:
    """Where a process stands: its device, its number, and how many there are."""

    device: torch.device = torch.device("cpu")
    number: int = 0
    count: int = 1


ALONE = Place()


def build(settings: Settings) -> nn.Module:
    """The frozen Llama, in 4 bits if asked for, with adapters on all linear layers of its blocks."""
    model = TinyLlama().to(getattr(torch, settings.dtype))
    if settings.quantize:
        quantize_model(model)
    return add_adapters(model, AdapterConfig(rank=settings.rank, alpha=2 * settings.rank, dropout=settings.dropout))


def spread(model: nn.Module, fsdp: bool, place: Place) -> nn.Module:
    """What to call in place of `model`, so that the processes share its work; the parameters stay those of `model`."""
    if not dist.is_initialized():
        return model
    if not fsdp:
        # Else DDP sends all buffers at every forward pass: the codes of a base in 4 bits, which never change.
        return DistributedDataParallel(model, forward_sync_buffers=False)
    mesh = init_device_mesh(place.device.type, (place.count,))
    for block in model.model.layers:  # brought together, used and let go as one
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)  # what is left: embedding, last norm and head


class Training:
    """A run under way, as one of its processes sees it. It sets torch's random state, from which dropout draws.

    Raises ValueError for a batch that cannot be shared evenly: each loss is a mean over a process's own tokens, and
    the mean of these means is that of the batch only if all have equally many.
    """

    def __init__(self, settings: Settings, fsdp: bool = False, place: Place = ALONE) -> None:
        if settings.batch % place.count:
            raise ValueError(
                f"{place.count} processes cannot share a batch of {settings.batch} rows evenly; make the batch a "
                f"multiple, such as {place.count * -(-settings.batch // place.count)}"
            )
        if fsdp and not dist.is_initialized():
            raise ValueError("FSDP2 needs processes to shard over; start it with python -m torch.distributed.run")
        self.settings, self.place, self.text = settings, place, text()
        torch.manual_seed(settings.seed)  # the same weights everywhere
        self.model = build(settings).to(place.device).train()
        self.shared = spread(self.model, fsdp, place)
        self.optimizer = torch.optim.AdamW(trainable_parameters(self.model), lr=settings.lr, weight_decay=0.0)
        self.data = torch.Generator().manual_seed(settings.seed)  # the same batches everywhere
        torch.manual_seed(settings.seed + place.number)  # but zeros of its own by dropout
        self.before: list[float] = []  # the losses of the steps before a resumption
        self.own: list[Tensor] = []  # since then, and of this process's rows alone

    @property
    def done(self) -> int:
        """How many steps have been taken."""
        return len(self.before) + len(self.own)

    def step(self) -> None:
        """One step of AdamW on the next batch."""
        windows = random_windows(self.text, self.settings.batch, 64, self.data)  # (batch, 65)
        rows = windows.chunk(self.place.count)[self.place.number].to(self.place.device)  # (batch / p, 65)
        self.optimizer.zero_grad()
        logits = self.shared(rows[:, :-1])  # (batch / p, 64, V)
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()  # the gradients are exchanged in here
        self.optimizer.step()
        self.own.append(loss.detach())

    def losses(self) -> list[float]:
        """The loss of every step, over the whole batch, in nats a character. All processes call it together."""
        if not self.own:
            return self.before
        own = torch.stack(self.own).double()  # (steps,)
        if dist.is_initialized():
            dist.all_reduce(own)
            own /= self.place.count
        return self.before + own.tolist()

    def adapters(self) -> dict[str, Tensor]:
        """A and B of every layer, by the parameters' names, whole, on the CPU. All processes call it together."""
        return {name: whole(p) for name, p in self.model.named_parameters() if p.requires_grad}

    def save(self, folder: str | Path) -> None:
        """Write the adapters as `save_adapter` does: process 0 writes, the others help to gather, and wait."""
        tensors = self.adapters()
        if self.place.number == 0:
            with torch.device("meta"):  # the model's form without its numbers, so without its memory
                form = build(self.settings)
            form.load_state_dict(tensors, strict=False, assign=True)
            save_adapter(form, folder)
        if dist.is_initialized():
            dist.barrier()


def whole(tensor: Tensor) -> Tensor:
    """On the CPU, all of a tensor of which FSDP2 keeps a part in each process, or any other one."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()


@functools.cache
def text() -> Tensor:
    """The characters to read, (characters,)."""
    from pydoc_data.topics import topics

    return encode("\n\n".join(topics[name] for name in sorted(topics)).encode("ascii", "ignore").decode())
