"""What `lora_from_scratch` itself offers."""

import subprocess
import sys

import pytest

import lora_from_scratch


def test_every_public_name_is_there():
    for name in lora_from_scratch.__all__:
        assert getattr(lora_from_scratch, name) is not None


def test_an_unknown_name_is_refused_as_by_any_module():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        lora_from_scratch.nonsense  # noqa: B018
    with pytest.raises(ImportError):
        from lora_from_scratch import nonsense  # noqa: F401


def test_files_and_banks_are_not_loaded_before_they_are_asked_for():
    """So that a chapter which saves nothing does not hang on the code that saves."""
    code = "import sys, lora_from_scratch as l; a = 'lora_from_scratch.peft_format' in sys.modules; l.save_adapter; "
    code += "print(a, 'lora_from_scratch.peft_format' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "False True\n"
