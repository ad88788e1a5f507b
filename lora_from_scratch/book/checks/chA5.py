"""The exercise of appendix A5: what four processes send."""

from lora_from_scratch.book.checks.common import RIGHT, not_yet, number

T, W, P = 40, 6000, 4  # MB of gradients and of weights, and processes


def check_megabytes(answer) -> str:
    """What each sends at a step, in MB: 60 under DDP, 9,030 under FSDP2."""
    values = [number(v) for v in answer] if hasattr(answer, "__len__") and len(answer) == 2 else [None]
    if None in values or not any(values):
        return not_yet("give two numbers, DDP's and FSDP2's, in MB")
    share = (P - 1) / P
    names = ("DDP", "FSDP2")
    ways = (
        {
            "": 2 * T * share,
            "an all-reduce is two ways, there and back: 2 t": T * share,
            "each sends (p - 1)/p of it, not all": 2 * T,
            "the frozen base has no gradients": 2 * (W + T) * share,
            "10 million parameters in float32 are 40 MB": 2 * T / 4 * share,
        },
        {
            "": (2 * W + T) * share,
            "the weights are gathered twice, forwards and backwards": (W + T) * share,
            "each sends (p - 1)/p of it, not all": 2 * W + T,
            "the gradients are reduced and scattered besides": 2 * W * share,
            "the frozen weights travel too": 3 * T * share,
            "the gradients are scattered alone, not gathered again": (2 * W + 2 * T) * share,
        },
    )
    for name, value, known in zip(names, values, ways, strict=True):
        words = next((words for words, way in known.items() if abs(value - way) < 1e-3 * way), "look at the formula")
        if words:
            return not_yet(f"{name}: {words}")
    return RIGHT
