"""Hold your own DoRA layer, NF4 quantizer, QLoRA layer or paged optimizer against the properties that each one has.

    make check DORA=my_dora.py:MyDoRA          python tests/check_own.py dora my_dora.py:MyDoRA
    make check NF4=my_nf4.py:MyNF4             … nf4 …
    make check QLORA=my_qlora.py:MyQLoRA       … qlora …
    make check PAGED=my_paged.py:MyPaged       … paged …

What your class needs stands at the head of tests/properties_dora.py, properties_nf4.py, properties_qlora.py and
properties_paged.py. It prints each property in words, and for one that fails, what happened and what usually causes
it. The exit code is 1 if one fails, and 2 if there is nothing to check. (A LoRA layer: check_layer.py.)
"""

import importlib
import sys
from types import ModuleType

from check_layer import ROOT, Unusable, _in_words, check, load_class, report

KINDS = {"dora": "a DoRA layer", "nf4": "an NF4 quantizer", "qlora": "a QLoRA layer", "paged": "a paged AdamW"}


def properties_of(kind: str) -> ModuleType:
    """The module that holds the properties of a kind, one of KINDS."""
    return importlib.import_module(f"properties_{kind}")


def try_to_build(owned: type, properties: ModuleType) -> type:
    """Build one as the properties will; give the class back, or raise Unusable."""
    label = getattr(owned, "__name__", repr(owned))
    try:
        made = properties.build(owned)
    except Exception as error:
        raise Unusable(f"{label} could not be built as {properties.CALL}: {_in_words(error)}") from error
    lacking = [name for name in properties.NEEDS if not hasattr(made, name)]
    if lacking:
        raise Unusable(f"{label} has no {' and no '.join(lacking)}; it needs {', '.join(properties.NEEDS)}")
    return owned


def main(arguments: list[str]) -> int:
    """Check what the arguments, a kind and FILE:CLASS, name; the exit code."""
    if len(arguments) != 2 or arguments[0] not in KINDS:
        print(__doc__)
        return 2
    kind, where = arguments
    properties = properties_of(kind)
    try:
        results = check(try_to_build(load_class(where), properties), properties)
    except Unusable as error:
        print(f"Nothing to check: {error}")
        return 2
    print(report(results, KINDS[kind]))
    return int(any(result.verdict in ("fails", "cannot run") for result in results))


if __name__ == "__main__":
    sys.path.append(str(ROOT))  # what is checked, and what checks it, may build on lora_from_scratch
    sys.exit(main(sys.argv[1:]))
