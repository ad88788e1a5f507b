"""diagnose on the runs that the book's chapters make, as their own loop builds them: not a word is said of any."""

from dataclasses import replace

import pytest
import torch
from test_tasks import use_made_up_text

from lora_from_scratch.diagnose import diagnose
from lora_from_scratch.inject import AdapterConfig, trainable_parameters
from lora_from_scratch.lab import codes, finetune
from lora_from_scratch.lab.begin import LOFTQ
from lora_from_scratch.lab.finetune import Run, fine_tune
from lora_from_scratch.lab.presets import PRESETS
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.tasks import random_windows
from lora_from_scratch.lab.train import loss_of
from lora_from_scratch.loraplus import loraplus_param_groups

SMOKE = replace(PRESETS["smoke"], pretrain_steps=4, eval_windows=4, workers=1, steps=6)
LORA = AdapterConfig(rank=4, alpha=16)
RUNS = {
    "LoRA": Run(adapter=LORA),
    "rank 1": Run(adapter=replace(LORA, rank=1)),
    "rank 32": Run(adapter=replace(LORA, rank=32)),
    "rsLoRA": Run(adapter=replace(LORA, rslora=True)),
    "DoRA": Run(adapter=replace(LORA, dora=True)),
    "dropout": Run(adapter=replace(LORA, dropout=0.1)),
    "q and v": Run(adapter=replace(LORA, targets=["q_proj", "v_proj"])),
    "LoRA+": Run(adapter=LORA, ratio=16, weight_decay=0.1),
    "all weights": Run(),
    "the linear layers": Run(scope="linear"),
    "start: A zero": Run(adapter=LORA, start="A zero"),
    **{f"over {base}": Run(adapter=LORA, base=base) for base in codes.BASES},
    **{f"over {base}, start: {LOFTQ}": Run(adapter=LORA, base=base, start=LOFTQ) for base in codes.BASES},
}


@pytest.fixture(autouse=True)
def build(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BUILD", str(tmp_path))
    use_made_up_text(monkeypatch)


def optimizer_of(model: torch.nn.Module, run: Run) -> torch.optim.Optimizer:
    groups = None if run.ratio == 1 else loraplus_param_groups(model, run.lr, run.ratio, run.weight_decay)
    return torch.optim.AdamW(groups or trainable_parameters(model), lr=run.lr, weight_decay=run.weight_decay)


@pytest.mark.parametrize(
    "start, name", [("both random", "B is not zero at the start"), ("both zero", "an adapter does nothing")]
)
def test_the_two_starts_that_chapter_01_breaks_on_purpose_are_named(start, name):
    run, model = Run(adapter=LORA, start=start), pretrained(SMOKE, 0)
    finetune.prepare(model, run)
    assert [f.name for f in diagnose(model, optimizer_of(model, run))] == [name]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_the_book_is_silent_before_it_begins_and_when_it_has_ended(name):
    """With its own loss on windows of its length; at the end taken up again, measured, and used."""
    run, model = RUNS[name], pretrained(SMOKE, 0)
    windows = random_windows(torch.arange(4096) % 60, 4, 16, torch.Generator().manual_seed(0))
    prepared = pretrained(SMOKE, 0)
    finetune.prepare(prepared, run)
    assert diagnose(prepared) == []
    assert diagnose(prepared, optimizer_of(prepared, run), windows, loss_of) == []
    fine_tune(run, model, SMOKE)
    assert diagnose(model, optimizer_of(model, run), windows, loss_of) == []
    assert diagnose(model.eval(), batch=windows, loss=loss_of) == []
    assert diagnose(model, batch=windows[:, :-1]) == []
