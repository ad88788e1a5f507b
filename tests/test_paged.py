"""PagedAdamW: torch.optim.AdamW's numbers bit for bit, never above the budget, and what is moved, counted and refused.

The device is the CPU here, so a page that went out is known by its storage, which is gone.
"""

import copy
import math
import pickle
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import FLOATS, seeds
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim.lr_scheduler import LambdaLR

from lora_from_scratch.adamw import MOMENTS
from lora_from_scratch.paged import PagedAdamW

SHAPES = [(), (0,), (1,), (3,), (17,), (2, 3), (5, 4), (3, 0), (2, 1, 3)]
LAYOUTS = {  # from a contiguous tensor to one of the same shape whose memory is laid out in another way
    "contiguous": lambda t: t,
    "transposed": lambda t: t.mT.contiguous().mT if t.dim() > 1 else t,
    "every other": lambda t: torch.stack([t, t], dim=-1)[..., 0],
}


@dataclass(frozen=True)
class Situation:
    """Parameters, the settings of their groups, and which of them get a gradient at which step."""

    kinds: list  # (shape, dtype, layout, group) of each parameter
    groups: list  # settings of each group
    present: list  # steps of parameters: has it a gradient?
    page_bytes: int
    slack: int | None  # budget: this many bytes above the largest need, or None
    seed: int

    def groups_of_parameters(self) -> list[dict]:
        """Fresh parameters in their groups; called twice, the same numbers twice."""
        numbers = torch.Generator().manual_seed(self.seed)
        groups = [{"params": [], **options} for options in self.groups]
        for shape, dtype, layout, group in self.kinds:
            values = LAYOUTS[layout](torch.randn(shape, generator=numbers).to(dtype))
            groups[group]["params"].append(nn.Parameter(values))
        return [group for group in groups if group["params"]]

    def budget(self) -> int | None:
        if self.slack is None:
            return None
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype, _, _ in self.kinds]
        pages = [math.ceil(size / self.page_bytes) for size in sizes]  # of one moment
        return max(2 * max(pages) * self.page_bytes, self.page_bytes) + self.slack

    def paged(self, budget: int | None) -> PagedAdamW:
        return PagedAdamW(self.groups_of_parameters(), page_bytes=self.page_bytes, resident_bytes=budget)

    def torchs(self) -> torch.optim.AdamW:
        return torch.optim.AdamW(self.groups_of_parameters(), foreach=False)

    def give_gradients(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        numbers = torch.Generator().manual_seed(1000 * (step + 1) + self.seed)
        for p, present in zip(parameters(optimizer), self.present[step], strict=True):
            gradient = torch.randn(p.shape, generator=numbers).to(p.dtype)
            alike = torch.empty_like(p, requires_grad=False).copy_(gradient)  # laid out as the parameter, where dense
            p.grad = (alike if step % 2 else gradient) if present else None


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    options = st.fixed_dictionaries(
        {
            "lr": st.sampled_from([0.0, 1e-3, 0.1, 1.0]),
            "betas": st.sampled_from([(0.9, 0.999), (0.0, 0.5), (0.5, 0.0), (0.95, 0.9)]),
            "eps": st.sampled_from([1e-8, 1e-3, 0.0]),
            "weight_decay": st.sampled_from([0.0, 1e-2, 0.5]),
        }
    )
    groups = draw(st.lists(options, min_size=1, max_size=3))
    kind = st.tuples(
        st.sampled_from(SHAPES),
        st.sampled_from(FLOATS),
        st.sampled_from(list(LAYOUTS)),
        st.integers(0, len(groups) - 1),
    )
    kinds = sorted(draw(st.lists(kind, min_size=1, max_size=6)), key=lambda kind: kind[3])  # in the order of groups
    present = st.lists(st.booleans(), min_size=len(kinds), max_size=len(kinds))
    return Situation(
        kinds,
        groups,
        present=draw(st.lists(present, min_size=2, max_size=5)),
        page_bytes=draw(st.sampled_from([1, 3, 8, 16, 64, 4096])),
        slack=draw(st.none() | st.integers(0, 200)),
        seed=draw(seeds),
    )


def parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def assert_same_bits(one: Tensor, other: Tensor) -> None:
    """One shape, one dtype, and no bit differs, the bits of nan and of -0 included."""
    assert (one.shape, one.dtype) == (other.shape, other.dtype)
    flat = [t.detach().flatten().clone(memory_format=torch.contiguous_format) for t in (one, other)]
    assert torch.equal(*(t.view(torch.uint8) for t in flat))


def assert_same_optimizers(one: torch.optim.Optimizer, other: torch.optim.Optimizer) -> None:
    """No bit of a parameter or of its state differs, nor the order in which a moment lies in memory."""
    for p, q in zip(parameters(one), parameters(other), strict=True):
        assert_same_bits(p, q)
        assert one.state[p].keys() == other.state[q].keys()
        for name in one.state[p]:
            assert_same_bits(one.state[p][name], other.state[q][name])
            assert p.numel() == 0 or one.state[p][name].stride() == other.state[q][name].stride()


def watch(optimizer: PagedAdamW) -> None:
    """At every move: whole pages, no more than the budget, and as many bytes as the tensors really hold."""

    def at_move(optimizer: PagedAdamW) -> None:
        assert optimizer.bytes_resident <= (optimizer.resident_bytes or math.inf)
        for p, counted in optimizer.resident.items():
            held = [optimizer.state[p][name].untyped_storage().nbytes() for name in MOMENTS]
            assert sum(held) == counted == optimizer.state_bytes(p)
            assert all(size % optimizer.page_bytes == 0 for size in held)

    optimizer.on_move = at_move


def ones(count: int, size: int = 4) -> list[nn.Parameter]:
    """`count` float32 parameters of `size` ones; with 4 numbers each moment takes a page of 16 bytes, both 32."""
    return [nn.Parameter(torch.ones(size)) for _ in range(count)]


def step_only(optimizer: PagedAdamW, *which: int) -> None:
    """A step at which only these parameters, by their number, have a gradient."""
    for i, p in enumerate(parameters(optimizer)):
        p.grad = torch.ones_like(p) if i in which else None
    optimizer.step()


def numbers_of(optimizer: PagedAdamW) -> list[int]:
    """Which parameters are resident, by their number, least recently used first."""
    everyone = {id(p): i for i, p in enumerate(parameters(optimizer))}
    return [everyone[id(p)] for p in optimizer.resident]


def snapshot(optimizer: PagedAdamW) -> tuple:
    """All that a refused call must leave as it was, in a form that == compares."""
    packed = optimizer.state_dict()
    state = {key: {name: t.tolist() for name, t in entry.items()} for key, entry in packed["state"].items()}
    counts = (optimizer.page_ins, optimizer.page_outs, numbers_of(optimizer))
    return state, packed["param_groups"], counts, [p.tolist() for p in parameters(optimizer)]


# The numbers


@given(situation=situations())
@settings(max_examples=2 * settings.default.max_examples)
def test_numbers_are_torchs_bit_for_bit_and_the_budget_holds(situation):
    """Parameters and state equal torch.optim.AdamW's after every step, whatever the budget, the pages, the groups."""
    paged, wanted = situation.paged(situation.budget()), situation.torchs()
    watch(paged)
    schedules = [LambdaLR(optimizer, lambda step: 1 / (1 + step)) for optimizer in (paged, wanted)]
    for step in range(len(situation.present)):
        for optimizer, schedule in zip((paged, wanted), schedules, strict=True):
            situation.give_gradients(optimizer, step)
            optimizer.step()
            schedule.step()
        assert_same_optimizers(paged, wanted)
        assert paged.bytes_resident <= (situation.budget() or math.inf)
    if situation.slack is None:
        assert paged.page_ins == paged.page_outs == 0


@given(gradients=st.lists(st.floats(-4, 4).filter(lambda g: abs(g) > 1e-3), min_size=1, max_size=6))
def test_scalar_follows_the_paper_in_plain_floats(gradients):
    """One number, stepped by algorithm 2 of arXiv 1711.05101 in Python floats, is where PagedAdamW puts it.

    float64 rounds each of about 15 operations a step by 2^-53 of the result; after 6 steps 1e-12 is far away.
    """
    lr, beta1, beta2, eps, decay = 0.1, 0.8, 0.9, 1e-3, 0.3
    theta = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
    optimizer = PagedAdamW([theta], lr, (beta1, beta2), eps, decay, page_bytes=8, resident_bytes=16)
    x, m, v = 1.5, 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        theta.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        x = x - lr * (m_hat / (math.sqrt(v_hat) + eps) + decay * x)
        assert theta.item() == pytest.approx(x, rel=1e-12, abs=1e-12)


def test_decay_is_decoupled_and_comes_first():
    """2 decays to 2 · (1 - 0.5 · 0.5) = 1.5, then the first step takes lr · 1 = 0.5: 1.0, not (2 - 0.5) · 0.75.

    A gradient of 0 moves nothing but the decay, which leaves both moments at 0.
    """
    moved, still = (nn.Parameter(torch.tensor(2.0)) for _ in range(2))
    moved.grad, still.grad = torch.tensor(3.0), torch.tensor(0.0)
    optimizer = PagedAdamW([moved, still], lr=0.5, weight_decay=0.5)
    optimizer.step()
    assert moved.item() == pytest.approx(1.0, abs=1e-6) and still.item() == 1.5
    assert [optimizer.state[still][name].item() for name in MOMENTS] == [0.0, 0.0]


def test_defaults_are_those_of_torch():
    """lr, betas, eps and weight_decay default to torch.optim.AdamW's, and the decay is decoupled, as there."""
    ours, torchs = PagedAdamW(ones(1)).defaults, torch.optim.AdamW(ones(1)).defaults
    assert ours == {name: torchs[name] for name in ("lr", "betas", "eps", "weight_decay", "decoupled_weight_decay")}


def test_steps_are_counted_in_the_dtype_torch_counts_in():
    """float32, and float64 where that is the default dtype."""
    for default in (torch.float32, torch.float64, torch.bfloat16):
        torch.set_default_dtype(default)
        try:
            paged, torchs = PagedAdamW(ones(1)), torch.optim.AdamW(ones(1))
            for optimizer in (paged, torchs):
                step_only(optimizer, 0)
        finally:
            torch.set_default_dtype(torch.float32)
        assert_same_optimizers(paged, torchs)


# What moves


def test_each_moment_is_rounded_up_to_whole_pages():
    """5 float32 are 20 bytes: 2 pages of 16 for each moment, so 64 bytes, not the 48 that 40 bytes would round to."""
    five = nn.Parameter(torch.ones(5))
    assert PagedAdamW([five], page_bytes=16).state_bytes(five) == 64
    assert PagedAdamW([five], page_bytes=20).state_bytes(five) == 40
    assert PagedAdamW([five], page_bytes=4096).state_bytes(five) == 8192


def test_least_recently_used_goes_first():
    """Room for two of three: 0, 1, then 0 again, so that 2 sends 1 out, although 0 came in before it."""
    optimizer = PagedAdamW(ones(3), page_bytes=16, resident_bytes=64)
    for which, wanted in [(0, [0]), (1, [0, 1]), (0, [1, 0]), (2, [0, 2]), (1, [2, 1]), (2, [1, 2])]:
        step_only(optimizer, which)
        assert numbers_of(optimizer) == wanted


def test_pages_in_and_out_are_counted():
    """Three parameters of 2 pages and room for two, stepped in turn: after the first round each comes in every time.

    Step 1 makes all three and sends out 0. Step 2: 0 in for 1, 1 in for 2, 2 in for 0, 2 pages each.
    """
    optimizer = PagedAdamW(ones(3), page_bytes=16, resident_bytes=64)
    counts = []
    for _ in range(3):
        step_only(optimizer, 0, 1, 2)
        counts.append((optimizer.page_ins, optimizer.page_outs))
    assert counts == [(0, 2), (6, 8), (12, 14)]


def test_no_more_goes_out_than_must():
    """Room for 64 bytes holds 0 and 1 (32 each); a large one of 64 sends out both, a small one only the oldest."""
    sizes = (4, 4, 4, 8)
    optimizer = PagedAdamW([p for size in sizes for p in ones(1, size)], page_bytes=16, resident_bytes=64)
    step_only(optimizer, 0, 1)
    assert (numbers_of(optimizer), optimizer.bytes_resident) == ([0, 1], 64)
    step_only(optimizer, 2)
    assert (numbers_of(optimizer), optimizer.bytes_resident) == ([1, 2], 64)
    step_only(optimizer, 3)
    assert (numbers_of(optimizer), optimizer.bytes_resident, optimizer.page_outs) == ([3], 64, 6)


def test_budget_one_byte_short_of_two_holds_one():
    """Two states of 32 bytes in pages of a byte: 64 bytes hold both, 63 only the last."""
    for budget, wanted in [(64, [0, 1]), (63, [1])]:
        optimizer = PagedAdamW(ones(2), page_bytes=1, resident_bytes=budget)
        step_only(optimizer, 0, 1)
        assert numbers_of(optimizer) == wanted


def test_parameter_without_gradient_is_left_where_it_is():
    """No gradient: no state is made, none is brought in, and none is made the most recently used."""
    optimizer = PagedAdamW(ones(3), page_bytes=16, resident_bytes=32)
    step_only(optimizer, 0)
    step_only(optimizer, 1)
    before = snapshot(optimizer)
    step_only(optimizer)
    assert snapshot(optimizer) == before and numbers_of(optimizer) == [1]
    assert optimizer.page_ins == 0 and parameters(optimizer)[2] not in optimizer.state


def test_pages_that_went_out_are_released():
    """The storages on the device are gone once their pages went out, and those of the host once they came back."""
    optimizer = PagedAdamW(ones(2), page_bytes=16, resident_bytes=32)
    first = parameters(optimizer)[0]

    def storages():
        return [StorageWeakRef(optimizer.state[first][name].untyped_storage()) for name in MOMENTS]

    step_only(optimizer, 0)
    on_device = storages()
    gone = []
    optimizer.on_move = lambda optimizer: gone.append(all(storage.expired() for storage in on_device))
    step_only(optimizer, 1)
    assert gone == [True, True]  # at 0's way out already, before the pages of 1 are made
    on_host = storages()
    step_only(optimizer, 0)
    assert all(storage.expired() for storage in on_host)


def test_on_move_draws_the_trace():
    """on_move is called with the optimizer at every gain and every loss, and not where nothing moves."""
    optimizer, trace = PagedAdamW(ones(2), page_bytes=16, resident_bytes=32), []
    optimizer.on_move = lambda moved: trace.append((numbers_of(moved), moved.bytes_resident))
    step_only(optimizer, 0, 1)
    step_only(optimizer, 1)
    assert trace == [([0], 32), ([], 0), ([1], 32)]


def test_state_follows_its_parameter_to_another_device():
    """A parameter moved after a step (to "meta" here) finds its state there at the next one, the count still right."""
    optimizer = PagedAdamW(ones(1), page_bytes=16, resident_bytes=32)
    step_only(optimizer, 0)
    (p,) = parameters(optimizer)
    torch.utils.swap_tensors(p, nn.Parameter(p.detach().to("meta")))  # in place, as model.to() does it
    step_only(optimizer, 0)
    assert {optimizer.state[p][name].device.type for name in MOMENTS} == {"meta"}
    assert (optimizer.page_outs, optimizer.page_ins, optimizer.bytes_resident) == (2, 2, 32)


# Saving and loading


@given(situation=situations(), other=st.none() | st.integers(0, 200), pages=st.sampled_from([1, 5, 32]))
def test_state_goes_to_torch_and_back_under_another_budget(situation, other, pages):
    """PagedAdamW -> torch.optim.AdamW -> PagedAdamW with other pages: all go on with the same bits."""
    there = Situation(*(vars(situation) | {"page_bytes": pages, "slack": other}).values())
    first, middle, last = situation.paged(situation.budget()), situation.torchs(), there.paged(there.budget())
    half = len(situation.present) // 2
    for optimizer in (first, middle, last):
        for step in range(half):
            situation.give_gradients(optimizer, step)
            optimizer.step()
    watch(last)
    middle.load_state_dict(copy.deepcopy(first.state_dict()))
    last.load_state_dict(middle.state_dict())
    assert last.bytes_resident == 0  # what is loaded waits on the host
    for step in range(half, len(situation.present)):
        for optimizer in (first, middle, last):
            situation.give_gradients(optimizer, step)
            optimizer.step()
        assert_same_optimizers(first, middle)
        assert_same_optimizers(first, last)


def test_loaded_numbers_replace_those_that_were_there():
    """Loading takes state and settings from the dict: a fresh optimizer with another lr goes on as the old one."""
    old, new = (PagedAdamW(ones(2), lr=lr, page_bytes=16, resident_bytes=32) for lr in (0.1, 0.5))
    for which in (0, 1, 0):
        step_only(old, which)
    step_only(new, 0, 1)
    new.load_state_dict(old.state_dict())
    with torch.no_grad():
        for p, q in zip(parameters(new), parameters(old), strict=True):
            p.copy_(q)
    assert_same_optimizers(new, old)
    step_only(new, 0, 1), step_only(old, 0, 1)
    assert_same_optimizers(new, old)
    assert new.param_groups[0]["lr"] == 0.1


def test_parameter_saved_before_its_first_step_has_no_state_when_loaded():
    """What the dict does not have, the optimizer does not keep."""
    optimizer, saved = PagedAdamW(ones(2)), saved_state()
    step_only(optimizer, 0, 1)
    del saved["state"][1]
    optimizer.load_state_dict(saved)
    assert list(optimizer.state_dict()["state"]) == [0]


def test_state_dict_is_a_copy_without_padding():
    """What was saved does not change with later steps, and holds 4 bytes a number, not whole pages."""
    optimizer = PagedAdamW(ones(1, 3), page_bytes=64)
    step_only(optimizer, 0)
    saved = optimizer.state_dict()["state"][0]
    before = {name: tensor.clone() for name, tensor in saved.items()}
    step_only(optimizer, 0)
    assert all(torch.equal(saved[name], before[name]) for name in before)
    assert [saved[name].untyped_storage().nbytes() for name in MOMENTS] == [12, 12]


def test_loading_copies():
    """Steps after loading leave the dict alone."""
    optimizer, torchs = PagedAdamW(ones(1)), torch.optim.AdamW(ones(1))
    step_only(torchs, 0)
    before = copy.deepcopy(torchs.state_dict())["state"][0]
    optimizer.load_state_dict(torchs.state_dict())
    step_only(optimizer, 0)
    assert all(torch.equal(torchs.state_dict()["state"][0][name], before[name]) for name in before)


def saved_state(**changes) -> dict:
    """What two parameters of 4 save after a step, with changes to the state of parameter 1."""
    optimizer = torch.optim.AdamW(ones(2))
    step_only(optimizer, 0, 1)
    saved = optimizer.state_dict()
    saved["state"][1].update(changes)
    return saved


def in_group(saved: dict, **changes) -> dict:
    saved["param_groups"][0].update(changes)
    return saved


@pytest.mark.parametrize(
    "saved, words",
    [
        (lambda: saved_state(exp_avg=torch.zeros(5)), r"parameter 1, of shape \(4,\),.*'exp_avg': \(5,\)"),
        (lambda: saved_state(exp_avg_sq=torch.zeros(2, 2)), r"parameter 1, of shape \(4,\),.*\(2, 2\)"),
        (lambda: saved_state(exp_avg=torch.tensor(0.0)), r"parameter 1,.*'exp_avg': \(\)"),  # which would broadcast
        (lambda: saved_state(max_exp_avg_sq=torch.zeros(4)), "parameter 1.*max_exp_avg_sq"),
        (lambda: {**saved_state(), "state": {1: {"momentum_buffer": torch.zeros(4)}}}, "parameter 1.*momentum_buffer"),
        (lambda: saved_state(exp_avg=[0.0] * 4), r"parameter 1,.*'exp_avg': \(\)"),
        (lambda: {"state": {}}, "no state and param_groups"),
        (lambda: [saved_state()], "no state and param_groups"),
        (lambda: {**saved_state(), "state": {7: saved_state()["state"][1]}}, r"entries \[7\]"),
        (lambda: in_group(saved_state(), params=[0]), r"\[1\] parameters.*\[2\]"),
        (lambda: in_group(saved_state(), amsgrad=True), "amsgrad is True"),
        (lambda: in_group(saved_state(), maximize=True), "maximize is True"),
        (lambda: in_group(saved_state(), decoupled_weight_decay=False), "decoupled_weight_decay is False"),
        (lambda: in_group(saved_state(), lr=-1.0), r"lr is -1.0"),
    ],
)
def test_state_that_does_not_fit_is_refused_and_changes_nothing(saved, words):
    """The error names the parameter or the setting, and the optimizer is as it was, its residents too."""
    optimizer = PagedAdamW(ones(2), lr=0.25, page_bytes=16, resident_bytes=32)
    for which in (0, 1, 0):
        step_only(optimizer, which)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=words):
        optimizer.load_state_dict(saved())
    assert snapshot(optimizer) == before and numbers_of(optimizer) == [0]


def test_moment_that_is_a_plain_number_is_refused():
    """For a parameter of no dimension too, whose moment has the shape of a number: it is named, nothing changes."""
    optimizer = PagedAdamW([nn.Parameter(torch.tensor(2.0))])
    step_only(optimizer, 0)
    before, saved = snapshot(optimizer), optimizer.state_dict()
    saved["state"][0]["exp_avg_sq"] = 0.5
    with pytest.raises(ValueError, match=r"parameter 0, .* exp_avg_sq as float; it must be a tensor"):
        optimizer.load_state_dict(saved)
    assert snapshot(optimizer) == before


def test_hooks_on_loading_are_called():
    """A hook before loading may change the dict, one after it sees what was loaded; as in torch."""
    optimizer, seen = PagedAdamW(ones(2)), []
    optimizer.register_load_state_dict_pre_hook(lambda _, saved: in_group(saved, lr=0.75))
    optimizer.register_load_state_dict_post_hook(lambda loaded: seen.append(len(loaded.state)))
    optimizer.load_state_dict(saved_state())
    assert optimizer.param_groups[0]["lr"] == 0.75 and seen == [2]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_copy_goes_on_alone_with_the_same_bits(copied):
    """A copy of parameters and optimizer has its own pages, the same residents and counts, and no trace hook."""
    old = PagedAdamW(ones(3), page_bytes=16, resident_bytes=64)
    step_only(old, 0, 1, 2)
    step_only(old, 1)
    old.on_move = lambda optimizer: pytest.fail("the copy called the trace hook of the original")
    params, new = copied((parameters(old), old))
    assert all(p is q for p, q in zip(params, parameters(new), strict=True))
    assert snapshot(new) == snapshot(old)
    watch(new), watch(old)
    step_only(new, 0, 2)
    assert parameters(old)[0][0] != params[0][0]
    step_only(old, 0, 2)
    assert snapshot(new) == snapshot(old)
    assert_same_optimizers(new, old)


# What hooks leave in the state


def test_what_hooks_put_into_the_state_is_saved_moved_and_loaded():
    """Extra entries, the optimizer's and a parameter's, tensors, numbers, lists: saved as copies, paged, loaded."""
    old, new = (PagedAdamW(ones(2), page_bytes=16, resident_bytes=32) for _ in range(2))
    old.state[parameters(old)[0]]["seen"] = torch.zeros(3)  # before its first step

    def count(optimizer, *_):
        optimizer.state["calls"] = optimizer.state.get("calls", 0) + 1
        optimizer.state["norms"] = {"last": [torch.tensor(2.0)]}
        optimizer.state[parameters(optimizer)[0]]["seen"] += 1

    old.register_step_post_hook(count)
    for which in (0, 1, 0):  # out and in again
        step_only(old, which)
    saved = old.state_dict()
    old.state[parameters(old)[0]]["seen"] += 7
    old.state["norms"]["last"][0] += 7
    assert saved["state"]["calls"] == 3 and saved["state"]["norms"] == {"last": [torch.tensor(2.0)]}
    assert saved["state"][0]["seen"].tolist() == [3.0] * 3 and set(saved["state"][1]) == {"step", *MOMENTS}
    new.load_state_dict(saved)
    step_only(new, 0)
    saved["state"][0]["seen"] += 7
    saved["state"]["norms"]["last"][0] += 7
    assert new.state["norms"] == {"last": [torch.tensor(2.0)]}
    assert new.state["calls"] == 3 and new.state[parameters(new)[0]]["seen"].tolist() == [3.0] * 3
    torch.optim.AdamW(ones(2)).load_state_dict(old.state_dict())


def test_hooks_on_saving_may_add_to_the_dict():
    """What a hook after state_dict() adds or returns is what comes back, whatever it is; as in torch."""
    optimizer = PagedAdamW(ones(1))
    optimizer.register_state_dict_pre_hook(lambda saving: saving.state.__setitem__("note", "ran"))
    optimizer.register_state_dict_post_hook(lambda _, saved: saved | {"version": 3})
    saved = optimizer.state_dict()
    assert saved["version"] == 3 and saved["state"] == {"note": "ran"}


# A tensor as learning rate


@pytest.mark.parametrize("shape", [(), (1,)])
@given(situation=situations())
@settings(max_examples=10)
def test_tensor_as_learning_rate_gives_torchs_bits(shape, situation):
    """lr as a tensor of one number, changed in place by a schedule, gives what it gives in torch.optim.AdamW."""
    optimizers = []
    for make in (lambda groups: PagedAdamW(groups), lambda groups: torch.optim.AdamW(groups, foreach=False)):
        groups = situation.groups_of_parameters()
        optimizers.append(make([group | {"lr": torch.full(shape, group["lr"])} for group in groups]))
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    schedules = [LambdaLR(optimizer, lambda step: 1 / (1 + step)) for optimizer in optimizers]
    for step in range(len(situation.present)):
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            situation.give_gradients(optimizer, step)
            optimizer.step()
            schedule.step()
        assert_same_optimizers(*optimizers)
    for optimizer, rate in zip(optimizers, rates, strict=True):
        assert optimizer.param_groups[0]["lr"] is rate


def test_saved_tensor_rate_does_not_follow_the_schedule():
    """state_dict() copies a tensor rate, load_state_dict too: neither follows the other side's schedule."""
    old, new = PagedAdamW(ones(1), lr=torch.tensor(0.5)), PagedAdamW(ones(1))
    saved = old.state_dict()
    old.param_groups[0]["lr"].fill_(0.25)
    new.load_state_dict(saved)
    new.param_groups[0]["lr"].fill_(0.125)
    assert saved["param_groups"][0]["lr"] == 0.5 and old.param_groups[0]["lr"] == 0.25


def test_saved_groups_say_that_the_decay_is_decoupled():
    """As AdamW's do: torch.optim.Adam, which has both ways, goes on in the right one after loading them."""
    paged, adam = PagedAdamW(ones(1), weight_decay=0.5), torch.optim.Adam(ones(1), weight_decay=0.5)
    for group in (*paged.state_dict()["param_groups"], *paged.param_groups):
        assert group["decoupled_weight_decay"] is True
    adam.load_state_dict(paged.state_dict())
    for optimizer in (paged, adam):
        step_only(optimizer, 0)
    assert torch.equal(*parameters(paged), *parameters(adam))


# Interrupted


def check_pages_are_counted(optimizer: PagedAdamW) -> None:
    """Nothing is resident that has no state, nor more than fits."""
    assert optimizer.bytes_resident <= optimizer.resident_bytes
    assert all(set(MOMENTS) <= set(optimizer.state[p]) for p in optimizer.resident)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError], ids=lambda error: error.__name__)
@pytest.mark.parametrize("place", ["on_move", "_placed"])
@pytest.mark.parametrize("call", range(8))
def test_step_interrupted_anywhere_can_be_followed_by_others(place, call, error):
    """Stopped at any move, or in the middle of one, counts and residents are right, and later steps go on as always.

    Every parameter then is where some number of whole steps takes it: state is neither lost nor used twice.
    """
    optimizer = PagedAdamW(ones(3), lr=0.1, page_bytes=16, resident_bytes=64)
    step_only(optimizer, 0, 1)
    calls, real = [], getattr(optimizer, place)

    def failing(*args):
        calls.append(None)
        if len(calls) == call + 1:
            raise error("stopped")
        return real(*args) if place == "_placed" else None

    setattr(optimizer, place, failing)
    with pytest.raises(error):
        for _ in range(2):
            step_only(optimizer, 0, 1, 2)
    check_pages_are_counted(optimizer)
    setattr(optimizer, place, real)
    watch(optimizer)
    for _ in range(3):
        step_only(optimizer, 0, 1, 2)
        check_pages_are_counted(optimizer)
    for p in parameters(optimizer):
        (alone,) = ones(1)
        wanted = torch.optim.AdamW([alone], lr=0.1, foreach=False)
        for _ in range(int(optimizer.state[p]["step"])):
            step_only(wanted, 0)
        assert_same_bits(p, alone)


class Dropping(dict):
    """A state that loses the next thing put into it: a step interrupted between two lines."""

    def __setitem__(self, key, value):
        raise KeyboardInterrupt


@pytest.mark.parametrize("before", [(), (0, 1)], ids=["first step", "later"])
def test_step_interrupted_between_counting_and_placing_can_be_followed_by_others(before):
    """Pages are counted before they are there; where the state did not follow, the next step finds that out."""
    optimizer = PagedAdamW(ones(2), page_bytes=16, resident_bytes=32)
    for which in before:
        step_only(optimizer, which)
    state = optimizer.state
    optimizer.resident.clear()  # all is on the host
    optimizer.state = Dropping(state)
    with pytest.raises(KeyboardInterrupt):
        step_only(optimizer, 0)
    optimizer.state = state
    assert numbers_of(optimizer) == [0]
    watch(optimizer)
    step_only(optimizer, 0, 1)
    check_pages_are_counted(optimizer)
    assert [int(state[p]["step"]) for p in parameters(optimizer)] == [1 + len(before) // 2] * 2


def test_closure_that_raises_changes_nothing():
    """No parameter was stepped, no state made or moved."""
    optimizer = PagedAdamW(ones(2), page_bytes=16, resident_bytes=32)
    step_only(optimizer, 0, 1)
    before = snapshot(optimizer)

    def closure():
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        optimizer.step(closure)
    assert snapshot(optimizer) == before


@pytest.mark.parametrize("call", range(2))
def test_load_interrupted_changes_nothing(call):
    """Stopped while the first or the second state is copied in, the optimizer is as it was."""
    optimizer = PagedAdamW(ones(2), lr=0.25, page_bytes=16, resident_bytes=32)
    step_only(optimizer, 0, 1)
    before, calls, real = snapshot(optimizer), [], optimizer._placed

    def failing(*args):
        calls.append(None)
        if len(calls) == call + 1:
            raise KeyboardInterrupt
        return real(*args)

    optimizer._placed = failing
    with pytest.raises(KeyboardInterrupt):
        optimizer.load_state_dict(saved_state())
    assert snapshot(optimizer) == before


# As an optimizer of torch


def test_closure_hooks_and_zero_grad_work_as_in_torch():
    """step(closure) returns the loss, found with gradients on; hooks around the step run; zero_grad() drops them."""
    (p,) = ones(1)
    optimizer, calls = PagedAdamW([p]), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def closure():
        optimizer.zero_grad()
        loss = (3 * p).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 12.0 and p.grad.tolist() == [3.0] * 4
    assert optimizer.step() is None
    assert calls == ["before", "after"] * 2
    optimizer.zero_grad()
    assert p.grad is None and p.requires_grad


def test_group_can_be_added_later():
    """Its settings count, and its parameters share the budget; one above the budget is refused and not added."""
    optimizer = PagedAdamW(ones(1), lr=0.5, weight_decay=0.0, page_bytes=16, resident_bytes=32)
    optimizer.add_param_group({"params": ones(1), "lr": 0.25})
    step_only(optimizer, 0, 1)
    assert [p[0].item() for p in parameters(optimizer)] == pytest.approx([0.5, 0.75], abs=1e-6)
    assert numbers_of(optimizer) == [1]
    for group in ({"params": ones(1, 5)}, {"params": ones(1), "lr": -1.0}, {"params": ones(1), "maximize": True}):
        with pytest.raises(ValueError):
            optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 2


def test_group_whose_adding_is_interrupted_is_not_added(monkeypatch):
    """Whatever stops the check, the optimizer has the groups it had."""
    optimizer = PagedAdamW(ones(1))

    def stopped(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(PagedAdamW, "_check_parameters", stopped)
    with pytest.raises(KeyboardInterrupt):
        optimizer.add_param_group({"params": ones(1)})
    assert len(optimizer.param_groups) == 1


def test_named_parameters_are_accepted():
    """(name, parameter) pairs, as model.named_parameters() gives them, and the names are saved."""
    layer = nn.Linear(2, 3)
    optimizer = PagedAdamW(layer.named_parameters())
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


# What is refused


@pytest.mark.parametrize(
    "options, words",
    [
        ({"page_bytes": 0}, "page_bytes is 0; .*at least 1"),
        ({"page_bytes": -16}, "page_bytes is -16"),
        ({"page_bytes": 16.0}, "page_bytes is 16.0; .*integer"),
        ({"page_bytes": True}, "page_bytes is True"),
        ({"page_bytes": 16, "resident_bytes": 15}, "resident_bytes is 15; .*16"),
        ({"page_bytes": 1, "resident_bytes": True}, "resident_bytes is True"),
        ({"page_bytes": 16, "resident_bytes": 64.0}, "resident_bytes is 64.0"),
        ({"page_bytes": 16, "resident_bytes": math.inf}, "resident_bytes is inf; .*None"),
        ({"lr": -0.1}, "lr is -0.1; .*at least 0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"lr": torch.tensor(-0.1)}, "lr is tensor"),
        ({"lr": torch.tensor(math.nan)}, "lr is tensor"),
        ({"lr": torch.tensor([0.1, 0.2])}, "lr is tensor"),
        ({"lr": torch.tensor(True)}, "lr is tensor"),
        ({"eps": torch.tensor(1e-8)}, "eps is tensor"),
        ({"eps": -1e-8}, "eps is -1e-08"),
        ({"weight_decay": -1}, "weight_decay is -1"),
        ({"betas": (1.0, 0.9)}, r"betas is \(1.0, 0.9\)"),
        ({"betas": (0.9, -0.1)}, r"betas is \(0.9, -0.1\)"),
        ({"betas": (0.9,)}, r"betas is \(0.9,\); .*two"),
        ({"betas": 0.9}, "betas is 0.9"),
    ],
)
def test_settings_out_of_range_are_refused(options, words):
    """The error names the setting, its value and what would do."""
    with pytest.raises(ValueError, match=words):
        PagedAdamW(ones(1), **options)


@pytest.mark.parametrize("name", ["amsgrad", "maximize", "foreach", "fused", "capturable", "differentiable"])
def test_variations_of_adamw_are_no_arguments(name):
    """What PagedAdamW cannot do, it does not take and ignore."""
    with pytest.raises(TypeError, match=name):
        PagedAdamW(ones(1), **{name: True})


@given(size=st.integers(1, 40), page_bytes=st.integers(1, 64))
def test_budget_must_hold_the_largest_parameter(size, page_bytes):
    """Both moments in whole pages is enough for a budget; one byte less is refused, and the need is named."""
    need = 2 * math.ceil(4 * size / page_bytes) * page_bytes
    exact = PagedAdamW(ones(1, size), page_bytes=page_bytes, resident_bytes=need)
    step_only(exact, 0)
    assert exact.bytes_resident == need
    with pytest.raises(ValueError, match=rf"parameter 0, of shape \({size},\), needs {need} bytes"):
        PagedAdamW(ones(1, size), page_bytes=page_bytes, resident_bytes=need - 1)


def test_parameter_that_outgrew_the_budget_is_refused():
    """Cast to float64 after the optimizer was made, 4 numbers take 2 · 32 bytes; the step says so and changes none."""
    optimizer = PagedAdamW(ones(2), page_bytes=16, resident_bytes=32)
    p = parameters(optimizer)[1]
    p.data = p.data.double()
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="parameter 1, .* needs 64 bytes"):
        step_only(optimizer, 0, 1)
    assert snapshot(optimizer) == before


@pytest.mark.parametrize("budget", [None, 64])
def test_parameter_cast_between_steps_is_refused_by_torch_under_every_budget(budget):
    """State keeps its dtype when it moves; a float64 gradient then meets float32 moments, as in torch.optim.AdamW."""
    optimizer = PagedAdamW(ones(3), page_bytes=16, resident_bytes=budget)  # 64: the state of 0 goes out
    for which in (0, 1, 2):
        step_only(optimizer, which)
    parameters(optimizer)[0].data = torch.ones(4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="dtype"):
        step_only(optimizer, 0)
    assert optimizer.state[parameters(optimizer)[0]]["exp_avg"].dtype == torch.float32


def test_defaults_are_checked_although_every_group_has_its_own():
    """A wrong lr is refused even where no group uses it yet."""
    with pytest.raises(ValueError, match="lr is -1"):
        PagedAdamW([{"params": ones(1), "lr": 0.1}], lr=-1)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64])
def test_parameter_that_is_not_real_is_refused(dtype):
    """Complex and integer parameters are named by number and dtype."""
    p = nn.Parameter(torch.ones(2, dtype=dtype), requires_grad=False)
    with pytest.raises(ValueError, match=f"parameter 1, .* {dtype}"):
        PagedAdamW([*ones(1), p])


def test_sparse_gradient_is_refused_before_anything_moves():
    """The error says which parameter and what to do; no parameter was stepped."""
    table, (other,) = nn.Embedding(5, 2, sparse=True), ones(1)
    optimizer = PagedAdamW([other, table.weight])
    (table(torch.tensor([1])).sum() + other.sum()).backward()
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="parameter 1, .*sparse"):
        optimizer.step()
    assert snapshot(optimizer) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_pages_wait_in_pinned_memory():
    """On a GPU: torch's numbers, pages that went out pinned on the host, and device memory that is given back."""
    paged, torchs = (
        kind([nn.Parameter(torch.ones(2**18, device="cuda")) for _ in range(8)], **options)
        for kind, options in (
            (PagedAdamW, {"page_bytes": 2**12, "resident_bytes": 2**22}),  # two of eight, at 2 MiB each
            (torch.optim.AdamW, {"foreach": False}),
        )
    )
    before = torch.cuda.memory_allocated()
    for step in range(3):
        for optimizer in (paged, torchs):
            for i, p in enumerate(parameters(optimizer)):
                p.grad = torch.full_like(p, 0.1 * (i + 1) * (step + 1))
            optimizer.step()
            optimizer.zero_grad()
        if optimizer is torchs and step == 0:
            grown = torch.cuda.memory_allocated() - before
            assert grown <= 2**22 + 8 * 2**21 + 2**20  # the budget, all of torch's state, and a little
    for p, q in zip(parameters(paged), parameters(torchs), strict=True):
        assert_same_bits(p.cpu(), q.cpu())
        for name in MOMENTS:
            assert_same_bits(paged.state[p][name].cpu(), torchs.state[q][name].cpu())
            assert p in paged.resident or paged.state[p][name].is_pinned()
