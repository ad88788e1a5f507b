"""The calculator: plans by hand arithmetic and against the functions of chapter 06."""

import numpy as np
import pytest

from lora_from_scratch.analysis.advise import advise
from lora_from_scratch.analysis.counting import MODELS, Transformer, lora_parameters
from lora_from_scratch.analysis.memory import ADAPTERS32, FLOAT32, training_bytes
from lora_from_scratch.analysis.peaks import planned

SMALL = Transformer(2, 128, mlp=256, vocabulary=100)
LLAMA = MODELS["LLaMA-7B"]


def need(method, batch, length=512, checkpoint=False, of=LLAMA, rank=16):
    """1.1 times the plan of chapter 06."""
    parts = training_bytes(of, method, batch, length, rank, precision=ADAPTERS32, checkpoint=checkpoint)
    return round(1.1 * planned(parts, of.vocabulary, batch * length))


def test_bytes_by_hand():
    """Weights, gradients, state and the logits' term of a small Llama, worked out by hand."""
    plan = advise(SMALL, 1e9, 64, length=32, rank=4)
    block = 4 * 128 * 128 + 3 * 128 * 256
    base = 2 * block + 5 * 128 + 2 * 100 * 128  # two layers, five norms, embedding and head
    adapters = 2 * 4 * (4 * 256 + 3 * 384)  # r (in + out)
    assert adapters == lora_parameters(SMALL.shapes([n for n in SMALL.matrices() if n != "lm_head"]), 4)
    assert plan.parts.weights == 2 * base + 4 * adapters
    assert (plan.parts.gradients, plan.parts.optimizer, plan.parts.constants) == (4 * adapters, 8 * adapters, 0)
    held = plan.parts.weights + 12 * adapters + plan.parts.activations
    assert plan.need == round(1.1 * (held + 8 * 100 * 64))
    assert (plan.method, plan.batch, plan.accumulate, plan.checkpoint, plan.alpha) == ("lora", 2, 1, False, 32)


@pytest.mark.parametrize(
    ("method", "batch", "checkpoint"),
    [("lora", 8, False), ("lora", 4, False), ("lora", 1, False), ("lora", 1, True)]
    + [("qlora", 2, False), ("qlora", 1, False), ("qlora", 1, True)],
)
def test_exactly_enough_gives_this_plan(method, batch, checkpoint):
    """With the bytes that a plan needs it is taken, and with one less it is not."""
    memory = need(method, batch, checkpoint=checkpoint)
    plan = advise(LLAMA, memory, 8 * 512)
    assert (plan.method, plan.batch, plan.accumulate, plan.checkpoint) == (method, batch, 8 // batch, checkpoint)
    assert plan.need == memory == plan.memory
    if (method, batch, checkpoint) == ("qlora", 1, True):
        with pytest.raises(ValueError, match=f"need {memory:,} at least"):
            advise(LLAMA, memory - 1, 8 * 512)
        with pytest.raises(ValueError, match=f"need {memory:,} at least"):  # whatever is tried last
            advise(LLAMA, memory - 1, 8 * 512, methods=("qlora", "lora"))
    else:
        less = advise(LLAMA, memory - 1, 8 * 512)
        assert (less.method, less.batch, less.checkpoint) != (method, batch, checkpoint) and less.need < memory


def test_tokens_of_a_step_stay():
    """However they are split, a step has the tokens that were asked for, and every number has a reason."""
    for memory in (16e9, 18e9, 24e9, 80e9):
        plan = advise(LLAMA, memory, 12 * 512)
        assert plan.batch * plan.length * plan.accumulate == 12 * 512 and plan.need <= memory
        assert all(hasattr(plan, name) and why for name, why in plan.reasons.items())
        assert f"{plan.need:,} bytes" in str(plan) and "06.extra" in str(plan) or not plan.checkpoint


def test_asked_for_method_and_precision():
    """Full fine-tuning is planned where it is asked for, in the precision that is asked for."""
    plan = advise(SMALL, 1e9, 32, length=32, methods=("full",), precision=FLOAT32)
    assert (plan.method, plan.rank, plan.alpha) == ("full", 0, 0)
    assert "not used" in plan.reasons["rank"] and "13." not in str(plan) and "12." not in str(plan)
    assert plan.parts == training_bytes(SMALL, "full", 1, 32, precision=FLOAT32)


def test_it_is_said_whether_the_count_or_only_the_tenth_does_not_fit():
    """65B of rank 64 in 48 GB: the tenth is missing, and with a byte below the count all of it."""
    least = need("qlora", 1, checkpoint=True)
    with pytest.raises(ValueError, match="only the tenth to spare does not"):
        advise(LLAMA, least / 1.1 + 1, 512)
    with pytest.raises(ValueError) as told:
        advise(LLAMA, least / 1.1 - 2, 512)
    assert "tenth" not in str(told.value)


def test_integers_of_numpy_are_integers():
    assert advise(SMALL, np.float64(1e9), np.int64(64), np.int32(32), np.int64(4)) == advise(SMALL, 1e9, 64, 32, 4)


def test_alpha_stays_when_the_rank_grows():
    assert advise(SMALL, 1e9, 64, 32, 4).alpha == advise(SMALL, 1e9, 64, 32, 64).alpha


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"memory": 0}, "memory is 0; it must be a number of bytes above 0"),
        ({"memory": "24 GB"}, "memory is '24 GB'"),
        ({"memory": float("nan")}, "memory is nan"),
        ({"tokens": 0}, "tokens is 0; it must be an integer"),
        ({"tokens": 1000}, "give a multiple, such as 1024"),
        ({"length": 2.5}, "length is 2.5"),
        ({"methods": ()}, r"methods is \(\); give at least one"),
        ({"methods": None}, "methods is None; give at least one"),
        ({"methods": ("lora", "qlroa")}, "methods has 'qlroa'"),
        ({"methods": ("dora",)}, "too little for DoRA"),
        ({"rank": 5000}, "rank is 5000; .* has a side of 4096"),
        ({"rank": 0}, "rank is 0"),
        ({"targets": ["q"]}, "targets is"),
        ({"model_shapes": Transformer(2, 128)}, "mlp"),
    ],
)
def test_bad_input_is_told(changed, words):
    """What is out of range is named, with the fix."""
    with pytest.raises(ValueError, match=words):
        advise(**({"model_shapes": LLAMA, "memory": 24e9, "tokens": 1024} | changed))


def test_a_model_s_name_is_told_what_to_give_instead():
    with pytest.raises(ValueError, match="'Llama-3-8B'; give the model, its config, or one of counting.MODELS"):
        advise("Llama-3-8B", memory=24e9, tokens=8192)
