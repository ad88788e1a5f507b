"""What travels between p processes at a step of training, in bytes: by formula, and counted where it is sent.

The processes talk in collectives. To hand n bytes to one, by the ring that sends least, each process sends

    all-gather       n (p - 1)/p       each has a p-th of n, all end with n
    reduce-scatter   n (p - 1)/p       each has n, all end with a p-th of the sum
    all-reduce       2 n (p - 1)/p     each has n, all end with the sum: the two above, one after the other

(arXiv 1910.02054, section 7). At a step of training, with t bytes of gradients and w of weights, most of them frozen,

    DDP      all-reduces the gradients                     2 t (p - 1)/p
    FSDP2    all-gathers the weights, forwards and again
             backwards, and reduce-scatters the gradients  (2 w + t) (p - 1)/p

Full fine-tuning has t = w, and FSDP2 sends 3/2 of what DDP sends. With adapters t is a hundredth of w, and FSDP2 sends
a hundred times as much. To the byte: weights outside of the blocks travel once, since FSDP2 does not let them go before
the backward pass, and every tensor is filled up to a multiple of p rows.
"""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

KINDS = {"allreduce_": "all-reduce", "_allgather_base_": "all-gather", "_reduce_scatter_base_": "reduce-scatter"}
SENT = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1}  # times n (p - 1)/p
SENT_BY_GLOO = SENT | {"reduce-scatter": 2}  # it does an all-reduce, of which each process takes its part


def handed(model: nn.Module, fsdp: bool, processes: int) -> dict[str, int]:
    """{collective: bytes that a step hands to it}, by formula. `model` has adapters in each of its blocks."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not fsdp:
        return {"all-reduce": sum(map(size, trained))}
    in_blocks = [p for block in model.model.layers for p in block.parameters()]
    gathered = [*model.parameters(), *in_blocks]  # forwards all of them, backwards those of the blocks
    return {
        "all-gather": sum(size(p, processes) for p in gathered),
        "reduce-scatter": sum(size(p, processes) for p in trained),
    }


def size(tensor: Tensor, processes: int = 1) -> int:
    """Bytes of a whole tensor, its rows filled up to a multiple of `processes`, as FSDP2 shards it."""
    rows = math.ceil(tensor.shape[0] / processes) * processes
    return rows * math.prod(tensor.shape[1:]) * tensor.element_size()


def sent(handed: dict[str, int], processes: int, gloo: bool) -> float:
    """Bytes that each process sends for what it hands over, by the ring; `gloo` says by whose. On GPUs it is NCCL's.

    Raises ValueError for a collective that there is no formula for.
    """
    if unknown := set(handed) - set(SENT):
        raise ValueError(f"there is no formula here for {', '.join(sorted(unknown))}; there is for {', '.join(SENT)}")
    times = SENT_BY_GLOO if gloo else SENT
    return sum(times[kind] * n for kind, n in handed.items()) * (processes - 1) / processes


def counted(work: Callable[[], object]) -> tuple[dict[str, int], int | None]:
    """Do `work`; ({collective: bytes that it was handed}, bytes that this process wrote), the second on Linux alone.

    The second is what the process passed to the system's write calls, all of its threads together: a few bytes of
    addresses more than what it sent, and whatever it printed. DDP needs two steps to settle: count a later one.
    """
    dist.barrier()
    before = _written()
    with Collectives() as collectives:
        work()
    after = _written()
    return dict(collectives.bytes), None if before is None else after - before


class Collectives(TorchDispatchMode):
    """While it is active, counts the bytes handed to each collective: of the tensor that is whole."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # what it does to its parts comes here too
        if "c10d" in function.namespace:
            name = function.overloadpacket.__name__
            tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
            self.bytes[KINDS.get(name, name)] += max((t.nbytes for t in tensors), default=0)
        return function(*args, **(kwargs or {}))


def kept(model: nn.Module) -> int:
    """Bytes of the weights that this process keeps between two steps, the buffers of a base in 4 bits among them."""
    parts = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
    return sum(tensor.nbytes for tensor in [*parts, *model.buffers()])


def _written() -> int | None:
    path = Path("/proc/self/io")
    if not path.exists():
        return None
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith("wchar"))
