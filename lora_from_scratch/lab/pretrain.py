"""The pretrained bases of the book: a small Llama that has read the library's documentation, one for each seed.

Base s starts from the weights and reads the windows of seed s, and a run of seed s fine-tunes it, so that what varies
from seed to seed is a model and not one model's fine-tunings alone. A preset says how many bases there are; further
seeds begin with the first again. Each is trained once, on one thread, so that two can be made side by side, and then
read from the cache. Its key holds the model, the recipe, the text's hash, the code and the seed.
"""

import torch

from lora_from_scratch.lab import cache, corpus, llama, presets, progress, tasks, train

HERE = cache.imported(__name__)


def base_key(preset: presets.Preset, seed: int = 0) -> dict:
    """Everything that decides the weights of the base that a run of `seed` starts from."""
    return {
        "model": vars(preset.model),
        "steps": preset.pretrain_steps,
        "batch": preset.pretrain_batch,
        "device": preset.device,
        "corpus": corpus.corpus_hash(),
        "code": cache.code_version(llama, corpus, tasks, train, HERE),
        "torch": torch.__version__,
        "seed": preset.base_of(seed),
    }


def pretrained(preset: presets.Preset, seed: int = 0) -> llama.TinyLlama:
    """The base that a run of `seed` starts from, a fresh copy at each call, on the preset's device; made if need be."""
    state = cache.cached("base", base_key(preset, seed), lambda: _pretrain(preset, preset.base_of(seed)))
    with torch.random.fork_rng():
        model = llama.TinyLlama(preset.model)
    model.load_state_dict(state)
    return model.to(preset.device)


def untrained(preset: presets.Preset, seed: int = 0) -> llama.TinyLlama:
    """That base as it was before pretraining, with the very weights it started from, on the preset's device."""
    with torch.random.fork_rng():
        torch.manual_seed(preset.base_of(seed))
        return llama.TinyLlama(preset.model).to(preset.device)


def _pretrain(preset: presets.Preset, base: int) -> dict:
    shown = progress.bar(total=preset.pretrain_steps, desc=f"pretraining ({preset.name}, base {base})")
    with train.threads(1), shown:
        model = untrained(preset, base)
        ids = tasks.task_ids("text", "train")
        batches = train.Batches(ids, preset.pretrain_batch, preset.model.max_position_embeddings, seed=base)
        train.fit(model, batches, preset.pretrain_steps, lr=3e-3, on_step=shown.update)
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}
