"""Values as JSON can hold them."""

import math

import numpy as np
from torch import Tensor


def plain(value: object) -> object:
    """`value` as JSON knows it: scalars of NumPy and torch as numbers; NaN and infinity, which it lacks, as null.

    Raises ValueError where two keys of a dict, such as 1 and "1", would become one.
    """
    if isinstance(value, dict):
        if len({str(key) for key in value}) < len(value):
            raise ValueError(f"the keys {list(value)} are not told apart in JSON; name them differently")
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic, Tensor)):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
