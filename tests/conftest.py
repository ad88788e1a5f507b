"""What all tests share: one thread, Hypothesis profiles, and the layer class that the properties are about.

pytest                                     LoRALinear
pytest --layer my_lora.py:MyLoRA tests/test_layer_properties.py
HYPOTHESIS_PROFILE=thorough pytest         twenty times the examples
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # so that it runs in a checkout that is not installed

import pytest  # noqa: E402
import torch  # noqa: E402
from check_layer import Unusable, load_layer  # noqa: E402
from strategies import load_profile  # noqa: E402

load_profile()


def pytest_addoption(parser):
    parser.addoption(
        "--layer", metavar="FILE.py:CLASS", help="the class test_layer_properties.py is about (default: LoRALinear)"
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "usual_cause(words): what is usually wrong with a layer that fails this")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def layer_class(request):
    """The class under test: LoRALinear, or what --layer names."""
    named = request.config.getoption("--layer")
    if named is None:
        from lora_from_scratch import LoRALinear

        return LoRALinear
    try:
        return load_layer(named)
    except Unusable as error:
        pytest.exit(str(error), returncode=4)


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A small checkpoint, a made-up text, and a cache of this test's own (lessons.py)."""
    from lessons import small_checkpoint

    return small_checkpoint(tmp_path, monkeypatch)
