"""Whether matrices look drawn: what is drawn does, what was trained, made by an SVD or copied does not."""

import math

import pytest
import torch

from lora_from_scratch.clinic.noise import looks_drawn
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab.broken import world

SHAPES = [(32, 4)] * 10 + [(88, 4)] * 6
LAWS = {
    "uniform": lambda shape, draw: (2 * torch.rand(shape, generator=draw) - 1) / shape[1] ** 0.5,
    "normal": lambda shape, draw: 0.02 * torch.randn(shape, generator=draw),
}


@pytest.mark.parametrize("law", LAWS)
def test_what_is_drawn_looks_drawn(law):
    """In 95 of 100 draws at least: three standard errors on each of a few marks."""
    draw = torch.Generator().manual_seed(0)
    assert sum(looks_drawn([LAWS[law](shape, draw) for shape in SHAPES]) for _ in range(100)) >= 95


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 100])
def test_what_was_trained_does_not(steps):
    """B after steps of Adam from zero, few and many."""
    model = world.adapted(0)
    world.train(model, world.lesson(), steps=steps)
    assert not looks_drawn([m.B for m in model.modules() if is_adapter(m)])


def test_the_vectors_of_an_svd_do_not_even_of_noise():
    draw = torch.Generator().manual_seed(0)
    left = [torch.linalg.svd(torch.randn(64, 64, generator=draw)).U[:, :8] for _ in range(8)]
    assert not looks_drawn(left) and looks_drawn([torch.randn(64, 8, generator=draw) for _ in range(8)])


def test_one_row_or_one_layer_that_stands_out_gives_training_away():
    draw = torch.Generator().manual_seed(0)
    drawn = lambda: [LAWS["uniform"](shape, draw) for shape in SHAPES]  # noqa: E731
    larger = drawn()
    larger[0] *= 1.5
    rows = drawn()
    for matrix in rows:
        matrix[: len(matrix) // 2] *= 1.3
    assert looks_drawn(drawn()) and not looks_drawn(larger) and not looks_drawn(rows)


def test_layers_of_one_shape_and_rows_of_one_matrix_have_one_size_under_a_normal_law_too():
    """Differences so small that the kurtosis of all entries does not show them."""
    draw = torch.Generator().manual_seed(0)
    drawn = [torch.randn(256, 64, generator=draw) for _ in range(4)]
    layers = [matrix * (1 + 0.05 * place) for place, matrix in enumerate(drawn)]
    rows = [matrix * torch.linspace(0.9, 1.1, 256)[torch.randperm(256, generator=draw), None] for matrix in drawn]
    assert looks_drawn(drawn) and not looks_drawn(layers) and not looks_drawn(rows)


def test_where_there_is_too_little_nothing_is_said():
    draw = torch.Generator().manual_seed(0)
    assert not looks_drawn([]) and not looks_drawn([torch.zeros(64, 64)])
    assert not looks_drawn([torch.rand(3000, 1, generator=draw)])  # a rank of 1 has no rows to compare
    small = [2 * torch.rand(8, 8, generator=draw) - 1]
    assert not looks_drawn(small) and looks_drawn(small, fewest=64)


def test_the_bound_of_a_uniform_law_is_looked_at():
    """A few steps of a fixed size give the kurtosis of a uniform law, and a longest entry beyond its bound."""
    draw = torch.Generator().manual_seed(0)
    steps = 7
    walks = [torch.randint(0, 2, (steps, *shape), generator=draw).mul(2).sub(1).sum(0).double() for shape in SHAPES]
    scaled = [torch.sign(w) * w.abs().pow(0.6) for w in walks]  # a kurtosis nearer to 9/5
    assert not looks_drawn(walks) and not looks_drawn(scaled)
    bounded = [LAWS["uniform"](shape, draw).clamp(-0.45, 0.45) for shape in SHAPES]
    assert not looks_drawn(bounded) and math.isclose(max(float(b.max()) for b in bounded), 0.45, rel_tol=1e-6)
