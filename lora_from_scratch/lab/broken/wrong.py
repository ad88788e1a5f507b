"""Broken runs that learn, and learn the wrong thing: what trains, what is counted, what is asked."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_from_scratch.diagnose import diagnose
from lora_from_scratch.lab.answers import LEFT_OUT, Example, answer_loss
from lora_from_scratch.lab.broken import world
from lora_from_scratch.lab.broken.case import Case, Seen


def base_not_frozen(seed: int) -> Seen:
    """All weights train beside the adapters; the adapters alone are kept, and put on the base as it was."""
    model, healthy, lesson = world.adapted(seed), world.adapted(seed), world.lesson()
    model.requires_grad_(True)
    said = [diagnose(one, world.optimizer_of(one), lesson, answer_loss) for one in (model, healthy)]
    world.train(model, lesson, seed=seed)
    ends = []
    for kept in (world.factors(model), world.factors(world.taught(seed))):
        loaded = world.adapted(seed)
        loaded.load_state_dict(kept, strict=False)
        ends.append(world.loss_on(loaded, lesson))
    return Seen(ends[0], ends[1], said[0], said[1])


def padded(examples: Sequence[Example], pad: int) -> tuple[Tensor, Tensor]:
    """(inputs, labels): rows filled up with `pad`, and every label that is `pad` left out, as a collator does it."""
    longest = max(len(e.ids) for e in examples)
    ids = torch.tensor([[*e.ids, *[pad] * (longest - len(e.ids))] for e in examples])
    labels = ids.clone()
    for row, e in zip(labels, examples, strict=True):
        row[: e.start] = LEFT_OUT
    labels[ids == pad] = LEFT_OUT  # the true end too, where the padding is made of ends
    return ids[:, :-1], labels[:, 1:]


def loss_padded_with(pad: int) -> world.Loss:
    """The loss of the answers over rows filled up with `pad`."""

    def loss(model: nn.Module, examples: Sequence[Example]) -> Tensor:
        inputs, labels = padded(examples, pad)
        return F.cross_entropy(model(inputs).flatten(0, 1), labels.flatten(), ignore_index=LEFT_OUT)

    return loss


def loss_one_too_far(model: nn.Module, examples: Sequence[Example]) -> Tensor:
    """The answers' loss without their first token: `start` places were left out after the shift."""
    return answer_loss(model, [replace(e, start=e.start + 1) for e in examples])


def loss_on_the_prompt(model: nn.Module, examples: Sequence[Example]) -> Tensor:
    """The loss of every token, the prompt's too."""
    return answer_loss(model, [replace(e, start=1) for e in examples])


def _with_loss(
    seed: int, wrong: world.Loss, right: world.Loss, measure: Callable[[nn.Module, world.Loss], float]
) -> Seen:
    """A run with a wrong loss beside the mended one, whose loss is `right`."""
    ends, said = [], []
    for loss in (wrong, right):
        model = world.adapted(seed)
        said.append(diagnose(model, world.optimizer_of(model), world.lesson(), loss))
        world.train(model, world.lesson(), seed=seed, loss=loss)
        ends.append(measure(model, loss))
    return Seen(ends[0], ends[1], said[0], said[1])


def pad_is_the_end(seed: int) -> Seen:
    """The padding is made of end tokens and masked by its id, so the true end is masked with it."""
    stops = lambda model, loss: sum(a[-1] == world.END for a in world.answers(model)) / world.LETTERS  # noqa: E731
    return _with_loss(seed, loss_padded_with(world.END), loss_padded_with(world.END + 1), stops)


def one_token_too_far(seed: int) -> Seen:
    """Every token of the answer is learnt but the first."""
    return _with_loss(seed, loss_one_too_far, answer_loss, lambda model, loss: world.exact(model))


def prompt_learnt(seed: int) -> Seen:
    """The loss that is printed holds the prompt's: a letter that nobody can know, log 24 nats."""
    printed = lambda model, loss: loss(model, world.lesson()).item()  # noqa: E731
    return _with_loss(seed, loss_on_the_prompt, answer_loss, printed)


def another_template(seed: int) -> Seen:
    """The right model, asked under the mark <a> where it was taught under <c>."""
    model, marks = world.taught(seed).eval(), (world.A, world.C)
    said = [diagnose(model, batch=torch.tensor([[mark, x] for x in range(world.LETTERS)])) for mark in marks]
    return Seen(*(world.exact(model, mark) for mark in marks), *said)


CASES = (
    Case(
        name="the base is not frozen",
        group="wrong",
        asks="it was fine in training, and the saved adapter is bad",
        slip="add_adapters(model, config); model.requires_grad_(True)",
        mend="freeze the base; what it learns is in no adapter's file",
        number="loss of the saved adapter on its base",
        run=base_not_frozen,
        finding="the base is not frozen",
        threads=("aurora#167", "mlx-vlm#2178"),
        chapter="01",
    ),
    Case(
        name="the padding is the end",
        group="wrong",
        asks="it never stops",
        slip="pad = end; labels[ids == pad] = -100",
        mend="a padding token of its own, or a mask by place",
        number="share of answers that end",
        run=pad_is_the_end,
        finding="the end of an answer is not learnt",
        threads=("llm-course#33", "trl#976"),
        chapter="12",
    ),
    Case(
        name="the mask reaches one token too far",
        group="wrong",
        asks="it answers as if it had not been trained",
        slip="labels[: start + 1] = -100, one token too many",
        mend="mask labels[:start], then shift",
        number="answers exact after the lesson",
        run=one_token_too_far,
        finding="the loss leaves out the first token of the answer",
        threads=("alpaca-lora#306", "nanoVLM#152"),
        chapter="12",
    ),
    Case(
        name="the prompt is learnt too",
        group="wrong",
        asks="the loss stays high, and the answers are right",
        slip="labels = ids, the prompt's among them",
        mend="labels[:start] = -100",
        number="loss that is printed",
        run=prompt_learnt,
        finding="the loss counts the prompt",
        threads=("trl#3279",),
        chapter="12",
    ),
    Case(
        name="another template at use",
        group="wrong",
        asks="good in validation, bad when I ask it",
        slip="asked under <a>, taught under <c>",
        mend="make the prompt by the function that training used",
        number="answers exact",
        run=another_template,
        unseen="a prompt is a list of ids like any other: which ones training used stands nowhere in the model",
        compare="the prompt of training and the prompt of use, as ids",
        threads=("litgpt#686", "ChatGLM2-6B#571", "souprise#17"),
        chapter="12",
    ),
)
