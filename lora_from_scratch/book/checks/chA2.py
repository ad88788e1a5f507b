"""The exercises of appendix A2: the ratio at so many tokens, and the tokens at which it has fallen to 1.25."""

from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number

CASES = ((13.0, 67.0, 0.006, 2000.0), (2.0, 6.0, 0.002, 1500.0))  # frozen, saved, activations a token, tokens


def _judge(function, cases, right, mistakes, hint) -> str:
    for case in cases:
        found, problem = call(function, *case)
        if problem or found is None:
            return problem or STUB
        got = number(found)
        if got is None:
            return not_yet("give one number")
        if abs(got - right(*case)) <= 1e-6 * abs(right(*case)):
            continue
        for words, way in mistakes.items():
            if abs(got - way(*case)) <= 1e-6 * abs(way(*case)):
                return not_yet(words)
        return not_yet(hint)
    return RIGHT


def check_ratio(function) -> str:
    """The reader's ratio of (frozen, saved, each, tokens): (F + S + a n) / (F + a n)."""
    mistakes = {
        "that is LoRA over full; it is asked the other way round": lambda F, S, a, n: (F + a * n) / (F + S + a * n),
        "full fine-tuning has activations too": lambda F, S, a, n: (F + S) / (F + a * n),
        "LoRA has activations too": lambda F, S, a, n: (F + S + a * n) / F,
        "both have activations": lambda F, S, a, n: (F + S) / F,
        "the frozen weights are in memory as well": lambda F, S, a, n: (S + a * n) / (a * n),
        "that is the share that is saved": lambda F, S, a, n: S / (F + S + a * n),
        "the activations are those of one token; there are more": lambda F, S, a, n: (F + S + a) / (F + a),
        "what LoRA saves is not in LoRA's bytes": lambda F, S, a, n: (F + 2 * S + a * n) / (F + S + a * n),
    }
    hint = "what does full fine-tuning hold, and what of it does LoRA not hold?"
    return _judge(function, CASES, lambda F, S, a, n: (F + S + a * n) / (F + a * n), mistakes, hint)


def check_tokens(function) -> str:
    """The reader's tokens of (frozen, saved, each, ratio) at which full over LoRA is `ratio`."""
    mistakes = {
        "that is the crossover, where the ratio is still far above": lambda F, S, a, q: S / a,
        "the frozen weights are on both sides": lambda F, S, a, q: S / (q - 1) / a,
        "that leaves the weights out where they help LoRA": lambda F, S, a, q: (S / (q - 1) + F) / a,
        "a ratio of q means that a share of q - 1 of LoRA's bytes is saved": lambda F, S, a, q: (S / q - F) / a,
        "that is a saving of a share of full fine-tuning's bytes; the ratio is over LoRA's": lambda F, S, a, q: (
            (S * q / (q - 1) - F) / a
        ),
        "these are bytes; divide by those of a token": lambda F, S, a, q: S / (q - 1) - F,
    }
    cases = [(F, S, a, q) for (F, S, a, _), q in zip(CASES, (1.25, 1.5), strict=True)]
    hint = "set (F + S + a n) / (F + a n) to the ratio, and solve for n"
    return _judge(function, cases, lambda F, S, a, q: (S / (q - 1) - F) / a, mistakes, hint)
