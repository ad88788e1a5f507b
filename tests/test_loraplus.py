"""LoRA+: every B in the fast group, all else that is trainable in the slow one, nothing lost and nothing twice."""

import ast
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lora_from_scratch import AdapterConfig, LoRALinear, PagedAdamW, add_adapters, loraplus, loraplus_param_groups


def net() -> nn.Module:
    """Three linear layers, two levels deep, with norms between them."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3, bias=False))
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), inner)


def adapted(targets="all-linear", dora=False, rslora=False) -> nn.Module:
    return add_adapters(net(), AdapterConfig(rank=2, alpha=4, targets=targets, dora=dora, rslora=rslora))


@given(
    targets=st.sampled_from(["all-linear", ["0"], ["2.0"], ["2.0", "2.2"]]),
    dora=st.booleans(),
    unfrozen=st.sets(st.sampled_from(["1.weight", "1.bias", "2.1.weight", "2.1.bias"])),
    frozen=st.booleans(),
    lr=st.floats(1e-6, 1),
    ratio=st.floats(0.01, 100),
    decay=st.floats(0, 1),
)
def test_every_trainable_parameter_is_in_one_group_at_its_rate(targets, dora, unfrozen, frozen, lr, ratio, decay):
    """B at lr · ratio, all else at lr, the decay in both, what is frozen in neither. [axolotl#4010]"""
    model = adapted(targets, dora)
    names = dict(model.named_parameters())
    for name in unfrozen:
        names[name].requires_grad_(True)
    if frozen:
        names[next(name for name in names if name.endswith(".A"))].requires_grad_(False)
    groups = loraplus_param_groups(model, lr, ratio, decay)
    found = {id(p): group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found), "a parameter stands twice"
    for name, parameter in names.items():
        assert parameter.requires_grad == (id(parameter) in found), name
        if parameter.requires_grad:
            assert found[id(parameter)]["lr"] == (lr * ratio if name.endswith(".B") else lr), name
            assert found[id(parameter)]["weight_decay"] == decay, name


def test_the_defaults_are_those_of_the_paper():
    """Ratio 16, and no weight decay of its own."""
    groups = loraplus_param_groups(adapted(), 1e-3)
    assert [g["lr"] for g in groups] == [1e-3, 0.016] and not any("weight_decay" in g for g in groups)


@pytest.mark.parametrize(("own", "wanted"), [(None, 0.1), (0.0, 0.0), (0.3, 0.3)])
def test_the_optimizer_s_weight_decay_holds_where_none_was_asked_for(own, wanted):
    """Given to AdamW, it stands in both groups; given to the groups, theirs goes first, a zero too."""
    options = {} if own is None else {"weight_decay": own}
    optimizer = torch.optim.AdamW(loraplus_param_groups(adapted(), 1e-3, **options), weight_decay=0.1)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [wanted, wanted]


def test_an_adapter_is_told_by_its_role():
    """Any module with `delta_weight` and `B` counts, whatever its class; only one of the two is not enough."""

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.B, self.C = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

        def delta_weight(self) -> None: ...

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.B = nn.Parameter(torch.ones(2))

    class Without(nn.Module):  # a delta_weight, and no B: another kind of adapter
        def delta_weight(self) -> None: ...

    model = nn.Sequential(Other(), Called(), Without())
    slow, fast = loraplus_param_groups(model, 1.0, 4.0)
    assert [id(p) for p in fast["params"]] == [id(model[0].B)]
    assert {id(p) for p in slow["params"]} == {id(model[0].C), id(model[1].B)}


def test_a_shared_adapter_counts_once():
    """An adapter that stands at two places is in the groups once."""
    layer = LoRALinear(nn.Linear(4, 4), 2, 4)
    slow, fast = loraplus_param_groups(nn.Sequential(layer, nn.ReLU(), layer), 1e-3)
    assert len(fast["params"]) == 1 and len(slow["params"]) == 1


def test_with_b_alone_there_is_one_group():
    """Where only B is trainable, the slow group is left out, as an optimizer may refuse an empty one."""
    model = adapted()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(".B"))
    (fast,) = loraplus_param_groups(model, 1e-3, 4)
    assert fast["lr"] == 4e-3 and len(fast["params"]) == 3


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> dict[str, torch.Tensor]:
    """The parameters after a few steps on a fixed regression."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(8, 6, generator=generator), torch.randn(8, 3, generator=generator)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + t))
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        schedule.step()
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_at_ratio_one_it_is_plain_training():
    """With ratio 1 the parameters after some steps are those of one group, bit for bit."""
    torch.manual_seed(3)
    grouped, plain = adapted(), adapted()
    plain.load_state_dict(grouped.state_dict())
    first = train(grouped, torch.optim.AdamW(loraplus_param_groups(grouped, 1e-2, 1, 0.1)))
    trainable = [p for p in plain.parameters() if p.requires_grad]
    second = train(plain, torch.optim.AdamW(trainable, lr=1e-2, weight_decay=0.1))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, PagedAdamW])
def test_any_optimizer_takes_the_groups_and_a_schedule_keeps_the_ratio(optimizer):
    """AdamW, gradient descent and the paged optimizer take the groups; under a schedule the ratio stays."""
    model = adapted(dora=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    made = optimizer(loraplus_param_groups(model, 1e-2, 8))
    after = train(model, made)
    assert made.param_groups[1]["lr"] / made.param_groups[0]["lr"] == pytest.approx(8)
    assert all(torch.equal(before[n], after[n]) != p.requires_grad for n, p in model.named_parameters())


def test_the_first_step_of_b_is_ratio_times_as_long():
    """Adam's first step has the length of the rate, so B's is `ratio` times that of plain training."""
    steps = []
    for ratio in (1, 16):
        torch.manual_seed(3)
        model = adapted(["0"])
        train(model, torch.optim.AdamW(loraplus_param_groups(model, 1e-4, ratio)), steps=1)
        steps.append(model[0].B.detach().clone())
    torch.testing.assert_close(steps[1], 16 * steps[0])


@pytest.mark.parametrize(
    "options, words",
    [
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": -1e-3}, "lr is -0.001"),
        ({"lr": math.inf}, "lr is inf"),
        ({"lr": math.nan}, "lr is nan"),
        ({"ratio": 0}, "ratio is 0"),
        ({"ratio": -16}, "ratio is -16"),
        ({"ratio": math.inf}, "ratio is inf"),
        ({"ratio": math.nan}, "ratio is nan"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"weight_decay": math.inf}, "weight_decay is inf"),
        ({"weight_decay": math.nan}, "weight_decay is nan"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(options, words):
    """A rate, ratio or decay out of range is a ValueError that names it."""
    with pytest.raises(ValueError, match=words):
        loraplus_param_groups(adapted(), **({"lr": 1e-3} | options))


def test_a_model_without_a_trainable_b_is_refused():
    """Nothing trainable, no adapter, or only frozen B: the ratio would do nothing, and that is an error."""
    frozen = adapted().requires_grad_(False)
    with pytest.raises(ValueError, match="nothing in it is trainable"):
        loraplus_param_groups(frozen, 1e-3)
    with pytest.raises(ValueError, match="none of its 9 trainable parameters"):
        loraplus_param_groups(net(), 1e-3)
    frozen[1].requires_grad_(True)
    with pytest.raises(ValueError, match="none of its 2 trainable parameters"):
        loraplus_param_groups(frozen, 1e-3)


def test_the_file_imports_nothing():
    """loraplus.py has no import at all."""
    tree = ast.parse(Path(loraplus.__file__).read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
