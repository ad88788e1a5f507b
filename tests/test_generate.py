"""Generated text is what the model's own forward says token by token, and generating leaves everything as it was."""

import math

import pytest
import torch
from checkpoints import small_llama

from lora_from_scratch import AdapterConfig, add_adapters
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab.generate import generate

PROMPTS = [[5, 9, 2, 40, 41], [7], [100, 3, 3, 8, 20, 21, 22, 60], [5, 9, 2]]


def model_of(kv_heads=2, tied=False, adapted=False):
    """A small Llama in float64, so that a likeliest token is no accident of rounding."""
    model = small_llama(tied, kv_heads).double()
    if adapted:
        for layer in filter(is_adapter, add_adapters(model, AdapterConfig(rank=3, alpha=6)).modules()):
            torch.nn.init.normal_(layer.B)
    return model


@torch.no_grad()
def slowly(model, prompt, new_tokens):
    """Greedy text by the model's own forward over the whole text, again for every token."""
    ids = list(prompt)
    for _ in range(new_tokens):
        ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
    return ids[len(prompt) :]


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(("kv_heads", "tied"), [(1, False), (2, True), (4, False)])
def test_a_cache_gives_what_the_model_s_own_forward_gives(kv_heads, tied, adapted):
    """With grouped heads, a tied head, and adapters on all layers; up to the last place of the context."""
    model = model_of(kv_heads, tied, adapted)
    assert generate(model, [PROMPTS[2]], 40) == [slowly(model, PROMPTS[2], 40)]


def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone():
    model = model_of()
    assert generate(model, PROMPTS, 12) == [generate(model, [prompt], 12)[0] for prompt in PROMPTS]
    assert generate(model, PROMPTS, 12) == [slowly(model, prompt, 12) for prompt in PROMPTS]


def test_a_text_ends_with_the_first_stop_and_the_others_go_on():
    model = model_of()
    whole = generate(model, PROMPTS, 12)
    stop = whole[0][4]
    wanted = [row[: row.index(stop) + 1] if stop in row else row for row in whole]
    assert len(wanted[0]) <= 5 and max(map(len, wanted)) == 12
    assert generate(model, PROMPTS, 12, stop=[stop]) == wanted
    assert generate(model, PROMPTS[:1], 12, stop=[stop, 1]) == wanted[:1]


def test_tokens_are_drawn_with_the_shares_of_the_softmax_at_that_temperature():
    """4,000 draws of one token: each share is within four standard errors of softmax(logits / temperature)."""
    model, temperature, draws = model_of(), 1.7, 4000
    with torch.no_grad():
        shares = torch.softmax(model(torch.tensor([PROMPTS[0]]))[0, -1] / temperature, dim=-1)
    drawn = generate(model, [PROMPTS[0]] * draws, 1, temperature, generator=torch.Generator().manual_seed(1))
    counted = torch.bincount(torch.tensor(drawn)[:, 0], minlength=len(shares)) / draws
    assert ((counted - shares).abs() < 4 * (shares / draws).sqrt() + 1 / draws).all()
    assert counted.max() < 0.9  # not greedy


def test_the_same_generator_draws_the_same_text_and_another_seed_another():
    model = model_of()
    texts = [generate(model, PROMPTS, 12, 1.0, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert generate(model, PROMPTS, 12, 1.0) == generate(model, PROMPTS, 12, 1.0)  # without one: seed 0, each time


def test_generating_leaves_mode_gradients_and_random_state_as_they_were():
    """Also after an interrupt in the middle."""
    model = model_of().train()
    model.model.layers[0].eval()
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    generate(model, PROMPTS, 3, 1.0)

    def stop(*_):
        raise KeyboardInterrupt

    handle = model.model.layers[1].mlp.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        generate(model, PROMPTS, 3)
    handle.remove()
    assert [m.training for m in model.modules()] == modes and torch.equal(torch.get_rng_state(), state)
    assert (model.lm_head.weight.grad == 1).all() and all(p.requires_grad for p in model.parameters())
    assert torch.is_grad_enabled() and model.model.layers[1].mlp.down_proj.weight.grad is None


def test_dropout_is_off_while_generating():
    model = add_adapters(model_of(), AdapterConfig(rank=3, alpha=6, dropout=0.5)).train()
    for layer in filter(is_adapter, model.modules()):
        torch.nn.init.normal_(layer.B)
    wanted = generate(model, PROMPTS, 8)
    assert wanted == generate(model, PROMPTS, 8) == generate(model.eval(), PROMPTS, 8)


def test_nothing_to_do_is_nothing():
    assert generate(model_of(), [], 5) == [] and generate(model_of(), PROMPTS, 0) == [[], [], [], []]


def test_prompts_may_be_tensors():
    model = model_of()
    assert generate(model, torch.tensor([PROMPTS[0]]), 3) == generate(model, [PROMPTS[0]], 3)


@pytest.mark.parametrize(
    ("prompts", "options", "words"),
    [
        ([[]], {}, "prompt 0 is empty"),
        ([[1], []], {}, "prompt 1 is empty"),
        ([[1, 271]], {}, "the id 271"),
        ([[-1]], {}, "the id -1"),
        ([[1]], {"new_tokens": -1}, "new_tokens is -1"),
        ([[1]], {"temperature": -0.1}, "temperature is -0.1"),
        ([[1]], {"temperature": math.nan}, "temperature is nan"),
        ([[1], [1] * 40], {"new_tokens": 9}, "prompt 1 has 40 tokens, and with 9 more"),
    ],
)
def test_what_cannot_be_generated_is_refused_by_its_value(prompts, options, words):
    with pytest.raises(ValueError, match=words):
        generate(model_of(), prompts, **({"new_tokens": 3} | options))
