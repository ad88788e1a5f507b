"""Adam does not see how LoRA is parametrized: what that makes of LoRA+ and rsLoRA (design of both: one factor).

alpha → alpha / (p q), A → p · A at the start, lr_A → p · lr_A, lr_B → q · lr_B gives the same ΔW, step for step, as
long as Adam's ε is negligible and nothing decays. With p and q powers of two every product here is exact, so the
difference is exactly zero.
"""

from dataclasses import dataclass

import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds, shapes
from torch import Tensor, nn

from lora_from_scratch import LoRALinear, lora_scaling, loraplus_param_groups, rslora_scaling

STEPS = 30
powers = st.integers(-4, 6).map(lambda k: 2.0**k)


@dataclass(frozen=True)
class Regression:
    """A layer of random shape and rank, and data for it in float64."""

    d_in: int
    d_out: int
    rank: int
    seed: int

    def layer(self, alpha: float, scaling=lora_scaling) -> LoRALinear:
        """Called twice, the same W0 and A twice."""
        torch.manual_seed(self.seed)
        return LoRALinear(nn.Linear(self.d_in, self.d_out).double(), self.rank, alpha, scaling=scaling)

    def path(self, layer: LoRALinear, optimizer: torch.optim.Optimizer) -> Tensor:
        """ΔW after every step, (STEPS, d_out, d_in)."""
        numbers = torch.Generator().manual_seed(self.seed + 1)
        x = torch.randn(16, self.d_in, generator=numbers, dtype=torch.float64)
        y = torch.randn(16, self.d_out, generator=numbers, dtype=torch.float64)
        steps = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            (layer(x) - y).square().mean().backward()
            optimizer.step()
            steps.append(layer.delta_weight().detach())
        return torch.stack(steps)


regressions = st.builds(
    lambda shape, rank, seed: Regression(*shape, rank, seed), shapes(square=False), st.sampled_from([1, 2, 4]), seeds
)


def adam(groups, decay: float = 0.0) -> torch.optim.AdamW:
    """ε is 1e-30: negligible beside any gradient, and not 0, as A's first gradient is 0."""
    return torch.optim.AdamW(groups, eps=1e-30, weight_decay=decay)


@given(case=regressions, p=powers, q=powers)
def test_adam_does_not_see_the_parametrization(case, p, q):
    """Rescaled A, B, alpha and rates give the same ΔW at every step, to the bit."""
    plain, rescaled = case.layer(8), case.layer(8 / (p * q))
    with torch.no_grad():
        rescaled.A.mul_(p)
    both = [
        case.path(plain, adam([{"params": [plain.A, plain.B], "lr": 1e-2}])),
        case.path(rescaled, adam([{"params": [rescaled.A], "lr": 1e-2 * p}, {"params": [rescaled.B], "lr": 1e-2 * q}])),
    ]
    assert torch.equal(*both) and both[0][-1].any()


@given(case=regressions, ratio=st.sampled_from([2, 4, 16, 64]))
def test_lora_plus_is_lora_with_a_larger_alpha(case, ratio):
    """LoRA+ at ratio λ and alpha, and plain LoRA at λ · alpha: the same ΔW at every step, to the bit."""
    plus, plain = case.layer(8), case.layer(8 * ratio)
    first = case.path(plus, adam(loraplus_param_groups(plus, 1e-2, ratio)))
    second = case.path(plain, adam(loraplus_param_groups(plain, 1e-2, 1)))
    assert torch.equal(first, second) and first[-1].any()


@given(case=regressions)
def test_rslora_is_lora_at_alpha_times_the_root_of_the_rank(case):
    """rsLoRA at alpha and LoRA at alpha · √r: the same ΔW at every step; to the bit where √r is exact."""
    root = case.rank**0.5
    rs, plain = case.layer(8, rslora_scaling), case.layer(8 * root)
    first, second = (case.path(layer, adam([layer.A, layer.B])) for layer in (rs, plain))
    if case.rank in (1, 4):
        assert torch.equal(first, second)
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)


def test_weight_decay_and_gradient_descent_see_it():
    """With weight decay, or without Adam, LoRA+ is not LoRA with a larger alpha: the updates differ by over 1 %."""
    case = Regression(6, 4, 2, seed=0)
    for optimizer in (lambda groups: adam(groups, decay=0.1), torch.optim.SGD):
        plus, plain = case.layer(8), case.layer(8 * 16)
        groups = [loraplus_param_groups(layer, 1e-2, ratio) for layer, ratio in ((plus, 16), (plain, 1))]
        first, second = (case.path(layer, optimizer(g)) for layer, g in zip((plus, plain), groups, strict=True))
        assert (first[-1] - second[-1]).norm() > 0.01 * second[-1].norm()
