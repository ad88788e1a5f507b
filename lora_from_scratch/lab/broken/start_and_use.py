"""Broken runs that begin, are used, or are put together in the wrong state."""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from lora_from_scratch.arithmetic import concatenate
from lora_from_scratch.diagnose import diagnose
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab.answers import Example, answer_loss
from lora_from_scratch.lab.broken import world
from lora_from_scratch.lab.broken.case import Case, Seen


def b_not_zero(seed: int) -> Seen:
    """A and B both drawn at random: before the first step the model is not the base any more."""
    model, healthy = world.adapted(seed), world.adapted(seed)
    draw = torch.Generator().manual_seed(seed)
    for layer in filter(is_adapter, model.modules()):
        bound = layer.rank**-0.5  # as torch starts a linear layer
        nn.init.uniform_(layer.B, -bound, bound, generator=draw)
    known = world.endless(world.A)
    said = [diagnose(m, world.optimizer_of(m), world.lesson(), answer_loss) for m in (model, healthy)]
    return Seen(world.loss_on(model, known), world.loss_on(healthy, known), said[0], said[1])


def dropout_at_use(seed: int) -> Seen:
    """Trained with dropout, and used without eval(): two calls give two answers."""
    model = world.adapted(seed, replace(world.CONFIG, dropout=0.1))
    model.load_state_dict(world.factors(world.taught(seed)), strict=False)
    ids, apart, said = torch.tensor([[e.ids[0], e.ids[1]] for e in world.lesson()]), [], []
    for mode in (True, False):
        model.train(mode)
        said.append(diagnose(model, batch=ids))
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            apart.append((model(ids) - model(ids)).abs().max().item())
    return Seen(apart[0], apart[1], said[0], said[1])


def backwards(mark: int = world.B) -> list[Example]:
    """A second lesson, under <b>: three letters down, and the end."""
    rows = [[(x - i) % world.LETTERS for i in (1, 2, 3)] for x in range(world.LETTERS)]
    return [Example((mark, x, *row, world.END), 2) for x, row in enumerate(rows)]


def cross_terms(seed: int) -> Seen:
    """Two adapters made one, by adding A's and B's: how far that is from the sum of the two updates."""
    first, second = world.taught(seed), world.adapted(seed)
    world.train(second, backwards(), seed=seed)
    names, off, said = [n for n, m in first.named_modules() if is_adapter(m)], [], []
    for add in (added_by_factors, concatenate):
        rank = world.CONFIG.rank * (1 if add is added_by_factors else 2)
        model, apart, size = world.adapted(seed, replace(world.CONFIG, rank=rank, alpha=rank)), 0.0, 0.0
        for layer, one, two in ([m.get_submodule(n) for m in (model, first, second)] for n in names):
            A, B = add([(m.A.detach(), m.B.detach(), m.scaling) for m in (one, two)])
            layer.A.data, layer.B.data = A, B
            wanted = one.delta_weight() + two.delta_weight()
            apart += float((layer.delta_weight() - wanted).detach().square().sum())
            size += float(wanted.detach().square().sum())
        off.append((apart / size) ** 0.5)
        said.append(diagnose(model.eval(), batch=torch.tensor([[world.C, 0]])))
    return Seen(off[0], off[1], said[0], said[1])


def added_by_factors(adapters: list[tuple[Tensor, Tensor, float]]) -> tuple[Tensor, Tensor]:
    """The short cut: the sums of √s A and of √s B, whose product holds B1 A2 and B2 A1 too."""
    return tuple(sum(s**0.5 * one[i] for one in adapters for s in [one[2]]) for i in (0, 1))


class OwnLoRA(nn.Module):
    """LoRA in ten lines, as a notebook has it: it wraps whatever it is given, an adapted layer too."""

    def __init__(self, base: nn.Module, rank: int = 4, alpha: float = 16) -> None:
        super().__init__()
        self.base, self.scaling = base.requires_grad_(False), alpha / rank
        d_out, d_in = (base.out_features, base.in_features) if isinstance(base, nn.Linear) else base.shape
        self.shape = (d_out, d_in)
        self.A, self.B = nn.Parameter(torch.randn(rank, d_in) / d_in**0.5), nn.Parameter(torch.zeros(d_out, rank))

    def delta_weight(self) -> Tensor:
        """s · B A."""
        return self.scaling * self.B @ self.A

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scaling * (x @ self.A.T) @ self.B.T


def wrap(model: nn.Module) -> nn.Module:
    """A notebook's cell that adapts q and v of every block: fine when it is run once."""
    for block in model.model.layers:
        for name in ("q_proj", "v_proj", "o_proj"):
            setattr(block.self_attn, name, OwnLoRA(getattr(block.self_attn, name)))
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(block.mlp, name, OwnLoRA(getattr(block.mlp, name)))
    return model


def adapters_on_adapters(seed: int) -> Seen:
    """The cell is run again after training, and the saved file is loaded: each update counts twice."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = wrap(world.base(seed).requires_grad_(False))
        world.train(model, world.lesson(), seed=seed)
        file = world.factors(model)
        again = wrap(copy.deepcopy(model))
    again.load_state_dict(file, strict=False)
    said = [diagnose(m, world.optimizer_of(m), world.lesson(), answer_loss) for m in (again, model)]
    return Seen(world.loss_on(again, world.lesson()), world.loss_on(model, world.lesson()), said[0], said[1])


CASES = (
    Case(
        name="B is not zero at the start",
        group="wrong",
        asks="the first loss is far above the base's",
        slip="B drawn at random, as A is",
        mend="B = 0: training begins at the base",
        number="loss on the base's own text at the start",
        run=b_not_zero,
        finding="B is not zero at the start",
        threads=("mflux#739", "llama.cpp#4082", "FastVideo#781"),
        chapter="01",
    ),
    Case(
        name="dropout on at use",
        group="wrong",
        asks="the same question, another answer",
        slip="model.train() was the last call before use",
        mend="model.eval()",
        number="difference of the logits of two calls",
        run=dropout_at_use,
        finding="dropout is on at use",
        threads=("unsloth#279", "peft#1673"),
        chapter="01",
    ),
    Case(
        name="adapters added with cross terms",
        group="wrong",
        asks="two adapters combined are worse than either",
        slip="A = √s (A1 + A2), B = √s (B1 + B2)",
        mend="concatenate: the factors side by side",
        number="error of the sum over its size",
        run=cross_terms,
        unseen="the sum is one A and one B: what they were made of is gone",
        compare="the sum of the updates, layer by layer",
        threads=("peft#3013", "peft#643", "peft#1155"),
        chapter="03",
    ),
    Case(
        name="adapters on adapters",
        group="wrong",
        asks="after running the cell again it is worse",
        slip="wrap(wrap(model)), and the file loaded into the outer ones",
        mend="adapt a fresh base; add_adapters here refuses an adapted one",
        number="loss after loading",
        run=adapters_on_adapters,
        finding="adapters on adapters",
        threads=("peft#2390",),
        chapter="03",
    ),
)
