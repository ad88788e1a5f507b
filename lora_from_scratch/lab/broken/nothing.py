"""Broken runs in which nothing is learnt: no parameter trains, none is stepped, or no gradient arrives."""

import warnings
from types import SimpleNamespace

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora_from_scratch import LoRALinear
from lora_from_scratch.diagnose import diagnose
from lora_from_scratch.lab.answers import answer_loss
from lora_from_scratch.lab.broken import world
from lora_from_scratch.lab.broken.case import Case, Seen


def nothing_trainable(seed: int) -> Seen:
    """The model is frozen after the adapters were added, and they with it."""
    model, healthy = world.adapted(seed), world.adapted(seed)
    optimizer = world.optimizer_of(model)
    model.requires_grad_(False)
    count = lambda one: sum(p.numel() for p in one.parameters() if p.requires_grad)  # noqa: E731
    said = diagnose(model, optimizer, world.lesson(), answer_loss)
    fine = diagnose(healthy, world.optimizer_of(healthy), world.lesson(), answer_loss)
    return Seen(count(model), count(healthy), said, fine, raised=backward(answer_loss(model, world.lesson())))


def backward(loss: torch.Tensor) -> str:
    """Call backward, and give what it raises, or ""."""
    try:
        loss.backward()
    except RuntimeError as error:
        return str(error)
    return ""


def lenient(model: nn.Module, names: list[str]) -> nn.Module:
    """Adapters as a lenient library adds them: where a name fits, and nothing is said of one that fits nowhere."""
    model.requires_grad_(False)
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if name in names and isinstance(layer, nn.Linear):
                setattr(parent, name, LoRALinear(layer, world.CONFIG.rank, world.CONFIG.alpha))
    model.peft_config = {"default": SimpleNamespace(target_modules=set(names))}  # where PEFT keeps what it was asked
    return model


def names_not_found(seed: int) -> Seen:
    """Names of another model's layers: two of six fit."""
    ends = {}
    for names in (["query", "key", "q_proj", "fc1", "fc2", "k_proj"], ["q_proj", "k_proj", "v_proj", "up_proj"]):
        with torch.random.fork_rng():
            torch.manual_seed(seed + 1)
            model = lenient(world.base(seed), names)
        said = diagnose(model, world.optimizer_of(model), world.lesson(), answer_loss)
        world.train(model, world.lesson(), seed=seed)
        ends[len(ends)] = world.exact(model), said
    return Seen(ends[0][0], ends[1][0], ends[0][1], ends[1][1])


def optimizer_before_adapters(seed: int) -> Seen:
    """The optimizer holds the base's weights, which are frozen since, and none of the adapters'."""
    model = world.base(seed)
    optimizer = world.optimizer_of(model)
    model = world.adapted(seed, over=model)
    said = diagnose(model, optimizer, world.lesson(), answer_loss)
    world.train(model, world.lesson(), seed=seed, optimizer=optimizer)
    healthy, lesson = world.adapted(seed), world.lesson()
    last = world.optimizer_of(healthy)
    fine = diagnose(healthy, last, lesson, answer_loss)
    world.train(healthy, lesson, seed=seed, optimizer=last)
    return Seen(world.loss_on(model, lesson), world.loss_on(healthy, lesson), said, fine)


def checkpointed(model: nn.Module, reentrant: bool) -> nn.Module:
    """Each block run under a checkpoint: only its input is kept, and it runs again in backward."""
    for block in model.model.layers:
        forward = block.forward
        block.forward = lambda *args, forward=forward: checkpoint(forward, *args, use_reentrant=reentrant)
    return model


def checkpoint_cuts(seed: int) -> Seen:
    """A reentrant checkpoint hands no gradient to a block whose input needs none: the embedding is frozen."""
    reached, said, raised = [], [], []
    for reentrant in (True, False):
        model = checkpointed(world.adapted(seed), reentrant)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch does warn: "None of the inputs have requires_grad=True"
            said.append(diagnose(model, world.optimizer_of(model), world.lesson(), answer_loss))
            loss = answer_loss(model, world.lesson())
        raised.append(backward(loss))
        reached.append(sum(p.grad is not None for n, p in model.named_parameters() if n.endswith(".B")))
    return Seen(reached[0], reached[1], said[0], said[1], raised[0])


CASES = (
    Case(
        name="nothing is trainable",
        group="nothing",
        asks="trainable params: 0",
        slip="add_adapters(model, config); model.requires_grad_(False)",
        mend="freeze first, then add; in PEFT, load with is_trainable=True to go on",
        number="numbers that train",
        run=nothing_trainable,
        finding="nothing is trainable",
        threads=("peft#282", "alpaca-lora#352"),
        chapter="01",
    ),
    Case(
        name="target names not found",
        group="nothing",
        asks="why does hardly anything train?",
        slip='targets: "query", "key", "fc1", "fc2" of another model, "q_proj", "k_proj" of this one',
        mend="print(model), and name its own layers; add_adapters here refuses a name that fits nothing",
        number="answers exact after the lesson",
        run=names_not_found,
        finding="target names not found",
        threads=("peft#40", "peft#1959", "peft#3603"),
        chapter="02",
    ),
    Case(
        name="optimizer before the adapters",
        group="nothing",
        asks="the loss does not move",
        slip="optimizer = AdamW(model.parameters()); add_adapters(model, config)",
        mend="the optimizer last",
        number="loss after the lesson",
        run=optimizer_before_adapters,
        finding="the optimizer misses trainable parameters",
        threads=("adapters#260",),
        chapter="01",
    ),
    Case(
        name="checkpointing before a frozen embedding",
        group="nothing",
        asks="element 0 of tensors does not require grad",
        slip="checkpoint(block, x, use_reentrant=True), everything before the block frozen",
        mend="use_reentrant=False, or let the embedding's output require a gradient",
        number="B matrices that a gradient reaches",
        run=checkpoint_cuts,
        finding="checkpointing cuts the gradients off",
        threads=("transformers#42489", "transformers#23170", "trl#3089"),
        chapter="06",
    ),
)
