"""New tasks for a model of English: the same text, transformed.

Each task is a function from text to text. It keeps everything that makes text predictable, so the model can learn
it, and changes the surface, so the model has to. `cipher(k)` replaces k letters of the alphabet by each other, so k is
a dial from a near task to a far one: at 26 it is `rot13`, which moves every letter 13 places on. `upper` writes
capitals, `reversed` runs backwards. The fine-tuning text comes from the split "task", which pretraining never saw, and
a task's loss is measured on the split "held_out", which nothing was trained on.
"""

import functools
import math
import string
from collections.abc import Callable
from numbers import Integral

import torch
from torch import Tensor

from lora_from_scratch.lab.corpus import VOCABULARY, corpus, encode


def cipher(k: int) -> Callable[[str], str]:
    """A task that replaces k letters of the alphabet by each other, 0 or 2 to 26, and keeps the rest.

    The letters are those of rot13's pairs in the order of the alphabet, a and n, b and o, …: each pair is swapped. For
    an odd k the last pair and the first letter of the next one go round. A letter that moves at k moves at every larger
    k, and cipher(26) is rot13. Raises ValueError for another k: one letter alone has none to take the place of.
    """
    if not isinstance(k, Integral) or k not in (0, *range(2, 27)):
        raise ValueError(f"cipher moves {k!r} letters; it moves 0, or 2 to 26: one alone has no other to change with")
    letters = string.ascii_lowercase
    ring = [letters[i + half] for i in range(13) for half in (0, 13)][:k]  # a n b o c p …
    table = dict(zip(ring[0 : k - k % 2 : 2], ring[1::2], strict=True))
    table |= {new: old for old, new in table.items()}
    if k % 2:
        table |= {ring[-3]: ring[-2], ring[-2]: ring[-1], ring[-1]: ring[-3]}
    table |= {old.upper(): new.upper() for old, new in table.items()}
    return lambda text: text.translate(str.maketrans(table))


TASKS: dict[str, Callable[[str], str]] = {
    "text": lambda text: text,
    "rot13": cipher(26),
    "upper": str.upper,
    "reversed": lambda text: text[::-1],
}


def transform(task: str) -> Callable[[str], str]:
    """The function of a task: one of TASKS, or "cipher-k" for cipher(k). Raises ValueError for an unknown one."""
    name, _, k = str(task).partition("-")
    if name == "cipher" and k.isascii() and k.isdigit():
        return cipher(int(k))
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; there are {', '.join(TASKS)}, and cipher-2 to cipher-26")
    return TASKS[task]


@functools.cache
def task_ids(task: str, split: str) -> Tensor:
    """The character codes of a split under a task, (characters,). Raises ValueError for an unknown task or split."""
    change = transform(task)
    if split not in corpus():
        raise ValueError(f"unknown split {split!r}; there are {', '.join(corpus())}")
    return encode(change(corpus()[split]))


def reference_levels(task: str) -> dict[str, float]:
    """Losses in nats a character that give others their meaning, on the held-out text of a task.

    `uniform`: every character of the alphabet alike. `letters`: each character by how often it occurs in the text that
    is trained on, and by nothing else. A model at that level has learnt, or kept, no more than letter frequencies.
    """
    counts = torch.bincount(task_ids(task, "train"), minlength=VOCABULARY).double() + 1  # none is impossible
    letters = -(counts / counts.sum()).log()[task_ids(task, "held_out")].mean()
    return {"uniform": math.log(VOCABULARY), "letters": letters.item()}


def random_windows(ids: Tensor, count: int, length: int, generator: torch.Generator) -> Tensor:
    """`count` stretches of `length` + 1 characters from random places, (count, length + 1); the last is a target."""
    starts = torch.randint(len(ids) - length, (count,), generator=generator)
    return ids[starts[:, None] + torch.arange(length + 1)]


def fixed_windows(ids: Tensor, count: int, length: int) -> Tensor:
    """`count` stretches of `length` + 1 characters, evenly spaced, the same at every call. (count, length + 1)"""
    starts = torch.linspace(0, len(ids) - length - 1, count).long()
    return ids[starts[:, None] + torch.arange(length + 1)]
