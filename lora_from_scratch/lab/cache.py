"""Results of long work on disk, used again only where nothing that decides them has changed.

A cache file holds its whole key beside its value. It is used if it reads back whole and its key is equal to the
one asked for; otherwise, whatever is wrong with it, the work is done again and one line says why. Files are
written under a temporary name and moved into place, so an interruption leaves the old file or none.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

ROOT = Path(__file__).resolve().parents[2]


def build_folder() -> Path:
    """Where caches and uncommitted results go: `build/` beside the package, or what LORA_BUILD names."""
    return Path(os.environ.get("LORA_BUILD", ROOT / "build")).resolve()


def code_version(*modules: ModuleType) -> str:
    """sha256 of the source files of `modules`: a change in any of them makes their cached results stale."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()


def cached(kind: str, key: dict, compute: Callable[[], object]) -> object:
    """The value that `compute()` gives, from disk if the cache holds it under this very `key`.

    Args:
        kind: the first part of the file's name, such as "base".
        key: everything that decides the value, as JSON-able data.
        compute: gives the value: tensors, numbers, strings, and lists and dicts of them.
    """
    text = json.dumps(key, sort_keys=True)
    path = build_folder() / "cache" / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.pt"
    if path.exists():
        try:
            stored = torch.load(path, weights_only=True)  # weights_only: a foreign file cannot run code
            if isinstance(stored, dict) and stored.get("key") == text:
                return stored["value"]
            reason = "holds something else"
        except Exception as error:  # truncated, foreign, unreadable: whatever it is, it is not ours to use
            reason = f"cannot be read ({type(error).__name__})"
        print(f"cache file {path.name} {reason}; doing the work again")
    value = compute()
    save_atomically(path, lambda temporary: torch.save({"key": text, "value": value}, temporary))
    return value


def save_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path in `path`'s folder, then move that file to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
