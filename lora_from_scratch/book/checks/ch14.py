"""The exercises of chapter 14: a rate for another alpha, the knobs that train alike, the bottom of a valley."""

import math

from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number

RATE, TIMES = 2e-3, 2.0  # the best rate, and how many times as large s becomes


def check_rates(answer) -> str:
    """1e-3 and 2e-3 / √2."""
    if not isinstance(answer, dict) or set(answer) != {"short run", "long run"}:
        return not_yet('give {"short run": …, "long run": …}')
    short, long_ = (number(answer[name]) for name in ("short run", "long run"))
    if short is None and long_ is None:
        return STUB
    if short is None or long_ is None:
        return not_yet("give a number for both")
    near = lambda value, wanted: math.isclose(value, wanted, rel_tol=0.01)  # noqa: E731
    if near(short, RATE / TIMES) and near(long_, RATE / math.sqrt(TIMES)):
        return RIGHT
    if near(short, RATE / math.sqrt(TIMES)) and near(long_, RATE / TIMES):
        return not_yet("the two have changed places: the short run's rate goes as 1 / s, the long run's as 1 / √s")
    if near(short, RATE) and near(long_, RATE):
        return not_yet(
            "alpha has doubled and the rank has not, so s has doubled; a kept rate would move the model more"
        )
    for name, value, power in (("short", short, 1.0), ("long", long_, 0.5)):
        if near(value, RATE * TIMES**power):
            return not_yet(f"{name} run: the other way round; a larger s wants a smaller rate")
        if not near(value, RATE / TIMES**power):
            return not_yet(f"{name} run: s is 32 / 16 before and 64 / 16 after; how does the rate go with s there?")
    return not_yet("how does the rate go with s in each limit?")


def check_knobs(function) -> str:
    """alpha · size of A · rate of B, and size of A / rate of A, are as they were."""
    told = []
    for alpha, size, rate_A, rate_B, new in ((32.0, 1.0, 1e-3, 1e-3, 8.0), (16.0, 0.5, 2e-3, 3e-2, 64.0)):
        found, problem = call(function, alpha, size, rate_A, rate_B, new)
        if problem or found is None:
            return problem or STUB
        found = found.tolist() if hasattr(found, "tolist") else found
        three = [number(one) for one in found] if isinstance(found, (tuple, list)) and len(found) == 3 else [None]
        if any(one is None or not one > 0 for one in three):
            return not_yet("give three positive numbers: the size of A, the rate of A, the rate of B")
        told.append(_named_knobs((alpha, size, rate_A, rate_B, new), three))
    return next((words for words in told if words != RIGHT), RIGHT)


def _named_knobs(before: tuple, after: list[float]) -> str:
    alpha, size, rate_A, rate_B, new = before
    near = lambda a, b: math.isclose(a, b, rel_tol=1e-6)  # noqa: E731
    new_size, new_A, new_B = after
    first_step = near(new * new_size * new_B, alpha * size * rate_B)
    if first_step and near(new_size / new_A, size / rate_A):
        return RIGHT
    if near(new_size, size) and near(new_A, rate_A * alpha / new) and near(new_B, rate_B * alpha / new):
        return not_yet(
            "both rates times alpha / new_alpha: the first step is the same, but A leaves its start sooner or later "
            "than it did; A's size must go with A's rate"
        )
    root = math.sqrt(alpha / new)
    if near(new_size, size) and near(new_A, rate_A * root) and near(new_B, rate_B * root):
        return not_yet(
            "that is the long run's rule, and only a limit; let A's start grow by the same √ and it is exact"
        )
    if near(new_size, size) and near(new_A, rate_A) and near(new_B, rate_B * new / alpha):
        return not_yet("the other way round: a smaller alpha needs a larger rate of B")
    if first_step:
        return not_yet("the first step is as it was; but size of A / rate of A is not, so A moves away sooner or later")
    if near(new_size / new_A, size / rate_A):
        return not_yet("A leaves its start as it did; but alpha · size of A · rate of B has changed, the first steps")
    return not_yet("two numbers must stay: alpha · size of A · rate of B, and size of A / rate of A")


def check_bottom(function) -> str:
    """Two valleys, one with rates that are not evenly spaced."""
    told = []
    for rates, losses in (([1e-3, 2e-3, 4e-3], [2.3, 2.0, 2.1]), ([1e-3, 3e-3, 4e-3], [1.9, 1.5, 1.62])):
        found, problem = call(function, list(rates), list(losses))
        if problem or found is None:
            return problem or STUB
        if (value := number(found)) is None:
            return not_yet("give one number, the rate at the bottom")
        told.append(_named_bottom(value, rates, losses))
    return next((words for words in told if words != RIGHT), RIGHT)


def _vertex(x: list[float], y: list[float]) -> float:
    (x0, x1, x2), (y0, y1, y2) = x, y
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    return (x0 + x1) / 2 - left * (x2 - x0) / (2 * (right - left))


def _named_bottom(value: float, rates: list[float], losses: list[float]) -> str:
    logs = [math.log(rate) for rate in rates]
    right = _vertex(logs, losses)
    near = lambda a, b: math.isclose(a, b, rel_tol=1e-4)  # noqa: E731
    if near(value, math.exp(right)):
        return RIGHT
    if near(value, right):
        return not_yet("that is the logarithm of the rate; take exp of it")
    if near(value, right / math.log(10)) or near(value, right / math.log(2)):
        return not_yet("that is a logarithm of the rate; go back to the rate")
    if near(value, _vertex(rates, losses)):
        return not_yet("that is the bottom over the rate; take the parabola over log(rate)")
    if near(value, rates[1]):
        return not_yet("that is the best rate tried; the parabola's bottom lies beside it")
    if near(value, math.exp(2 * logs[1] - right)):
        return not_yet("the bottom lies on the other side of the middle rate, where the loss rises less")
    if value > 0 and near(math.log(value), 2 * right):
        return not_yet("the bottom of a x² + b x + c is at -b / 2a, not at -b / a")
    if value > 0 and near(math.log(value), -right):
        return not_yet("the sign: the bottom of a x² + b x + c is at -b / 2a")
    return not_yet("fit a parabola to the losses over log(rate); where is its slope 0?")
