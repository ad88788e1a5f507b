"""An adapter of the real model, trained and saved by us, is the same adapter under PEFT."""

import copy

import pytest
import torch
import transformers
from peft import PeftModel

from lora_from_scratch import AdapterConfig, load_adapter, save_adapter
from lora_from_scratch.lab import adapt
from lora_from_scratch.lab.answers import chat
from lora_from_scratch.lab.checkpoint import _packaged, load_checkpoint
from lora_from_scratch.lab.generate import generate
from lora_from_scratch.lab.records import records

LESSON = adapt.Lesson("records", AdapterConfig(rank=8, alpha=32), lr=3e-3, seed=1, steps=6, batch=4, keep=True,
                      judged=False, held=4, spoken=1, windows=1)  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(the checkpoint, our model with what a short lesson taught it, the folder that it was saved to)."""
    checkpoint = load_checkpoint()
    ours = adapt.prepared(copy.deepcopy(checkpoint.model), LESSON)
    ours.load_state_dict(adapt.adapt(LESSON, checkpoint)["state"], strict=False)
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(ours, folder)
    return checkpoint, ours.eval(), folder


def test_fifty_greedy_continuations_are_those_of_peft(saved):
    """PEFT, fed our continuation, finds each of its tokens the likeliest, unless two are level."""
    checkpoint, ours, folder = saved
    path = _packaged()
    base = transformers.AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, gguf_file=path.name)
    theirs = PeftModel.from_pretrained(base, folder).eval()
    prompts = [checkpoint.tokenizer.encode(chat(record.sentence)) for record in records("both new", 50, seed=4)]
    found = generate(ours, prompts, 16, stop=[checkpoint.tokenizer.eos])
    plain = generate(checkpoint.model, prompts, 16, stop=[checkpoint.tokenizer.eos])
    assert sum(a != b for a, b in zip(found, plain, strict=True)) >= 40, "the lesson must have changed what is said"
    for prompt, said in zip(prompts, found, strict=True):
        with torch.no_grad():
            logits = theirs(torch.tensor([prompt + said])).logits[0, len(prompt) - 1 : -1]  # (new tokens, V)
        lost = logits.max(dim=1).values - logits.gather(1, torch.tensor(said)[:, None])[:, 0]
        assert lost.max() < 1e-3, checkpoint.tokenizer.decode(said)


def test_it_loads_again_to_the_same_logits(saved):
    checkpoint, ours, folder = saved
    again = load_adapter(copy.deepcopy(checkpoint.model), folder).eval()
    ids = torch.tensor([checkpoint.tokenizer.encode(chat(records("both new", 1, seed=5)[0].sentence))])
    with torch.no_grad():
        assert torch.equal(again(ids), ours(ids)) and not torch.allclose(ours(ids), checkpoint.model(ids), atol=0.1)
