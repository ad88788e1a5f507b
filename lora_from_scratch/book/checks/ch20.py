"""The exercises of chapter 20: what an optimizer misses, labels beside a padding of ends, and four runs to name."""

import torch
from torch import nn

from lora_from_scratch import LoRALinear
from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, tensor


def half_held() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Two adapted layers and a frozen one; the optimizer holds two B and what is frozen in the first, in three groups.

    The second group holds a parameter of another model, with the numbers of one A.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(*(LoRALinear(nn.Linear(4, 4), 2, 4) for _ in range(3)))
        stranger = nn.Parameter(model[1].A.detach().clone())  # equal numbers, and another parameter
        model[2].B.data.fill_(1.0)
        model[0].B.data.fill_(2.0)
    frozen = [p for p in model[0].base.parameters()]
    groups = [[model[0].B, *frozen], [stranger], [model[2].B]]
    return model, torch.optim.SGD([{"params": group} for group in groups], lr=0.1)


def check_missing(function) -> str:
    """The reader's function of (model, optimizer): the names of what trains and is not in the optimizer."""
    model, optimizer = half_held()
    found, problem = call(function, model, optimizer)
    if problem:
        compared = "Boolean" in problem or "must match the size" in problem
        hint = " Hint: compare parameters by `is` or by id(p): == compares their numbers." if compared else ""
        return problem + hint
    if found is None:
        return STUB
    if isinstance(found, str) or not hasattr(found, "__iter__"):
        return not_yet(f"give a list of names, and not {type(found).__name__}")
    found = list(found)
    if not all(isinstance(name, str) for name in found):
        return not_yet("give the names, as named_parameters() has them, and not the parameters")
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    right, frozen = trained - {"0.B", "2.B"}, {n for n, p in model.named_parameters() if not p.requires_grad}
    held = {n for n in frozen if n.startswith("0.")}  # two layers' frozen numbers are in no group
    same = "1.A is missing: the optimizer holds a tensor with the same numbers, which is not that parameter"
    mistakes = {
        "these are all that train; two of them are in the optimizer": trained,
        same: right - {"1.A"},
        "that is what the optimizer holds; what it misses is asked for": {"0.B", "2.B"},
        "that is what it holds, the frozen ones too; what it misses is asked for": {"0.B", "2.B"} | held,
        "the frozen parameters need no optimizer: ask for requires_grad": right | (frozen - held),
        "the frozen parameters need no optimizer, whether it holds them or not": right | frozen,
        "only the first group was looked at: an optimizer may have several": right | {"2.B"},
        "only the last group was looked at: an optimizer may have several": right | {"0.B"},
    }
    if set(found) == right:
        return RIGHT if len(found) == len(right) else not_yet("a name stands there twice")
    for words, wrong in mistakes.items():
        if set(found) == wrong:
            return not_yet(words)
    if not found:
        return not_yet("nothing is missing, you say: is every parameter with requires_grad in one of the groups?")
    return not_yet("the names of parameters with requires_grad that no group of optimizer.param_groups holds")


IDS, START, END = [7, 8, 9, 3, 4, 2, 2, 2], 3, 2  # the answer is 3 4 2; two more ends fill the row up


LABELS = [-100, -100, 3, 4, 2, -100, -100]
SHIFTED_FIRST = [-100, -100, -100, 4, 2, 2, -100]
MISTAKEN = {
    "shifted, then masked [:start]: the first token of the answer is lost; mask before, or [:start - 1]": SHIFTED_FIRST,
    "the true end is left out with the padding: such a model never stops": [-100, -100, 3, 4, -100, -100, -100],
    "the padding is learnt too; the first end is the last label": [-100, -100, 3, 4, 2, 2, 2],
    "the labels are not shifted: place i predicts the token at i + 1": [-100, -100, -100, 3, 4, 2, -100],
    "there are n - 1 places that predict, and these are n labels": [-100, -100, -100, 3, 4, 2, -100, -100],
    "the first token of the answer is left out: the prompt's last place predicts it": [-100] * 3 + LABELS[3:],
    "the prompt is learnt too": [8, 9, 3, 4, 2, -100, -100],
    "one token too many: the prompt's last token is learnt too": [-100, 9, 3, 4, 2, -100, -100],
}


def check_labels(function) -> str:
    """The reader's function of (ids, start, end): n - 1 labels, the true end among them, the padding not."""
    found, problem = call(function, list(IDS), START, END)
    if problem:
        return problem
    if found is None:
        return STUB
    labels = tensor(found)
    if labels is None or labels.dim() != 1 or not torch.isfinite(labels).all():
        return not_yet("give a list of numbers, -100 where nothing is to be learnt")
    labels = [int(label) for label in labels]
    if labels == LABELS:
        again, problem = call(function, [5, 2, 6, 2], 2, END)  # an end in the prompt, and no padding
        if problem:
            return f"{problem} (It did so for a row without padding.)"
        late = tensor(again)
        if late is None or late.tolist() != [-100, 6, 2]:
            return not_yet(
                "a prompt may hold an end too, and a row may have no padding: look for the end from `start` on"
            )
        return RIGHT
    for words, wrong in MISTAKEN.items():
        if labels == wrong:
            return not_yet(words)
    if 0 in labels:
        return not_yet("0 is the id of a token: a label that is left out is -100")
    if any(label < 0 and label != -100 for label in labels):
        return not_yet(
            "what is left out is labelled -100, which cross_entropy skips; another negative label raises there"
        )
    if len(labels) == len(LABELS) and END not in labels:
        return not_yet("the end is not learnt: such a model never stops; and look at where the answer begins")
    if len(labels) == len(LABELS) and labels[-2:] != [-100, -100]:
        return not_yet("the padding is learnt too, or the labels are not shifted; and look at where the answer begins")
    if len(labels) != len(LABELS):
        return not_yet(f"for {len(IDS)} ids there are {len(LABELS)} labels, and these are {len(labels)}")
    return not_yet("the answer up to and with its first end, each token one place early, and -100 everywhere else")


RUNS = {  # what is told of a run, and what it is
    "first": "trained in float16",
    "second": "an adapter does nothing",
    "third": "the end of an answer is not learnt",
    "fourth": "the base is not frozen",
}
WHY = {
    "first": "after two steps of Adam not one number is left: look for what is zero in 16 bits",
    "second": "its logits are the base's to the last bit, so B A is zero there; training went well, so B was not",
    "third": "the training loss is the lowest of all, since what is hardest is not in it; and no answer stops",
    "fourth": "the file holds A and B; what else can have learnt, and stayed behind?",
}


KNOWN = sorted([
    *RUNS.values(), "A or B holds NaN", "B is not zero at the start", "a new head is frozen", "adapters on adapters",
    "an embedding trains and is not saved", "checkpointing cuts the gradients off", "dropout is on at use",
    "gradients are cut off", "merged in place, and trained", "nothing is trainable", "saving leaves the adapters out",
    "target names not found", "the labels are off by one", "the loss counts nothing", "the loss counts the prompt",
    "the loss counts the padding", "the loss is not finite", "the loss leaves out the first token of the answer",
    "the optimizer misses trainable parameters", "the rate is zero", "the scaling is zero",
    "trained beside the adapters and not saved", "merged into 4 bits", "adapters added with cross terms",
])  # fmt: skip


def check_runs(answers) -> str:
    """The reader's names of four runs."""
    if not isinstance(answers, dict) or not set(RUNS) <= set(answers):
        return not_yet(f"give a dict with the keys {', '.join(RUNS)}")
    given = {key: answers[key] for key in RUNS}
    if all(value is None for value in given.values()):
        return STUB
    for key, value in given.items():
        if value is None:
            return not_yet(f"the {key} run has no name yet")
        if str(value).strip().lower() not in {name.lower() for name in KNOWN}:
            return not_yet(f"{value!r} is not in the list above")
    if str(given["first"]).strip().lower() == "a or b holds nan":
        return not_yet("the first run: that is what is left; name what made it")
    wrong = [key for key, value in given.items() if str(value).strip().lower() != RUNS[key].lower()]
    return not_yet(f"the {wrong[0]} run: {WHY[wrong[0]]}") if wrong else RIGHT
