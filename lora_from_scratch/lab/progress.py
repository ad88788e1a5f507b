"""A progress bar that a reader sees and a committed notebook does not keep.

In a terminal and in live Jupyter the bar is drawn as usual. When a chapter is executed by `make notebooks`, its
output is recorded; then LORA_PROGRESS names the terminal of that command, and the bar is drawn there instead.
"""

import os
import sys

from tqdm.auto import tqdm as notebook_tqdm
from tqdm.std import tqdm as terminal_tqdm


def bar(**options) -> terminal_tqdm:
    """A tqdm bar that leaves nothing behind, shown wherever a person is watching. Takes tqdm's own options."""
    recorded = "LORA_PRESET" in os.environ and "ipykernel" in sys.modules
    if recorded:
        terminal = os.environ.get("LORA_PROGRESS")
        if not terminal:
            return terminal_tqdm(disable=True, **options)
        return terminal_tqdm(file=open(terminal, "w"), leave=False, **options)  # noqa: SIM115: open while it is drawn
    if "ipykernel" in sys.modules:
        return notebook_tqdm(leave=False, **options)
    return terminal_tqdm(leave=False, disable=None, **options)  # disable=None: off where there is no terminal
