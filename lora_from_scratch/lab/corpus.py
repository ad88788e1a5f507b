"""The English that every Python carries: the documentation of `pydoc_data.topics` and the library's docstrings.

A character is its ASCII code, so the vocabulary has 128 symbols and needs no tokenizer. Nothing is downloaded.

    documents  one per topic, one per source file of the standard library (its docstrings, joined)
    cleaning   a paragraph that occurs twice, in any document, is kept once: otherwise the held-out text leaks
    split      by a hash of the document's name: 80 % `train` for pretraining, 10 % `task` for fine-tuning,
               10 % `held_out` for measuring; a document never stands in two of them

The library differs a little from one Python version to the next, so results record the text's sha256.
"""

import ast
import functools
import hashlib
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lora_from_scratch.lab.cache import cached, code_version

VOCABULARY = 128
SPLITS = ("train", "task", "held_out")
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data", "__pycache__"}


def encode(text: str) -> Tensor:
    """The ASCII codes of `text`, int64 of shape (len(text),). Raises ValueError at a character outside ASCII."""
    try:
        return torch.tensor(list(text.encode("ascii")), dtype=torch.long)
    except UnicodeEncodeError as error:
        found = text[error.start]
        raise ValueError(
            f"character {found!r} (U+{ord(found):04X}) at position {error.start} is outside the alphabet of "
            f"{VOCABULARY} ASCII characters; remove or replace it"
        ) from None


def decode(ids: Tensor) -> str:
    """The text of a 1-D tensor of ASCII codes."""
    return "".join(map(chr, ids.tolist()))


@functools.cache
def corpus() -> dict[str, str]:
    """The text of each split: {"train": ..., "task": ..., "held_out": ...}, about two million characters together.

    Reading the library takes seconds, so the text is cached, under the Python version, every source file's
    name and size, and this file's own code.
    """
    library = Path(sysconfig.get_path("stdlib"))
    sizes = "".join(f"{path.relative_to(library)} {path.stat().st_size}\n" for path in _sources(library))
    key = {
        "python": sys.version,
        "library": hashlib.sha256(sizes.encode()).hexdigest(),
        "code": code_version(sys.modules[__name__]),
    }
    return cached("corpus", key, read_corpus)


def read_corpus() -> dict[str, str]:
    """What `corpus` gives, read from the library anew."""
    seen: set[str] = set()
    parts: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name, text in documents():
        kept = []
        for paragraph in text.split("\n\n"):
            key = " ".join(paragraph.lower().split())
            if key and key not in seen:
                seen.add(key)
                kept.append(paragraph.strip("\n"))
        if kept:
            parts[_split_of(name)].append("\n\n".join(kept) + "\n\n")
    return {split: "".join(texts) for split, texts in parts.items()}


@functools.cache
def corpus_hash() -> str:
    """sha256 of the three splits, which names the text in caches and results."""
    digest = hashlib.sha256()
    for split, text in corpus().items():
        digest.update(f"{split}\0{text}\0".encode())
    return digest.hexdigest()


def documents() -> Iterator[tuple[str, str]]:
    """(name, text) of every document, in a fixed order, ASCII alone."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield f"topics/{name}", _ascii(topics[name])
    library = Path(sysconfig.get_path("stdlib"))
    for path in _sources(library):
        if text := _docstrings(path):
            yield path.relative_to(library).as_posix(), _ascii(text)


def _sources(folder: Path) -> Iterator[Path]:
    """The .py files below `folder` by name, without installed packages and tests."""
    for path in sorted(folder.iterdir(), key=lambda p: p.name):
        if path.is_dir() and path.name not in LEFT_OUT:
            yield from _sources(path)
        elif path.suffix == ".py":
            yield path


def _docstrings(path: Path) -> str:
    """The docstrings of a source file, in the order in which they stand, a blank line between them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old files hold invalid escapes
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return ""  # a few library files are templates or tests of the parser
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]  # walk goes level by level
    found = [ast.get_docstring(node) for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0))]
    return "\n\n".join(inspect.cleandoc(text) for text in found if text)


def _ascii(text: str) -> str:
    return text.encode("ascii", "ignore").decode()


def _split_of(name: str) -> str:
    """A tenth each for `task` and `held_out`, the rest for `train`, by the name alone."""
    bucket = hashlib.sha256(name.encode()).digest()[0] % 10
    return {0: "held_out", 1: "task"}.get(bucket, "train")
