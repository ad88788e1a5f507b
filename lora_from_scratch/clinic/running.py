"""What one pass tells: gradients that are cut off, a rate that can do nothing, dropout where it should be off."""

from collections.abc import Sequence

import torch
from torch import nn

from lora_from_scratch.clinic.finding import Finding, some
from lora_from_scratch.clinic.layers import Adapter
from lora_from_scratch.clinic.look import Look

LEAST = 0.005  # of the loss, in the first step
FULL = 1e-4  # rates up to this one are usual where all weights of a large model are trained


def of_gradients(adapters: list[Adapter], seen: Look) -> list[Finding]:
    """Adapters that the forward calls and no gradient reaches."""
    trained = [(place, a) for place, a in enumerate(adapters) if a.trained and a.active]
    called = [(place, a) for place, a in trained if seen.called.get(place)]
    cut = [(p, a) for p, a in called if not any(id(t) in seen.gradients for t in (a.A, a.B))]
    if not cut:
        return []
    by_checkpoint = [a for p, a in cut if all(inside and not on for on, inside in seen.called[p])]
    numbers = {"adapters without a gradient": len(cut), "of": len(called)}
    if by_checkpoint:
        mend = "checkpoint with use_reentrant=False, or call model.enable_input_require_grads()"
        return [Finding("checkpointing cuts the gradients off", numbers, mend)]
    mend = (
        f"look for no_grad, detach, item or a merged adapter on the way to the loss ({some([a.name for _, a in cut])})"
    )
    return [Finding("gradients are cut off", numbers, mend)]


def of_rate(adapters: list[Adapter], optimizers: Sequence, seen: Look) -> list[Finding]:
    """A rate with which the first step of Adam cannot take a noticeable part off this loss.

    Adam moves a number by about its rate, whatever the gradient's size. So the first step takes at most about the sum
    of rate · |gradient| off this batch's loss. (Later ones may take more: gradients grow as B does.) Looked at where
    B A is zero, at the start, and at rates of 1e-4 and below. A rate that a schedule moves is taken at its height.
    """
    active = [a for a in adapters if a.active and a.trained]
    if not active or any(a.A.any() and a.B.any() for a in active) or not seen.loss > 0:
        return []
    most, rates, mine = 0.0, set(), {id(p) for a in active for p in a.own}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            rate = float(group.get("initial_lr", group.get("lr", 0.0)))
            if "betas" not in group:
                return []
            for p in group["params"]:
                if id(p) in seen.gradients:
                    most += rate * float(seen.gradients[id(p)].abs().sum(dtype=torch.float64))
                    rates |= {rate} if id(p) in mine else set()
    share = most / seen.loss
    if not rates or not 0 < share < LEAST or max(rates) > FULL:
        return []
    numbers = {"rate": max(rates), "share of the loss that the first step can take at most": share}
    mend = "an adapter takes a higher rate than all weights do: try ten times this one, then ten times that"
    return [Finding("the rate may be too low for an adapter", numbers, mend)]


def of_use(model: nn.Module, adapters: list[Adapter]) -> list[Finding]:
    """Dropout that is on in a model at use."""
    rates = [a.dropout for a in adapters if a.active and a.layer.training and a.dropout > 0]
    rates += [m.p for m in model.modules() if isinstance(m, nn.Dropout) and m.training and m.p > 0 and not rates]
    if not rates:
        return []
    numbers = {"layers with dropout on": len(rates), "probability": max(rates)}
    return [
        Finding("dropout is on at use", numbers, "model.eval() before it is used, and train() before it is trained")
    ]
