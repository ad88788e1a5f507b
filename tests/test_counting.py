"""Parameter counts: closed form, a real module and the published tables (each with its source) must agree.

Where a published figure is not what its own set-up gives, the test holds both: what the arithmetic gives, and that
the figure differs.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import dimensions
from torch import nn

from lora_from_scratch import AdapterConfig, LoRALinear, add_adapters, count_parameters
from lora_from_scratch.analysis.counting import (
    ALL_LINEAR,
    ATTENTION,
    MLP,
    MODELS,
    Transformer,
    dora_parameters,
    lora_parameters,
    prints_as,
    rank_for_budget,
)
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama

ranks = st.integers(1, 9)
shape_lists = st.lists(st.tuples(dimensions, dimensions), min_size=1, max_size=6)
QV = ("q_proj", "v_proj")
DORA_TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")  # 2402.09353, appendix: "Where"


@st.composite
def llamas(draw):
    """A small Llama's configuration, with grouped queries and a tied head or without, and its `Transformer`."""
    heads, kv_heads = draw(st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2), (4, 1)]))
    head_size, layers = 2 * draw(st.integers(1, 3)), draw(st.integers(1, 3))
    mlp, vocabulary, tied = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.booleans())
    config = LlamaConfig(vocabulary, heads * head_size, mlp, layers, heads, kv_heads, tie_word_embeddings=tied)
    return config, Transformer(layers, heads * head_size, kv_heads * head_size, mlp, vocabulary, tied)


def on_meta(model: Transformer, head_size: int = 128) -> nn.Module:
    """The Llama of these sizes without memory behind its weights."""
    config = LlamaConfig(
        vocab_size=model.vocabulary,
        hidden_size=model.width,
        intermediate_size=model.mlp,
        num_hidden_layers=model.layers,
        num_attention_heads=model.width // head_size,
        num_key_value_heads=(model.kv or model.width) // head_size,
        tie_word_embeddings=model.tied,
    )
    with torch.device("meta"):
        return TinyLlama(config)


# --- closed form against modules -------------------------------------------------------------------------------------


@given(shapes=shape_lists, rank=ranks)
def test_lora_count_is_what_layers_hold(shapes, rank):
    """r · (in + out), summed, is the number of entries of the A and B of real layers."""
    layers = nn.ModuleList(LoRALinear(nn.Linear(d_in, d_out), rank, 1.0) for d_out, d_in in shapes)
    assert lora_parameters(shapes, rank) == count_parameters(layers)[0]


@given(shapes=shape_lists, rank=ranks)
def test_dora_adds_one_number_an_output(shapes, rank):
    """DoRA's count is LoRA's and one magnitude for each output row; a layer has as many rows as biases."""
    biases = sum(nn.Linear(d_in, d_out).bias.numel() for d_out, d_in in shapes)
    assert dora_parameters(shapes, rank) == lora_parameters(shapes, rank) + biases


@given(llama=llamas(), rank=ranks, targets=st.lists(st.sampled_from(ALL_LINEAR), min_size=1, unique=True))
def test_description_counts_what_model_holds(llama, rank, targets):
    """For a Llama of any sizes and any targets, the closed forms give the trainable parameters and the base's total."""
    config, description = llama
    model = TinyLlama(config)
    base = count_parameters(model)[1]
    add_adapters(model, AdapterConfig(rank, targets=targets))
    assert description.parameters() == base
    added = lora_parameters(description.shapes(targets), rank)
    assert count_parameters(model) == (added, base + added)


@given(llama=llamas(), rank=ranks)
def test_all_linear_is_all_but_the_head(llama, rank):
    """ALL_LINEAR names the layers that the package's "all-linear" adapts."""
    config, description = llama
    trained, _ = count_parameters(add_adapters(TinyLlama(config), AdapterConfig(rank)))
    assert trained == lora_parameters(description.shapes(ALL_LINEAR), rank)


@pytest.mark.parametrize("name", ["LLaMA-7B", "Llama-3-8B", "Llama-3.2-1B"])
def test_giant_without_memory_counts_the_same(name):
    """A published model built on the meta device, and adapted there, has the parameters of the closed form."""
    description, rank = MODELS[name], 16
    model = on_meta(description)
    assert count_parameters(model)[1] == description.parameters()
    add_adapters(model, AdapterConfig(rank))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert count_parameters(model)[0] == lora_parameters(description.shapes(ALL_LINEAR), rank)


def test_gpt3_without_memory_counts_the_same():
    """The q and v of GPT-3 175B as layers on the meta device: 18,874,368 at rank 4 (2106.09685, table 5)."""
    with torch.device("meta"):
        blocks = nn.ModuleList(nn.ModuleDict({n: nn.Linear(12288, 12288) for n in QV}) for _ in range(96))
    add_adapters(blocks, AdapterConfig(4, targets=list(QV)))
    assert count_parameters(blocks)[0] == 18_874_368


# --- the published counts --------------------------------------------------------------------------------------------


def test_one_layer_of_4096():
    """131,072 numbers beside 4096 · 4096, which is 0.78125 % (arithmetic)."""
    assert lora_parameters([(4096, 4096)], 16) == 131_072 == 0.0078125 * 4096 * 4096


@pytest.mark.parametrize(
    "name, targets, rank, count, printed, source",
    [
        ("GPT-3 175B", QV, 1, 4_718_592, "4.7", "2106.09685, table 4"),
        ("GPT-3 175B", QV, 4, 18_874_368, "18.8", "2106.09685, table 15"),
        ("GPT-3 175B", QV, 8, 37_748_736, "37.7", "2106.09685, table 4"),
        ("GPT-3 175B", QV, 64, 301_989_888, "301.9", "2106.09685, table 15"),
        ("RoBERTa base", QV, 8, 294_912, "0.3", "2106.09685, table 2"),
        ("RoBERTa large", QV, 8, 786_432, "0.8", "2106.09685, table 2"),
        ("LLaMA-7B", ALL_LINEAR, 64, 159_907_840, None, "2305.14314, set-up"),
        ("LLaMA-13B", ALL_LINEAR, 64, 250_347_520, None, "2305.14314, set-up"),
        ("LLaMA-33B", ALL_LINEAR, 64, 487_587_840, None, "2305.14314, set-up"),
        ("LLaMA-65B", ALL_LINEAR, 64, 799_539_200, None, "2305.14314, set-up"),
        ("Llama-3-8B", MLP, 1, 1_769_472, None, "LoRA Without Regret, per unit of rank"),
        ("Llama-3-8B", ATTENTION, 1, 851_968, None, "LoRA Without Regret, per unit of rank"),
        ("Llama-3-8B", ("lm_head",), 1, 132_352, None, "LoRA Without Regret, per unit of rank"),
        ("Qwen2.5-3B", QV, 16, 3_686_400, "3.6864", "PEFT's README"),
        ("Llama-3.2-1B", ("q_proj",), 8, 524_288, "0.524288", "PEFT's quick tour"),
        ("OPT-6.7B", QV, 16, 8_388_608, "8.388608", "PEFT's documentation"),
        ("Whisper large-v2", QV, 32, 15_728_640, "15.728640", "PEFT's documentation"),
        ("FLAN-T5 large", QV, 16, 4_718_592, "4.718592", "PEFT's documentation"),
        ("OPT-350M", QV, 16, 1_572_864, "1.572864", "PEFT's documentation"),
        ("mT0 large", QV, 8, 2_359_296, "2.359296", "PEFT's README"),
    ],
)
def test_published_count_is_reproduced(name, targets, rank, count, printed, source):
    """The count is exact, and what the source prints, in millions, is a rounding of it (or the source prints none)."""
    added = lora_parameters(MODELS[name].shapes(targets), rank)
    assert added == count, source
    assert printed is None or prints_as(added / 1e6, printed), source


def test_gpt3_has_about_ten_thousand_times_more():
    """175,255.8 M against the r 4 count is 9,285 times: 10,000 to one digit, and no closer (2106.09685, abstract)."""
    ratio = 175_255.8e6 / lora_parameters(MODELS["GPT-3 175B"].shapes(QV), 4)
    assert round(ratio) == 9285
    assert prints_as(ratio, "1E4") and not prints_as(ratio, "10000")


def test_deberta_count_is_that_of_twice_the_rank():
    """2106.09685, table 2, prints 4.7 M, which is rank 16; the rank in table 10, 8, gives half of that."""
    shapes = MODELS["DeBERTa XXL"].shapes(QV)
    at_8, at_16 = lora_parameters(shapes, 8), lora_parameters(shapes, 16)
    assert (at_8, at_16) == (2_359_296, 4_718_592)
    assert prints_as(at_16 / 1e6, "4.7") and not prints_as(at_8 / 1e6, "4.7")


def test_gpt3_count_for_four_matrices_is_that_of_rank_four():
    """2106.09685, section D.4, prints 37.7 M for q, k, v, o at rank 2; table 15 prints it for rank 4, which adds up."""
    shapes = MODELS["GPT-3 175B"].shapes(ATTENTION)
    at_2, at_4 = lora_parameters(shapes, 2), lora_parameters(shapes, 4)
    assert (at_2, at_4) == (18_874_368, 37_748_736)
    assert prints_as(at_4 / 1e6, "37.7") and not prints_as(at_2 / 1e6, "37.7")


@pytest.mark.parametrize("name, count, printed", [("GPT-2 M", 393_216, "0.35"), ("GPT-2 L", 737_280, "0.77")])
def test_gpt2_counts_do_not_add_up(name, count, printed):
    """2106.09685, table 3, prints 0.35 M and 0.77 M for r 4 on q and v; the arithmetic gives other numbers."""
    added = lora_parameters(MODELS[name].shapes(QV), 4)
    assert added == count
    assert not prints_as(added / 1e6, printed)


@pytest.mark.parametrize(
    "name, total, lora32, dora16, dora32, printed",
    [
        ("LLaMA-7B", 6_738_415_616, 56_098_816, 28_925_952, 56_975_360, ("0.83", "0.43", "0.84")),
        ("LLaMA-13B", 13_015_864_320, 87_818_240, 45_281_280, 89_190_400, ("0.67", "0.35", "0.68")),
        ("Llama-3-8B", 8_030_261_248, 56_623_104, 29_097_984, 57_409_536, ("0.70", "0.35", "0.71")),
    ],
)
def test_dora_table_in_percent_of_base_and_trainable(name, total, lora32, dora16, dora32, printed):
    """2402.09353, table 1: LoRA r 32, DoRA r 16 and r 32. One of the nine, LLaMA3-8B's 0.35, does not add up."""
    model = MODELS[name]
    shapes = model.shapes(DORA_TARGETS)
    counts = lora_parameters(shapes, 32), dora_parameters(shapes, 16), dora_parameters(shapes, 32)
    assert (model.parameters(), *counts) == (total, lora32, dora16, dora32)
    fits = [prints_as(100 * n / (total + n), figure) for n, figure in zip(counts, printed, strict=True)]
    assert fits == [True, name != "Llama-3-8B", True]


def test_printed_llama3_dora_is_the_count_without_magnitudes():
    """LLaMA3-8B's printed 0.35 % is what LoRA's A and B alone come to, and 0.361 % what DoRA's three do."""
    model = MODELS["Llama-3-8B"]
    total, shapes = model.parameters(), model.shapes(DORA_TARGETS)
    without, whole = lora_parameters(shapes, 16), dora_parameters(shapes, 16)
    assert prints_as(100 * without / (total + without), "0.35")
    assert prints_as(100 * whole / (total + whole), "0.361")


@pytest.mark.parametrize(
    "targets, rank, printed",
    [(MLP, 256, "0.49"), (ATTENTION, 256, "0.25"), (ALL_LINEAR, 256, "0.70"), (MLP, 128, "0.24")],
)
def test_without_regret_counts_hold_the_head(targets, rank, printed):
    """LoRA Without Regret's four counts, in billions, come out with an adapter on the head, and only with one."""
    model = MODELS["Llama-3-8B"]
    assert prints_as(lora_parameters(model.shapes([*targets, "lm_head"]), rank) / 1e9, printed)
    assert not prints_as(lora_parameters(model.shapes(targets), rank) / 1e9, printed)


@pytest.mark.parametrize(
    "name, targets, rank, everything",
    [("Llama-3.2-1B", ("q_proj",), 8, 1_236_338_688), ("LLaMA-7B", ALL_LINEAR, 64, 6_898_323_456)],
)
def test_totals_that_others_print(name, targets, rank, everything):
    """`all params`, as PEFT's method prints it (its quick tour; Llama-2-7B, which has LLaMA-7B's sizes, at large)."""
    model = MODELS[name]
    assert model.parameters() + lora_parameters(model.shapes(targets), rank) == everything


# --- budgets, printing, refusals -------------------------------------------------------------------------------------


@given(shapes=shape_lists, budget=st.integers(1, 500))
def test_budget_gives_nearest_rank(shapes, budget):
    """No other rank comes nearer to the budget."""
    rank = rank_for_budget(shapes, budget)
    off = [abs(lora_parameters(shapes, r) - budget) for r in (rank, rank + 1, max(1, rank - 1))]
    assert off[0] == min(off)


@given(value=st.floats(0, 1000), digits=st.integers(0, 6))
def test_rounding_prints_as_itself(value, digits):
    """A number printed to any number of digits may be printed so; two units of the last digit away it may not."""
    assert prints_as(value, f"{value:.{digits}f}")
    assert not prints_as(value, f"{value + 2 * 10**-digits:.{digits}f}")


@pytest.mark.parametrize("rank", [0, -1, 1.5, 2.0, True, "4", None])
def test_bad_rank_is_refused(rank):
    """A rank that is no integer of at least 1 is an error that shows it."""
    for count in (lora_parameters, dora_parameters):
        with pytest.raises(ValueError, match="rank is .* an integer of at least 1"):
            count([(4, 3)], rank)


@pytest.mark.parametrize("shapes", [[], [(4,)], [(4, 3, 2)], [(4, 0)], [(4, -1)], [(4, 3.0)], [(4, 3), "ab"], (4, 3)])
def test_bad_shapes_are_refused(shapes):
    """No shapes, or one that is no pair of positive integers, is an error; so is a lone pair without its list."""
    for count in (lora_parameters, dora_parameters, rank_for_budget):
        with pytest.raises(ValueError, match="shape"):
            count(shapes, 4)


@pytest.mark.parametrize("budget", [0, -3, 1.5, None])
def test_bad_budget_is_refused(budget):
    """A budget that is no integer of at least 1 is an error that shows it."""
    with pytest.raises(ValueError, match="budget is"):
        rank_for_budget([(4, 3)], budget)


def test_shapes_may_come_as_torch_gives_them():
    """Shapes of tensors, integers of NumPy, lists and generators count as pairs do."""
    assert lora_parameters((w.shape for w in nn.Linear(3, 4).parameters() if w.dim() == 2), np.int64(2)) == 14
    assert dora_parameters(iter([[np.int64(4), 3]]), 2) == 18


@pytest.mark.parametrize("targets", [["gate"], ["q_proj", "c_attn"], []])
def test_unknown_targets_are_refused(targets):
    """A name that the model does not have, or none, is an error that lists what there is."""
    with pytest.raises(ValueError, match="this model has q_proj, .* lm_head"):
        MODELS["LLaMA-7B"].shapes(targets)


def test_total_needs_mlp_and_vocabulary():
    """A description of the attention alone has no total, and says so."""
    with pytest.raises(ValueError, match="no MLP or no vocabulary"):
        MODELS["GPT-3 175B"].parameters()
