"""Ways to make one update of two, and what a merged model is measured by.

An adapter here is (A, B, scaling), and a trained one {layer: adapter}. Every way takes the adapters of one layer and a
weight w, and gives ΔW (d_out, d_in). `arithmetic.py` has what they are made of.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_from_scratch.analysis.nulls import random_update_like
from lora_from_scratch.arithmetic import Adapter, compress, concatenate, dare, ties
from lora_from_scratch.lab.adding import changed, losses_on
from lora_from_scratch.lab.presets import Preset

Trained = Mapping[str, Adapter]
Way = Callable[[Adapter, Adapter, float], Tensor]


def delta(adapter: Adapter) -> Tensor:
    """ΔW (d_out, d_in) of an adapter."""
    A, B, scaling = adapter
    return scaling * B @ A


def added(first: Adapter, second: Adapter, w: float) -> Tensor:
    """The weighted sum."""
    A, B = concatenate([first, second], [w, w])
    return B @ A


def cut_back(first: Adapter, second: Adapter, w: float) -> Tensor:
    """The weighted sum, at the rank of one of the two."""
    A, B, _ = compress(*concatenate([first, second], [w, w]), len(first[0]))
    return B @ A


def what_the_cut_takes(first: Adapter, second: Adapter, w: float) -> Tensor:
    """The weighted sum without that: its smallest directions."""
    return added(first, second, w) - cut_back(first, second, w)


def by_ties(first: Adapter, second: Adapter, w: float) -> Tensor:
    """TIES: the largest fifth of either, signs elected, the agreeing averaged."""
    return w * ties([delta(first), delta(second)], keep=0.2)


def by_dare(seed: int) -> Way:
    """DARE: a random tenth of either, ten times as large, and the sum of that. Every call draws anew."""
    draw = torch.Generator().manual_seed(seed)
    return lambda first, second, w: w * (dare(delta(first), 0.9, draw) + dare(delta(second), 0.9, draw))


def factors_added(first: Adapter, second: Adapter, w: float) -> Tensor:
    """What one gets who adds A to A and B to B; for two adapters of one scaling."""
    return w * first[2] * (first[1] + second[1]) @ (first[0] + second[0])


def merged(base: nn.Module, two: Sequence[Trained], way: Way, w: float) -> nn.Module:
    """A copy of `base` with the updates of both adapters, made one by `way`, layer by layer."""
    first, second = two
    return changed(base, {layer: way(first[layer], second[layer], w) for layer in first})


def beside_a_twin(base: nn.Module, own: Trained, other: Trained, w: float, seed: int) -> nn.Module:
    """A copy of `base` with w times an update, and w times a random one with the singular values of the other."""
    draw = torch.Generator().manual_seed(seed)
    return changed(base, {n: w * (delta(own[n]) + random_update_like(delta(other[n]), draw)) for n in own})


def taken_away(model: nn.Module, trained: Trained, w: float, twin: bool, seed: int) -> nn.Module:
    """A copy of `model` without w times an update; with `twin`, without a random one with its singular values."""
    draw = torch.Generator().manual_seed(seed)
    deltas = {n: delta(adapter) for n, adapter in trained.items()}
    return changed(model, {n: -w * (random_update_like(d, draw) if twin else d) for n, d in deltas.items()})


def thinned_out(base: nn.Module, trained: Trained, p: float, scaled: bool, seed: int) -> nn.Module:
    """A copy of `base` with an update of which a share `p` of the entries is dropped, the others scaled up or not."""
    draw = torch.Generator().manual_seed(seed)
    rest = {n: dare(delta(adapter), p, draw) for n, adapter in trained.items()}
    return changed(base, {n: d if scaled else (1 - p) * d for n, d in rest.items()})


def with_one(base: nn.Module, trained: Trained, w: float = 1.0) -> nn.Module:
    """A copy of `base` with w times the update of one adapter."""
    return changed(base, {n: w * delta(adapter) for n, adapter in trained.items()})


def cosine(first: Trained, second: Trained) -> float:
    """The cosine of two updates of a whole model, all layers as one long vector."""
    a, b = (torch.cat([delta(adapter).flatten() for adapter in one.values()]) for one in (first, second))
    return F.cosine_similarity(a, b, dim=0).item()


def measure_merges(
    base: nn.Module, two: Sequence[Trained], tasks: Sequence[str], ways: Mapping[str, tuple[Way, float]], preset: Preset
) -> dict[str, dict[str, float]]:
    """{label: {task or "text": loss}}: of the base, of each adapter alone ("<task> alone"), and of every way.

    `ways` is {label: (way, weight)}.
    """
    found = {"base": losses_on(base, tasks, preset)}
    found |= {
        f"{task} alone": losses_on(with_one(base, own), tasks, preset) for task, own in zip(tasks, two, strict=True)
    }
    return found | {label: losses_on(merged(base, two, way, w), tasks, preset) for label, (way, w) in ways.items()}


def gain_kept(found: Mapping[str, Mapping[str, float]], label: str, task: str) -> float:
    """Of what an adapter alone has gained on its task, the share that the model called `label` has."""
    before, own = found["base"][task], found[f"{task} alone"][task]
    return (before - found[label][task]) / (before - own)
