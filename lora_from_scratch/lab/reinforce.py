"""Reinforcement: a policy gradient with importance weights and group-centred rewards, and a meter of its bits.

A model answers every prompt n times, a reward says how good each answer was, and what was better than its group's mean
becomes likelier ("LoRA Without Regret", Thinking Machines, 2025; the centring is GRPO's, arXiv 2402.03300, without its
division by the spread):

    L = - mean over episodes of  Σ_t  p(y_t) / q(y_t) · (reward - mean reward of the group)

q sampled the answer and p is trained, each given what stands before y_t. While p is q, the weights are 1. Later, they
are exact for answers of one token; for longer ones they leave out how likely p finds the beginning. As the mean holds
an episode's own reward, the expected gradient is (n - 1) / n times that of the expected reward.

**The meter.** All that an episode tells the trainer is its reward. Of success or failure, with a share p of successes,
that is H(p) = -p log2 p - (1 - p) log2 (1 - p) bits at most (2602.04118 v1, section 3; the post bounds it by H of the
advantage). A group without success, or without failure, has advantages of 0 and tells 0 bits. A share counted in n
answers makes H too small, by 1 / (2 n ln 2) bits in the mean where p is neither near 0 nor near 1.
Shapes: G groups (prompts), n episodes of each, E = G n; T tokens of prompt and answer but one, padded on the right.
"""

from collections.abc import Callable, Sequence
from math import log
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lora_from_scratch.lab.generate import generate
from lora_from_scratch.lab.llama import TinyLlama


class Episodes(NamedTuple):
    """What was sampled, at a `temperature`, and how good it was."""

    ids: Tensor  # (E, T + 1)
    mask: Tensor  # (E, T): whether the next token is the answer's
    log_q: Tensor  # (E, T): log q of the next token, under the policy that sampled
    rewards: Tensor  # (G, n)
    answers: list[list[int]]
    temperature: float


def sample(
    model: TinyLlama,
    prompts: Sequence[Sequence[int]],
    n: int,
    new_tokens: int,
    reward: Callable[[Sequence[int], list[int]], float],
    generator: torch.Generator,
    temperature: float = 1.0,
    stop: Sequence[int] = (),
) -> Episodes:
    """n answers to each prompt, drawn with `generator` and judged by reward(prompt, answer). Otherwise as `generate`.

    Raises ValueError as that does, for no prompt, n below 2, a temperature of 0, and rewards that are not finite.
    """
    if not prompts or n < 2 or not temperature > 0:
        raise ValueError(f"{len(prompts)} prompts, n {n}, temperature {temperature}: at least 1, at least 2, above 0")
    asked, device = [list(prompt) for prompt in prompts for _ in range(n)], model.lm_head.weight.device
    pairs = list(zip(asked, generate(model, asked, new_tokens, temperature, stop, generator), strict=True))
    ids = pad_sequence([torch.tensor(p + a) for p, a in pairs], batch_first=True).to(device)
    mask = pad_sequence([torch.arange(1, len(p + a)) >= len(p) for p, a in pairs], batch_first=True).to(device)
    rewards = torch.tensor([float(reward(p, a)) for p, a in pairs], device=device).view(-1, n)
    if not rewards.isfinite().all():
        raise ValueError(f"the rewards are {rewards.tolist()}; all must be finite numbers")
    with torch.no_grad():
        log_q = log_probabilities(model, ids, temperature)
    return Episodes(ids, mask, log_q, rewards, [answer for _, answer in pairs], temperature)


def log_probabilities(model: TinyLlama, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """log p of every next token, (E, T + 1) -> (E, T), as `generate` draws it at this temperature."""
    logits = model(ids[:, :-1]) / temperature  # (E, T, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return -F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")


def policy_loss(log_p: Tensor, log_q: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    """L, of log_p, log_q and mask (E, T) and rewards (G, n)."""
    advantages = rewards - rewards.mean(dim=1, keepdim=True)  # (G, n)
    weights = torch.where(mask, log_p - log_q, 0).exp() * mask  # (E, T); masked first, as 0 · inf is no number
    return -(weights.sum(dim=1) * advantages.flatten()).mean()


def step(model: TinyLlama, optimizer: torch.optim.Optimizer, episodes: Episodes) -> dict[str, float]:
    """One step on `episodes`. Gives their mean `reward`, and the `bits` they could tell if above 0 is success.
    Dropout would make p another policy than q: train without."""
    optimizer.zero_grad()
    log_p = log_probabilities(model, episodes.ids, episodes.temperature)
    policy_loss(log_p, episodes.log_q, episodes.mask, episodes.rewards).backward()
    optimizer.step()
    told = bits((episodes.rewards > 0).double().mean(dim=1)).sum().item() * episodes.rewards.shape[1]
    return {"reward": episodes.rewards.mean().item(), "bits": told}


def bits(p: Tensor) -> Tensor:
    """H(p): how many bits one episode can tell where a share p succeeds: 0 at p = 0 and at p = 1, and 1 at p = 1/2."""
    return (torch.special.entr(p) + torch.special.entr(1 - p)) / log(2)
