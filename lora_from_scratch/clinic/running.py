"""What one pass tells: gradients that are cut off, a loss that is no number, dropout where it should be off."""

import math
from collections.abc import Mapping

from torch import Tensor, nn

from lora_from_scratch.clinic.finding import Finding, some
from lora_from_scratch.clinic.labels import LEFT_OUT
from lora_from_scratch.clinic.layers import Adapter
from lora_from_scratch.clinic.look import Look


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


def of_loss(adapters: list[Adapter], batch: object, seen: Look) -> list[Finding]:
    """A loss that is no number, or that counts no place of this batch.

    With every label left out, a mean over none is 0 / 0 and a sum is 0; no gradient reaches the logits either way. A
    loss of 0 may also be one that has been learnt to the end, so without labels it is told at the start alone.
    """
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    none = isinstance(labels, Tensor) and labels.dim() == 2 and not (labels[:, 1:] != LEFT_OUT).any()
    start = not any(a.active and a.A.any() and a.B.any() for a in adapters)
    silent = seen.counted is not None and not seen.counted.any() and seen.finite
    if none or silent and (not math.isfinite(seen.loss) or seen.loss == 0 and start):
        mend = "look at a row of labels: is all of it left out, by a template that was not found, or by cutting off?"
        numbers = {"places counted": 0} | ({} if seen.counted is None else {"of": seen.counted.numel()})
        return [Finding("the loss counts nothing", numbers, mend)]
    if math.isfinite(seen.loss):
        return []
    mend = "the model gives numbers, so look at the loss: a division by 0, a logarithm of 0"
    if not seen.finite:
        mend = "the model's own output is no number: look at the weights of the base, and at the inputs"
    return [Finding("the loss is not finite", {"loss": seen.loss}, mend)]


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
