"""How runs that are well are built: their model, their optimizer, their loss, and what they save."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_from_scratch import LoRALinear, PagedAdamW, loraplus_param_groups, quantize_model
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab.answers import answer_loss
from lora_from_scratch.lab.begin import start_from_lost
from lora_from_scratch.lab.broken import lost, world
from lora_from_scratch.lab.broken.nothing import checkpointed
from lora_from_scratch.lab.llama import TinyLlama


@dataclass(frozen=True)
class Run:
    """A model to train, its optimizer, what it learns, and what beside A and B is saved with it, by name."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: object = tuple(world.lesson())
    loss: Callable[[nn.Module, object], Tensor] = answer_loss
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None
    beside: tuple[str, ...] = ()
    anew: Callable[[nn.Module], torch.optim.Optimizer] = world.optimizer_of

    def step(self) -> None:
        """One step on the batch."""
        self.model.train()
        self.optimizer.zero_grad()
        self.loss(self.model, self.batch).backward()
        self.optimizer.step()
        if self.schedule:
            self.schedule.step()


def run(model: nn.Module, rate: float = world.RATE, **more: object) -> Run:
    """A run of `model` with the optimizer of this world."""
    return Run(model, world.optimizer_of(model, rate), **more)


def other_base(seed: int, **sizes: object) -> TinyLlama:
    """A base of other sizes, not trained."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TinyLlama(replace(world.SIZES, **sizes))


def loraplus(seed: int) -> Run:
    """LoRA+: B learns 16 times as fast as A."""
    model = world.adapted(seed)
    return Run(model, torch.optim.AdamW(loraplus_param_groups(model, lr=1e-3, ratio=16)))


def paged(seed: int) -> Run:
    """The state of the optimizer is paged."""
    model = world.adapted(seed)
    return Run(model, PagedAdamW([p for p in model.parameters() if p.requires_grad], lr=world.RATE))


def scheduled(rate: Callable[[int], float]) -> Callable[[int], Run]:
    """A rate that begins at zero: nothing moves in the first step, or in the first ten."""

    def make(seed: int) -> Run:
        model = world.adapted(seed)
        optimizer = world.optimizer_of(model)
        return Run(model, optimizer, schedule=torch.optim.lr_scheduler.LambdaLR(optimizer, rate))

    return make


def embedding_lets_through(seed: int) -> Run:
    """The reentrant checkpoint as it works: the embedding's output asks for a gradient."""
    model = checkpointed(world.adapted(seed), reentrant=True)
    model.model.embed_tokens.register_forward_hook(lambda module, args, out: out.requires_grad_(True))
    return run(model)


def loftq(seed: int) -> Run:
    """B not zero at the start, and rightly so: s B A is what quantization lost."""
    whole, model = world.base(seed), world.adapted(seed, over=quantize_model(world.base(seed)))
    for name, layer in [(n, m) for n, m in model.named_modules() if is_adapter(m)]:
        start_from_lost(layer, whole.get_submodule(name).weight.detach())
    return run(model)


def a_zero(seed: int) -> Run:
    """A zero and B drawn at random: the update starts at zero all the same."""
    model = world.adapted(seed)
    draw = torch.Generator().manual_seed(seed)
    for layer in filter(is_adapter, model.modules()):
        nn.init.zeros_(layer.A), nn.init.normal_(layer.B, std=0.5, generator=draw)
    return run(model)


def trained_beside(name: str, trains: bool = True) -> Callable[[int], Run]:
    """The lesson under a new token, and what of the base trains beside the adapters. It is saved too."""

    def make(seed: int) -> Run:
        model = world.adapted(seed)
        model.get_parameter(name).requires_grad_(trains)
        return run(model, batch=lost.with_new_token(), beside=(name,))

    return make


def with_head(trains: bool) -> Callable[[int], Run]:
    """A new head, trained or as it was drawn. It is saved."""

    def make(seed: int) -> Run:
        model = world.adapted(seed, over=lost.Classifier(world.base(seed), seed))
        model.score.requires_grad_(trains)
        return run(model, batch=(lost.IDS, lost.CLASSES), loss=lost.class_loss, beside=("score.weight",))

    return make


def more_layers(seed: int) -> Run:
    """q and v have been trained; now the up projections are adapted too, with a new optimizer."""
    model = world.adapted(seed, replace(world.CONFIG, targets=["q_proj", "v_proj"]))
    world.train(model, world.lesson(), steps=10, seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for block in model.model.layers:
            block.mlp.up_proj = LoRALinear(block.mlp.up_proj, 4, 16)
    return run(model)


def unreached(model: nn.Module) -> nn.Module:
    """With an adapted layer that no token goes through, as an expert that was never chosen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.expert = LoRALinear(nn.Linear(32, 32).requires_grad_(False), 4, 16)
    return model


def in_float16(make: Callable[[list], torch.optim.Optimizer]) -> Callable[[int], Run]:
    """A and B in float16, under an optimizer that bears it."""

    def built(seed: int) -> Run:
        model, anew = world.adapted(seed).half(), lambda one: make([p for p in one.parameters() if p.requires_grad])
        return Run(model, anew(model), anew=anew)

    return built


def a_frozen(seed: int) -> Run:
    """LoRA-FA: A stands still, B learns."""
    model = world.adapted(seed)
    for layer in filter(is_adapter, model.modules()):
        layer.A.requires_grad_(False)
    return run(model)


def preferred(model: nn.Module, examples: tuple) -> Tensor:
    """An answer is to be likelier than its letters the other way round: two forward passes."""
    worse = [replace(e, ids=(*e.ids[:2], *reversed(e.ids[2:]))) for e in examples]
    return F.softplus(answer_loss(model, examples) - answer_loss(model, worse))


def in_halves(model: nn.Module, examples: tuple) -> Tensor:
    """The loss of a batch in two forward passes."""
    return (answer_loss(model, examples[:12]) + answer_loss(model, examples[12:])) / 2


def switched_off(seed: int) -> nn.Module:
    """Trained, and its scaling set to zero, to see the base."""
    model = world.taught(seed).eval()
    for layer in filter(is_adapter, model.modules()):
        layer.scaling = 0.0
    return model


def changed(**changes: object) -> Callable[[int], Run]:
    """Runs whose adapters have another configuration."""
    return lambda seed: run(world.adapted(seed, replace(world.CONFIG, **changes)))
