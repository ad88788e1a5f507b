"""What folder.py says of PEFT, held against PEFT: the same broken folders, loaded by it."""

import json
import warnings

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn

from lora_from_scratch import AdapterConfig, add_adapters
from lora_from_scratch.adapter_files import CONFIG, TENSORS
from lora_from_scratch.folder import report
from lora_from_scratch.peft_format import save_adapter

NAME = "base_model.model.q_proj"


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q_proj, self.v_proj = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.v_proj(self.q_proj(x))


def saved(folder):
    model = add_adapters(Base(), AdapterConfig(rank=2, alpha=4, targets="all-linear"))
    for module in (model.q_proj, model.v_proj):
        nn.init.normal_(module.B)
    save_adapter(model, folder)
    return model


def spoil_tensors(folder, change):
    found = load_file(folder / TENSORS)
    change(found)
    save_file(found, folder / TENSORS, {"format": "pt"})


def by_peft(folder):
    """(the model that PEFT makes, its warnings in one string)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(Base(), str(folder))
    return model, " ".join(str(w.message) for w in caught)


def peft_line(folder):
    return next(line for line in report(folder)[0] if line.startswith("PEFT"))


def test_a_tensor_that_is_missing_is_warned_of_and_leaves_a_layer_that_does_nothing(tmp_path):
    saved(tmp_path)
    spoil_tensors(tmp_path, lambda tensors: tensors.pop(f"{NAME}.lora_B.weight"))
    model, warned = by_peft(tmp_path)
    assert "missing" in warned.lower() and not model.base_model.model.q_proj.lora_B["default"].weight.any()
    assert "with a warning, and keeps its fresh start" in peft_line(tmp_path)


def test_a_tensor_that_has_no_place_is_left_out(tmp_path):
    ours = saved(tmp_path)
    spoil_tensors(tmp_path, lambda tensors: tensors.update({"odd": torch.ones(2)}))
    model, _ = by_peft(tmp_path)
    x = torch.randn(3, 6)
    assert torch.allclose(model(x), ours(x), atol=1e-6) and "leaves out" in peft_line(tmp_path)


def test_numbers_that_are_not_finite_are_loaded_without_a_word(tmp_path):
    saved(tmp_path)
    spoil_tensors(tmp_path, lambda tensors: tensors[f"{NAME}.lora_A.weight"].fill_(torch.nan))
    model, warned = by_peft(tmp_path)
    assert model(torch.ones(1, 6)).isnan().all() and not warned and "computes NaN" in peft_line(tmp_path)


def test_a_pickle_is_loaded_where_there_is_no_other_file(tmp_path):
    ours = saved(tmp_path)
    torch.save(load_file(tmp_path / TENSORS), tmp_path / "adapter_model.bin")
    (tmp_path / TENSORS).unlink()
    x = torch.randn(3, 6)
    assert torch.allclose(by_peft(tmp_path)[0](x), ours(x), atol=1e-6) and "weights_only" in peft_line(tmp_path)


@pytest.mark.parametrize("broken", ["cut off", "no kind", "another r"])
def test_a_file_that_is_cut_off_and_settings_of_no_kind_or_another_rank_are_refused(tmp_path, broken):
    saved(tmp_path)
    if broken == "cut off":
        (tmp_path / TENSORS).write_bytes((tmp_path / TENSORS).read_bytes()[:-8])
    else:
        config = json.loads((tmp_path / CONFIG).read_text())
        config |= {"r": 3} if broken == "another r" else {"peft_type": None}
        (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(Exception):  # noqa: B017 - whatever PEFT raises
        by_peft(tmp_path)
    assert "refuses it" in peft_line(tmp_path)
