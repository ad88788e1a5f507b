"""diagnose on transformers models under PEFT, where readers have the trouble: what is broken is named, no other."""

import copy
import warnings

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from lora_from_scratch.diagnose import diagnose
from lora_from_scratch.lab.cache import ROOT

SIZES = dict(
    vocab_size=48, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=None,
)  # fmt: skip
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def llama(kind: type = LlamaForCausalLM, **changes: object) -> nn.Module:
    torch.manual_seed(0)
    return kind(LlamaConfig(**(SIZES | changes)))


def wrapped(base: nn.Module | None = None, **changes: object) -> PeftModel:
    config = LoraConfig(**({"r": 4, "lora_alpha": 16, "target_modules": EVERY, "task_type": "CAUSAL_LM"} | changes))
    return get_peft_model(llama() if base is None else base, config)


def batch_of(rows: int = 4, end: int = 1, pad: int = 0) -> dict:
    """Texts of several lengths with an end, padded; the padding left out by its place."""
    torch.manual_seed(1)
    ids, mask = torch.full((rows, 12), pad), torch.zeros(rows, 12, dtype=torch.long)
    for row in range(rows):
        ids[row, : 6 + row] = torch.randint(2, 48, (6 + row,))
        ids[row, 6 + row] = end
        mask[row, : 7 + row] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def optimizer_of(model: nn.Module, rate: float = 1e-2) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)


def train(model: nn.Module, steps: int = 4) -> torch.optim.Optimizer:
    optimizer = optimizer_of(model)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch_of()).loss.backward()
        optimizer.step()
    return optimizer


def names(*arguments: object, **named: object) -> set[str]:
    return {finding.name for finding in diagnose(*arguments, **named)}


HEALTHY = {
    "LoRA": lambda: wrapped(),
    "rsLoRA": lambda: wrapped(use_rslora=True),
    "DoRA": lambda: wrapped(use_dora=True),
    "dropout": lambda: wrapped(lora_dropout=0.1),
    "biases too": lambda: wrapped(llama(attention_bias=True), bias="lora_only"),
    "all-linear": lambda: wrapped(target_modules="all-linear"),
    "PiSSA": lambda: wrapped(init_lora_weights="pissa"),
    "some tokens trained and saved": lambda: wrapped(trainable_token_indices={"embed_tokens": [3, 4]}),
    "the embedding trained and saved": lambda: wrapped(modules_to_save=["embed_tokens", "lm_head"]),
    "over bfloat16": lambda: wrapped(llama().bfloat16()),
    "over float16": lambda: wrapped(llama().half()),
    "tied": lambda: wrapped(llama(tie_word_embeddings=True)),
    "put into the model itself": lambda: _added(llama()),
}


def _added(model: nn.Module) -> nn.Module:
    return peft.inject_adapter_in_model(LoraConfig(r=4, lora_alpha=16, target_modules=EVERY), model)


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_a_healthy_run(name):
    """Before any step, after one and after some; and at use."""
    model, batch = HEALTHY[name](), batch_of()
    assert diagnose(model) == []
    optimizer = optimizer_of(model)
    for steps in (0, 1, 3):
        for _ in range(steps):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
        assert diagnose(model, optimizer, batch) == []
    assert diagnose(model.eval(), batch={"input_ids": batch["input_ids"]}) == []


def test_nothing_is_said_of_adapters_saved_loaded_and_merged(tmp_path):
    model = wrapped()
    train(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(llama(), str(tmp_path))
    ids = {"input_ids": batch_of()["input_ids"]}
    assert diagnose(loaded) == [] and diagnose(loaded, batch=ids) == []
    on = PeftModel.from_pretrained(llama(), str(tmp_path), is_trainable=True)
    assert diagnose(on, optimizer_of(on), batch_of()) == []
    merged = loaded.merge_and_unload()
    assert diagnose(merged) == [] and diagnose(merged, batch=ids) == []


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_as_transformers_turns_it_on_is_well(reentrant):
    model = wrapped()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    assert diagnose(model.train(), optimizer_of(model), batch_of()) == []


def test_checkpointing_before_a_frozen_embedding_is_named():
    model = wrapped()
    model.base_model.model.gradient_checkpointing_enable({"use_reentrant": True})
    for module in model.modules():
        module._forward_hooks.clear()  # PEFT lets the embedding's output require a gradient: take that off
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert names(model.train(), optimizer_of(model), batch_of()) == {"checkpointing cuts the gradients off"}


def test_a_head_that_peft_keeps_is_well_and_a_frozen_one_is_named():
    head, batch = LlamaForSequenceClassification, batch_of()
    batch["labels"] = torch.tensor([0, 1, 0, 1])
    kept = wrapped(llama(head, num_labels=2), task_type="SEQ_CLS")
    assert diagnose(kept, optimizer_of(kept), batch) == []
    frozen = wrapped(llama(head, num_labels=2), task_type=None)
    said = [f for f in diagnose(frozen, optimizer_of(frozen), batch)]
    assert [f.name for f in said] in ([], ["a new head is frozen"])  # 64 normal entries do not always tell
    nn.init.uniform_(frozen.base_model.model.score.weight, -0.1, 0.1)
    assert names(frozen, optimizer_of(frozen), batch) == {"a new head is frozen"}


def test_adapters_loaded_for_use_and_trained_on_are_named(tmp_path):
    model = wrapped()
    train(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(llama(), str(tmp_path))
    optimizer = torch.optim.AdamW(loaded.parameters(), lr=1e-3)
    assert names(loaded.train(), optimizer) == {"nothing is trainable"}


def test_a_name_that_fits_nothing_is_named():
    model = wrapped(target_modules=["q_proj", "NO_SUCH_LAYER"])
    (found,) = diagnose(model, optimizer_of(model), batch_of())
    assert found.name == "target names not found" and found.evidence == {"names": 1, "of": 2}
    assert "NO_SUCH_LAYER" in found.mend


def test_a_base_that_trains_is_named():
    model = wrapped()
    model.requires_grad_(True)
    assert names(model, optimizer_of(model), batch_of()) == {"the base is not frozen"}


def test_an_optimizer_from_before_the_adapters_is_named():
    base = llama()
    optimizer = torch.optim.AdamW(base.parameters(), lr=1e-2)
    assert names(wrapped(base), optimizer, batch_of()) == {"the optimizer misses trainable parameters"}


def test_b_drawn_at_random_is_named_and_not_after_training():
    model = wrapped(init_lora_weights=False)
    assert names(model, optimizer_of(model), batch_of()) == {"B is not zero at the start"}
    assert diagnose(model, train(model), batch_of()) == []


def test_adapters_whose_tensors_are_missing_in_the_file_are_named(tmp_path):
    from safetensors.torch import load_file, save_file

    model = wrapped()
    train(model)
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    file = {f"other.{name}": tensor for name, tensor in load_file(path).items()}
    save_file(file, path, {"format": "pt"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = PeftModel.from_pretrained(llama(), str(tmp_path))
    assert names(loaded) == {"an adapter does nothing"}


def test_adapters_on_adapters_are_named():
    """PEFT's own "all-linear" given a second time through the tuner used to nest layers; built by hand here."""
    model = wrapped(target_modules=["q_proj"])
    for block in model.base_model.model.model.layers:
        inner = block.self_attn.q_proj
        outer = copy.deepcopy(inner)
        outer.base_layer = inner
        block.self_attn.q_proj = outer
    assert "adapters on adapters" in names(model)


def test_float16_is_named_where_peft_was_told_to_keep_it():
    config = LoraConfig(r=4, lora_alpha=16, target_modules=EVERY, task_type="CAUSAL_LM")
    model = get_peft_model(llama().half(), config, autocast_adapter_dtype=False)
    assert names(model, optimizer_of(model)) == {"trained in float16"}


def test_an_end_that_is_masked_with_the_padding_is_named():
    """Padding made of end tokens and left out by its id, as the usual collator does it."""
    batch, model = batch_of(pad=1), wrapped(llama(pad_token_id=1))
    batch["labels"] = batch["input_ids"].masked_fill(batch["input_ids"] == 1, -100)
    assert names(model, optimizer_of(model), batch) == {"the end of an answer is not learnt"}


@pytest.mark.parametrize(
    "begins, name",
    [
        (4, None),
        (0, "the loss counts the prompt"),
        (5, "the loss leaves out the first token of the answer"),
    ],
)
def test_a_loss_on_the_prompt_or_one_token_too_far_is_named(begins, name):
    """The batch says by TRL's completion_mask where the answer is, from token 4 on; the labels begin elsewhere."""
    batch, model = batch_of(), wrapped()
    batch["completion_mask"] = batch["attention_mask"].clone()
    batch["completion_mask"][:, :4] = 0
    batch["labels"][:, :begins] = -100
    assert names(model, optimizer_of(model), batch) == ({name} if name else set())


def test_labels_that_were_shifted_by_hand_too_are_named():
    batch, model = batch_of(), wrapped()
    batch["labels"] = torch.cat([batch["labels"][:, 1:], torch.full((4, 1), -100)], dim=1)
    assert "the labels are off by one" in names(model, optimizer_of(model), batch)


def test_dropout_at_use_is_named():
    model, ids = wrapped(lora_dropout=0.1), {"input_ids": batch_of()["input_ids"]}
    assert names(model.train(), batch=ids) == {"dropout is on at use"}
    train(model)
    assert names(model.train(), batch=ids) == {"dropout is on at use"}
    assert names(model.eval(), batch=ids) == set()


def test_an_embedding_that_trains_outside_modules_to_save_is_named():
    model = wrapped()
    model.get_input_embeddings().weight.requires_grad_(True)
    assert names(model, optimizer_of(model), batch_of()) == {"an embedding trains and is not saved"}


def test_a_state_dict_that_is_filtered_twice_is_named():
    """What a well-known script put on the model, and PEFT does itself since: nothing is left."""
    model = wrapped()
    whole = model.state_dict
    model.state_dict = lambda *a, **k: peft.get_peft_model_state_dict(model, whole())
    assert names(model, optimizer_of(model), batch_of()) == set()  # the numbers are all there, under other names
    model.state_dict = lambda *a, **k: peft.get_peft_model_state_dict(
        model, {n: t for n, t in whole().items() if "X" in n}
    )
    assert names(model, optimizer_of(model), batch_of()) == {"saving leaves the adapters out"}


@pytest.mark.parametrize("kind, named", [("linear", True), ("cat", False), ("svd", False)])
def test_adapters_added_by_their_factors_are_named_and_exact_sums_are_not(kind, named):
    model = wrapped(init_lora_weights=False)
    model.add_adapter("b", LoraConfig(r=4, lora_alpha=3, target_modules=EVERY, init_lora_weights=False))
    model.add_weighted_adapter(["default", "b"], [0.7, -0.3], "both", combination_type=kind)
    model.set_adapter("both")
    assert ("adapters added with cross terms" in names(model)) is named


def test_a_merge_in_place_into_four_bits_is_named():
    import bitsandbytes

    torch.manual_seed(0)
    model = nn.Module()
    model.q_proj = bitsandbytes.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4").to(
        "cpu"
    )
    model.v_proj, model.is_loaded_in_4bit = nn.Linear(64, 64), True
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    assert names(model) == set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.merge_adapter()
    (found,) = diagnose(model)
    assert found.name == "merged into 4 bits" and found.evidence == {"layers": 1, "of": 2}


def test_labels_that_are_all_left_out_are_named():
    """As where a template was not found; with one row that has its labels, a run is well."""
    batch, model = batch_of(), wrapped()
    batch["labels"][1:] = -100
    assert names(model, optimizer_of(model), batch) == set()
    batch["labels"][0] = -100
    assert names(model, optimizer_of(model), batch) == {"the loss counts nothing"}
    batch["completion_mask"] = torch.zeros_like(batch["labels"])
    assert names(model, optimizer_of(model), batch) == {"the loss counts nothing"}


def test_adapters_merged_in_place_and_trained_are_named():
    """Merged for use they are well, and so they are once they are unmerged."""
    model, ids = wrapped(), {"input_ids": batch_of()["input_ids"]}
    optimizer = train(model, 2)
    model.merge_adapter()
    assert names(model, optimizer, batch_of()) == {"merged in place, and trained"}
    assert names(model.eval(), batch=ids) == set()
    model.unmerge_adapter()
    assert names(model.train(), optimizer, batch_of()) == set()


def test_an_alpha_of_zero_is_named_and_adapters_that_are_switched_off_are_told_how_to_come_back():
    model = wrapped(lora_alpha=0)
    assert names(model, optimizer_of(model), batch_of()) == {"the scaling is zero"}
    model = wrapped()
    optimizer = optimizer_of(model)
    model.base_model.disable_adapter_layers()
    (found,) = diagnose(model, optimizer, batch_of())
    assert found.name == "nothing is trainable" and "enable_adapter_layers()" in found.mend


def test_a_baseline_at_use_and_a_float16_model_at_use_are_well():
    ids = {"input_ids": batch_of()["input_ids"]}
    for model in (wrapped().eval(), llama().half().eval()):
        assert names(model) == names(model, batch=ids) == set()


def test_the_lines_that_chapter_20_shows_run_as_they_stand(capsys):
    source = (ROOT / "notebooks" / "20_what_goes_wrong.py").read_text("utf-8").partition("## The same with PEFT")[2]
    block = source.partition("# ```python\n")[2].partition("# ```")[0]
    exec("\n".join(line.removeprefix("#").removeprefix(" ") for line in block.splitlines()), {})
    assert capsys.readouterr().out.startswith("the loss counts nothing (places counted 0")


def test_everything_is_as_it_was():
    """Modes, gradients, flags, numbers and the random state, under PEFT and with a checkpoint too."""
    model = wrapped(lora_dropout=0.1)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    optimizer, batch = train(model.train(), 2), batch_of()
    before = {n: (p.detach().clone(), p.requires_grad, p.grad) for n, p in model.named_parameters()}
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    diagnose(model, optimizer, batch)
    assert [m.training for m in model.modules()] == modes and torch.equal(torch.get_rng_state(), state)
    for name, p in model.named_parameters():
        value, flag, gradient = before[name]
        assert torch.equal(p, value) and p.requires_grad == flag and p.grad is gradient
