"""Broken runs whose steps are wrong: too small, too long, of nothing, or no numbers any more."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_from_scratch.diagnose import diagnose
from lora_from_scratch.lab.answers import LEFT_OUT, Example, answer_loss
from lora_from_scratch.lab.broken import world
from lora_from_scratch.lab.broken.case import Case, Seen


def loss_of_nothing(model: nn.Module, examples: list[Example]) -> Tensor:
    """The answers' loss where a template is not found, and every label left out: a mean over none."""
    ids = torch.tensor([[*e.ids, *[world.END] * (12 - len(e.ids))][:12] for e in examples])
    return F.cross_entropy(model(ids).flatten(0, 1), torch.full_like(ids, LEFT_OUT).flatten(), ignore_index=LEFT_OUT)


def nothing_counted(seed: int) -> Seen:
    """Every label is left out: the loss is no number, and no gradient leaves it."""
    ends, said = [], []
    for loss in (loss_of_nothing, answer_loss):
        model = world.adapted(seed)
        said.append(diagnose(model, world.optimizer_of(model), world.lesson(), loss))
        world.train(model, world.lesson(), seed=seed, loss=loss)
        ends.append(world.exact(model))
    return Seen(ends[0], ends[1], said[0], said[1])


def rate_too_low(seed: int) -> Seen:
    """A rate of 1e-4 for a hundred steps. It would be well for some thousands of them."""
    ends, said = [], []
    for rate in (1e-4, world.RATE):
        model = world.adapted(seed)
        said.append(diagnose(model, world.optimizer_of(model, rate), world.lesson(), answer_loss))
        world.train(model, world.lesson(), rate=rate, seed=seed)
        ends.append(world.loss_on(model, world.lesson()))
    return Seen(ends[0], ends[1], said[0], said[1])


def trained_in_float16(seed: int) -> Seen:
    """Everything in float16, A and B too. The eps of 1e-8 of AdamW as torch runs it is 0 there: 0 / 0 is no number."""
    model, healthy = world.adapted(seed).half(), world.adapted(seed, over=world.base(seed).half())
    shares, said = [], []
    for one in (model, healthy):
        said.append(diagnose(one, world.optimizer_of(one), world.lesson(), answer_loss))
        world.train(one, world.lesson(), steps=2, seed=seed)
        numbers = torch.cat([t.flatten().float() for t in world.factors(one).values()])
        shares.append(float(torch.isfinite(numbers).float().mean()))
    return Seen(shares[0], shares[1], said[0], said[1])


def alpha_raised_with_the_rank(seed: int) -> Seen:
    """Rank 64 in place of 4, and alpha raised with it, at the rate that was right: the same s at 16 times the rank."""
    ends, said = [], []
    for alpha in (16 * world.CONFIG.alpha, world.CONFIG.alpha):
        model = world.adapted(seed, replace(world.CONFIG, rank=64, alpha=alpha))
        said.append(diagnose(model, world.optimizer_of(model), world.lesson(), answer_loss))
        world.train(model, world.lesson(), seed=seed)
        ends.append(world.loss_on(model, world.lesson()))
    return Seen(ends[0], ends[1], said[0], said[1])


CASES = (
    Case(
        name="no label is left",
        group="nothing",
        asks="the loss is nan, or 0.0 from the first step",
        slip="every label -100: the template was not found, or the answer was cut off",
        mend="print one row of labels; raise the length, or name the template as the tokenizer writes it",
        number="answers exact after the lesson",
        run=nothing_counted,
        finding="the loss counts nothing",
        threads=("trl#6668", "unsloth#2364", "trl#1191"),
        chapter="12",
    ),
    Case(
        name="the rate is too low",
        group="nothing",
        asks="what learning rate for LoRA?",
        slip="lr=1e-4 for a lesson of a hundred steps",
        mend="try ten times the rate, then ten times that; or more steps",
        number="loss after the lesson",
        run=rate_too_low,
        unseen="before the first step a low rate looks the same whether a hundred steps will come or ten thousand",
        compare="a few rates on one lesson",
        threads=("silnlp#394", "Qwen3-VL#127"),
        chapter="13",
    ),
    Case(
        name="trained in float16",
        group="nothing",
        asks="NaN after one step; Attempting to unscale FP16 gradients",
        slip="add_adapters(model, config).half()",
        mend="model.half() first: adapters are float32 over a 16-bit base",
        number="share of A and B that are numbers",
        run=trained_in_float16,
        finding="trained in float16",
        threads=("peft#341", "diffusers#6442"),
        chapter="06",
    ),
    Case(
        name="alpha and the rank",
        group="wrong",
        asks="should alpha be twice the rank?",
        slip="rank 4 -> 64 and alpha 16 -> 256, at the same rate",
        mend="keep alpha, or tune the rate again",
        number="loss after the lesson",
        run=alpha_raised_with_the_rank,
        unseen="any pair of rank and alpha is right at some rate, and the last run's pair is not in this one",
        compare="a few rates at each pair",
        fault=False,
        threads=("unsloth#1304", "airoboros#36"),
        chapter="07",
    ),
)
