"""Runs that are told how good their answers were, and supervised runs on the very same episodes.

A `Rewarded` is a `Run` that answers prompts with a word (words.py) and is rewarded for some words. What it trains is an
adapter, the linear layers themselves, or TinyLoRA's few numbers. Each batch has GROUPS prompts that were not used
before, n answers to each, and serves PASSES steps of AdamW: in the first the policy is the one that sampled, in the
second the importance weights are at work. The rate falls linearly, batch by batch, unless `decay` is off.

**The supervised ones** take the same number of steps. "rewarded": on the rewarded episodes, and no others, that the
run of the same method and seed at the rate `taught_at` drew, batch by batch; the loss is -log p of the answer, its mean
over those episodes. "shown": on the words themselves, behind every prompt, as one who knows them would show them.
"""

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lora_from_scratch import tinylora
from lora_from_scratch.inject import trainable_parameters
from lora_from_scratch.lab import cache, generate, reinforce, words
from lora_from_scratch.lab.corpus import encode
from lora_from_scratch.lab.finetune import Run, prepare, run_key
from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.tasks import fixed_windows, task_ids
from lora_from_scratch.lab.train import evaluate, threads

HERE = cache.imported(__name__)
ARTICLES = ("the", "a", "an")
GROUPS, ANSWERS, PASSES = 8, 8, 2
FED = ("", "rewarded", "shown")


@dataclass(frozen=True)
class Rewarded(Run):
    """A run that is rewarded for `words`; `numbers` above 0 trains TinyLoRA's v of that size, at rank 2.

    `fed` "" is reinforcement, else one of FED. Raises ValueError for other words, numbers or food, for "rewarded"
    without the rate that its episodes were drawn at, or that rate without it, and for a run of several methods.
    """

    task: str = "text"
    words: tuple[str, ...] = ARTICLES
    by_letter: bool = False
    numbers: int = 0
    fed: str = ""
    taught_at: float = 0.0
    decay: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        words.check_words(self.words, self.by_letter)
        if self.fed not in FED or (self.fed == "rewarded") != (self.taught_at > 0):
            raise ValueError(
                f"fed is {self.fed!r} and taught_at {self.taught_at!r}; fed is one of {FED}, and "
                "'rewarded' alone needs the rate of the run that drew the episodes"
            )
        if self.numbers < 0 or (self.numbers and self.adapter is not None):
            raise ValueError(
                f"numbers is {self.numbers!r} with adapter {self.adapter}; give one of the two, or neither"
            )
        if self.base is not None or self.start != "B zero" or self.ratio != 1 or self.snapshots or self.task != "text":
            raise ValueError(
                "a rewarded run reads plain text, over a base as it is: leave task, base, start, ratio alone"
            )


def batches(preset: Preset) -> int:
    """How many batches of episodes a run has: a quarter of the preset's steps, and 2 at least."""
    return max(2, preset.steps // 4)


def practise(run: Rewarded, preset: Preset) -> dict:
    """Carry out `run`, from the cache where nothing that decides it has changed.

    Gives `success`, how likely an answer to a held-out prompt is right, `task_loss`, 1 less that, and `text_loss` on
    English, after the run; `curve`, the success on each batch's prompts before it is trained on, `tune_loss`, 1 less
    its mean; the bits that the episodes told, `bits`, by counted rewards, and `bits_most`, by exact chances; `lucky`,
    how many answers were rewarded; the `answers` of each batch; the `trained` numbers' count and `state`, `seconds`.
    """
    return cache.cached("rewarded", _key(run, preset), lambda: _practise(run, preset))


def _key(run: Rewarded, preset: Preset) -> dict:
    return {**run_key(run, preset), "rewarded": cache.code_version(tinylora, generate, reinforce, words, HERE)}


def _practise(run: Rewarded, preset: Preset) -> dict:
    started, found = time.perf_counter(), {"curve": [], "bits": 0.0, "bits_most": 0.0, "lucky": 0, "answers": []}
    taught = practise(_teacher(run), preset)["answers"] if run.fed == "rewarded" else []
    with threads(1), torch.random.fork_rng():
        torch.manual_seed(run.seed)
        model = prepared(pretrained(preset, run.seed), run)
        optimizer = torch.optim.AdamW(trainable_parameters(model), lr=run.lr, weight_decay=run.weight_decay)
        draws = torch.Generator(preset.device).manual_seed(run.seed)
        for number, prompts in enumerate(asked(run, preset)):
            for group in optimizer.param_groups:
                group["lr"] = run.lr * (1 - number / batches(preset) if run.decay else 1)
            p = words.success(model, prompts, run.words, run.by_letter)  # (G,)
            found["curve"].append(p.mean().item())
            found["bits_most"] += ANSWERS * reinforce.bits(p.clamp(0, 1)).sum().item()
            episodes = _episodes(model, prompts, run, taught[number] if taught else None, draws)
            take = reinforce.step if run.fed == "" else supervised_step
            told = [take(model, optimizer, episodes) for _ in range(PASSES)][0]
            found["bits"] += told.get("bits", 0.0)
            found["lucky"] += int(episodes.rewards.sum())
            found["answers"].append(episodes.answers)
        found |= measured(model, run, preset)
        found["tune_loss"] = 1 - sum(found["curve"]) / len(found["curve"])
        found["state"] = {n: p.detach().cpu().clone() for n, p in model.named_parameters() if p.requires_grad}
    found["trained"] = sum(p.numel() for p in found["state"].values())
    return found | {"seconds": time.perf_counter() - started}


def _teacher(run: Rewarded) -> Rewarded:
    return replace(run, fed="", lr=run.taught_at, taught_at=0.0)


def _episodes(
    model: nn.Module, prompts: Tensor, run: Rewarded, answers: list | None, draws: torch.Generator
) -> reinforce.Episodes:
    if run.fed == "":
        return words.draw(model, prompts, ANSWERS, run.words, draws, run.by_letter)
    if run.fed == "shown":
        shown = [encode(word + " ").tolist() for word in run.words]
        answers = [shown[i % len(shown)] for i in range(len(prompts) * ANSWERS)]
    return words.episodes_of(model, prompts.to(model.lm_head.weight.device), answers, run.words, run.by_letter)


def asked(run: Rewarded, preset: Preset) -> list[Tensor]:
    """The prompts of each batch, (GROUPS, L): by the seed alone, so that all methods are asked the same."""
    prompts, draw = words.word_prompts(run.split), torch.Generator().manual_seed(run.seed)
    places = torch.randperm(len(prompts), generator=draw)[: batches(preset) * GROUPS]
    if len(places) < batches(preset) * GROUPS:
        raise ValueError(
            f"the split {run.split!r} has {len(prompts)} prompts, and a run asks {batches(preset) * GROUPS}"
        )
    return list(prompts[places].split(GROUPS))


def prepared(model: nn.Module, run: Rewarded) -> nn.Module:
    """`model` with what `run` trains, untrained, in place: TinyLoRA's numbers, an adapter, or the weights."""
    if run.numbers:
        return tinylora.add_tinylora(model, run.numbers, rank=2, seed=run.seed)
    prepare(model, run)
    return model


def supervised_step(model: nn.Module, optimizer: torch.optim.Optimizer, episodes: reinforce.Episodes) -> dict:
    """One step on -log p of the rewarded answers, the mean over them; none where nothing was rewarded."""
    chosen = episodes.rewards.flatten() > 0  # (E,)
    if chosen.any():
        optimizer.zero_grad()
        log_p = reinforce.log_probabilities(model, episodes.ids[chosen])  # (rewarded, T)
        (-(log_p * episodes.mask[chosen]).sum(dim=1).mean()).backward()
        optimizer.step()
    return {}


def measured(model: nn.Module, run: Rewarded, preset: Preset) -> dict[str, float]:
    """`success` on held-out prompts, evenly spaced, `task_loss`, 1 less that, and `text_loss` on held-out English."""
    share = words.held_out_success(model, run.words, preset.eval_windows, run.by_letter)
    windows = fixed_windows(task_ids("text", "held_out"), preset.eval_windows, preset.model.max_position_embeddings)
    return {"success": share, "task_loss": 1 - share, "text_loss": evaluate(model, windows)}
