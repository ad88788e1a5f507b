"""The exercises of chapter 12: the rows of q, the labels of an answer, and the size of an adapter's file."""

import torch

from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number, same, tensor


def check_rows(function) -> str:
    """The reader's function of (weight, heads): the rows in our order, a tensor or an array."""
    D, heads = 6, 3
    ours = torch.arange(heads * D * 4, dtype=torch.float64).view(heads * D, 4)  # 3 heads of 6 channels, width 4
    order = [h * D + i + half for h in range(heads) for i in range(D // 2) for half in (0, D // 2)]
    found, problem = call(function, ours[order].clone(), heads)
    if problem:
        return f"{problem} Hint: view(heads, D/2, 2, width) makes the pairs an axis of their own."
    if found is None:
        return STUB
    rows = tensor(found)
    if rows is None or rows.shape != ours.shape:
        return not_yet(f"give back as many rows as there were, {tuple(ours.shape)}")
    if same(rows, ours):
        return RIGHT
    back = ours[order][order]
    whole = ours[order].view(heads * D // 2, 2, 4).transpose(0, 1).reshape(heads * D, 4)
    mistakes = {
        "these are the rows as the file has them": ours[order],
        "that is the way from our order to GGUF's, once more": back,
        "the heads are mixed: the pairs are taken apart within each head, not over all rows": whole,
        "the two halves of each head are exchanged": ours.view(heads, 2, D // 2, 4).flip(1).reshape(heads * D, 4),
    }
    for words, wrong in mistakes.items():
        if same(rows, wrong):
            return not_yet(words)
    return not_yet("each head should have its channels 0, 2, 4, … of the file first, then 1, 3, 5, …")


def check_labels(function) -> str:
    """The reader's function of (ids, start): n - 1 labels, a list, a tensor or an array."""
    ids, start = [11, 12, 13, 14, 21, 22, 23, 2], 4
    found, problem = call(function, list(ids), start)
    if problem:
        return problem
    if found is None:
        return STUB
    labels = tensor(found)
    if labels is None or labels.dim() != 1:
        return not_yet("give a list of numbers")
    if not torch.isfinite(labels).all():
        return not_yet("a label is a number: -100 where nothing is to be learnt, not None or NaN")
    labels = [int(label) for label in labels]
    right = [-100] * (start - 1) + ids[start:]
    mistakes = {
        "the labels are not shifted: place i predicts the token at i + 1": [-100] * start + ids[start:-1],
        "there is a label for every token that is read, n - 1 of them; these are n": [-100] * start + ids[start:],
        "one token too few: the last token of the question predicts the answer's first": [-100] * start
        + ids[start + 1 :],
        "one token too many: the question's last token is learnt too": [-100] * (start - 2) + ids[start - 1 :],
        "the question is learnt too": ids[1:],
        "the end is left out: such a model never stops": right[:-1] + [-100],
        "the mask is the wrong way round": ids[1:start] + [-100] * (len(ids) - start),
    }
    if labels == right:
        return RIGHT
    for words, wrong in mistakes.items():
        if labels == wrong:
            return not_yet(words)
    if len(labels) != len(right):
        return not_yet(f"for {len(ids)} ids there are {len(right)} labels, and these are {len(labels)}")
    return not_yet("the answer's tokens, each one place before its own, and -100 everywhere else")


def check_bytes(answer) -> str:
    """The reader's number of bytes."""
    if answer is None:
        return STUB
    found = number(answer)
    if found is None:
        return not_yet("give a number")
    a_rank = 2 * (576 + 576) + 2 * (192 + 576) + 3 * (1536 + 576)  # of one layer
    right = 30 * a_rank * 24 * 2
    mistakes = {
        "these are numbers; a float16 number takes 2 bytes": right / 2,
        "float32 takes 4 bytes a number, float16 takes 2": right * 2,
        "that is one layer of 30": right / 30,
        "the rank is missing": right / 24,
        "r (d_out + d_in) numbers, not d_out · d_in": 30 * 2 * (2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576),
        "that is A alone; B has numbers too": 30 * 24 * 2 * (6 * 576 + 1536),
        "that is B alone; A has numbers too": 30 * 24 * 2 * (2 * 576 + 2 * 192 + 2 * 1536 + 576),
        "q and o, k and v, gate and up: six of the seven matrices come in pairs": 30 * 24 * 2 * (1152 + 768 + 2112 * 2),
    }
    if found == right:
        return RIGHT
    for words, wrong in mistakes.items():
        if found == wrong:
            return not_yet(words)
    if any(abs(found - right / unit) < 0.005 * right / unit for unit in (1e6, 2**20)):
        return not_yet("that is in MB or MiB; give bytes")
    if abs(found / right - 1) < 0.005:
        return not_yet("that is rounded; give all digits")
    return not_yet("add up r (d_out + d_in) over the seven matrices of a layer")
