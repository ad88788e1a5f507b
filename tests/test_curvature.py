"""The ends of the Hessian's spectrum: those of the whole Hessian, where it can be written down."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import trained_like
from torch import Tensor, nn
from torch.func import functional_call

from lora_from_scratch import AdapterConfig, LoRALinear, NF4Linear, add_adapters
from lora_from_scratch.analysis.curvature import hessian_ends, hessian_product
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama

X = torch.randn(9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.randn(9, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def fit_loss(model: nn.Module) -> Tensor:
    """Mean squared error on fixed data."""
    return (model(X) - Y).square().mean()


def small_net(seed: int, rank: int = 2, trained: bool = True) -> nn.Module:
    """Two adapted layers round a tanh: with B at zero, or A and B far from their start."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    net = add_adapters(net, AdapterConfig(rank, alpha=3))
    return trained_like(net, seed) if trained else net


def whole_hessian(model: nn.Module, loss=fit_loss) -> Tensor:
    """H (n, n) of everything trainable, by torch.autograd.functional."""
    named = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    flat = torch.cat([p.flatten() for p in named.values()])

    def of_flat(vector):
        pieces = vector.split([p.numel() for p in named.values()])
        given = {name: piece.view_as(p) for (name, p), piece in zip(named.items(), pieces, strict=True)}

        class Given(nn.Module):
            def forward(self, *args):
                return functional_call(model, given, args)

        return loss(Given())

    return torch.autograd.functional.hessian(of_flat, flat)


class Bowl(nn.Module):
    """A loss of known curvature: ½ Σ λ_i x_i² in a turned basis, by no more than its eigenvalues."""

    def __init__(self, eigenvalues: list[float], seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        n = len(eigenvalues)
        draw = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        turn = torch.linalg.qr(draw).Q
        self.H = ((turn * torch.tensor(eigenvalues, dtype=torch.float64)) @ turn.T).to(dtype)
        self.x = nn.Parameter(torch.ones(n, dtype=dtype))

    def loss(self) -> Tensor:
        return self.x @ self.H @ self.x / 2


def bowl_loss(bowl: Bowl) -> Tensor:
    return bowl.loss()


# --- The oracle: the whole Hessian ---


@given(st.integers(0, 999), st.integers(1, 3), st.booleans())
def test_the_ends_are_those_of_the_whole_hessian(seed, rank, trained):
    """Two adapted layers, at B = 0 and away from it: eigvalsh of a matrix of 17 to 51 rows has these ends."""
    net = small_net(seed, rank, trained)
    values = torch.linalg.eigvalsh(whole_hessian(net))
    ends = hessian_ends(net, fit_loss, tolerance=1e-9)
    assert ends.largest == pytest.approx(values[-1].item(), rel=1e-9)
    turned = hessian_ends(net, lambda m: -fit_loss(m), tolerance=1e-9)  # -L is as curved the other way round
    assert -turned.largest == pytest.approx(values[0].item(), rel=1e-9, abs=1e-9 * values[-1].item())


@given(st.integers(0, 999), st.booleans())
def test_the_product_is_the_whole_hessian_s(seed, trained):
    """H v, column by column."""
    net = small_net(seed, 2, trained)
    H = whole_hessian(net)
    parameters = [p for p in net.parameters() if p.requires_grad]
    product = hessian_product(fit_loss(net), parameters)
    torch.testing.assert_close(torch.stack([product(e) for e in torch.eye(len(H), dtype=H.dtype)]), H)


def test_the_list_of_parameters_says_what_the_hessian_is_over():
    """Over A's alone it is the block of the A's, whose order is that of the list."""
    net = small_net(3)
    H = whole_hessian(net)
    named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    places, start = {}, 0
    for name, p in named:
        places[name] = range(start, start := start + p.numel())
    chosen = [name for name, _ in named if name.endswith(".A")][::-1]
    index = torch.tensor([i for name in chosen for i in places[name]])
    ends = hessian_ends(net, fit_loss, [dict(named)[name] for name in chosen], tolerance=1e-10)
    block = H[index][:, index]
    values, vectors = torch.linalg.eigh(block)
    assert ends.largest == pytest.approx(values[-1].item(), rel=1e-9)
    assert abs(ends.direction @ vectors[:, -1]) == pytest.approx(1, abs=1e-6)


# --- Which end is which ---


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_is_the_most_positive_even_where_a_negative_one_is_larger_in_size(seed):
    """Eigenvalues -50, -3, 0, 1, 2: the largest is 2, and -50 is the smallest."""
    ends = hessian_ends(Bowl([1, -50, 0, 2, -3], seed), bowl_loss, tolerance=1e-9)
    assert ends.largest == pytest.approx(2, rel=1e-9) and ends.smallest == pytest.approx(-50, rel=1e-9)


def test_of_a_hill_the_largest_is_negative_too():
    ends = hessian_ends(Bowl([-7, -2, -1]), bowl_loss, tolerance=1e-9)
    assert ends.largest == pytest.approx(-1) and ends.smallest == pytest.approx(-7)


def test_there_is_room_for_no_more_directions_than_there_are():
    """However many products are allowed: a basis of 10^12 rows would not fit any memory."""
    assert hessian_ends(Bowl([1, 2]), bowl_loss, steps=10**12).products <= 2


def test_lora_at_b_zero_stands_on_a_saddle():
    """At B = 0 the block of A is zero and A and B are coupled, so the Hessian has both signs; the two ends show it."""
    ends = hessian_ends(small_net(0, trained=False), fit_loss)
    assert ends.largest > 0 > ends.smallest


@given(st.lists(st.integers(-50, 50).map(lambda i: i / 10), min_size=1, max_size=8), st.integers(0, 9))
def test_ends_are_those_of_any_spectrum(eigenvalues, seed):
    """Equal ones and zeros too: to rounding of the largest in size."""
    ends = hessian_ends(Bowl(eigenvalues, seed), bowl_loss, tolerance=1e-12)
    room = 1e-10 * max(map(abs, eigenvalues))
    assert abs(ends.largest - max(eigenvalues)) <= room and abs(ends.smallest - min(eigenvalues)) <= room


# --- What is known of the error ---


@given(st.integers(0, 99), st.integers(1, 12))
def test_the_residual_is_the_direction_s_own_and_an_eigenvalue_is_that_close(seed, steps):
    """After any number of products: |H y - θ y| as told, y of length 1, θ = <y, H y> below the largest eigenvalue."""
    net = small_net(seed)
    H = whole_hessian(net)
    values, ends = torch.linalg.eigvalsh(H), hessian_ends(net, fit_loss, tolerance=1e-12, steps=steps)
    y, room = ends.direction, 1e-10 * values.abs().max().item()
    assert y.norm().item() == pytest.approx(1) and ends.products <= steps
    assert (H @ y - ends.largest * y).norm().item() == pytest.approx(ends.residual, rel=1e-6, abs=room)
    assert (y @ H @ y).item() == pytest.approx(ends.largest, abs=room)
    assert (values - ends.largest).abs().min() <= ends.residual + room
    assert (values - ends.smallest).abs().min() <= ends.smallest_residual + room
    assert ends.largest <= values[-1] + room and ends.smallest >= values[0] - room


@given(st.integers(0, 999))
def test_at_the_default_tolerance_the_largest_is_right_to_a_percent(seed):
    """And takes fewer products than there are parameters."""
    net = small_net(seed, rank=3)
    largest = torch.linalg.eigvalsh(whole_hessian(net))[-1].item()
    ends = hessian_ends(net, fit_loss)
    assert largest * 0.99 <= ends.largest <= largest * (1 + 1e-9) and ends.products < 51
    assert ends.residual <= 0.01 * ends.largest


def test_a_tighter_tolerance_takes_more_products():
    net = small_net(0, rank=3)
    loose, tight = (hessian_ends(net, fit_loss, tolerance=t) for t in (0.1, 1e-8))
    assert loose.products < tight.products and tight.residual < 1e-8 * tight.largest < loose.residual


def test_directions_stay_orthogonal_after_an_end_has_converged():
    """-10,000 and -1,000 are found at once, the largest of 98 close ones takes 70 products. Orthonormal q's make y of
    length 1, to 100 roundings; cleared of the last two alone they miss it by 1e-10, and the search goes on."""
    eigenvalues = [-1e4, -1e3, *(1 + 0.001 * i for i in range(98))]
    ends = hessian_ends(Bowl(eigenvalues), bowl_loss, tolerance=1e-12)
    assert ends.largest == pytest.approx(1.097, rel=1e-9) and ends.smallest == pytest.approx(-1e4, rel=1e-9)
    assert abs(ends.direction.norm().item() - 1) < 100 * torch.finfo(torch.float64).eps and ends.products < 90


def test_a_first_direction_that_misses_the_largest_is_not_believed_at_once():
    """In this net the residual is below 1 % of the second largest after five products; the largest shows up later."""
    net = small_net(134)
    values = torch.linalg.eigvalsh(whole_hessian(net))
    early, ends = hessian_ends(net, fit_loss, steps=5), hessian_ends(net, fit_loss)
    assert early.largest == pytest.approx(values[-2].item(), rel=1e-3) and early.residual < 0.01 * early.largest
    assert ends.largest == pytest.approx(values[-1].item(), rel=1e-2)


def test_the_first_direction_does_not_matter():
    """Ten seeds lead to one largest eigenvalue."""
    net = small_net(0)
    found = [hessian_ends(net, fit_loss, tolerance=1e-8, generator=torch.Generator().manual_seed(s)) for s in range(10)]
    assert max(e.largest for e in found) - min(e.largest for e in found) < 1e-9 * found[0].largest


def test_float32_is_enough_for_a_percent():
    """The same bowl in float32: the largest to 1e-5."""
    eigenvalues = [100 * 0.8**i for i in range(60)]
    ends = hessian_ends(Bowl(eigenvalues, dtype=torch.float32), bowl_loss, tolerance=1e-4)
    assert ends.largest == pytest.approx(100, rel=1e-5) and ends.direction.dtype == torch.float32


@pytest.mark.parametrize(("share", "grows"), [(1.9, False), (2.1, True)])
def test_gradient_descent_grows_above_two_over_the_curvature(share, grows):
    """What λ_max is for: at a rate of 1.9 / λ a bowl's loss falls over 200 steps, at 2.1 / λ it rises."""
    bowl = Bowl([0.5, 3, 8])
    rate, before = share / hessian_ends(bowl, bowl_loss, tolerance=1e-9).largest, bowl.loss().item()
    for _ in range(200):
        (gradient,) = torch.autograd.grad(bowl.loss(), bowl.x)
        with torch.no_grad():
            bowl.x -= rate * gradient
    assert (bowl.loss().item() > before) == grows


# --- On a Llama, over 4 bits ---


def test_attention_has_a_second_derivative():
    """On the tiny Llama, whose fused attention has none, H v is the slope of the gradient: central differences."""
    config = LlamaConfig(11, 8, 12, 2, 2, 1, max_position_embeddings=16)
    model = trained_like(add_adapters(TinyLlama(config).double(), AdapterConfig(2, 4)))
    ids = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(0))

    def loss(model):
        return nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    ends = hessian_ends(model, loss, tolerance=1e-6)
    parameters = [p for p in model.parameters() if p.requires_grad]
    pieces, step = ends.direction.split([p.numel() for p in parameters]), 1e-5

    def gradient(size):
        with torch.no_grad():
            for p, piece in zip(parameters, pieces, strict=True):
                p += size * piece.view_as(p)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss(model), parameters)])

    slope = (gradient(step) - gradient(-2 * step)) / (2 * step)
    torch.testing.assert_close(slope, ends.largest * ends.direction, rtol=1e-4, atol=1e-5 * ends.largest)


def test_a_base_in_4_bits_counts_as_the_matrix_that_it_decodes_to():
    """QLoRA's layer and LoRA over the decoded weight have one curvature."""
    torch.manual_seed(0)
    packed = NF4Linear.from_linear(nn.Linear(4, 3))
    plain = nn.Linear(4, 3)
    plain.weight.data, plain.bias.data = packed.weight.clone(), packed.bias.data.clone()
    x, y = X.float(), Y.float()
    found = [
        hessian_ends(trained_like(LoRALinear(base, 2, 4)), lambda m: (m(x) - y).square().mean(), tolerance=1e-4)
        for base in (packed, plain)
    ]
    assert found[0].largest == pytest.approx(found[1].largest, rel=1e-5)


def test_a_loss_that_is_straight_has_no_curvature():
    """A linear loss, and one that is linear in a part of the parameters: zero, and the curvature of the rest."""
    flat = nn.Linear(3, 1).double()
    ends = hessian_ends(flat, lambda m: m(torch.ones(1, 3, dtype=torch.float64)).sum())
    assert ends.largest == ends.smallest == ends.residual == 0 and ends.products == 1
    for loss in (lambda m: 3 * m.weight.square().sum() + m.bias.sum(), lambda m: m.weight.sum() + 3 * m.bias @ m.bias):
        ends = hessian_ends(flat, loss, tolerance=1e-9)
        assert ends.largest == pytest.approx(6) and ends.smallest == pytest.approx(0, abs=1e-12)


# --- What stays ---


def test_gradients_modes_and_random_state_are_as_before():
    """Also where the loss fails in the middle, with a part of the model in another mode, and under no_grad."""
    net = small_net(0).train()
    net[1].eval()
    net[0].A.grad = torch.ones_like(net[0].A)
    modes, state = [m.training for m in net.modules()], torch.get_rng_state()
    values = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    def noisy(model):
        torch.rand(3)
        assert not any(m.training for m in model.modules())
        return fit_loss(model)

    def failing(model):
        raise KeyboardInterrupt

    with torch.no_grad():
        assert hessian_ends(net, noisy).largest == hessian_ends(net, fit_loss).largest
        assert not torch.is_grad_enabled()
    with pytest.raises(KeyboardInterrupt):
        hessian_ends(net, failing)
    assert [m.training for m in net.modules()] == modes and torch.equal(torch.get_rng_state(), state)
    assert (net[0].A.grad == 1).all() and net[0].B.grad is None
    assert all(torch.equal(tensor, values[name]) for name, tensor in net.state_dict().items())


def test_dropout_is_off():
    """Two calls of a net with dropout, in train mode, agree with the net without."""
    net, without = (add_adapters(nn.Sequential(nn.Linear(4, 3)).double(), AdapterConfig(2, 4, d)) for d in (0.5, 0.0))
    trained_like(net.train()), without.load_state_dict(net.state_dict())
    found = [hessian_ends(m, fit_loss).largest for m in (net, net, without)]
    assert found[0] == found[1] == found[2]


def test_autocast_does_not_round_it():
    net = small_net(0).float()
    x, y = X.float(), Y.float()
    loss = lambda m: (m(x) - y).square().mean()  # noqa: E731
    with torch.autocast("cpu", torch.bfloat16):
        inside = hessian_ends(net, loss)
    assert inside.largest == hessian_ends(net, loss).largest


# --- What is refused ---


def frozen_net() -> nn.Module:
    return small_net(0).requires_grad_(False)


def mixed_net() -> nn.Module:
    net = small_net(0)
    net[0].float()
    return net


PLAIN = small_net(0)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (frozen_net(), {}, "there are no parameters"),
        (PLAIN, {"parameters": []}, "there are no parameters"),
        (PLAIN, {"parameters": [PLAIN[0].A, PLAIN[0].base.weight]}, r"the parameters at \[1\] are frozen"),
        (small_net(0).bfloat16(), {}, "the parameters are torch.bfloat16; second derivatives need float32"),
        (mixed_net(), {}, "of several dtypes or devices"),
        (PLAIN, {"tolerance": 0}, "tolerance is 0"),
        (PLAIN, {"tolerance": math.inf}, "tolerance is inf"),
        (PLAIN, {"tolerance": math.nan}, "tolerance is nan"),
        (PLAIN, {"steps": 0}, "steps is 0"),
        (PLAIN, {"steps": 2.5}, "steps is 2.5"),
        (PLAIN, {"steps": True}, "steps is True"),
        (PLAIN, {"loss": lambda m: m(X)}, "a Hessian is of one finite number"),
        (PLAIN, {"loss": lambda m: fit_loss(m) * math.nan}, "the loss is nan"),
        (PLAIN, {"loss": lambda m: fit_loss(m).detach()}, "depends on none of the parameters"),
        (PLAIN, {"loss": lambda m: m[2].A.square().sum()}, r"does not depend on the parameters at \[0, 1, 3\]"),
    ],
)
def test_what_has_no_curvature_is_refused_in_words(model, options, words):
    with pytest.raises(ValueError, match=words):
        hessian_ends(model, **({"loss": fit_loss} | options))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives():
    net, x, y = small_net(0), X.cuda(), Y.cuda()
    cpu = hessian_ends(net, fit_loss, tolerance=1e-9)
    gpu = hessian_ends(net.cuda(), lambda m: (m(x) - y).square().mean(), tolerance=1e-9)
    assert gpu.largest == pytest.approx(cpu.largest, rel=1e-8) and gpu.direction.is_cuda
