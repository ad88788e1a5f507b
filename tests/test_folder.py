"""What is said of an adapter's folder: each reader's line names what is wrong, the exit code whether to care."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lora_from_scratch import AdapterConfig, add_adapters
from lora_from_scratch.adapter_files import CONFIG, TENSORS
from lora_from_scratch.folder import main, report
from lora_from_scratch.peft_format import save_adapter


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.v_proj = nn.Linear(6, 8), nn.Linear(6, 4)


def saved(folder, change=None, **options):
    """A folder with an adapter of rank 2 on two blocks; `change` may alter the model before it is saved."""
    torch.manual_seed(0)
    model = nn.Module()
    model.layers = nn.ModuleList([Block(), Block()])
    add_adapters(model, AdapterConfig(rank=options.pop("rank", 2), alpha=4, targets="all-linear", **options))
    for module in model.modules():
        if hasattr(module, "B"):
            nn.init.normal_(module.B)
    if change:
        change(model)
    save_adapter(model, folder)
    return folder


def settings(folder, **changes):
    config = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps({key: value for key, value in config.items() if value != "left out"}))
    return folder


def tensors(folder, change):
    found = load_file(folder / TENSORS)
    change(found)
    save_file(found, folder / TENSORS, {"format": "pt"})
    return folder


NAME = "base_model.model.layers.0.q_proj"


def lines(folder):
    found, same = report(folder)
    return dict(line.split(":", 1) for line in found), same


@pytest.mark.parametrize("options", [{}, {"rslora": True}], ids=["LoRA", "rsLoRA"])
def test_a_plain_folder_is_the_same_to_all_three(tmp_path, options):
    said, same = lines(saved(tmp_path, **options))
    assert same and all("loads it" in said[name] for name in ("this project", "PEFT", "vLLM"))
    scaling = "2.82843" if options else "2"
    assert f"of rank 2 (4 ×), scaling {scaling} (4 ×); 96 numbers" in said["holds"]


def test_vllm_knows_no_dora_and_one_scaling_alone(tmp_path):
    said, same = lines(saved(tmp_path / "a", dora=True))
    assert not same and "no DoRA" in said["vLLM"] and "loads it" in said["PEFT"] and "loads it" in said["this project"]
    said, same = lines(saved(tmp_path / "b", lambda model: setattr(model.layers[1].q_proj, "scaling", 5.0)))
    assert not same and "computes something else: it reads no alpha_pattern" in said["vLLM"]
    assert "scaling is 2 in layers.1.q_proj" in said["vLLM"] and "5 (1 ×)" in said["holds"]


def test_a_high_rank_needs_more_room_than_vllm_makes_by_default(tmp_path):
    said, same = lines(saved(tmp_path, rank=17))
    assert same and "--max-lora-rank of at least 17" in said["vLLM"]


@pytest.mark.parametrize(
    ("spoil", "reader", "told"),
    [
        (lambda f: settings(f, lora_alpha="left out"), "vLLM", "lacks lora_alpha"),
        (lambda f: settings(f, modules_to_save=["lm_head"]), "vLLM", "takes no modules_to_save"),
        (lambda f: settings(f, modules_to_save=["lm_head"]), "this project", "modules_to_save is ['lm_head']"),
        (lambda f: settings(f, r=3), "this project", "make it (3, 6)"),
        (lambda f: settings(f, r=3), "PEFT", "is (2, 6), and r is 3"),
        (lambda f: settings(f, peft_type="left out"), "PEFT", "no peft_type"),
        (lambda f: settings(f, peft_type="VERA"), "PEFT", "as VERA"),
        (lambda f: settings(f, use_dora=True), "PEFT", "fresh start"),
        (lambda f: tensors(f, lambda t: t.pop(f"{NAME}.lora_B.weight")), "PEFT", "is missing: layers.0.q_proj"),
        (lambda f: tensors(f, lambda t: t.pop(f"{NAME}.lora_B.weight")), "this project", "must have"),
        (lambda f: tensors(f, lambda t: t.update(odd=torch.ones(2))), "PEFT", "leaves out what it cannot place"),
        (lambda f: tensors(f, lambda t: t[f"{NAME}.lora_A.weight"].fill_(torch.nan)), "PEFT", "computes NaN"),
        (lambda f: (f / TENSORS).write_bytes((f / TENSORS).read_bytes()[:-8]), "PEFT", "refuses it"),
        (lambda f: (f / TENSORS).unlink(), "vLLM", "there are no tensors"),
        (lambda f: (f / TENSORS).rename(f / "adapter_model.bin"), "this project", "is a pickle"),
        (lambda f: (f / TENSORS).rename(f / "adapter_model.bin"), "PEFT", "weights_only"),
    ],
)
def test_what_is_wrong_is_named_for_the_reader_that_it_concerns(tmp_path, spoil, reader, told):
    saved(tmp_path)
    spoil(tmp_path)
    said, same = lines(tmp_path)
    assert told in said[reader] and not same


def test_the_command_tells_by_its_exit_code(tmp_path, capsys):
    assert main([str(saved(tmp_path / "good"))]) == 0
    assert main([str(saved(tmp_path / "dora", dora=True))]) == 1
    assert "holds:        DoRA" in capsys.readouterr().out
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / CONFIG).write_text("[]")
    for arguments, words in (
        ([], "Which folder?"),
        ([str(tmp_path / "nowhere")], "there is no folder"),
        ([str(tmp_path)], "adapter_config.json cannot be read"),
        ([str(tmp_path / "list")], "no settings by name but list"),
    ):
        assert main(arguments) == 2
        assert words in capsys.readouterr().err


def test_the_stand_in_for_the_base_takes_no_memory_of_its_size(tmp_path):
    """A layer of 60,000 × 60,000 would take 14 GB."""
    saved(tmp_path)
    wide = {f"{NAME}.lora_A.weight": torch.ones(2, 60_000), f"{NAME}.lora_B.weight": torch.ones(60_000, 2)}
    save_file(wide, tmp_path / TENSORS, {"format": "pt"})
    assert lines(settings(tmp_path, target_modules=["q_proj"]))[1]
