"""Serving many adapters over one base: what each takes, when a merge pays, and how ways to serve are timed.

    base      2 · d_in · d_out            operations a token
    path      2 · r · (d_in + d_out)      operations a token: the adapter beside the base
    merge     2 · r · d_in · d_out        operations, once: W0 + s B A

A merge spares the path. It is repaid after h = d_in d_out / (d_in + d_out) tokens, whatever the rank, because the rank
stands on both sides. The same h is the rank at which the path costs as much as the base. Over many matrices, both sums
are taken over all of them.

Every shape is (out, in), as PyTorch stores a weight. This file imports nothing of the project: copy it and it runs.
"""

import ctypes
import random
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping

import torch
from torch import nn

Way = Callable[[], object]


def tokens_to_repay(shapes: Iterable[tuple[int, int]]) -> float:
    """h: how many tokens must follow a merge until it has spared as many operations as it took.

    Args:
        shapes: one (out, in) pair for each adapted matrix. Raises ValueError for none, or a size below 1.
    """
    shapes = list(shapes)
    if not shapes or any(size < 1 for shape in shapes for size in shape):
        raise ValueError(f"shapes are {shapes}; give an (out, in) pair of at least 1 for each adapted matrix")
    return sum(d_out * d_in for d_out, d_in in shapes) / sum(d_out + d_in for d_out, d_in in shapes)


def path_share(shapes: Iterable[tuple[int, int]], rank: int) -> float:
    """The operations of the adapters' path over those of the base's matrices, at any number of tokens.

    Raises ValueError for a rank below 1, or shapes as in `tokens_to_repay`.
    """
    if rank < 1:
        raise ValueError(f"rank is {rank}; it must be at least 1")
    return rank / tokens_to_repay(shapes)


def cache_bytes(layers: int, kv: int, bytes_each: int = 2) -> int:
    """Bytes of the key-value cache for one token: a key and a value of width `kv` in every layer.

    Raises ValueError for a size below 1.
    """
    if min(layers, kv, bytes_each) < 1:
        raise ValueError(f"layers {layers}, kv {kv} and bytes_each {bytes_each} must each be at least 1")
    return 2 * layers * kv * bytes_each


def adapters_beside(memory: float, base: float, each: float) -> int:
    """How many adapters of `each` bytes fit into what a base of `base` bytes leaves of `memory`; 0 if it leaves none.

    Raises ValueError for an adapter without bytes.
    """
    if each <= 0:
        raise ValueError(f"each is {each}; an adapter takes more than 0 bytes")
    return max(0, int((memory - base) // each))


def fill(bank: nn.Module, rank: int, seed: int = 0) -> nn.Module:
    """Put random adapters, called "0", "1", …, into all slots of an AdapterBank; no B is zero. Returns the bank.

    What an adapter has learnt does not matter to a clock. The updates are a few percent of a weight that starts as
    nn.Linear's does.
    """
    generator = torch.Generator().manual_seed(seed)
    for slot in range(bank.capacity):
        for layer in bank.layers.values():
            A = torch.randn(rank, layer.in_features, generator=generator) / layer.in_features**0.5
            B = torch.randn(layer.out_features, rank, generator=generator) * 0.03 / rank**0.5
            layer.put(slot, A.to(layer.A), B.to(layer.B))
        bank.slots[str(slot)] = slot
    return bank


def keep_memory() -> bool:
    """Tell the C library to keep memory that is freed, and whether it took the order (glibc alone does).

    Otherwise tensors of a few MB are fetched from the system at every call and given back, which a clock counts: a
    batch in pieces can come out faster than the whole.
    """
    trim_threshold, mmap_max = -1, -4  # from malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(trim_threshold, 2**31 - 1) and mallopt(mmap_max, 0))


def take_turns(
    ways: Mapping[Hashable, Way],
    repeats: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.process_time,
    seed: int = 0,
) -> dict[Hashable, float]:
    """{way: median seconds of a call}, all ways taking turns, in a new order at every turn, drawn by `seed`.

    So a slow second hits all of them alike. The first `warm_up` turns are not counted. Raises ValueError for no ways,
    or fewer than one repeat.
    """
    if not ways or repeats < 1:
        raise ValueError(f"{len(ways)} ways and {repeats} repeats; give at least one of each")
    taken, order = {name: [] for name in ways}, random.Random(seed)
    for turn in range(-warm_up, repeats):
        for name in order.sample(list(ways), len(ways)):
            started = clock()
            ways[name]()
            if turn >= 0:
                taken[name].append(clock() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}
