"""What is true of every paged AdamW (arXiv 2305.14314, section 3; 1711.05101). `make check PAGED=file.py:Class`

    optimizer = MyPaged(params, lr=…, weight_decay=…, resident_bytes=…)    a torch.optim.Optimizer
    optimizer.step()                    AdamW's step, betas 0.9 and 0.999, eps 1e-8, of what has a gradient
    optimizer.bytes_resident            bytes of m and v that are on the device now: at most resident_bytes
    resident_bytes=None                 no limit

On the CPU the device is simulated: what is moved out is a copy that bytes_resident does not count.
"""

import pytest
import torch
from torch import nn

CALL = "([a parameter], lr=1e-3, weight_decay=0.01, resident_bytes=None)"
NEEDS = ("step", "zero_grad", "param_groups", "bytes_resident", "state_dict", "load_state_dict")
SIZES = ((64, 64), (64,), (64, 64), (32, 64))
BUDGET = 80_000  # the largest moments take 2 · 64 · 64 · 8 = 65,536 bytes, all of them 164,864


def build(optimizer_class: type) -> torch.optim.Optimizer:
    """One optimizer, to see whether it can be built."""
    return optimizer_class([nn.Parameter(torch.ones(3))], lr=1e-3, weight_decay=0.01, resident_bytes=None)


def parameters() -> list[nn.Parameter]:
    """Four parameters in float64, the same at every call."""
    numbers = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(size, generator=numbers, dtype=torch.float64)) for size in SIZES]


def gradients(params: list[nn.Parameter], step: int) -> None:
    """Give each parameter the gradient of this step."""
    numbers = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=numbers, dtype=p.dtype)


def run(optimizer, params: list[nn.Parameter], steps: range, leave_out: int | None = None) -> None:
    """These steps; the parameter `leave_out` has no gradient in odd ones."""
    for step in steps:
        gradients(params, step)
        if leave_out is not None and step % 2:
            params[leave_out].grad = None
        optimizer.step()


def after(optimizer_class: type, steps: int = 6, budget: int | None = None, leave_out: int | None = None, **settings):
    """The parameters after some steps, and the optimizer."""
    params, own = parameters(), optimizer_class not in (torch.optim.AdamW,)
    options = {"lr": 0.05, "weight_decay": 0.1} | settings | ({"resident_bytes": budget} if own else {})
    optimizer = optimizer_class(params, **options)
    run(optimizer, params, range(steps), leave_out)
    return params, optimizer


def farthest(got: list[nn.Parameter], wanted: list[nn.Parameter]) -> float:
    """The largest difference between two lists of parameters."""
    return max((a - b).abs().max().item() for a, b in zip(got, wanted, strict=True))


@pytest.mark.usual_cause(
    "The bias corrections 1 - beta^t left out, or eps inside the root: at the first step each number moves by lr."
)
def test_first_step_is_adam_s(layer_class):
    """Without weight decay the first step moves each number by lr, as AdamW's."""
    off = farthest(*(after(c, 1, weight_decay=0.0)[0] for c in (layer_class, torch.optim.AdamW)))
    assert off < 1e-9, f"after one step a number is off by {off:.3g}; lr is 0.05"


@pytest.mark.usual_cause(
    "m and v with the betas exchanged or wrong, or one step count for all parameters, raised once for each."
)
def test_later_steps_are_adam_s(layer_class):
    """Without weight decay, six steps end where AdamW's do."""
    off = farthest(*(after(c, weight_decay=0.0)[0] for c in (layer_class, torch.optim.AdamW)))
    assert off < 1e-9, f"after six steps a number is off by {off:.3g}"


@pytest.mark.usual_cause(
    "Weight decay added to the gradient, as in Adam with L2: in AdamW the weight is multiplied by 1 - lr · decay, and "
    "the decay enters neither m nor v. Or it is left out."
)
def test_decay_is_decoupled(layer_class):
    """With weight decay too, six steps end where AdamW's do."""
    with_decay, without = (
        farthest(*(after(c, weight_decay=decay)[0] for c in (layer_class, torch.optim.AdamW))) for decay in (0.1, 0.0)
    )
    assert with_decay <= without + 1e-9, f"weight decay puts a number off by {with_decay:.3g}"


@pytest.mark.usual_cause(
    "State that is dropped when it goes out, or that starts again at zero when it comes in; or a step count that does."
)
def test_budget_changes_no_number(layer_class):
    """A budget that makes state move changes no bit of the parameters."""
    off = farthest(after(layer_class, budget=BUDGET)[0], after(layer_class, budget=None)[0])
    assert off == 0, f"with a budget of {BUDGET:,} bytes a number is off by {off:.3g}"


@pytest.mark.usual_cause(
    "Nothing goes out, or one too late: make room before state comes in, and count m and v both, in bytes."
)
def test_budget_is_kept(layer_class):
    """After a step, at most the budget is resident, and without a limit all of m and v is."""
    held = after(layer_class, budget=BUDGET)[1].bytes_resident
    assert 0 < held <= BUDGET, f"{held:,} bytes are resident under a budget of {BUDGET:,}"
    least = 2 * sum(p.nbytes for p in parameters())
    held = after(layer_class)[1].bytes_resident
    assert held >= least, f"without a limit {held:,} bytes are counted; m and v take {least:,}"


@pytest.mark.usual_cause("A budget below what one parameter needs, taken silently: it can only be broken.")
def test_too_small_budget_is_refused(layer_class):
    """A budget below the moments of the largest parameter is a ValueError, when it is made or at the step."""
    try:
        after(layer_class, 1, budget=5000)
    except ValueError:
        return
    raise AssertionError("a budget of 5,000 bytes was taken, and the largest parameter needs 65,536")


@pytest.mark.usual_cause("A step of a parameter whose grad is None: it is left alone, and its step count too.")
def test_no_gradient_no_step(layer_class):
    """A parameter without a gradient is not stepped, decayed or counted."""
    off = farthest(*(after(c, leave_out=2, weight_decay=0.0)[0] for c in (layer_class, torch.optim.AdamW)))
    whole = farthest(*(after(c, weight_decay=0.0)[0] for c in (layer_class, torch.optim.AdamW)))
    assert off <= whole + 1e-9, f"where one has no gradient in odd steps, a number is off by {off:.3g}"


@pytest.mark.usual_cause("A step in place on p.grad, such as p.grad.add_(decay * p), which the next one sums up.")
def test_gradients_are_left_alone(layer_class):
    """A step changes no gradient."""
    params, _ = after(layer_class, 1)
    others = parameters()
    gradients(others, 0)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(params, others, strict=True)), "a gradient has changed"


@pytest.mark.usual_cause("lr kept in an attribute of its own: schedules change it in param_groups.")
def test_schedule_takes_effect(layer_class):
    """A rate set to zero in param_groups stops every parameter."""
    params, optimizer = after(layer_class)
    before = [p.detach().clone() for p in params]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    run(optimizer, params, range(6, 8))
    assert farthest(params, before) == 0, "parameters move at lr 0"


@pytest.mark.usual_cause("A state_dict() with what is resident alone, or with none; or step counts left out.")
def test_state_dict_goes_on(layer_class):
    """Saved after some steps under a budget and loaded without one, it goes on as if never saved."""
    straight, _ = after(layer_class, 6, BUDGET)
    params, optimizer = after(layer_class, 3, BUDGET)
    other = layer_class(params, lr=0.05, weight_decay=0.1, resident_bytes=None)
    other.load_state_dict(optimizer.state_dict())
    run(other, params, range(3, 6))
    off = farthest(params, straight)
    assert off < 1e-12, f"after saving and loading a number is off by {off:.3g}"
