"""Results of long work on disk, used again only where nothing that decides them has changed.

A cache file holds its whole key beside its value. It is used if it reads back whole and its key is equal to the
one asked for; otherwise, whatever is wrong with it, the work is done again and one line says why. Files are
written under a temporary name and moved into place, so an interruption leaves the old file or none.

A result belongs to the code that *ran*: the meaning of a module, its syntax tree without docstrings and comments, is
taken when it is imported. So words can be mended without training again, and a source that was edited since gives
this process neither the hash of code that it does not run, nor later ones the results of code that they do not have.
"""

import ast
import hashlib
import inspect
import json
import os
import sys
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import numpy as np
import torch

NOTED: dict[ModuleType, tuple[object, str]] = {}  # {module: (the spec that it was loaded by, its meaning then)}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
ROOT = Path(__file__).resolve().parents[2]


def build_folder() -> Path:
    """Where caches and uncommitted results go: `build/` beside the package, or what LORA_BUILD names."""
    return Path(os.environ.get("LORA_BUILD", ROOT / "build")).resolve()


def meaning(source: str) -> str:
    """sha256 of what a source says to Python: its syntax tree, without docstrings, comments and layout."""

    def plain(node: object) -> object:
        if isinstance(node, list):
            return [plain(entry) for entry in node]
        if not isinstance(node, ast.AST):
            return repr(node)
        fields = dict(ast.iter_fields(node))
        first = fields["body"][0] if isinstance(fields.get("body"), list) and fields["body"] else None
        if isinstance(node, DOCUMENTED) and isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            fields["body"] = fields["body"][isinstance(first.value.value, str) :]
        # What is empty is left out: later versions of Python add fields, which are empty where nothing new is used.
        return [type(node).__name__, {n: plain(v) for n, v in fields.items() if v not in (None, [])}]

    return hashlib.sha256(json.dumps(plain(ast.parse(source)), sort_keys=True).encode()).hexdigest()


def imported(name: str) -> ModuleType:
    """The module called `name`. Notes the meaning of it and of all others of the project that are imported by now."""
    for module in [m for n, m in list(sys.modules.items()) if n == name or n.startswith("lora_from_scratch.")]:
        if getattr(module, "__file__", None):
            as_imported(module)
    return sys.modules[name]


def code_version(*modules: ModuleType) -> str:
    """sha256 of the meaning of `modules` as they were imported: another one makes their cached results stale.

    Raises RuntimeError for a module that was edited between its import and the first call for it, or of `imported`.
    """
    return hashlib.sha256("".join(map(as_imported, modules)).encode()).hexdigest()


def as_imported(module: ModuleType) -> str:
    """The meaning of a module, taken once for each time that it was loaded; a reload makes a new spec.

    Raises RuntimeError for one that was edited before, or reloaded as other code: what other modules took from it by
    `from … import` is what it was, so neither the old hash nor the new one is of all that runs.
    """
    noted = NOTED.get(module)
    if noted is None or noted[0] is not module.__spec__:
        source = Path(module.__file__).read_text(encoding="utf-8")
        now = meaning(source)
        if not _is_loaded_from(module, source) or (noted is not None and noted[1] != now):
            raise RuntimeError(f"{module.__name__} was edited since it was imported; restart Python, and run again")
        noted = NOTED[module] = (module.__spec__, now)
    return noted[1]


def _is_loaded_from(module: ModuleType, source: str) -> bool:
    """Whether the functions that `module` runs are those that `source` compiles to."""
    codes, waiting = {}, [compile(source, module.__file__, "exec", dont_inherit=True)]
    while waiting:
        code = waiting.pop()
        codes[code.co_qualname] = code
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    owners = [module, *(v for v in vars(module).values() if inspect.isclass(v) and v.__module__ == module.__name__)]
    found = (inspect.unwrap(value) for owner in owners for value in vars(owner).values() if callable(value))
    own = [f for f in found if isinstance(f, FunctionType) and f.__code__.co_filename == module.__file__]
    return all(f.__code__ == codes.get(f.__code__.co_qualname) for f in own if "<" not in f.__code__.co_qualname)


def canonical(value: object) -> object:
    """A key as JSON tells it apart: NumPy's numbers are numbers, 4 and 4.0 one, and {1: …} and {"1": …} two dicts."""
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        return canonical(value.tolist())
    if isinstance(value, dict):
        entries = {json.dumps([type(key).__name__, str(key)]): canonical(entry) for key, entry in value.items()}
        return {key: entries[key] for key in sorted(entries)}
    if isinstance(value, (list, tuple)):
        return [canonical(entry) for entry in value]
    if isinstance(value, Real) and not isinstance(value, Integral):
        return int(value) if float(value).is_integer() else float(value)
    return value


def cached(kind: str, key: dict, compute: Callable[[], object]) -> object:
    """The value that `compute()` gives, from disk if the cache holds it under this very `key`.

    Args:
        kind: the first part of the file's name, such as "base".
        key: everything that decides the value, as JSON-able data.
        compute: gives the value: tensors, numbers, strings, and lists and dicts of them.
    """
    text = json.dumps(canonical(key))
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
