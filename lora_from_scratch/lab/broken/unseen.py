"""Healthy kinds that were written down after the rules, and asked once: no rule was mended for them.

Where `diagnose` speaks of one, that false alarm stands. A kind that a rule is mended for later belongs in healthy.py,
and others must then be thought of for this list.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_from_scratch import LoRALinear
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab.answers import answer_loss
from lora_from_scratch.lab.broken import well, world, wrong
from lora_from_scratch.lab.broken.well import Run


def _by(make: Callable[[list], torch.optim.Optimizer]) -> Callable[[int], Run]:
    """Another optimizer."""
    anew = lambda model: make([p for p in model.parameters() if p.requires_grad])  # noqa: E731
    return lambda seed: Run(model := world.adapted(seed), anew(model), anew=anew)


def _loss(of: Callable[[Tensor, Tensor], Tensor]) -> Callable[[int], Run]:
    """Another loss, of (logits (B, T, V), labels (B, T)), -100 where no answer is."""

    def loss(model: nn.Module, examples: list) -> Tensor:
        inputs, labels = wrong.padded(examples, world.END + 1)
        return of(model(inputs), labels)

    return lambda seed: well.run(world.adapted(seed), loss=loss)


def _entropy(logits: Tensor, labels: Tensor, **more: object) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, **more)


def _with_z(logits: Tensor, labels: Tensor) -> Tensor:
    """The answers' loss, and a little of log Z squared at every place, against logits that drift."""
    return _entropy(logits, labels) + 1e-3 * logits.logsumexp(dim=-1).square().mean()


def _near_uniform(logits: Tensor, labels: Tensor) -> Tensor:
    """The answers' loss, and a pull of the prompt's places to what they were: here, to even chances."""
    return _entropy(logits, labels) - 0.01 * logits[:, :1].log_softmax(dim=-1).mean()


def _some_tokens(logits: Tensor, labels: Tensor) -> Tensor:
    """A random half of the tokens."""
    return _entropy(logits, labels.masked_fill(torch.rand(labels.shape) < 0.5, -100))


def _layers(seed: int) -> tuple[nn.Module, list[nn.Module]]:
    model = world.adapted(seed)
    return model, [layer for layer in model.modules() if is_adapter(layer)]


def _half_frozen(seed: int) -> Run:
    """The adapters of the first block are left as they began: the last block's alone are trained."""
    model, layers = _layers(seed)
    for layer in layers[: len(layers) // 2]:
        layer.A.requires_grad_(False), layer.B.requires_grad_(False)
    return well.run(model)


def _b_kept(seed: int) -> Run:
    """A second phase in which a trained B stands and A goes on."""
    model = world.taught(seed)
    for layer in filter(is_adapter, model.modules()):
        layer.B.requires_grad_(False)
    return well.run(model)


def _a_at_rate_zero(seed: int) -> Run:
    model, layers = _layers(seed)
    groups = [{"params": [la.A for la in layers], "lr": 0.0}, {"params": [la.B for la in layers], "lr": world.RATE}]
    return Run(model, torch.optim.AdamW(groups))


def _restarted(seed: int) -> Run:
    """The update is put into the base after some steps, A drawn anew, B zero; the optimizer goes on."""
    model, layers = _layers(seed)
    run = well.run(model)
    for _ in range(5):
        run.step()
    for layer in layers:
        layer.base.weight.data += layer.delta_weight().detach()
        nn.init.kaiming_uniform_(layer.A), nn.init.zeros_(layer.B)
    return run


def _orthogonal(seed: int) -> Run:
    model, layers = _layers(seed)
    for layer in layers:
        nn.init.orthogonal_(layer.A)
    return well.run(model)


def _principal(seed: int) -> Run:
    """A and B from the base's largest singular values, which are taken off it."""
    model, layers = _layers(seed)
    for layer in layers:
        U, S, V = torch.linalg.svd(layer.base.weight.detach(), full_matrices=False)
        root = (S[: layer.rank] / layer.scaling).sqrt()
        layer.B.data, layer.A.data = U[:, : layer.rank] * root, root[:, None] * V[: layer.rank]
        layer.base.weight.data -= layer.delta_weight().detach()
    return well.run(model)


def _many_ranks(seed: int) -> Run:
    model = world.base(seed).requires_grad_(False)
    for rank, block in enumerate(model.model.layers, start=1):
        for place, name in enumerate(("q_proj", "k_proj", "v_proj", "o_proj"), start=1):
            setattr(block.self_attn, name, LoRALinear(getattr(block.self_attn, name), rank * place, 16))
    return well.run(model)


def _hidden(model: nn.Module, examples: list) -> Tensor:
    """Nearness of hidden states, as of an embedding model: no logits are asked for."""
    ids = torch.tensor([e.ids[:2] for e in examples])
    states = F.normalize(model.model(ids)[:, -1], dim=-1)  # (B, d)
    return F.cross_entropy(10 * states @ states.T, torch.arange(len(ids)).roll(1))


def _half_strength(seed: int) -> nn.Module:
    model = world.taught(seed).eval()
    for layer in filter(is_adapter, model.modules()):
        layer.scaling /= 2
    return model


TRAINING: dict[str, Callable[[int], Run]] = {
    "SGD with momentum": _by(lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
    "RMSprop": _by(lambda p: torch.optim.RMSprop(p, 1e-3)),
    "weight decay": _by(lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.3)),
    "labels smoothed": _loss(lambda logits, labels: _entropy(logits, labels, label_smoothing=0.1)),
    "a little of log Z everywhere": _loss(_with_z),
    "the prompt's places held back": _loss(_near_uniform),
    "a random half of the tokens": _loss(_some_tokens),
    "a sum in place of a mean": _loss(lambda logits, labels: _entropy(logits, labels, reduction="sum")),
    "a batch of one": lambda seed: well.run(world.adapted(seed), batch=(world.lesson()[3],)),
    "half of the adapters frozen": _half_frozen,
    "B kept, A trained on": _b_kept,
    "A at rate 0": _a_at_rate_zero,
    "restarted, the optimizer kept": _restarted,
    "A orthogonal": _orthogonal,
    "a start from the largest singular values": _principal,
    "A and B in bfloat16": lambda seed: well.run(world.adapted(seed).bfloat16()),
    "all in float64": lambda seed: well.run(world.adapted(seed).double()),
    "a rank for each layer": _many_ranks,
    "alpha of 1": well.changed(alpha=1),
    "the output layer alone": well.changed(targets=["lm_head"]),
    "a loss on hidden states": lambda seed: well.run(world.adapted(seed), loss=_hidden),
    "a text without a prompt": lambda seed: well.run(
        world.adapted(seed), batch=tuple(replace(e, start=1) for e in world.endless(world.B)), loss=answer_loss
    ),
}
AT_USE: dict[str, Callable[[int], nn.Module]] = {
    "at half strength": _half_strength,
    "trained, in bfloat16": lambda seed: world.taught(seed).bfloat16().eval(),
}
