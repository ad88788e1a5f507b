"""The one pretrained base of the book: a small Llama that has read the library's documentation.

Trained once per preset, then read from the cache. Its key holds the model, the recipe, the text's hash and the code.
"""

import sys

import torch

from lora_from_scratch.lab import cache, corpus, llama, presets, progress, tasks, train


def base_key(preset: presets.Preset) -> dict:
    """Everything that decides the pretrained weights."""
    return {
        "model": vars(preset.model),
        "steps": preset.pretrain_steps,
        "batch": preset.pretrain_batch,
        "device": preset.device,
        "corpus": corpus.corpus_hash(),
        "code": cache.code_version(llama, corpus, tasks, train, sys.modules[__name__]),
        "torch": torch.__version__,
    }


def pretrained(preset: presets.Preset) -> llama.TinyLlama:
    """The pretrained model, a fresh copy at each call, on the preset's device; trained first if need be."""
    state = cache.cached("base", base_key(preset), lambda: _pretrain(preset))
    model = llama.TinyLlama(preset.model)
    model.load_state_dict(state)
    return model.to(preset.device)


def untrained(preset: presets.Preset) -> llama.TinyLlama:
    """The model as it was before pretraining, with the very weights it started from, on the preset's device."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return llama.TinyLlama(preset.model).to(preset.device)


def _pretrain(preset: presets.Preset) -> dict:
    with train.threads(2), progress.bar(total=preset.pretrain_steps, desc=f"pretraining ({preset.name})") as shown:
        model = untrained(preset)
        ids = tasks.task_ids("text", "train")
        batches = train.Batches(ids, preset.pretrain_batch, preset.model.max_position_embeddings, seed=0)
        train.fit(model, batches, preset.pretrain_steps, lr=3e-3, on_step=shown.update)
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}
