"""What the numbers in A and B tell: an adapter that does nothing, and one that did not start at zero."""

from collections.abc import Sequence

import torch
from torch import nn

from lora_from_scratch.clinic.finding import Finding, some
from lora_from_scratch.clinic.layers import Adapter, peft_configs
from lora_from_scratch.clinic.noise import looks_drawn
from lora_from_scratch.clinic.saving import Saved, arrived


def steps_taken(optimizers: Sequence, adapters: list[Adapter]) -> int:
    """The most steps that an optimizer has counted for an A or a B; 0 for one without a count, as plain SGD.

    None of them counts where a B has had gradients and stands at zero all the same: then its rate is zero still.
    """
    own, B, most = {id(p) for a in adapters for p in a.own}, {id(a.B): a.B for a in adapters}, 0
    for optimizer in optimizers:
        for p, state in optimizer.state.items():
            if id(p) not in own or not isinstance(state, dict) or "step" not in state:
                continue
            if id(p) in B and not p.any() and "exp_avg" in state and state["exp_avg"].any():
                return 0
            most = max(most, int(state["step"]))
    return most


@torch.no_grad()
def of_values(
    model: nn.Module, adapters: list[Adapter], optimizers: Sequence, at_use: bool = False, saved: Saved | None = None
) -> list[Finding]:
    """B zero is how a run starts. It is wrong after steps, and where the file holds another. NaN is always wrong."""
    adapters = [a for a in adapters if not a.B.is_meta]
    active, steps = [a for a in adapters if a.active], steps_taken(optimizers, adapters)
    if broken := [a for a in adapters if not all(bool(t.isfinite().all()) for t in (a.A, a.B))]:
        mend = f"they never come back: take A and B from before it ({some([a.name for a in broken], 1)})"
        return [Finding("A or B holds NaN", {"adapters": len(broken), "of": len(adapters)}, mend)]
    zero = [a for a in active if (not a.A.any() or not a.B.any()) and a.scaling]
    if steps:  # what no gradient has reached yet, as an expert that no token went to, is as it began
        moved = {id(p) for o in optimizers for p in o.state}
        zero = [a for a in zero if moved & {id(a.A), id(a.B)}]
    stuck = [a for a in zero if not a.A.any() and not a.B.any()]
    if at_use or not (optimizers or any(a.trained for a in active)):
        zero = zero if stuck else arrived(model, zero, active, saved)
    elif steps < 2 and not stuck:
        zero = []  # about to be trained, beside others that were, it may be
    if zero:
        numbers = {"adapters with B A = 0": len(zero), "of": len(active), "steps taken": steps}
        if stuck:
            mend = "A and B are both zero, so neither gets a gradient: draw A anew, and leave B at zero"
        elif steps > 1:
            mend = "the steps did not reach it: is every B in the optimizer, does a gradient reach it?"
        else:
            mend = (
                f"its tensors never arrived ({some([a.name for a in zero], 1)}): compare the names in the file and here"
            )
        return [Finding("an adapter does nothing", numbers, mend)]
    return _not_zero_at_the_start(model, active, optimizers, steps)


def _not_zero_at_the_start(model: nn.Module, active: list[Adapter], optimizers: Sequence, steps: int) -> list[Finding]:
    """B drawn at random before the first step. A trained one, or a start from an SVD, does not look drawn."""
    starts = [getattr(config, "init_lora_weights", None) for config in peft_configs(model).values()]
    told = [start for start in starts if start is not None]  # PEFT keeps how A and B began
    drawn = [a for a in active if a.trained and a.A.any() and a.B.any()]
    if not optimizers or steps or not drawn or len(drawn) < len(active):
        return []
    if told and not any(start is False for start in told):
        return []
    if not told and not (looks_drawn([a.B for a in drawn]) and looks_drawn([a.A for a in drawn])):
        return []
    sizes = [float((a.scaling * a.B.float() @ a.A.float()).norm()) for a in drawn]
    numbers = {"layers": len(drawn), "size of the largest s B A": max(sizes), "steps taken": 0}
    mend = "set every B to zero before the first step, so that training begins at the base (init_lora_weights in PEFT)"
    return [Finding("B is not zero at the start", numbers, mend)]
