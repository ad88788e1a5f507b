"""The table that every comparison ends in, by one call."""

import math

from lora_from_scratch.book import stats
from lora_from_scratch.lab.sweep import Tuned


def comparison(tuned: dict[str, Tuned], against: str, value: str = "task_loss", digits: int = 3) -> str:
    """Each method of a comparison at its best rate: its size, rate, mean `value` over seeds, and what it is off by.

    The difference is paired, seed by seed, with the method called `against`, and 95 % intervals are over seeds. The
    rate carries its resolution: the best one may be off by that factor. Raises ValueError for an unknown `against`.
    """
    if against not in tuned:
        raise ValueError(f"against is {against!r}; the comparison has {', '.join(tuned)}")
    rows = []
    for label, method in tuned.items():
        mean, half = stats.paired(method.values(value), tuned[against].values(value))
        off = f"{mean:+.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")
        factor = "" if math.isnan(method.resolution) else f"×÷ {method.resolution:.2g}"
        size, rate = f"{method.values('trained')[0]:,d}", f"{method.run.lr:.2g}"
        rows.append([label, size, rate, factor, stats.shown(method.values(value), digits)])
        rows[-1].append("" if label == against else off)
    return stats.table(["method", "trained", "rate", "known to", value.replace("_", " "), f"minus {against}"], rows)
