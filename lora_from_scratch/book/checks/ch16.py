"""The exercises of chapter 16: centred rewards, the bits of some episodes, and the chance of a lucky answer."""

import math

import torch

from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number, same, tensor

SUCCESS, EPISODES = 0.25, 64
ODDS, RUN = 1 / 5000, 3200


def check_advantages(function) -> str:
    """Rewards (3, 4), whose rows have other means than the whole."""
    rewards = torch.tensor([[0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0], [0.5, 2.0, 1.0, 0.0]], dtype=torch.float64)
    found, problem = call(function, rewards)
    if problem or found is None:
        shapes = " (The mean of a row needs keepdim=True to be taken off it.)" if "RuntimeError" in problem else ""
        return problem + shapes if problem else STUB
    given = tensor(found)
    if given is None:
        return not_yet("give a tensor, (G, n)")
    mean = rewards.mean(dim=1, keepdim=True)
    if same(given, rewards - mean):
        return RIGHT
    if given.shape != rewards.shape:
        return not_yet(f"the shape is {tuple(given.shape)}; it stays (G, n), here (3, 4)")
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    ways = {
        "that is the mean over all groups; each prompt has a mean of its own": rewards - rewards.mean(),
        "that is the mean over prompts; a group is a row, so dim=1": rewards - rewards.mean(dim=0),
        "the sign: what is better than the mean has a positive advantage": mean - rewards,
        "those are the rewards; take each group's mean off": rewards,
        "the sum is taken off, not the mean": rewards - rewards.sum(dim=1, keepdim=True),
        "that leaves each answer's own reward out of the mean; here it stays in": rewards - others,
        "those are the means; take them off the rewards": mean.expand_as(rewards),
    }
    for words, way in ways.items():
        if same(given, way):
            return not_yet(words)
    for corrected in (True, False):
        spread = rewards.std(dim=1, keepdim=True, correction=int(corrected))
        if same(given, (rewards - mean) / spread, 1e-3):
            return not_yet("GRPO divides by the spread as well; here we don't")
    return not_yet("take the mean of each row off that row")


def check_bits(answer) -> str:
    """64 · H(1/4) = 51.9."""
    value = number(answer)
    if value is None:
        return not_yet("give a number of bits")
    if value == 0:
        return STUB
    p = SUCCESS
    entropy = -p * math.log2(p) - (1 - p) * math.log2(1 - p)
    known = {
        EPISODES * entropy: "",
        entropy: "that is one episode; there are 64",
        EPISODES * entropy * math.log(2): "that is in nats; a bit takes log2",
        EPISODES: "one bit an episode is for a chance of one half; a quarter tells less",
        EPISODES * -math.log2(p): "that counts every episode as a success; three of four are none",
        EPISODES * p * -math.log2(p): "the failures tell something too: add (1 - p) log2(1 / (1 - p))",
        EPISODES * (1 - p) * -math.log2(1 - p): "the successes tell something too: add p log2(1 / p)",
        EPISODES * -math.log2(1 - p): "that counts every episode as a failure; one of four is none",
        -EPISODES * entropy: "the sign: -log2 of a chance is positive",
        EPISODES * p: "that is the number of successes; what are they worth in bits?",
    }
    for right, words in known.items():
        if math.isclose(value, right, rel_tol=2e-3):
            return not_yet(words) if words else RIGHT
    return not_yet("64 times H(1/4)")


def check_luck(answer) -> str:
    """1 - (1 - 1/5000)^3200 = 0.473; rounded to two digits, or by e^-0.64, it is right too."""
    percent = isinstance(answer, str) and answer.rstrip().endswith("%")
    value = number(answer.rstrip("% ") if isinstance(answer, str) else answer)
    value = value / 100 if percent and value is not None else value
    if value is None or math.isnan(value):
        return not_yet("give a chance between 0 and 1")
    if value == 0:
        return STUB
    none = (1 - ODDS) ** RUN
    known = {
        none: "that is the chance of none; take it off 1",
        RUN * ODDS: "that many are expected, 0.64; the chance of at least one is smaller, for some runs have two",
        ODDS: "that is the chance of one episode; there are 3,200",
        RUN * ODDS * (1 - ODDS) ** (RUN - 1): "that is the chance of just one; two and more count too",
        1 - ODDS**RUN: "that is the chance that not all are right",
        100 * (1 - none): "that is in percent; give a chance between 0 and 1",
    }
    if 0.465 <= value <= 0.48:
        return RIGHT
    for wrong, words in known.items():
        if math.isclose(value, wrong, rel_tol=4e-3):
            return not_yet(words)
    return not_yet("how likely is it that none of the 3,200 is right?")
