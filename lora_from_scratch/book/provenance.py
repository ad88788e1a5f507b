"""What a result was made with: versions, device, seeds, the text, and the code that ran."""

import hashlib
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from lora_from_scratch.lab import cache
from lora_from_scratch.lab.corpus import corpus_hash
from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.workers import SECONDS

PACKAGE = "lora_from_scratch"
RECORDS = f"{PACKAGE}.book"  # what records a result does not decide it


def provenance(preset: Preset, seconds: float, bases: int | None = None) -> dict:
    """The provenance of results that took `seconds` at `preset`, on as many bases as it has, or on `bases`."""
    modules = code_that_ran()
    cuda, threads = preset.device == "cuda", "two threads" if "lab/adapt.py" in modules else "one thread"
    return {
        "preset": preset.name,
        "device": torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()}), {threads} a run",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "seeds": list(range(1, preset.seeds + 1)),
        "bases": bases or preset.bases,
        "corpus_sha256": corpus_hash(),
        "code": hashlib.sha256(repr(modules).encode()).hexdigest(),
        "modules": modules,
        "seconds": round(seconds, 1),
        "training_seconds": round(sum(SECONDS), 1),  # of single runs, one after the other, cached ones included
    }


def code_that_ran() -> dict[str, str]:
    """{"lab/train.py": hash of its meaning as imported} of every module of the project's, but those that record."""
    names = sorted(n for n in sys.modules if n.startswith(f"{PACKAGE}.") and not f"{n}.".startswith(f"{RECORDS}."))
    loaded = {name: sys.modules[name] for name in names if getattr(sys.modules[name], "__file__", None)}
    return {_file_of(name, module): cache.as_imported(module)[:12] for name, module in loaded.items()}


def other_code(recorded: dict[str, str] | None, root: Path) -> list[str]:
    """The files whose meaning in the tree is not the recorded one; ["all"] where a result recorded none."""
    if not recorded:
        return ["all"]
    paths = {name: root / PACKAGE / name for name in recorded}
    return [n for n, p in paths.items() if not p.exists() or cache.meaning(p.read_text("utf-8"))[:12] != recorded[n]]


def _file_of(name: str, module: object) -> str:
    return Path(module.__file__).relative_to(Path(sys.modules[PACKAGE].__file__).parent).as_posix()
