"""diagnose: it changes nothing, says nothing of what is well, and names what is broken by the numbers that show it.

The runs of the clinic, broken and healthy, are in test_broken.py; models under PEFT in parity/test_diagnose_parity.py.
"""

import copy
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora_from_scratch import AdapterConfig, LoRALinear, NF4Linear, PagedAdamW, add_adapters
from lora_from_scratch.diagnose import Finding, diagnose
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab.answers import Example, answer_loss
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama

SIZES = LlamaConfig(32, 32, 48, 2, 4, 2, 16)
X = torch.randn(5, 3, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two adapted layers with biases, a norm with statistics, and dropout: all that a pass may move."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        h = self.norm(self.first(x).transpose(1, 2)).transpose(1, 2)
        return self.second(self.drop(h))


def net(config: AdapterConfig | None = None) -> nn.Module:
    return add_adapters(Net(), config or AdapterConfig(rank=2, alpha=4))


def llama(**changes: object) -> nn.Module:
    torch.manual_seed(0)
    return add_adapters(TinyLlama(SIZES), AdapterConfig(**({"rank": 4, "alpha": 16} | changes)))


def examples() -> list[Example]:
    draw = random.Random(0)
    return [Example(tuple(draw.randrange(2, 32) for _ in range(6 + i)), 3) for i in range(4)]


def optimizer_of(model: nn.Module, rate: float = 1e-2) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)


def square(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x).square().mean()


def step(model: nn.Module, optimizer: torch.optim.Optimizer, times: int = 1) -> None:
    for _ in range(times):
        optimizer.zero_grad()
        answer_loss(model, examples()).backward()
        optimizer.step()


def names(*arguments: object, **named: object) -> list[str]:
    return [finding.name for finding in diagnose(*arguments, **named)]


def state_of(model: nn.Module) -> dict:
    return {
        "numbers": {n: t.clone() for n, t in model.state_dict().items()},
        "flags": [p.requires_grad for p in model.parameters()],
        "gradients": [p.grad for p in model.parameters()],
        "their numbers": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "random": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()),
    }


def assert_same(before: dict, after: dict) -> None:
    for name, tensor in before["numbers"].items():
        assert torch.equal(tensor, after["numbers"][name]), name
    for what in ("flags", "modes", "hooks"):
        assert before[what] == after[what], what
    for was, is_, numbers in zip(before["gradients"], after["gradients"], before["their numbers"], strict=True):
        assert was is is_ and (numbers is None or torch.equal(numbers, is_))
    assert torch.equal(before["random"][0], after["random"][0]) and before["random"][1] == after["random"][1]
    assert (before["random"][2] == after["random"][2]).all()


# It changes nothing


class Counting(nn.Module):
    """A model with a buffer of its own that its forward moves."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return self.inner(x)


def test_a_buffer_of_one_s_own_is_as_it_was():
    model = Counting()
    diagnose(model, optimizer_of(model), X, square)
    assert model.calls == 0


def restless(model, x):
    """A loss that moves all it can reach: modes, flags and every random state."""
    model.eval()
    model.train()
    model.first.base.requires_grad_(True)
    random.random(), np.random.rand(), torch.rand(3)
    return square(model, x)


def test_everything_is_as_it_was():
    """Modes, gradients (None and not), flags, running statistics, hooks and random states, whatever the loss does."""
    model = net()
    model.second.B.grad, model.norm.bias.grad = torch.ones(4, 2), torch.full((8,), 3.0)
    model.drop.eval()
    before = state_of(model)
    diagnose(model, optimizer_of(model), X, restless)
    assert_same(before, state_of(model))


def test_everything_is_as_it_was_after_an_error_too_and_the_error_tells_what_was_seen():
    model = net()
    model.first.A.grad = torch.ones(2, 6)
    optimizer = torch.optim.AdamW([model.first.A])  # so there is something to tell
    before = state_of(model)

    def fails(model, x):
        restless(model, x).backward()
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory") as raised:
        diagnose(model, optimizer, X, fails)
    assert any("the optimizer misses trainable parameters" in note for note in raised.value.__notes__)
    assert_same(before, state_of(model))


def reentrant(model: nn.Module) -> nn.Module:
    """A checkpoint in the first block under which backward() itself must be called."""
    forward = model.model.layers[0].forward
    model.model.layers[0].forward = lambda x, *rest: checkpoint(
        forward, x.requires_grad_(True), *rest, use_reentrant=True
    )
    return model


def test_gradients_are_as_they_were_where_backward_itself_must_be_called():
    model = reentrant(llama())
    answer_loss(model, examples()).backward()
    before = state_of(model)
    assert diagnose(model, optimizer_of(model), examples(), answer_loss) == []
    assert_same(before, state_of(model))


def test_an_optimizer_that_steps_within_backward_does_not_step():
    model, optimizers = reentrant(llama()), {}
    for p in [p for p in model.parameters() if p.requires_grad]:
        optimizers[p] = torch.optim.AdamW([p], lr=0.1)
        p.register_post_accumulate_grad_hook(lambda q: optimizers[q].step())
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    diagnose(model, list(optimizers.values()), examples(), answer_loss)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    answer_loss(model, examples()).backward()  # and afterwards it does
    assert not all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_it_runs_forward_once_and_without_a_loss_not_at_all():
    model = net()
    diagnose(model), diagnose(model, optimizer_of(model)), diagnose(model, batch=X)
    assert model.calls == 0
    diagnose(model, optimizer_of(model), X, square)
    assert model.calls == 1


def test_it_works_where_gradients_are_off():
    model = llama()
    with torch.no_grad():
        assert diagnose(model, optimizer_of(model), examples(), answer_loss) == []


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("a model",), "give the model itself"),
        ((nn.Linear(2, 2), "adam"), "give a torch optimizer"),
        ((nn.Linear(2, 2), None, X, 3.0), "give the function of"),
        ((nn.Linear(2, 2), None, None, square), "there is a loss and no batch"),
        ((nn.Linear(6, 2), None, X, lambda m, x: m(x)), "must give one number"),
        ((nn.Linear(6, 2), None, X, lambda m, x: 3.0), "must give one number"),
        ((nn.Linear(6, 2), None, None, None, ["A"]), "give the file's tensors by their names"),
    ],
)
def test_bad_arguments_are_refused_by_what_they_are(arguments, words):
    with pytest.raises(ValueError, match=words):
        diagnose(*arguments)


def test_a_finding_reads_as_one_line():
    found = Finding("x is wrong", {"layers": 1234, "share": 0.25}, "mend it")
    assert str(found) == "x is wrong (layers 1,234, share 0.25): mend it"


# Parameters and optimizers


def test_a_base_weight_that_trains_is_told_and_a_trained_bias_of_another_part_is_not():
    model = net()
    model.first.base.weight.requires_grad_(True)
    (found,) = diagnose(model)
    assert found.name == "the base is not frozen"
    assert found.evidence == {"layers": 1, "of": 2, "numbers of the base that train": 48, "numbers of the adapters": 52}


def test_nothing_trainable_is_told_only_where_training_is_meant():
    model = net().requires_grad_(False)
    nn.init.normal_(model.first.B), nn.init.normal_(model.second.B)
    for meant in ((model, torch.optim.SGD(model.parameters(), 0.1)), (model, None, X, square)):
        assert names(*meant) == ["nothing is trainable"]
    assert names(model) == [] and names(model.eval(), None, X, square) == []
    plain = Net().requires_grad_(False)
    assert names(plain, torch.optim.SGD(plain.parameters(), 0.1)) == ["nothing is trainable"]


def test_each_trainable_parameter_must_be_in_one_of_the_optimizers():
    model = net()
    every = [p for p in model.parameters() if p.requires_grad]
    some, rest = torch.optim.AdamW(every[:1]), PagedAdamW(every[1:])
    (found,) = diagnose(model, some)
    assert found.name == "the optimizer misses trainable parameters"
    assert found.evidence == {"trainable tensors not in it": 3, "of": 4, "that it holds in vain": 0}
    assert names(model, [some, rest]) == [] and names(model, torch.optim.SGD(model.parameters(), 0.1)) == []


def test_float16_is_told_where_adams_eps_is_lost_in_it_and_bfloat16_is_not():
    """And not in use, nor of a fused Adam, nor of one whose eps is a float16 number, nor of SGD."""
    half = net().half()
    trained = [p for p in half.parameters() if p.requires_grad]
    (found,) = diagnose(half, torch.optim.AdamW(trained))
    assert found.name == "trained in float16" and found.evidence["numbers in float16"] == 52
    assert names(half, torch.optim.Adam(trained, foreach=True)) == ["trained in float16"]
    for bears in (
        torch.optim.AdamW(trained, fused=True),
        torch.optim.AdamW(trained, eps=1e-4),
        torch.optim.SGD(trained, 0.1),
    ):
        assert names(half, bears) == []
    over = add_adapters(Net().half(), AdapterConfig(rank=2, alpha=4))  # float32 adapters over float16
    for model in (over, net().bfloat16()):
        assert names(model, optimizer_of(model)) == []
    assert names(half) == names(half.eval(), batch=X.half()) == []


@pytest.mark.parametrize("fused", [False, True])
def test_what_the_float16_rule_rests_on(fused):
    """A gradient of zero in A: torch's Adam makes NaN of it in float16, and a fused one does not."""
    p = nn.Parameter(torch.ones(2, dtype=torch.float16))
    p.grad = torch.zeros_like(p)
    torch.optim.AdamW([p], fused=fused).step()
    assert bool(p.isfinite().all()) is fused


def test_adapters_on_adapters_are_told():
    model = net()
    outer = LoRALinear(nn.Linear(6, 8), 2, 4)
    outer.base = model.first
    model.first = outer
    assert names(model) == ["adapters on adapters"]


def factors(model: nn.Module) -> dict:
    return {n: t.clone() for n, t in model.state_dict().items() if n.endswith((".A", ".B"))}


def test_what_trains_beside_the_adapters_and_is_not_in_the_file_is_told_by_name():
    """Without a file nobody knows; with it in the file all is well."""
    model = llama()
    model.model.embed_tokens.requires_grad_(True)
    model.model.norm.requires_grad_(True)
    assert names(model) == names(model, saved=model.state_dict()) == []
    first, second = diagnose(model, saved=factors(model))
    assert first.name == "an embedding trains and is not saved" and "model.embed_tokens.weight" in first.mend
    assert second.name == "trained beside the adapters and not saved" and "model.norm.weight" in second.mend
    assert names(TinyLlama(SIZES), saved={}) == []  # without adapters it is no adapter's file


def test_a_fresh_head_that_is_frozen_and_not_in_the_file_is_told_in_training_alone():
    model = llama()
    model.score = nn.Linear(32, 3).requires_grad_(False)
    optimizer, saved = optimizer_of(model), factors(model)
    assert names(model, optimizer, saved=saved) == ["a new head is frozen"]
    assert names(model, saved=saved) == names(model, optimizer) == []
    assert names(model, optimizer, saved=model.state_dict()) == []
    with torch.no_grad():
        model.score.weight[:, :16] *= 2  # as something that was trained
    assert names(model, optimizer, saved=saved) == []


@pytest.mark.parametrize("scaling, said", [(0.0, ["the scaling is zero"]), (1e-3, [])])
def test_a_scaling_of_zero_is_told_in_training_alone(scaling, said):
    """Before steps and after them; at use it is how an adapter is switched off."""
    model = llama()
    for layer in filter(is_adapter, model.modules()):
        layer.scaling = scaling
    optimizer = optimizer_of(model)
    for steps in (0, 3):
        step(model, optimizer, steps)
        assert names(model, optimizer, examples(), answer_loss) == said
    assert names(model.eval(), batch=torch.tensor([[1, 2]])) == []


def test_a_state_dict_with_a_filter_over_it_is_told_if_it_loses_adapters():
    model = net()
    whole = model.state_dict
    model.state_dict = lambda *a, **k: whole()
    assert names(model) == []
    model.state_dict = lambda *a, **k: {n: t for n, t in whole().items() if "second" in n}
    (found,) = diagnose(model)
    assert found.name == "saving leaves the adapters out" and found.evidence == {"adapters left out": 1, "of": 2}


# Values


def test_b_zero_is_well_at_the_start_and_wrong_after_steps():
    """Zero gradients for all, so that the steps move nothing; one step may still have had a rate of zero."""
    model = llama()
    optimizer = optimizer_of(model)
    assert names(model) == names(model, optimizer) == []
    for count, said in ((1, []), (2, ["an adapter does nothing"])):
        for p in model.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad else None
        optimizer.step()
        assert names(model, optimizer) == said, count


@pytest.mark.parametrize("of", ["all", "B"])
def test_a_rate_of_zero_is_told_after_two_steps_and_a_warm_up_is_not(of):
    """A group at rate 0 that no scheduler moves; with one there is a rate to go to."""
    model = llama()
    B = [m.B for m in model.modules() if is_adapter(m)]
    A = [{"params": [m.A for m in model.modules() if is_adapter(m)], "lr": 0.0 if of == "all" else 1e-2}]
    optimizer = torch.optim.AdamW([*A, {"params": B, "lr": 0.0}])
    for steps, said in ((0, []), (1, []), (1, ["the rate is zero"]), (30, ["the rate is zero"])):
        step(model, optimizer, steps)
        assert names(model, optimizer, examples(), answer_loss) == said
    fresh = llama()
    warm = optimizer_of(fresh)
    torch.optim.lr_scheduler.LambdaLR(warm, lambda at: 0.0)
    step(fresh, warm, 3)
    assert names(fresh, warm, examples(), answer_loss) == []


def test_an_adapter_without_its_tensors_is_told_at_use_by_the_file_alone():
    """All of them, or one among others. A fresh adapter, and one that is zero in the file too, is well."""
    model, ids = llama().eval(), torch.tensor([[1, 2, 3]])
    fresh, frozen = factors(model), copy.deepcopy(model).requires_grad_(False)
    step(model, optimizer_of(model), 2)
    file = factors(model)
    other = {f"x.{name}": t for name, t in file.items()}, {f"t{i}": t for i, t in enumerate(file.values())}
    for saved in (file, *other):
        assert names(frozen, batch=ids, saved=saved) == names(frozen, saved=saved) == ["an adapter does nothing"]
    for saved in (None, fresh):
        assert names(frozen, batch=ids, saved=saved) == names(frozen, saved=saved) == []
    model.eval().model.layers[0].self_attn.q_proj.B.data.zero_()
    (found,) = diagnose(model, batch=ids, saved=file)
    assert found.name == "an adapter does nothing" and found.evidence["adapters with B A = 0"] == 1
    assert "model.layers.0.self_attn.q_proj" in found.mend
    assert names(model, batch=ids) == names(model, batch=ids, saved=factors(model)) == []


def test_layers_that_are_adapted_later_begin_at_zero_beside_trained_ones():
    model = llama(targets=["q_proj", "v_proj"])
    step(model, optimizer_of(model), 3)
    model.model.layers[0].mlp.up_proj = LoRALinear(model.model.layers[0].mlp.up_proj, 4, 16)
    assert names(model) == names(model, optimizer_of(model), examples(), answer_loss) == []


def test_a_number_in_a_or_b_that_is_none_is_told():
    """In training and at use. A large one is not."""
    model = llama()
    layer = model.model.layers[0].self_attn.q_proj
    layer.A.data[0, 0] = 1e4
    assert names(model) == []
    layer.A.data[0, 0] = float("nan")
    (found,) = diagnose(model)
    assert found.name == "A or B holds NaN" and found.evidence == {"adapters": 1, "of": 14}
    assert "A or B holds NaN" in names(model, optimizer_of(model), examples(), answer_loss)
    assert names(model.eval(), batch=torch.tensor([[1, 2]])) == ["A or B holds NaN"]


def test_b_that_looks_drawn_is_told_before_the_first_step_alone():
    """After steps nobody can tell any more how B began, and what it is now is what training made of it."""
    model = llama(rank=8)
    draw = torch.Generator().manual_seed(0)
    for layer in filter(is_adapter, model.modules()):
        layer.B.data.uniform_(-0.5, 0.5, generator=draw)
    optimizer = optimizer_of(model, rate=1e-6)
    assert names(model, optimizer) == ["B is not zero at the start"]
    step(model, optimizer, 2)
    assert names(model, optimizer) == []


def test_a_and_b_both_zero_never_learn_and_are_told_at_the_start():
    model = llama()
    for layer in filter(is_adapter, model.modules()):
        layer.A.data.zero_()
    (found,) = diagnose(model)
    assert found.name == "an adapter does nothing" and "draw A anew" in found.mend


# One pass


def test_gradients_that_are_cut_off_are_told_and_layers_that_are_not_called_are_not():
    """A part under no_grad; and an expert that this batch does not choose."""
    model = llama()
    block = model.model.layers[0]
    block.mlp.forward, forward = (lambda x: x), block.mlp.forward
    assert names(model, optimizer_of(model), examples(), answer_loss) == []
    block.mlp.forward = lambda x: forward(x).detach()
    (found,) = diagnose(model, optimizer_of(model), examples(), answer_loss)
    assert found.name == "gradients are cut off" and found.evidence == {"adapters without a gradient": 3, "of": 14}


def test_no_grad_in_a_model_without_a_checkpoint_is_not_called_one():
    model = llama()
    block = model.model.layers[0]
    block.mlp.forward = torch.no_grad()(block.mlp.forward)
    (found,) = diagnose(model, optimizer_of(model), examples(), answer_loss)
    assert found.name == "gradients are cut off" and found.evidence == {"adapters without a gradient": 3, "of": 14}


def test_a_loss_with_nothing_behind_it_is_told():
    model = llama()
    loss = lambda m, batch: answer_loss(m, batch).detach()  # noqa: E731
    assert names(model, optimizer_of(model), examples(), loss) == ["gradients are cut off"]


def windows_loss(label: int | None = None, reduction: str = "mean"):
    """The loss of (inputs, labels), with all labels replaced by one where it is given."""

    def loss(model, batch):
        labels = batch[1] if label is None else torch.full_like(batch[1], label)
        value = F.cross_entropy(model(batch[0]).flatten(0, 1), labels.flatten(), reduction=reduction)
        return value / max(1, int((labels != -100).sum())) if reduction == "sum" else value

    return loss


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 32, (4, 12), generator=torch.Generator().manual_seed(0))
    return ids[:, :9], ids[:, 1:10]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_that_counts_no_place_is_told_whether_it_is_nan_or_0(reduction):
    model = llama()
    (found,) = diagnose(model, optimizer_of(model), pair(), windows_loss(-100, reduction))
    assert found.name == "the loss counts nothing" and found.evidence == {"places counted": 0, "of": 36}
    assert names(model, optimizer_of(model), pair(), windows_loss(None, reduction)) == []


def test_a_loss_of_zero_that_was_learnt_is_not_one_that_counts_nothing():
    """A hinge is at zero, without a gradient, where the answer is far enough ahead."""
    model = llama()
    hinge = lambda m, b: F.relu(0 * m(b[0]).sum() - 1)  # noqa: E731
    assert names(model, optimizer_of(model), pair(), hinge) == ["the loss counts nothing"]  # of a fresh adapter
    optimizer = optimizer_of(model)
    step(model, optimizer, 2)
    assert names(model, optimizer, pair(), hinge) == []


def test_a_loss_that_is_no_number_is_told_with_where_to_look():
    model = llama()
    by_zero = lambda m, b: m(b[0]).sum() / 0  # noqa: E731
    (found,) = diagnose(model, optimizer_of(model), pair(), by_zero)
    assert found.name == "the loss is not finite" and "look at the loss" in found.mend
    model.model.norm.weight.data.fill_(float("inf"))
    (found,) = diagnose(model, optimizer_of(model), pair(), windows_loss())
    assert found.name == "the loss is not finite" and "the base" in found.mend


def test_dropout_is_told_at_use_alone():
    model, ids = llama(dropout=0.1).train(), torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        for layer in filter(is_adapter, model.modules()):
            layer.B.normal_().mul_(torch.arange(1, layer.B.shape[0] + 1)[:, None])  # trained: rows of several sizes
    (found,) = diagnose(model, batch=ids)
    assert found.name == "dropout is on at use" and found.evidence == {"layers with dropout on": 14, "probability": 0.1}
    assert names(model) == names(model, optimizer_of(model)) == names(model.eval(), batch=ids) == []
    assert names(Net().train(), batch=X) == ["dropout is on at use"]


def test_over_four_bits_it_decodes_nothing_but_what_the_forward_does(monkeypatch):
    model = net()
    model.first.base = NF4Linear.from_linear(nn.Linear(6, 8))
    monkeypatch.setattr(NF4Linear, "weight", property(lambda self: pytest.fail("decoded")))
    assert names(model) == [] and names(model, optimizer_of(model)) == []


# Labels


def losses(begin: int = 0, end: int = 0, shift: int = 0):
    """The answers' loss with its mask `begin` tokens too far, `end` too short."""

    def loss(model, batch):
        cut = [Example(e.ids[: len(e.ids) - end], e.start + begin) for e in batch]
        return answer_loss(model, cut)

    return loss


@pytest.mark.parametrize(
    "begin, end, said",
    [
        (0, 0, []),
        (-1, 0, ["the loss counts the prompt"]),
        (-2, 0, ["the loss counts the prompt"]),
        (1, 0, ["the loss leaves out the first token of the answer"]),
        (0, 1, ["the end of an answer is not learnt"]),
        (1, 1, ["the end of an answer is not learnt"]),  # and the first token; told with it below
    ],
)
def test_what_a_loss_counts_is_seen_by_its_gradient(begin, end, said):
    model = llama()
    found = names(model, optimizer_of(model), examples(), losses(begin, end))
    assert set(said) <= set(found) and (len(found) == len(said) or (begin, end) == (1, 1))


@pytest.mark.parametrize("first", [-1, 0])
def test_padding_that_is_counted_is_told_and_padding_that_is_not_is_not(first):
    """Rows of unequal lengths, filled up with ends; `first` -1 counts what stands behind the answers, 0 does not."""
    model = llama()
    batch = [Example(tuple(range(2, 8 + i)), 3) for i in range(3)]

    def loss(m, b):
        longest = max(len(e.ids) for e in b)
        ids = torch.tensor([[*e.ids, *[1] * (longest - len(e.ids))] for e in b])
        labels = ids[:, 1:].clone()
        for row, e in zip(labels, b, strict=True):
            row[: e.start - 1] = -100
            row[len(e.ids) - 1 if not first else longest :] = -100
        return F.cross_entropy(m(ids[:, :-1]).flatten(0, 1), labels.flatten())

    assert names(model, optimizer_of(model), batch, loss) == (["the loss counts the padding"] if first else [])


@pytest.mark.parametrize("where, said", [
    (-1, "the end of an answer is not learnt"),
    (0, "the loss leaves out the first token of the answer"),
])  # fmt: skip
def test_ends_or_first_tokens_left_out_in_most_rows_are_told_and_in_one_row_are_not(where, said):
    """And a loss that takes every other token, whichever, is well."""
    model = llama()
    batch = [Example(tuple(range(2, 10 + i)), 3) for i in range(8)]

    def left_out(rows: int):
        def loss(m, b):
            longest = max(len(e.ids) for e in b)
            ids = torch.tensor([[*e.ids, *[0] * (longest - len(e.ids))] for e in b])
            labels = torch.full_like(ids, -100)
            for r, e in enumerate(b):
                labels[r, e.start : len(e.ids)] = ids[r, e.start : len(e.ids)]
                if r < rows:
                    labels[r, e.start if where == 0 else len(e.ids) - 1] = -100
            return F.cross_entropy(m(ids[:, :-1]).flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)

        return loss

    assert names(model, optimizer_of(model), batch, left_out(7)) == [said]
    assert names(model, optimizer_of(model), batch, left_out(1)) == []

    def every_other(m, b):
        losses = [answer_loss(m, [e]) for e in b]  # as a mean of rows, of which half are thrown away
        return sum(losses[::2]) + 0 * sum(losses)

    assert names(model, optimizer_of(model), batch, every_other) == []


def test_places_that_are_counted_are_numbers():
    model = llama()
    (found,) = diagnose(model, optimizer_of(model), examples(), losses(-2))
    answers = sum(len(e.ids) - e.start for e in examples())
    assert found.evidence == {"places of the prompt counted": 8, "places of the answer counted": answers}


@pytest.mark.parametrize("shifted", [0, 1, 2])
def test_labels_that_are_off_by_one_are_told(shifted):
    """A pair (inputs, labels): the label of a place is the next token."""
    model, ids = llama(), torch.randint(0, 32, (4, 12), generator=torch.Generator().manual_seed(0))
    pair = (ids[:, :9], ids[:, shifted : 9 + shifted])
    loss = lambda m, batch: F.cross_entropy(m(batch[0]).flatten(0, 1), batch[1].flatten())  # noqa: E731
    said = names(model, optimizer_of(model), pair, loss)
    assert said == (["the labels are off by one"] if shifted == 0 else [])


def test_labels_of_a_text_that_repeats_one_token_are_left_alone():
    """There the same place's token is the next one's too."""
    model, ids = llama(), torch.full((4, 12), 7)
    loss = lambda m, batch: F.cross_entropy(m(batch[0]).flatten(0, 1), batch[1].flatten())  # noqa: E731
    assert names(model, optimizer_of(model), (ids[:, :9], ids[:, 1:10]), loss) == []


def test_a_batch_that_says_nothing_of_its_answers_is_left_alone():
    """Windows of text, of which every token is learnt."""
    model, ids = llama(), torch.randint(0, 32, (4, 12), generator=torch.Generator().manual_seed(0))
    loss = lambda m, w: F.cross_entropy(m(w[:, :-1]).flatten(0, 1), w[:, 1:].flatten())  # noqa: E731
    assert diagnose(model, optimizer_of(model), ids, loss) == []


def test_an_adapter_that_no_gradient_has_reached_yet_is_not_one_that_does_nothing():
    """As an expert that got no token so far: its neighbours have moved, and Adam counts no step of its own."""
    model = llama()
    model.idle = LoRALinear(nn.Linear(6, 4).requires_grad_(False), 2, 4)
    optimizer = optimizer_of(model)
    for _ in range(3):
        optimizer.zero_grad()
        answer_loss(model, examples()).backward()
        optimizer.step()
    assert names(model, optimizer, examples(), answer_loss) == []
    model.idle.B.grad, model.idle.A.grad = torch.zeros(4, 2), torch.zeros(2, 6)  # now it has a part in the steps
    for _ in range(2):
        optimizer.step()
    assert names(model, optimizer) == ["an adapter does nothing"]


class Speaker(nn.Module):
    """A model that is called as one of transformers is, and knows its end token."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self.inner, self.config = llama(), SimpleNamespace(eos_token_id=end)

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.inner(input_ids)
        loss = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100)
        return SimpleNamespace(logits=logits, loss=loss)


@pytest.mark.parametrize("by_id", [True, False])
def test_an_end_that_is_masked_as_padding_is_missed_in_either_mask(by_id):
    """pad = end: the labels are left out by id; the attention mask is made by id too, or by place."""
    end = 1
    rows = [[5, 6, 7, 8, end], [5, 6, 9, end]]
    ids = torch.tensor([row + [end] * (7 - len(row)) for row in rows])
    labels = ids.masked_fill(ids == end, -100)
    places = torch.tensor([[int(i < len(row)) for i in range(7)] for row in rows])
    mask = (ids != end).long() if by_id else places
    model = Speaker(end)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    assert "the end of an answer is not learnt" in names(model, optimizer_of(model), batch)
    right = ids.masked_fill(places == 0, -100)
    assert names(model, optimizer_of(model), batch | {"labels": right}) == []
