"""The exercises of chapter 03: two adapters in one weight, updates that are rounded away, and a head that was tied."""

import torch
from torch import Tensor, nn

from lora_from_scratch import LoRALinear
from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number, same, tensor


def two_adapters() -> tuple[LoRALinear, LoRALinear]:
    """Two adapters of rank 2, scalings 2 and 5, on one base 6 → 5 in float64; no B is zero."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        linear = nn.Linear(6, 5).double()
        pair = LoRALinear(linear, 2, 4), LoRALinear(linear, 2, 10)
        for one in pair:
            nn.init.normal_(one.B)
            one.requires_grad_(False)
        return pair


def merges(first: LoRALinear, second: LoRALinear) -> dict[str, Tensor]:
    """What the usual mistakes make of two adapters, the right weight (5, 6) first."""
    W0, one, two = first.base.weight.clone(), first.delta_weight(), second.delta_weight()
    s, t = first.scaling, second.scaling
    plain, other = one / s, two / t
    short_cut = "(B1 + B2)(A1 + A2) has mixed terms, B1 A2 and B2 A1: B1 goes with A1 alone"
    factors = (first.B + second.B) @ (first.A + second.A)
    scaled_B, scaled_A = s * first.B + t * second.B, s * first.A + t * second.A
    wrong = {
        "right": [W0 + one + two],
        "W0 is in it twice: `weight` of an adapted layer holds the base already": [2 * W0 + one + two],
        "W0 is missing": [one + two],
        "the scalings are missing": [W0 + plain + other],
        "each update has its own scaling; both got the first one's scaling": [W0 + s * (plain + other)],
        "each update has its own scaling; both got the second one's scaling": [W0 + t * (plain + other)],
        "each update has its own scaling; both got the sum of the two": [W0 + (s + t) * (plain + other)],
        "the scalings are exchanged": [W0 + t * plain + s * other],
        "the scaling is in it twice: delta_weight() has it already": [W0 + s * one + t * two],
        "only the first update arrived": [W0 + one],
        "only the second update arrived": [W0 + two],
        "the mean is not the sum": [W0 + (one + two) / 2],
        "no update arrived": [W0],
        "the updates are taken off": [W0 - one - two],
    }
    short = [c * factors for c in (1, s, t, s + t, s * t, (s + t) / 2)]
    short += [scaled_B @ (first.A + second.A), (first.B + second.B) @ scaled_A, scaled_B @ scaled_A]
    wrong[short_cut] = [W0 + each for each in short] + short
    return {words: torch.stack(each) for words, each in wrong.items()}


def check_merge_of_two(function) -> str:
    """The reader's function of (first, second), two adapters on one base: W0 and both updates, a tensor or an array."""
    first, second = two_adapters()
    answers = merges(first, second)
    W0 = first.base.weight.clone()
    found, problem = call(function, first, second)
    if problem:
        return f"{problem} Hint: B is (d_out, r) and A is (r, d_in), so B @ A; W0 is first.base.weight."
    if found is None:
        return STUB
    if isinstance(found, nn.Module):
        return not_yet("give the weight, one matrix (d_out, d_in), and not a layer")
    got = tensor(found)
    if got is None:
        return not_yet(f"give one tensor of shape (5, 6), and not {type(found).__name__}")
    words = {words for words, wrong in answers.items() for each in wrong if same(got, each, 1e-5)}
    if words == {"right"}:
        changed = not torch.equal(W0, first.base.weight)
        return (
            not_yet("the sum is right, and the base's own weight was changed for it: add to a copy")
            if changed
            else RIGHT
        )
    if words:
        return not_yet(words.pop())
    if any(same(got, each.T) for each in answers["right"]):
        return not_yet("right, and transposed: a weight is (d_out, d_in), B @ A")
    if got.shape != W0.shape:
        return not_yet(f"give one tensor of shape (5, 6), (d_out, d_in); yours is {tuple(got.shape)}")
    return not_yet("W0 once, and s · B A of each adapter with its own s: B1 goes with A1 alone, B2 with A2")


GAP = 2**-10  # between 1 and the next float16
HINT = "below half of the gap 2⁻¹⁰ above 1 nothing arrives; above it, the nearest neighbour does"
RIGHT_WEIGHTS = {"three merges": 1.0, "one merge": 1 + GAP}
MISTAKES = {
    "three merges": {
        1.0012: "that is without rounding; the sum is rounded to float16 before the next merge",
        1.0004: "1.0004 is no float16: the nearest one is taken, after each merge",
        1 + GAP: "that is rounded once, at the end; three merges round three times, and each is rounded away",
        1 + 3 * GAP: "0.0004 is less than half of the gap 2⁻¹⁰, so it rounds down",
    },
    "one merge": {
        1.0: "0.0012 is more than half of the gap 2⁻¹⁰ = 0.00098, so it arrives",
        1.0012: "1.0012 is no float16: the nearest one is taken",
        1 + GAP / 2: "1 + 2⁻¹¹ is no float16: above 1 the gap is 2⁻¹⁰, and 2⁻¹¹ below it",
        1 + 2 * GAP: "1 + 2⁻⁹ = 1.00195 is farther from 1.0012 than 1 + 2⁻¹⁰ = 1.00098 is",
        GAP: "that is the gap; the weight began at 1",
    },
}


def check_weights(answers) -> str:
    """{"three merges": 1, "one merge": 1 + 2⁻¹⁰}; four digits are enough, as in the 1.001 that NumPy prints."""
    if isinstance(answers, tuple | list) and len(answers) == 2:
        answers = dict(zip(RIGHT_WEIGHTS, answers, strict=True))
    if answers is None or (isinstance(answers, dict) and None in answers.values()):
        return STUB
    if not isinstance(answers, dict) or set(answers) != set(RIGHT_WEIGHTS):
        return not_yet('give both numbers, under "three merges" and "one merge"')
    wrong = []
    for way, right in RIGHT_WEIGHTS.items():
        got = number(answers[way])
        if got is None:
            wrong.append(f"{way}: the answers are two numbers")
        elif not abs(got - right) < 2.5e-5:
            near = (words for value, words in MISTAKES[way].items() if abs(value - got) < 2.5e-5)
            close = "near it; write the float16 out to its last digit"
            wrong.append(f"{way}: {next(near, close if abs(got - right) < 1.5e-4 else HINT)}")
    return not_yet("; ".join(wrong)) if wrong else RIGHT


def check_tied(answer) -> str:
    """How many parameters more a model with a tied head holds once the head was adapted and merged: 131,072,000."""
    if answer is None:
        return STUB
    got, table, adapter = number(answer), 32_000 * 4_096, 8 * (32_000 + 4_096)
    if got == table:
        return "Right: the head is a tensor of its own now, and the embedding stays as it was."
    mistakes = {
        0: "that is a merge in place: it writes into the shared tensor, and the embedding changes with the head",
        adapter: "that is the adapter, and it is gone after the merge; what did merge() make for the head?",
        table + adapter: "the adapter is gone after the merge",
        2 * table: "that is what both tensors hold; one of them was there before",
        table - adapter: "the adapter was not in the model without adapters",
        32_000: "that is the vocabulary; a row of the head has 4,096 entries",
        4_096: "that is the width; the head has 32,000 rows",
    }
    return not_yet(mistakes.get(got, "merge() gives back a fresh layer: how large is the weight of the head?"))
