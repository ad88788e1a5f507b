"""Answers that are words: drawn, judged, and how likely each is, exactly.

A prompt is a stretch of the corpus that ends behind a word, with its space. An answer goes on from there, up to the
next space, and is right if it is one of a few `words`; or, by the letter, if it is the first of two words behind a
letter from a to m, and the second behind one from n to z. So few answers are right that nothing need be sampled to know
how often a model succeeds:

    p(success | prompt) = Σ over words w  Π_t p(w_t | prompt, w_1 … w_{t-1})

Shapes: G prompts of L characters, n answers to each, E = G n; T characters of prompt and answer but one; V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lora_from_scratch.lab import cache, generate, reinforce
from lora_from_scratch.lab.corpus import encode
from lora_from_scratch.lab.llama import TinyLlama
from lora_from_scratch.lab.tasks import task_ids

HERE = cache.imported(__name__)
SPACE, LENGTH, LAST_EARLY = 32, 12, ord("m")


def check_words(words: Sequence[str], by_letter: bool = False) -> None:
    """Raise ValueError unless `words` are different words of letters, without their space: two, if by the letter."""
    if by_letter and len(words) != 2:
        raise ValueError(f"words is {words!r}; by the letter there are two: behind a to m, and behind n to z")
    if isinstance(words, str) or not words or len(set(words)) < len(words):
        raise ValueError(f"words is {words!r}; give one or more different words, such as ('the', 'a')")
    if wrong := [word for word in words if not (word.isascii() and word.isalpha())]:
        raise ValueError(f"{wrong[0]!r} is no word of letters; leave its space out")


def word_prompts(split: str, length: int = LENGTH) -> Tensor:
    """Every stretch of `length` characters of a split that ends in a small letter and a space. (N, length)"""
    windows = task_ids("text", split).unfold(0, length, 1)  # (characters - length + 1, length)
    small = (windows[:, -2] >= ord("a")) & (windows[:, -2] <= ord("z"))
    return windows[small & (windows[:, -1] == SPACE)]


@torch.no_grad()
def success(model: TinyLlama, prompts: Tensor, words: Sequence[str], by_letter: bool = False) -> Tensor:
    """How likely an answer to each prompt is right: (G, L) -> (G,), at a temperature of 1."""
    check_words(words, by_letter)
    prompts, total = prompts.to(model.lm_head.weight.device), 0
    late = prompts[:, -2] > LAST_EARLY  # (G,)
    for place, word in enumerate(words):
        answer = encode(word + " ").to(prompts.device).expand(len(prompts), -1)
        log_p = reinforce.log_probabilities(model, torch.cat((prompts, answer), dim=1))  # (G, T)
        p = log_p[:, prompts.shape[1] - 1 :].double().sum(dim=1).exp()  # (G,)
        total = total + (p * (late == bool(place)) if by_letter else p)
    return total


def held_out_success(model: TinyLlama, words: Sequence[str], count: int, by_letter: bool = False) -> float:
    """The mean `success` over `count` held-out prompts, evenly spaced."""
    prompts = word_prompts("held_out")
    chosen = prompts[torch.linspace(0, len(prompts) - 1, count).long()]
    return success(model, chosen, words, by_letter).mean().item()


def reward_of(words: Sequence[str], by_letter: bool = False) -> Callable[[Sequence[int], list[int]], float]:
    """reward(prompt, answer): 1 for an answer that is right, with its space, else 0."""
    check_words(words, by_letter)
    right = [encode(word + " ").tolist() for word in words]

    def reward(prompt: Sequence[int], answer: list[int]) -> float:
        return float(answer == right[int(prompt[-2] > LAST_EARLY)] if by_letter else answer in right)

    return reward


@torch.no_grad()
def draw(
    model: TinyLlama,
    prompts: Tensor,
    n: int,
    words: Sequence[str],
    generator: torch.Generator,
    by_letter: bool = False,
) -> reinforce.Episodes:
    """What `reinforce.sample` gives for prompts of one length (G, L), n answers to each, judged by `words`.

    The same answers from the same generator, and faster: a prompt is read once for all its answers.
    """
    device, room = model.lm_head.weight.device, max(map(len, words)) + 1
    prompts, L = prompts.to(device), prompts.shape[1]
    kept = generate.Cache(model, len(prompts), L + room)
    logits = generate._forward(model, prompts, torch.arange(L).expand(len(prompts), -1), kept, slice(None))
    kept.keys = [keys.repeat_interleave(n, dim=0) for keys in kept.keys]
    kept.values = [values.repeat_interleave(n, dim=0) for values in kept.values]
    logits, answers = logits.repeat_interleave(n, dim=0), [[] for _ in range(len(prompts) * n)]  # (E, V)
    for step in range(room):
        chosen = generate._choose(logits, 1.0, generator)  # (E,)
        for answer, token in zip(answers, chosen.tolist(), strict=True):
            if not answer or answer[-1] != SPACE:
                answer.append(token)
        if step + 1 == room or all(answer[-1] == SPACE for answer in answers):
            break
        at = torch.full((len(answers), 1), L + step)
        logits = generate._forward(model, chosen[:, None], at, kept, slice(None))
    return episodes_of(model, prompts, answers, words, by_letter)


@torch.no_grad()
def episodes_of(
    model: TinyLlama, prompts: Tensor, answers: list[list[int]], words: Sequence[str], by_letter: bool = False
) -> reinforce.Episodes:
    """Given answers to prompts (G, L), as many to each, as the episodes of `model`: judged, with its log q."""
    n, L, reward = len(answers) // len(prompts), prompts.shape[1], reward_of(words, by_letter)
    asked = prompts.cpu().repeat_interleave(n, dim=0)  # (E, L)
    rows = [torch.cat((p, torch.tensor(a))) for p, a in zip(asked, answers, strict=True)]
    ids = pad_sequence(rows, batch_first=True).to(prompts.device)
    lengths = torch.tensor([len(row) for row in rows], device=prompts.device)
    place = torch.arange(1, ids.shape[1], device=prompts.device)
    mask = (place >= L) & (place < lengths[:, None])  # (E, T)
    judged = [reward(p, answer) for p, answer in zip(asked.tolist(), answers, strict=True)]
    rewards = torch.tensor(judged, dtype=torch.float32, device=prompts.device).view(-1, n)
    return reinforce.Episodes(ids, mask, reinforce.log_probabilities(model, ids), rewards, answers, 1.0)
