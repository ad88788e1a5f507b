"""Where the best of three learning rates lies: at the bottom of a parabola through their losses, over log(rate)."""

import math


def bottom(losses: dict[float, float]) -> float:
    """The rate at the bottom of the parabola, in log(rate), through three {rate: loss}, and never outside them.

    The best of the three rates where they are no bowl or one of them diverged. Raises ValueError for another number.
    """
    if len(losses) != 3:
        raise ValueError(f"{len(losses)} rates; a parabola takes three")
    rates = sorted(losses)
    y = [losses[rate] for rate in rates]
    best = min(rates, key=lambda rate: (math.isnan(losses[rate]), losses[rate]))
    if not all(map(math.isfinite, y)):
        return best
    (x0, x1, x2), (y0, y1, y2) = map(math.log, rates), y
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    bend = (right - left) / (x2 - x0)
    if bend <= 0:
        return best
    return min(max(math.exp((x0 + x1) / 2 - left / (2 * bend)), rates[0]), rates[-1])
