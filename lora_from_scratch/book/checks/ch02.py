"""The exercises of chapter 02: the count, break-even, a slip in print, and a budget."""

import math
from dataclasses import replace

from lora_from_scratch.analysis.counting import ALL_LINEAR, ATTENTION, MLP, MODELS, lora_parameters, prints_as
from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number

BUDGET = 59_000_000


def check_count(function) -> str:
    """The reader's count of (shapes, rank), on two matrices that are not square."""
    shapes, rank = [(3, 5), (7, 4)], 2
    found, problem = call(function, shapes, rank)
    if problem or found is None:
        return problem or STUB
    mistakes = {
        2 * (5 + 4): "that is A alone; B has d_out · r numbers more",
        2 * (3 + 7): "that is B alone; A has r · d_in numbers more",
        2 * 2 * (5 + 4): "right for square matrices only: d_in and d_out differ here",
        2 * 2 * (3 + 7): "right for square matrices only: d_in and d_out differ here",
        2 * (3 * 5 + 7 * 4): "that is r times the full matrix; the sides are added, not multiplied",
        3 * 5 + 7 * 4: "that is the full matrices; LoRA trains r · (d_in + d_out)",
        3 + 5 + 7 + 4: "the rank is missing",
        2 * (3 + 5): "only the first matrix is counted",
        2 * (7 + 4): "only the last matrix is counted",
    }
    got = number(found)
    if got is None:
        return not_yet("give back one number")
    return RIGHT if got == lora_parameters(shapes, rank) else not_yet(mistakes.get(got, "count A and B of each matrix"))


def check_break_even(function) -> str:
    """The reader's function of (d_out, d_in): the rank at which LoRA trains as much as the matrix has."""
    got = []
    for shape in ((4096, 4096), (1024, 4096), (4096, 1024)):
        found, problem = call(function, *shape)
        if problem or found is None:
            return problem or STUB
        got.append(number(found))
    if None in got:
        return not_yet("give back one number")
    near = lambda *wanted: all(abs(a - b) < 1e-6 * b for a, b in zip(got, wanted, strict=True))  # noqa: E731  float32 too
    if near(2048, 819.2, 819.2):
        return RIGHT
    if got == [2048, 819, 819]:
        return not_yet("the rank need not be whole here: divide with /, and not //, and do not round")
    square = ((512, 512), (512, 2048), (2048, 512), (1280, 1280), (1024, 1024), (2048, 2048))
    if any(near(2048, *rest) for rest in square):
        return not_yet("right for a square matrix, and not for 1024 × 4096: divide the product by the sum of the sides")
    if near(1 / 2048, 1 / 819.2, 1 / 819.2):
        return not_yet("that is one over the rank; the product goes above the line, the sum below")
    if near(1024, 409.6, 409.6):
        return not_yet("that is half of it: A and B have r · (d_in + d_out) numbers together, not twice as many")
    return not_yet("set r · (d_in + d_out) equal to d_in · d_out and solve for r")


def check_slip(answer) -> str:
    """{"matrices": "qv" or "qkvo", "rank": …}: what is misprinted, and the rank that gives 37.7 M."""
    if not isinstance(answer, dict) or set(answer) != {"matrices", "rank"}:
        return not_yet('give both: {"matrices": "qv" or "qkvo", "rank": …}')
    if None in answer.values():
        return STUB
    rank = number(answer["rank"])
    if answer["matrices"] not in ("qv", "qkvo"):
        return not_yet(f'matrices is {answer["matrices"]!r}; write "qv" or "qkvo"')
    if rank is None or not math.isfinite(rank) or rank != int(rank) or rank < 1:
        return not_yet(f"rank is {answer['rank']!r}; it is a whole number")
    targets = ("q_proj", "v_proj") if answer["matrices"] == "qv" else ATTENTION
    count = lora_parameters(MODELS["GPT-3 175B"].shapes(targets), int(rank))
    if not prints_as(count / 1e6, "37.7"):
        return not_yet(f"that rank gives {count / 1e6:.2f} M")
    return RIGHT if answer["matrices"] == "qkvo" else not_yet("that one is printed correctly; look at the other")


def check_rank(answer) -> str:
    """The largest rank on all linear layers of Llama-3-8B but the head within BUDGET: 22."""
    if answer is None:
        return STUB
    rank = number(answer)
    if rank is None or not math.isfinite(rank) or rank < 1:
        return not_yet("give a rank, a whole number from 1 up")
    llama = MODELS["Llama-3-8B"]
    count = lambda r: lora_parameters(llama.shapes(ALL_LINEAR), r)  # noqa: E731
    if rank != int(rank):
        return not_yet("a rank is a whole number, and the budget must not be exceeded")
    if rank == 22:
        return f"Right: it trains {count(22):,}, and rank 23 would train {count(23):,}."
    wide = replace(llama, kv=None)  # k and v as wide as q
    mistakes = {
        BUDGET // lora_parameters(wide.shapes(ALL_LINEAR), 1): "k and v are not as wide as q here: 1024, not 4096",
        BUDGET // lora_parameters(llama.shapes((*ALL_LINEAR, "lm_head")), 1): "the head is counted too; leave it out",
        BUDGET // lora_parameters(llama.shapes(ATTENTION), 1): "that is for attention alone; the MLP belongs to it",
        BUDGET // lora_parameters(llama.shapes(MLP), 1): "that is for the MLP alone; attention belongs to it",
        BUDGET // lora_parameters(llama.shapes(("q_proj", "v_proj")), 1): "that is for q and v alone",
        BUDGET // lora_parameters(wide.shapes((*ALL_LINEAR, "lm_head")), 1): "two slips: k and v are 1024 wide, and "
        "the head is left out",
        BUDGET // sum(d_in for _, d_in in llama.shapes(ALL_LINEAR)): "that is A alone; B has d_out · r numbers more",
        BUDGET // sum(d_out for d_out, _ in llama.shapes(ALL_LINEAR)): "that is B alone; A has r · d_in numbers more",
    }
    hint = mistakes.get(int(rank), "")
    if count(int(rank)) > BUDGET:
        near = "the rank nearest to a budget may exceed it" if rank == 23 else hint
        return not_yet(f"too many: rank {int(rank)} trains {count(int(rank)):,}" + (f"; {near}" if near else ""))
    return not_yet(hint or f"there is room: rank {int(rank) + 1} trains {count(int(rank) + 1):,}")
