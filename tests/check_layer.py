"""Hold your own LoRA layer against the properties that every LoRA layer has.

    python tests/check_layer.py my_lora.py:MyLoRA          (or: make check LAYER=my_lora.py:MyLoRA)

Your class needs only this:

    layer = MyLoRA(base, rank, alpha)    base is an nn.Linear
    layer.A, layer.B                     parameters of shape (rank, d_in) and (d_out, rank)
    layer(x)                             W0 x + bias + alpha / rank · B A x, for x of shape (..., d_in)
    layer.merge()                        an nn.Linear that computes the same, the layer itself untouched
    layer.delta_weight()                 optional: alpha / rank · B A, of shape (d_out, d_in)

It prints each property in words, and for one that fails, what happened and what usually causes it. The exit code is
1 if one fails, and 2 if there is nothing to check. For a traceback: pytest tests/test_layer_properties.py --layer …
"""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


class Unusable(Exception):
    """There is no class to check, or it cannot be built; the message says what to do."""


@dataclass
class Result:
    """What came of one property: `verdict` is "holds", "fails", "cannot run" or "skipped"."""

    name: str
    claim: str
    verdict: str
    happened: str = ""
    usual_cause: str = ""


def load_layer(where: str) -> type:
    """The LoRA layer that "path/to/file.py:ClassName" names. Raises Unusable, saying what is wrong."""
    return try_to_build(load_class(where))


def load_class(where: str) -> type:
    """The class that "path/to/file.py:ClassName" names. Raises Unusable, saying what is wrong."""
    file, colon, name = where.rpartition(":")
    if not colon or not file or not name:
        raise Unusable(f"{where!r} should be a file and a class with a colon between: my_lora.py:MyLoRA")
    path = Path(file).resolve()
    if not path.is_file():
        raise Unusable(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None:
        raise Unusable(f"{path} is no Python file; its name should end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # so that the file can import its neighbours
    shadowed = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # dataclasses look their module up here
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise Unusable(f"{path} does not run: {_in_words(error)}") from error
    finally:
        sys.path.remove(str(path.parent))
        if shadowed is not None:  # a file called lora.py must not stand in for another one of that name
            sys.modules[path.stem] = shadowed
    if not hasattr(module, name):
        classes = [n for n, value in vars(module).items() if isinstance(value, type) and value.__module__ == path.stem]
        raise Unusable(f"{path} has no class {name}; it has {', '.join(classes) or 'no class at all'}")
    return getattr(module, name)


def try_to_build(layer_class: type) -> type:
    """Build one layer as the properties will; give the class back, or raise Unusable."""
    import torch

    label = getattr(layer_class, "__name__", repr(layer_class))
    try:
        layer = layer_class(torch.nn.Linear(5, 3), 2, 8.0)
    except Exception as error:
        raise Unusable(
            f"{label}(base, rank, alpha) could not be built from (nn.Linear(5, 3), 2, 8.0): {_in_words(error)}"
        ) from error
    if not isinstance(layer, torch.nn.Module):
        raise Unusable(f"{label} is no nn.Module; write `class {label}(nn.Module)`, with super().__init__() first")
    lacking = [name for name in ("A", "B", "merge") if not hasattr(layer, name)]
    if lacking:
        raise Unusable(f"{label} has no {' and no '.join(lacking)}; a layer needs A, B, forward and merge()")
    return layer_class


def check(layer_class: type, properties: ModuleType | None = None) -> list[Result]:
    """Try every property of test_layer_properties.py on `layer_class`, in the order in which they stand there."""
    properties = properties or importlib.import_module("test_layer_properties")
    tests = [value for name, value in vars(properties).items() if name.startswith("test_")]
    return [_try(test, layer_class) for test in tests]


def _try(test, layer_class: type) -> Result:
    import pytest

    claim = " ".join(test.__doc__.split())
    causes = [mark.args[0] for mark in test.pytestmark if mark.name == "usual_cause"]
    try:
        test(layer_class=layer_class)
    except AssertionError as error:
        return Result(test.__name__, claim, "fails", _in_words(error), *causes)
    except pytest.skip.Exception as reason:
        return Result(test.__name__, claim, "skipped", str(reason))
    except Exception as error:
        return Result(test.__name__, claim, "cannot run", _in_words(error), *causes)
    return Result(test.__name__, claim, "holds")


def report(results: list[Result], what: str = "a LoRA layer") -> str:
    """The results in words: each property, what happened where it does not hold, and what to look at first."""
    wrong = [result for result in results if result.verdict in ("fails", "cannot run")]
    failing = [result for result in wrong if result.verdict == "fails"] or wrong  # an error elsewhere may come of these
    lines = []
    for result in results:
        lines.append(f"{result.verdict:>10}  {result.claim}")
        if result.happened:
            lines.append(f"{'':12}what happened: {result.happened}")
        if result in failing:
            lines.append(f"{'':12}usual cause: {result.usual_cause}")
    if not wrong:
        return "\n".join([*lines, "", f"Every property holds: this is {what}."])
    first = failing[0]
    advice = f"{len(wrong)} of {len(results)} properties do not hold. Begin with: {first.claim}"
    return "\n".join([*lines, "", advice, f"The usual cause: {first.usual_cause}"])


def main(arguments: list[str]) -> int:
    """Check the class that the one argument names; the exit code."""
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 2
    from strategies import load_profile

    load_profile("ci")  # before the properties are imported: they take the profile that is loaded then
    try:
        results = check(load_layer(arguments[0]))
    except Unusable as error:
        print(f"Nothing to check: {error}")
        return 2
    print(report(results))
    return int(any(result.verdict in ("fails", "cannot run") for result in results))


def _in_words(error: Exception) -> str:
    """The first line of an error, with its type unless it is a failed assertion."""
    first = (str(error).strip() or "no message").splitlines()[0]
    return first if isinstance(error, AssertionError) else f"{type(error).__name__}: {first}"


if __name__ == "__main__":
    sys.path.append(str(ROOT))  # a layer may build on lora_from_scratch
    sys.exit(main(sys.argv[1:]))
