"""What the parity tests share: no network, one thread, the same numbers every time, and adapters with B far from zero.

transformers and PEFT are imported plainly: where they are missing these tests fail. `make parity` installs them.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported; every model is built from a configuration
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import peft  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    """One thread, one seed for every test, and transformers quiet about models it was given no weights for."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    assert peft.__version__ and transformers.__version__
