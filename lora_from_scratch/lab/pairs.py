"""Random pairs that nothing but memory can give, and how many bits of them a model has (arXiv 2505.24832, section 3).

A pair is a key and a value, symbols drawn evenly from 64 characters, so each symbol of a value is 6 bits. What a model
has stored is what it saves whoever writes the values down:

    stored = n · L · 6 - Σ -log2 p(symbol | key, symbols before)      n pairs, values of L symbols

The probabilities are over the model's whole alphabet, so a model that does not even know which 64 are used is below 0.
A key of 1 symbol makes a random *string*: many share a first symbol, and the second can be known at best up to those.

Pairs are character codes, int64 of shape (n, key + L).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST, SYMBOLS, BITS = 48, 64, 6  # the characters from "0" on, and log2 of how many


def random_pairs(count: int, key: int, value: int, seed: int) -> Tensor:
    """`count` pairs, (count, key + value), by the seed alone; keys of 2 symbols or more are all different.

    Raises ValueError for sizes below 1, or more pairs than there are keys.
    """
    for name, size in (("count", count), ("key", key), ("value", value)):
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} is {size!r}; give an integer of at least 1")
    if key > 1 and count > SYMBOLS**key:
        raise ValueError(f"{count} pairs have no keys of their own among {SYMBOLS}^{key}; give longer keys")
    draw = torch.Generator().manual_seed(seed)
    pairs = torch.randint(SYMBOLS, (count, key + value), generator=draw)
    if key > 1:
        numbers: dict[int, None] = {}  # keys as numbers, in the order in which they came
        while len(numbers) < count:
            numbers |= dict.fromkeys(torch.randint(SYMBOLS**key, (count,), generator=draw).tolist())
        chosen = torch.tensor(list(numbers)[:count])
        for place in range(key):
            pairs[:, place] = chosen // SYMBOLS**place % SYMBOLS
    return pairs + FIRST


def value_loss(model: nn.Module, pairs: Tensor, key: int, reduction: str = "mean") -> Tensor:
    """The loss of the values' symbols, in nats, each given its key and what stands before it."""
    logits = model(pairs[:, :-1])[:, key - 1 :]  # (n, L, V)
    return F.cross_entropy(logits.flatten(0, 1).float(), pairs[:, key:].flatten(), reduction=reduction)


@torch.no_grad()
def stored(model: nn.Module, pairs: Tensor, key: int) -> float:
    """How many bits of the values `model` saves who writes them down; below 0 if it does worse than an even guess."""
    spent = sum(value_loss(model, part, key, "sum").item() for part in pairs.split(512)) / math.log(2)
    return BITS * pairs[:, key:].numel() - spent


@torch.no_grad()
def recall(model: nn.Module, pairs: Tensor, key: int) -> dict[str, float]:
    """Shares of the values' symbols: the model's first choice (`right`), above a half (`sure`), `sure_and_wrong`.

    `whole` is the share of the pairs of which every symbol is the first choice: greedy decoding gives the value.
    """
    logits = torch.cat([model(part[:, :-1])[:, key - 1 :] for part in pairs.split(512)]).float()  # (n, L, V)
    truth = pairs[:, key:]
    right = logits.argmax(-1) == truth  # (n, L)
    sure = logits.softmax(-1).gather(-1, truth[..., None]).squeeze(-1) > 0.5
    shares = {"right": right, "sure": sure, "sure_and_wrong": sure & ~right, "whole": right.all(-1)}
    return {name: share.float().mean().item() for name, share in shares.items()}
