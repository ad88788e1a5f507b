"""The training loop: what it trains, with which rates and which losses, and what it refuses."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lora_from_scratch import AdapterConfig, add_adapters
from lora_from_scratch.lab import train
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama
from lora_from_scratch.lab.train import Batches, evaluate, fit, loss_of

SIZES = LlamaConfig(
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    max_position_embeddings=8,
)
IDS = torch.randint(128, (500,), generator=torch.Generator().manual_seed(0))
WINDOWS = torch.randint(128, (7, 9), generator=torch.Generator().manual_seed(1))


def llama(seed: int = 0) -> TinyLlama:
    torch.manual_seed(seed)
    return TinyLlama(SIZES)


def batches(seed: int = 0) -> Batches:
    return Batches(IDS, batch=3, length=8, seed=seed)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    """The names of the parameters that are not bit-equal to what they were."""
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


@pytest.fixture
def optimizers(monkeypatch):
    """Every AdamW that is made, each with the rates of its steps in `rates`."""
    made = []

    class Recorded(torch.optim.AdamW):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.rates = []
            made.append(self)

        def step(self, *args, **options):
            self.rates.append([group["lr"] for group in self.param_groups])
            return super().step(*args, **options)

    monkeypatch.setattr(torch.optim, "AdamW", Recorded)
    return made


@given(st.data())
def test_exactly_what_is_trainable_is_trained(data):
    """Every trainable parameter moves; every frozen one is bit-equal to what it was, and gets no gradient."""
    model = llama()
    names = [name for name, _ in model.named_parameters()]
    trainable = set(data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True)))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
    before = weights(model)
    fit(model, batches(), steps=2, lr=1e-2, weight_decay=0.1)
    assert changed(model, before) == trainable
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trainable


def test_adapters_are_trained_and_their_base_is_not():
    """After add_adapters, A and B move and nothing else does."""
    model = add_adapters(llama(), AdapterConfig(rank=2))
    before = weights(model)
    fit(model, batches(), steps=3, lr=1e-2)
    assert changed(model, before) == {name for name in before if name.rpartition(".")[2] in ("A", "B")}


def test_the_optimizer_holds_exactly_what_is_trainable(optimizers):
    """The optimizer is made after the adapters, and holds A and B, each once, and nothing frozen. [adapters#260]"""
    model = add_adapters(llama(), AdapterConfig(rank=2))
    fit(model, batches(), steps=2, lr=1e-2)
    (optimizer,) = optimizers
    held = [p for group in optimizer.param_groups for p in group["params"]]
    wanted = [p for name, p in model.named_parameters() if name.rpartition(".")[2] in ("A", "B")]
    assert sorted(map(id, held)) == sorted(map(id, wanted))
    assert set(map(id, optimizer.state)) == set(map(id, wanted)), "its state is for these alone"


def test_a_model_with_nothing_trainable_is_an_error():
    """Training a frozen model is a ValueError that says what would do."""
    with pytest.raises(ValueError, match="nothing in this model is trainable; add_adapters first"):
        fit(llama().requires_grad_(False), batches(), steps=2, lr=1e-2)


def zeroed(*factors: str) -> nn.Module:
    """An adapted model with these factors zero and the others random."""
    model = add_adapters(llama(), AdapterConfig(rank=2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[2] in ("A", "B"):
                nn.init.zeros_(parameter) if name.rpartition(".")[2] in factors else nn.init.normal_(parameter)
    return model


def test_a_first_step_that_reaches_nothing_is_an_error():
    """With both A and B zero, every gradient is zero: a ValueError at the first step, before anything is changed."""
    model = zeroed("A", "B")
    before = weights(model)
    with pytest.raises(ValueError, match="gradient is zero for every trainable parameter"):
        fit(model, batches(), steps=2, lr=1e-2, weight_decay=0.1)
    assert changed(model, before) == set()


def test_trainable_parameters_that_the_model_never_uses_are_an_error():
    """Where only parameters train that the output does not depend on, nothing is reached either."""
    model = llama().requires_grad_(False)
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    nn.init.zeros_(model.model.layers[0].mlp.down_proj.weight)  # so nothing of up_proj gets through
    with pytest.raises(ValueError, match="gradient is zero for every trainable parameter"):
        fit(model, batches(), steps=2, lr=1e-2)


@pytest.mark.parametrize("factor", ["A", "B"])
def test_one_zero_factor_is_a_start_like_any_other(factor):
    """With only A or only B zero, the other gets no gradient at first, and training runs: both move."""
    model = zeroed(factor)
    before = weights(model)
    assert len(fit(model, batches(), steps=3, lr=1e-2)) == 3
    assert changed(model, before) == {name for name in before if name.rpartition(".")[2] in ("A", "B")}


class Bigram(nn.Module):
    """The smallest model: one row of logits for each character."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        numbers = torch.randn(128, 128, generator=torch.Generator().manual_seed(2))
        self.rows = nn.Parameter(numbers.to(dtype))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.rows[ids]


@given(st.integers(1, 90), st.floats(1e-4, 1))
def test_the_rate_rises_in_a_straight_line_and_then_falls_towards_zero(steps, lr):
    """Over the first 5 % of the steps the rate rises to lr, then it falls in a line that reaches zero *after* the last.

    So no step has rate zero, and the last one has the smallest rate of the fall, lr / (its number of steps).
    """
    with pytest.MonkeyPatch.context() as patch:
        rates = []

        class Recorded(torch.optim.AdamW):
            def step(self, *args, **options):
                rates.append(self.param_groups[0]["lr"])

        patch.setattr(torch.optim, "AdamW", Recorded)
        fit(Bigram(), batches(), steps, lr)
    top = max(1, steps // 20) - 1  # counted from 0
    fall = steps - top  # the number of steps from the top one to the last
    wanted = [lr * (t + 1) / (top + 1) for t in range(top)] + [lr * (fall - t) / fall for t in range(fall)]
    assert rates == pytest.approx(wanted, rel=1e-9)
    assert min(rates) > 0 and max(rates) == rates[top] == lr


def test_training_is_adamw_on_the_next_character_to_the_bit():
    """The losses and weights are those of a loop written out by hand: draw, loss, gradient, step at the step's rate."""
    steps, lr, decay = 45, 1e-2, 0.1
    ours, by_hand = llama(), llama()
    losses = fit(ours, batches(seed=4), steps, lr, decay)

    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=lr, weight_decay=decay)
    expected, stream = [], iter(batches(seed=4))
    for step in range(steps):
        windows = next(stream)
        loss = loss_of(by_hand, windows)
        optimizer.zero_grad()
        loss.backward()
        warmup = steps // 20
        optimizer.param_groups[0]["lr"] = lr * min((step + 1) / warmup, (steps - step) / (steps - warmup + 1))
        optimizer.step()
        expected.append(loss.item())
    assert losses == expected
    assert changed(ours, weights(by_hand)) == set()


def test_the_same_seed_gives_the_same_losses_to_the_bit():
    """Two trainings of the same model with the same seed agree in every bit; another seed gives other losses."""
    first, again, other = (fit(llama(), batches(seed), steps=5, lr=1e-2) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_one_batches_object_gives_the_same_stream_every_time():
    """Batches starts anew whenever it is gone through, so two trainings can share it."""
    stream = batches(seed=5)
    first, again = ([w for _, w in zip(range(4), stream, strict=False)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1]), "and every batch is another one"
    assert first[0].shape == (3, 9)


def test_training_lowers_the_loss():
    """On eight characters that go round and round, the loss falls from above log 8, a guess, to below log 2."""
    repeated = Batches(torch.arange(8).repeat(20), batch=8, length=8, seed=0)
    losses = fit(llama(), repeated, steps=60, lr=3e-2)
    assert losses[-1] < math.log(2) < math.log(8) < losses[0]


def test_training_runs_in_train_mode_and_calls_back_after_every_step():
    """A model that comes in eval mode is trained in train mode; `on_step` is called once a step."""
    model, modes = llama().eval(), []
    fit(model, batches(), steps=3, lr=1e-2, on_step=lambda: modes.append(model.training))
    assert modes == [True, True, True]


@given(st.integers(1, 4), st.integers(1, 8), st.integers(0, 99))
def test_the_loss_is_the_mean_of_minus_log_p_of_the_next_character(count, length, seed):
    """loss_of equals a slow loop over every window and place, in nats; the target is the input's next character.

    Up to 32 terms below 10, each rounded in float32 (6e-8): 1e-5 is far above the sum of the roundings.
    """
    model = Bigram()
    windows = torch.randint(128, (count, length + 1), generator=torch.Generator().manual_seed(seed))
    total = 0.0
    for window in windows.tolist():
        for now, following in zip(window, window[1:], strict=False):
            row = [math.exp(logit) for logit in model.rows[now].double().tolist()]
            total -= math.log(row[following] / sum(row))
    assert loss_of(model, windows).item() == pytest.approx(total / (count * length), abs=1e-5)


def test_the_loss_of_a_bfloat16_model_is_computed_in_float32():
    """Logits of few bits are widened before the softmax, so the loss is that of the same logits in float32."""
    narrow, wide = Bigram(torch.bfloat16), Bigram(torch.bfloat16).float()
    assert loss_of(narrow, WINDOWS).dtype == torch.float32
    assert torch.equal(loss_of(narrow, WINDOWS), loss_of(wide, WINDOWS))


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 64])
def test_the_size_of_a_batch_does_not_change_a_loss(batch):
    """evaluate is the mean over all windows, also where the last batch is short (7 windows, float32 rounding)."""
    model = llama()
    assert evaluate(model, WINDOWS, batch) == pytest.approx(loss_of(model, WINDOWS).item(), rel=1e-6)


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_evaluating_uses_eval_mode_and_gives_the_mode_back(mode):
    """A loss is measured without dropout, whatever the model's mode, which is afterwards what it was."""
    model = add_adapters(llama(), AdapterConfig(rank=2, dropout=0.9))
    for name, parameter in model.named_parameters():
        if name.endswith(".B"):
            nn.init.normal_(parameter)
    wanted = evaluate(model.eval(), WINDOWS)
    model.train(mode)
    assert evaluate(model, WINDOWS) == wanted
    assert all(module.training == mode for module in model.modules())


def test_evaluating_changes_nothing():
    """No parameter moves and none gets a gradient."""
    model = llama()
    before = weights(model)
    evaluate(model, WINDOWS)
    assert changed(model, before) == set() and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_whose_output_is_not_finite_has_an_infinite_loss(value):
    """NaN compares as false with everything, and would win or lose by accident: it counts as infinitely bad."""
    model = llama()
    with torch.no_grad():
        model.lm_head.weight[3, 3] = value
    assert evaluate(model, WINDOWS) == math.inf


def test_threads_holds_inside_the_block_alone():
    """Inside the block torch has that many threads, and afterwards as many as before, also after an error."""
    before = torch.get_num_threads()
    with train.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), train.threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before


def grouped(model: nn.Module) -> list[dict]:
    """Two groups over what is trainable: the first parameter at four times the rate."""
    first, *rest = [p for p in model.parameters() if p.requires_grad]
    return [{"params": [first], "lr": 4e-3, "weight_decay": 0.5}, {"params": rest}]


def test_groups_keep_their_own_rates_on_the_way(optimizers):
    """A group's rate rises and falls as the schedule says; a rate or decay that it leaves open is fit's own."""
    model = llama()
    fit(model, batches(), steps=3, lr=1e-3, weight_decay=0.1, groups=grouped(model))
    first, second = optimizers[-1].param_groups
    assert (first["initial_lr"], second["initial_lr"]) == (4e-3, 1e-3)
    assert (first["weight_decay"], second["weight_decay"]) == (0.5, 0.1)
    assert first["lr"] == pytest.approx(4 * second["lr"])


def test_groups_at_one_rate_give_the_numbers_of_no_groups():
    """Groups that differ in nothing train as a plain list does, to the bit."""
    plain, parted = llama(), llama()
    wanted = fit(plain, batches(), steps=4, lr=1e-3)
    first, *rest = parted.parameters()
    assert fit(parted, batches(), steps=4, lr=1e-3, groups=[{"params": [first]}, {"params": rest}]) == wanted


@pytest.mark.parametrize("case", ["one missing", "a frozen one", "another model's"])
def test_groups_that_are_not_what_is_trainable_are_refused(case):
    """Groups that leave a trainable parameter out, or hold another, are an error, and nothing moves."""
    model = llama()
    groups = grouped(llama(1) if case == "another model's" else model)
    if case == "one missing":
        groups[1]["params"].pop()
    if case == "a frozen one":
        groups[1]["params"][-1].requires_grad_(False)
    before = weights(model)
    with pytest.raises(ValueError, match="groups do not hold just the trainable parameters"):
        fit(model, batches(), steps=1, lr=1e-3, groups=groups)
    assert not changed(model, before)


def test_adapters_that_the_model_never_calls_are_named():
    """A layer that is also held in a plain list, which the forward goes through: its adapter stands beside it, deaf."""

    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.first, self.second = nn.Embedding(128, 8), nn.Linear(8, 8), nn.Linear(8, 128)
            self.plain = [self.first]  # not a ModuleList: an adapter that replaces self.first is not in here

        def forward(self, ids):
            return self.second(self.plain[0](self.embed(ids)))

    model = add_adapters(Listed(), AdapterConfig(rank=2))
    with pytest.raises(ValueError, match=r"no gradient reaches first\.A, first\.B: the model never calls"):
        fit(model, batches(), steps=2, lr=1e-2)


def test_batches_that_end_too_soon_are_an_error():
    """Three batches for ten steps would quietly be three steps."""
    three = [windows for windows, _ in zip(batches(), range(3), strict=False)]
    with pytest.raises(ValueError, match="the batches ended after 3 of 10 steps"):
        fit(llama(), three, steps=10, lr=1e-2)
    assert len(fit(llama(), three, steps=3, lr=1e-2)) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_evaluation_that_is_interrupted_gives_every_mode_back(error, monkeypatch):
    """The whole model's, and that of a part that stood in eval mode by itself."""

    def fails(*args):
        raise error

    model = llama().train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    monkeypatch.setattr(train, "loss_of", fails)
    with pytest.raises(error):
        train.evaluate(model, WINDOWS)
    assert [module.training for module in model.modules()] == before
