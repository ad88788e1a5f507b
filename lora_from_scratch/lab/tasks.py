"""New tasks for a model of English: the same text, transformed.

Each task is a function from text to text. It keeps everything that makes text predictable, so the model can learn
it, and changes the surface, so the model has to. `rot13` moves every letter 13 places on, `upper` writes capitals,
`reversed` runs backwards. The fine-tuning text comes from the split "task", which pretraining never saw, and a
task's loss is measured on the split "held_out", which nothing was trained on.
"""

import codecs
import functools

import torch
from torch import Tensor

from lora_from_scratch.lab.corpus import corpus, encode

TASKS = {
    "text": lambda text: text,
    "rot13": lambda text: codecs.encode(text, "rot13"),
    "upper": str.upper,
    "reversed": lambda text: text[::-1],
}


@functools.cache
def task_ids(task: str, split: str) -> Tensor:
    """The character codes of a split under a task, (characters,). Raises ValueError for an unknown task or split."""
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; there are {', '.join(TASKS)}")
    if split not in corpus():
        raise ValueError(f"unknown split {split!r}; there are {', '.join(corpus())}")
    return encode(TASKS[task](corpus()[split]))


def random_windows(ids: Tensor, count: int, length: int, generator: torch.Generator) -> Tensor:
    """`count` stretches of `length` + 1 characters from random places, (count, length + 1); the last is a target."""
    starts = torch.randint(len(ids) - length, (count,), generator=generator)
    return ids[starts[:, None] + torch.arange(length + 1)]


def fixed_windows(ids: Tensor, count: int, length: int) -> Tensor:
    """`count` stretches of `length` + 1 characters, evenly spaced, the same at every call. (count, length + 1)"""
    starts = torch.linspace(0, len(ids) - length - 1, count).long()
    return ids[starts[:, None] + torch.arange(length + 1)]
