"""The exercises of chapter 15: bits from a loss, tokens that fit an adapter, the step at which it is full."""

import math

from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number

PARAMETERS, EACH = 41_943_040, 2
LEAVES, ROOM, CHARACTERS, NATS = 12_000, 1.5, 1_000, 2.0794


def check_bits(function) -> str:
    """count · (log2 alphabet - loss / ln 2), tried at 320 symbols of 64 and at 90 of 10."""
    told = []
    for loss, count, alphabet in ((1.3, 320, 64), (2.9, 90, 10)):
        found, problem = call(function, loss, count, alphabet)
        if problem or found is None:
            return problem or STUB
        if (value := number(found)) is None:
            return not_yet("give one number, the bits")
        told.append(_named_bits(value, loss, count, alphabet))
    return next((words for words in told if words != RIGHT), RIGHT)


def _named_bits(value: float, loss: float, count: int, alphabet: int) -> str:
    even, paid = math.log2(alphabet), loss / math.log(2)
    right = count * (even - paid)
    if math.isclose(value, right, rel_tol=1e-6):
        return RIGHT
    known = {
        count * (even - loss): "the loss is in nats; divide it by ln 2",
        count * (math.log(alphabet) - loss): "that is the answer in nats; divide by ln 2",
        count * (even - loss * math.log(2)): "a nat is more than a bit: divide the loss by ln 2, do not multiply",
        count * (math.log(alphabet) - paid): "the even guess is log2 of the alphabet, not ln",
        count * (6 - paid): "log2 of the alphabet is 6 for 64 symbols alone",
        count * (alphabet - paid): "an even guess costs log2 of the alphabet, not its size",
        even - paid: "that is for one symbol; there are `count`",
        -right: "the sign: what is stored is the even guess's cost less the model's",
        count * paid: "that is what the model still pays; stored is what it saves",
        max(right, 0.0): "do not cut at 0: a model that is sure and wrong has less than an even guess",
    }
    for way, words in known.items():
        if math.isclose(value, way, rel_tol=1e-6, abs_tol=1e-9):
            return not_yet(words)
    return not_yet("what does an even guess pay, what does the model, both in bits, over all symbols?")


def check_tokens(answer) -> str:
    """83,886,080: two bits a parameter, one bit a token."""
    value = number(answer)
    if value is None:
        return not_yet("give one number, the tokens")
    if value == 0:
        return STUB
    room = EACH * PARAMETERS
    if math.isclose(value, room, rel_tol=0.01):
        return RIGHT
    known = {
        PARAMETERS: "a parameter has room for 2 bits",
        PARAMETERS / 2: "two bits a parameter, one a token: multiply by 2",
        room / 8: "that is bytes; a token of this data is 1 bit",
        room / math.log(2): "1 bit a token is already in bits (0.69 nats)",
        room * math.log(2): "1 bit a token is already in bits (0.69 nats)",
        room * 16: "the rank is in the count of parameters already",
        PARAMETERS * 16: "those are the bits that bfloat16 takes; two of them hold what was learnt",
        3.6 * PARAMETERS: "the exercise takes 2 bits a parameter, not 3.6",
    }
    for way, words in known.items():
        if math.isclose(value, way, rel_tol=0.01):
            return not_yet(words)
    return not_yet("bits of room, over bits a token")


def check_step(answer) -> str:
    """6: 18,000 bits, 3,000 a step."""
    value = number(answer)
    if value is None:
        return not_yet("give one number, the step")
    if value == 0:
        return STUB
    right = LEAVES * ROOM / (CHARACTERS * NATS / math.log(2))
    if math.isclose(value, right, rel_tol=0.01):
        return RIGHT
    known = {
        LEAVES * ROOM / (CHARACTERS * NATS): "the loss is in nats; divide it by ln 2",
        LEAVES / (CHARACTERS * NATS / math.log(2)): "1.5 bits for each parameter: multiply by it",
        LEAVES / ROOM / (CHARACTERS * NATS / math.log(2)): "multiply by the 1.5 bits, do not divide",
        LEAVES * ROOM / (CHARACTERS * NATS * math.log(2)): "a nat is more than a bit: divide the loss by ln 2",
        LEAVES * ROOM / (NATS / math.log(2)): "those are characters; a step meets 1,000",
        LEAVES * ROOM: "those are bits; how many does a step meet?",
        1 / right: "the other way round: bits of room over bits a step",
        LEAVES * ROOM / CHARACTERS: "a character is not one bit: it has 3",
    }
    for way, words in known.items():
        if math.isclose(value, way, rel_tol=0.01):
            return not_yet(words)
    return not_yet("bits of room, over the bits that a step meets")
