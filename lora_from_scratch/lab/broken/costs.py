"""Runs that are well, and cost more than was expected: products, memory, and a count that looks wrong."""

from dataclasses import replace

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lora_from_scratch import count_parameters, quantize_model
from lora_from_scratch.analysis.memory import training_bytes
from lora_from_scratch.diagnose import diagnose
from lora_from_scratch.lab.answers import answer_loss
from lora_from_scratch.lab.broken import world
from lora_from_scratch.lab.broken.case import Case, Seen


def products(model: nn.Module) -> int:
    """Multiplications and additions of one forward and backward pass, counted by torch as they run."""
    counter = FlopCounterMode(display=False)
    with counter:
        answer_loss(model, world.lesson()).backward()
    return counter.get_total_flops()


def not_faster(seed: int) -> Seen:
    """Rank 32 at width 32: the adapters' products outweigh the gradients of W0 that are saved."""
    whole, ratios, said = products(world.base(seed)), [], []
    for rank in (32, 2):
        model = world.adapted(seed, replace(world.CONFIG, rank=rank))
        said.append(diagnose(model, world.optimizer_of(model), world.lesson(), answer_loss))
        ratios.append(products(model) / whole)
    return Seen(ratios[0], ratios[1], said[0], said[1])


def as_much_memory(seed: int) -> Seen:
    """A large batch: what forward keeps for backward is most of it, and adapters keep it too."""
    shares, said, base = [], [], world.base(seed)
    for batch in (256, 1):
        parts = [training_bytes(base, how, batch, 16, rank=4) for how in ("lora", "full")]
        model = world.adapted(seed)
        said.append(diagnose(model, world.optimizer_of(model), world.lesson(), answer_loss))
        shares.append(parts[0].total / parts[1].total)
    return Seen(shares[0], shares[1], said[0], said[1])


def share_misprinted(seed: int) -> Seen:
    """Every tensor's numel over an NF4 base: two weights are one byte, and constants are counted as weights."""
    model = world.adapted(seed, over=quantize_model(world.base(seed)))
    tensors = [*model.parameters(), *model.buffers()]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    share = trained / sum(t.numel() for t in tensors)
    right = count_parameters(model)[0] / count_parameters(model)[1]
    said = diagnose(model, world.optimizer_of(model), world.lesson(), answer_loss)
    return Seen(100 * share, 100 * right, said, said)


CASES = (
    Case(
        name="why isn't it faster?",
        group="costs",
        fault=False,
        asks="LoRA takes as long as full fine-tuning",
        slip="rank 32 at width 32",
        mend="a rank below a third of in · out / (in + out); and a step is not made of products alone",
        number="products of a step over full fine-tuning's",
        run=not_faster,
        unseen="nothing is wrong with it: it is arithmetic",
        threads=("peft#664", "LoRA#24"),
        chapter="06",
    ),
    Case(
        name="why does it take as much memory?",
        group="costs",
        fault=False,
        asks="the card is full all the same",
        slip="a batch of 256, everything kept for backward",
        mend="a smaller batch at once, or checkpointing: LoRA shrinks gradients and optimizer state",
        number="bytes of a step over full fine-tuning's",
        run=as_much_memory,
        unseen="nothing is wrong with it: it is arithmetic",
        threads=("peft#1514", "LoRA#153", "peft#2196"),
        chapter="06",
    ),
    Case(
        name="the printed share is wrong",
        group="costs",
        fault=False,
        asks="trainable%: 0.08 of 10 billion, for a model of 20",
        slip="sum(t.numel() for t in tensors) over a base in 4 bits",
        mend="count_parameters(model), which counts weights and not bytes",
        number="percent of the numbers that train",
        run=share_misprinted,
        unseen="what a script prints is not in the model; what is there is counted right",
        threads=("peft#1020", "qlora#260", "peft#733"),
        chapter="02",
    ),
)
