"""The two files of an adapter's folder, as bytes: read with every check, and written so that they always fit together.

Nothing is pickled, so a foreign folder cannot run code.
"""

import json
import os
from pathlib import Path

import safetensors.torch
from torch import Tensor

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def write_pair(folder: Path, settings: bytes, numbers: bytes) -> None:
    """Move a new pair over an old one. While the tensors and the settings differ in age, there are no settings."""
    folder.mkdir(parents=True, exist_ok=True)
    config, tensors = folder / CONFIG, folder / TENSORS
    old, new_config, new_tensors = (folder / f".{name}-{os.getpid()}" for name in ("old", CONFIG, TENSORS))
    try:
        new_tensors.write_bytes(numbers), new_config.write_bytes(settings)
        if config.exists() and config.read_bytes() != settings:
            os.replace(config, old)
        os.replace(new_tensors, tensors)
        os.replace(new_config, config)
    finally:
        # After an interruption. New settings are written after new tensors, so if they are alone those have moved.
        fitting = old if new_tensors.exists() else new_config
        if fitting.exists() and not config.exists():
            os.replace(fitting, config)
        for path in (old, new_config, new_tensors):
            path.unlink(missing_ok=True)


def read_settings(folder: Path) -> dict:
    """What CONFIG says. Raises ValueError for a file that is missing, no JSON, or of another kind of adapter."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{CONFIG} cannot be read ({error}); give the folder that an adapter was saved to") from None
    except ValueError as error:
        raise ValueError(f"{CONFIG} is no JSON ({error}); is it cut off?") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ValueError(f'{CONFIG} does not say "peft_type": "LORA"; other kinds of adapters cannot be loaded here')
    return config


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors in `folder`, by PEFT's names. Raises ValueError for a file that is missing, cut off or pickled."""
    path, pickled = folder / TENSORS, folder / "adapter_model.bin"
    if not path.exists():
        advice = f"{pickled.name} is a pickle, which may run code: load it in PEFT, and save it again as safetensors"
        raise ValueError(f"there is no {TENSORS}" + (f"; {advice}" if pickled.exists() else ""))
    try:
        return dict(sorted(safetensors.torch.load(path.read_bytes()).items()))  # they come in any order
    except Exception as error:  # whatever is wrong with it, it cannot be used
        raise ValueError(f"{TENSORS} cannot be read ({error}); it may be cut off: fetch or save it again") from None
