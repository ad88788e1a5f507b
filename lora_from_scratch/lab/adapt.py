"""Fine-tuning of a real model, by the same LoRA as everywhere else: a `Lesson` is plain data, `carry_out` does it.

The tiny Llama's runs (run.py, finetune.py) are windows of characters on one thread, many side by side. A model of a
hundred million weights takes seconds a step and gigabytes of memory. So here lessons are carried out one at a time, on
two threads; each is kept on disk when it ends, and an interrupted chapter goes on with the one that it was in.

Two tasks: "records" (records.py), of which the answers alone are learnt, no record twice; and "documents", windows of
Python's documentation (corpus.py), of which every token is. Losses are in nats a token.
"""

import copy
import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from lora_from_scratch.inject import (
    AdapterConfig,
    add_adapters,
    count_parameters,
    is_adapter,
    merge_adapters,
    trainable_parameters,
)
from lora_from_scratch.lab import answers, cache, corpus, generate, llama, progress, records, tasks, tokens, train
from lora_from_scratch.lab.answers import Example, answer_loss, answered, as_batch, chat, example
from lora_from_scratch.lab.checkpoint import Checkpoint
from lora_from_scratch.lab.finetune import METHODS
from lora_from_scratch.lab.workers import SECONDS
from lora_from_scratch.quantize import quantize_model
from lora_from_scratch.targets import find_targets

THREADS = 2
LENGTH = 128  # tokens in a window of documents
HERE = cache.imported(__name__)

LEARNT: dict[str, Callable[[Example], Example]] = {  # which labels count in training; measuring is always the same
    "the answer": lambda e: e,
    "all but the end": lambda e: replace(e, ids=e.ids[:-1]),
    "all but its first token": lambda e: replace(e, start=e.start + 1),
    "the question too": lambda e: replace(e, start=1),
}


@dataclass(frozen=True)
class Lesson:
    """One fine-tuning of a real model. `adapter` None trains the weights: "all", or those of the "linear" layers.

    `four_bits` keeps the frozen linear layers in NF4. `learnt` is one of LEARNT. Losses are measured on `windows` of
    the documentation, and on a quarter of `held` records. `judged` asks for what a comparison is judged by: `spoken`
    records of two held-out splits, those of one written out token by token; a run that only chooses a rate goes
    without.
    Raises ValueError for what is unknown or out of range.
    """

    task: str = "records"
    adapter: AdapterConfig | None = None
    scope: str = "all"
    four_bits: bool = False
    learnt: str = "the answer"
    lr: float = 1e-3
    seed: int = 0
    steps: int = 40
    batch: int = 8
    judged: bool = True
    held: int = 200
    spoken: int = 48
    windows: int = 32
    keep: bool = False  # whether the result holds what was trained

    def __post_init__(self) -> None:
        for name, known in (("task", ("records", "documents")), ("scope", ("all", "linear")), ("learnt", LEARNT)):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; there are {', '.join(known)}")
        for name in ("steps", "batch", "held", "spoken", "windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be at least 1")
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr is {self.lr!r}; it must be a positive, finite number")
        if self.four_bits and self.adapter is None:
            raise ValueError("four_bits without an adapter: weights in 4 bits are frozen, so add one")


def carry_out(lessons: Sequence[Lesson], checkpoint: Checkpoint) -> list[dict]:
    """The results of `lessons` (see `adapt`), in their order, from the cache where nothing deciding them has changed.

    `checkpoint` is left as it is: every lesson has a copy.
    """
    found = []
    with progress.bar(total=sum(lesson.steps for lesson in lessons), desc="steps") as shown:
        for lesson in lessons:
            shown.set_postfix_str(f"lesson {len(found) + 1} of {len(lessons)}")
            key = lesson_key(lesson, checkpoint)
            work = functools.partial(adapt, lesson, checkpoint, on_step=shown.update)
            found.append(cache.cached("lesson", key, work))
            shown.update(sum(each.steps for each in lessons[: len(found)]) - shown.n)  # of a cached one, all at once
    SECONDS.extend(result["seconds"] for result in found)
    return found


def lesson_key(lesson: Lesson, checkpoint: Checkpoint) -> dict:
    """Everything that decides the result of a lesson."""
    modules = (answers, corpus, generate, llama, records, tasks, tokens, train, HERE)
    return {
        "lesson": asdict(lesson),
        "weights": fingerprint(checkpoint.model),
        "vocabulary": checkpoint.tokenizer.rule.to_str(),
        "corpus": corpus.corpus_hash(),
        "code": cache.code_version(*METHODS, *modules),
        "torch": torch.__version__,
        "device": str(checkpoint.model.lm_head.weight.device),
    }


@functools.lru_cache(maxsize=1)
def fingerprint(model: nn.Module) -> str:
    """sha256 of all weights of a model, which nobody changes."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def adapt(lesson: Lesson, checkpoint: Checkpoint, on_step: Callable[[], object] = lambda: None) -> dict:
    """Carry out one lesson on a copy of the model.

    Gives the `losses` of the steps, the number of `trained` parameters, the seconds of a step in `step_seconds` (a
    median) and of all in `seconds`, what `measure` gives, and with `keep` the trained tensors in `state`.
    """
    started = time.perf_counter()
    with train.threads(THREADS), torch.random.fork_rng():
        torch.manual_seed(lesson.seed)
        model = prepared(copy.deepcopy(checkpoint.model), lesson)
        losses, seconds = fit(model, lesson, checkpoint, on_step)
        result = {"losses": losses, "step_seconds": seconds, **measure(in_one(model), lesson, checkpoint)}
    result["trained"] = count_parameters(model)[0]
    if lesson.keep:
        own = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        result["state"] = {name: p.detach().cpu().clone() for name, p in own}
    result["seconds"] = time.perf_counter() - started
    return result


def prepared(model: nn.Module, lesson: Lesson) -> nn.Module:
    """Round the base if the lesson says so, then make trainable what it trains. In place."""
    if lesson.four_bits:
        quantize_model(model)
    if lesson.adapter is not None:
        return add_adapters(model, lesson.adapter)
    model.requires_grad_(lesson.scope == "all")
    for layer in find_targets(model, "all-linear").values():
        layer.requires_grad_(True)
    return model


def in_one(model: nn.Module) -> nn.Module:
    """A copy with its adapters merged, which measures the same (chapter 03) at the base's speed; without any, itself.

    A base in 4 bits is decoded once and not at every token.
    """
    adapted = any(is_adapter(module) for module in model.modules())
    return merge_adapters(copy.deepcopy(model)) if adapted else model


def fit(
    model: nn.Module, lesson: Lesson, checkpoint: Checkpoint, on_step: Callable[[], object]
) -> tuple[list[float], float]:
    """Train with AdamW; the rate rises over 5 % of the steps and falls to zero in a straight line, as in train.py.

    Gives the loss of every step, and the median of the seconds that a step took.
    """
    optimizer = torch.optim.AdamW(trainable_parameters(model), lr=lesson.lr, weight_decay=0.0)
    warmup = max(1, lesson.steps // 20)
    losses, seconds = [], []
    model.train()
    for t, loss_of in zip(range(lesson.steps), batches(lesson, checkpoint), strict=False):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = lesson.lr * min((t + 1) / warmup, (lesson.steps - t) / (lesson.steps - warmup + 1))
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
        on_step()
    model.eval()
    return losses, sorted(seconds)[len(seconds) // 2]


def batches(lesson: Lesson, checkpoint: Checkpoint) -> Iterator[Callable[[nn.Module], Tensor]]:
    """An endless stream of losses of the next batch, each a function of the model. The same for the same seed."""
    if lesson.task == "documents":
        ids = document_ids(checkpoint, "train")
        for windows in train.Batches(ids, lesson.batch, LENGTH, lesson.seed):
            yield functools.partial(train.loss_of, windows=windows.to(checkpoint.model.lm_head.weight.device))
    drawn = records.records("train", lesson.steps * lesson.batch, lesson.seed)
    examples = [LEARNT[lesson.learnt](e) for e in as_examples(drawn, checkpoint)]
    for first in range(0, len(examples), lesson.batch):
        yield functools.partial(answer_loss, examples=examples[first : first + lesson.batch])


def as_examples(drawn: Sequence[records.Record], checkpoint: Checkpoint) -> list[Example]:
    """Records as the conversations that they are."""
    return [example(checkpoint.tokenizer, record.sentence, record.answer) for record in drawn]


@functools.lru_cache(maxsize=4)
def document_ids(checkpoint: Checkpoint, split: str) -> Tensor:
    """The token ids of a split of the documentation, (tokens,)."""
    return torch.tensor(checkpoint.tokenizer.encode(corpus.corpus()[split]))


def measure(model: nn.Module, lesson: Lesson, checkpoint: Checkpoint, tuning: bool = True) -> dict:
    """What a model can do, and what it still knows.

    task_loss, and with `tuning` tune_loss: of the task, held out, on other records or windows; the one for judging a
    rate, the other for choosing it. text_loss: of the documentation, held out. And if `judged`, for records:
        exact: {split: share of `spoken` records that greedy decoding would answer to the letter}, on two splits.
        valid, fields: of the answers on "both new", the shares that are JSON, and of right fields; `said`: those.
    """
    windows = tasks.fixed_windows(document_ids(checkpoint, "held_out"), 2 * lesson.windows, LENGTH)
    result = {"text_loss": train.evaluate(model, windows[1::2], batch=8)}
    if lesson.task == "documents":
        result["task_loss"] = result["text_loss"]
        return result | ({"tune_loss": train.evaluate(model, windows[0::2], batch=8)} if tuning else {})
    for name, seed in (("tune_loss", 1), ("task_loss", 2))[0 if tuning else 1 :]:
        drawn = records.records("new values", max(1, lesson.held // 4), seed)
        result[name] = mean_loss(model, as_examples(drawn, checkpoint))
    if not lesson.judged:
        return result
    held = {split: records.records(split, lesson.spoken, seed=2) for split in ("new values", "both new")}
    right = {split: answered(model, as_examples(drawn, checkpoint)) for split, drawn in held.items()}
    result["exact"] = {split: sum(found) / len(found) for split, found in right.items()}
    some = held["both new"]
    result["said"] = say(model, [record.sentence for record in some], checkpoint)
    scores = [records.score(said, record) for said, record in zip(result["said"], some, strict=True)]
    return result | {name: sum(s[name] for s in scores) / len(scores) for name in ("valid", "fields")}


@torch.no_grad()
def mean_loss(model: nn.Module, examples: Sequence[Example], batch: int = 16) -> float:
    """The loss of all answers' tokens, in nats a token."""
    parts = [examples[first : first + batch] for first in range(0, len(examples), batch)]
    counts = [int((as_batch(part)[1] != answers.LEFT_OUT).sum()) for part in parts]
    return sum(answer_loss(model, part).item() * n for part, n in zip(parts, counts, strict=True)) / sum(counts)


def say(
    model: nn.Module,
    questions: Sequence[str],
    checkpoint: Checkpoint,
    new_tokens: int = 64,
    template: Callable[[str], str] = chat,
    batch: int = 32,
) -> list[str]:
    """What a model answers to each question, by greedy decoding, without the end; cut off where it does not end."""
    said, tokenizer = [], checkpoint.tokenizer
    for first in range(0, len(questions), batch):
        prompts = [tokenizer.encode(template(question)) for question in questions[first : first + batch]]
        found = generate.generate(model, prompts, new_tokens, stop=[tokenizer.eos])
        said += [tokenizer.decode(ids[:-1] if ids[-1] == tokenizer.eos else ids) for ids in found]
    return said
