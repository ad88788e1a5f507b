"""What serving takes: formulas against counting loops, the filled bank against its adapters, turns against a clock."""

import ctypes
import platform

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lora_from_scratch.analysis.serving import (
    adapters_beside,
    cache_bytes,
    fill,
    keep_memory,
    path_share,
    take_turns,
    tokens_to_repay,
)
from lora_from_scratch.bank import AdapterBank

SIZES = st.integers(1, 40)


def counted(work) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@given(SIZES, SIZES, st.integers(1, 9), st.integers(1, 50))
def test_a_merge_is_repaid_after_h_tokens_by_torch_s_own_count(d_out, d_in, rank, tokens):
    """More tokens than h: the path took more operations than the merge; fewer: less. Whatever the rank."""
    x, A, B = torch.randn(tokens, d_in), torch.randn(rank, d_in), torch.randn(d_out, rank)
    path, merge = counted(lambda: x @ A.T @ B.T), counted(lambda: B @ A)
    assert tokens / tokens_to_repay([(d_out, d_in)]) == pytest.approx(path / merge)


@given(st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=5), st.integers(1, 9))
def test_the_path_s_share_is_that_of_torch_s_own_count(shapes, rank):
    path = base = 0
    for d_out, d_in in shapes:
        x, W, A, B = torch.randn(3, d_in), torch.randn(d_out, d_in), torch.randn(rank, d_in), torch.randn(d_out, rank)
        path, base = path + counted(lambda: x @ A.T @ B.T), base + counted(lambda: x @ W.T)  # noqa: B023
    assert path_share(shapes, rank) == pytest.approx(path / base)


def test_a_cache_holds_a_key_and_a_value_a_layer():
    """LLaMA-7B in 16 bits: half a MiB a token."""
    assert cache_bytes(32, 4096) == 2**19
    assert cache_bytes(3, 5, 4) == sum(torch.zeros(5).nbytes for _ in ("key", "value") for _ in range(3))


def test_adapters_fit_into_what_the_base_leaves():
    assert [adapters_beside(10, 4, 2), adapters_beside(10, 4, 4), adapters_beside(10, 4, 7)] == [3, 1, 0]
    assert adapters_beside(10, 12, 1) == 0


def test_a_filled_bank_has_an_adapter_in_every_slot_that_does_something():
    """And one seed gives one bank."""
    torch.manual_seed(0)
    made = [nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double() for _ in range(2)]
    made[1].load_state_dict(made[0].state_dict())
    one, two = (fill(AdapterBank(model, capacity=3), rank=2) for model in made)
    x = torch.randn(1, 6, dtype=torch.float64).expand(4, -1).contiguous()
    out = one(x, adapters=["0", "1", "2", None])
    assert one.names == ["0", "1", "2"]
    assert torch.equal(out, two(x, adapters=["0", "1", "2", None]))
    assert all((out[i] - out[j]).abs().max() > 1e-4 for i in range(4) for j in range(i))
    assert not torch.equal(fill(one, 2, seed=1)(x, adapters=["0", "1", "2", None])[:3], out[:3])


def test_glibc_keeps_memory_and_where_there_is_no_such_order_nothing_is_raised(monkeypatch):
    if platform.libc_ver()[0] == "glibc":
        assert keep_memory()

    def nothing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", nothing)
    assert not keep_memory()


class Clock:
    """A clock that only the ways move."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, []

    def way(self, name: str, *seconds: float):
        left = list(seconds)

        def work() -> None:
            self.calls.append(name)
            self.now += left.pop(0)

        return work


def test_turns_give_the_median_without_the_warm_up():
    clock = Clock()
    ways = {"a": clock.way("a", 100, 1, 2, 9), "b": clock.way("b", 50, 3, 3, 4)}
    assert take_turns(ways, 3, clock=lambda: clock.now) == {"a": 2, "b": 3}
    turns = [clock.calls[i : i + 2] for i in range(0, 8, 2)]
    assert all(sorted(turn) == ["a", "b"] for turn in turns)


def test_the_order_changes_from_turn_to_turn():
    clock = Clock()
    take_turns({name: clock.way(name, *[1.0] * 21) for name in "ab"}, 20, clock=lambda: clock.now)
    assert {tuple(clock.calls[i : i + 2]) for i in range(0, 42, 2)} == {("a", "b"), ("b", "a")}


def test_another_seed_draws_other_orders():
    called = []
    for seed in (0, 0, 1):
        clock = Clock()
        take_turns({n: clock.way(n, *[1.0] * 9) for n in "abc"}, 8, clock=lambda clock=clock: clock.now, seed=seed)
        called.append(clock.calls)
    assert called[0] == called[1] != called[2]


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: tokens_to_repay([]), "give an"),
        (lambda: tokens_to_repay([(4, 0)]), r"shapes are \[\(4, 0\)\]"),
        (lambda: path_share([(4, 4)], 0), "rank is 0"),
        (lambda: cache_bytes(0, 4), "layers 0"),
        (lambda: adapters_beside(1, 1, 0), "each is 0"),
        (lambda: take_turns({}, 1), "0 ways"),
        (lambda: take_turns({"a": lambda: None}, 0), "0 repeats"),
    ],
)
def test_what_makes_no_sense_is_refused(work, words):
    with pytest.raises(ValueError, match=words):
        work()
