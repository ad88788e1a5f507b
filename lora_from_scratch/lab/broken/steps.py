"""Broken runs whose steps come to nothing: too small, or no numbers any more."""

import torch

from lora_from_scratch.diagnose import diagnose
from lora_from_scratch.lab.answers import answer_loss
from lora_from_scratch.lab.broken import world
from lora_from_scratch.lab.broken.case import Case, Seen


def rate_of_all_weights(seed: int) -> Seen:
    """A rate at which all weights of a large model are trained, for an adapter."""
    ends, said = [], []
    for rate in (1e-4, world.RATE):
        model = world.adapted(seed)
        said.append(diagnose(model, world.optimizer_of(model, rate), world.lesson(), answer_loss))
        world.train(model, world.lesson(), rate=rate, seed=seed)
        ends.append(world.loss_on(model, world.lesson()))
    return Seen(ends[0], ends[1], said[0], said[1])


def trained_in_float16(seed: int) -> Seen:
    """Everything in float16, A and B too. Adam's eps of 1e-8 is 0 there, and 0 / 0 is no number."""
    model, healthy = world.adapted(seed).half(), world.adapted(seed, over=world.base(seed).half())
    shares, said = [], []
    for one in (model, healthy):
        said.append(diagnose(one, world.optimizer_of(one), world.lesson(), answer_loss))
        world.train(one, world.lesson(), steps=2, seed=seed)
        numbers = torch.cat([t.flatten().float() for t in world.factors(one).values()])
        shares.append(float(torch.isfinite(numbers).float().mean()))
    return Seen(shares[0], shares[1], said[0], said[1])


CASES = (
    Case(
        name="the rate of full fine-tuning",
        group="nothing",
        asks="the loss hardly falls",
        slip="lr=1e-4, chapter 12's best one for all weights",
        mend="try ten times the rate, then ten times that",
        number="loss after the lesson",
        run=rate_of_all_weights,
        finding="the rate may be too low for an adapter",
        threads=("mlx-tune#15",),
        chapter="13",
    ),
    Case(
        name="trained in float16",
        group="nothing",
        asks="NaN after one step; Attempting to unscale FP16 gradients",
        slip="add_adapters(model, config).half()",
        mend="model.half() first: adapters are float32 over a 16-bit base",
        number="share of A and B that are numbers after two steps",
        run=trained_in_float16,
        finding="trained in float16",
        threads=("peft#341", "diffusers#6442"),
        chapter="06",
    ),
)
