"""The exercises of chapter 21: which row decides a situation and how sure, what is to be read again, bytes by hand."""

import math

from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number

ROW = "05.keep_together"
OTHERS = {  # rows that look alike, and why they do not decide
    "03.exact": "that is the algebra of a merge, in float64; nothing there is in 4 bits",
    "03.hazard": "that is a merge into bfloat16 of an adapter that was trained over a full-precision base",
    "13.hazard": "that is a merge into bfloat16 of an adapter that was trained over a full-precision base",
    "12.merges": "that is the merge on the pretrained model, over a base that was not in NF4 during training",
    "03.no_latency": "that is the clock after a merge, and not what the merged model has lost",
    "05.recovers": "that is what training over NF4 wins back; the question is what happens to it in a merge",
    "05.as_good": "that is how well a task is learnt over NF4; the question is what happens to it in a merge",
}


def check_row(answer) -> str:
    """(row, "settled" or "open"): merging an adapter that was trained over NF4 into 16 bits."""
    if answer is None:
        return STUB
    if isinstance(answer, str) or not isinstance(answer, (tuple, list)) or len(answer) != 2:
        return not_yet('give two things, as ("13.on_par", "settled")')
    row, sure = (str(part).strip().strip("`").lower() for part in answer)
    if row in OTHERS:
        return not_yet(OTHERS[row])
    if row != ROW:
        return not_yet(f"{row!r} is not it: look at the rows under 'Merge or not?'")
    if sure in ("open", "not settled"):
        return RIGHT
    return not_yet(
        "the row is right; read its verdict again: its interval is past the line, but chance passes too, so it is open"
    )


SAID = {"13.placement": "reproduced", "02.qv": "not reproduced", "01.on_par": "partly", "09.safer": "holds"}
NOW = {
    "same": {},
    "changed": {"13.placement": "not settled"},
    "gone": {"09.safer": None},
    "the other way": {"02.qv": "reproduced"},
    "two": {"01.on_par": "reproduced", "13.placement": "not reproduced"},
}


def _rows(changes: dict) -> tuple[dict, list[str]]:
    """(the rows as a chapter's results hold them, {name: {"verdict": …}}; the names to be read again)."""
    now = {n: {"verdict": changes.get(n, v)} for n, v in SAID.items() if changes.get(n, v) is not None}
    return now | {"20.other": {"verdict": "holds"}}, sorted(changes)


def check_stale(function) -> str:
    """The reader's function of (says, rows): the names under an advice that must be read again, in any order."""
    for case, changes in NOW.items():
        rows, wanted = _rows(changes)
        found, problem = call(function, dict(SAID), rows)
        if problem:
            return problem + (" Hint: a row may be missing from the results." if case == "gone" else "")
        if found is None:
            return STUB
        if isinstance(found, str) or not hasattr(found, "__iter__"):
            return not_yet("give the names, as a list")
        found = sorted(map(str, found))
        if found == wanted:
            continue
        if "20.other" in found:
            return not_yet(
                "20.other is under no advice here: go through what the advice says, and not through all rows"
            )
        if found == sorted(set(SAID) - set(wanted)):
            return not_yet('these are the rows that agree; or, if you give all, compare with rows[name]["verdict"]')
        words = {
            "same": "nothing has changed, and so nothing is to be read again",
            "changed": "13.placement was reproduced and is not settled now: a row that has become open is a change too",
            "gone": "09.safer is missing from the results: the advice rests on nothing, and is to be read again",
            "the other way": "02.qv was not reproduced and is now: a change for the better is a change too",
            "two": "both rows are to be read again, not the first alone",
        }
        return not_yet(words[case])
    return RIGHT


BASE, ADAPTERS = 6_738_415_616, 39_976_960  # weights of LLaMA-7B; those of rank 16 on all its linear layers


def check_gb(answer) -> str:
    """GB of weights, gradients and state for LLaMA-7B in bfloat16, adapters in float32: 2 · base + 16 · adapters."""
    if answer is None:
        return STUB
    got = number(answer)
    if got is None or not math.isfinite(got):
        return not_yet("give one number, in GB")
    mistakes = {
        (2 * BASE + 16 * ADAPTERS) / 1e9: RIGHT,
        2 * BASE / 1e9: "that is the frozen base alone; A and B take 16 bytes a number",
        (2 * BASE + 4 * ADAPTERS) / 1e9: "that is the weights alone: gradients and AdamW's two states are missing",
        (2 * BASE + 12 * ADAPTERS)
        / 1e9: "one of four is missing: weight, gradient and two states of A and B, 4 bytes each",
        (2 * BASE + 8 * ADAPTERS) / 1e9: "the adapters are in float32: 16 bytes a trained number, not 8",
        16 * BASE / 1e9: "that is full fine-tuning in float32; the base is frozen here, and in bfloat16",
        8 * BASE / 1e9: "that is full fine-tuning in bfloat16; the base is frozen here",
        (4 * BASE + 16 * ADAPTERS) / 1e9: "the base is in bfloat16: 2 bytes a weight",
        (BASE / 2 + 16 * ADAPTERS) / 1e9: "that is a base in 4 bits: here it is in bfloat16",
        16 * ADAPTERS / 1e9: "that is the adapters alone; the frozen weights take memory too",
        (2 * BASE + 16 * ADAPTERS) / 2**30: "that is in GiB; in GB it is 7 % more",
        (2 * BASE + 16 * ADAPTERS): "that is in bytes; divide by 10⁹",
    }
    near = min(mistakes, key=lambda value: abs(got / value - 1))
    if abs(got / near - 1) > (0.004 if mistakes[near] == RIGHT else 0.002):
        return not_yet("2 bytes for a frozen weight, 16 for a trained number: its weight, gradient and two states")
    return mistakes[near] if mistakes[near] == RIGHT else not_yet(mistakes[near])
