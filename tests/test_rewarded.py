"""Rewarded runs: what `lab/words.py`, `lab/rewarded.py`, `lab/practised.py` and `analysis/changes.py` promise."""

import itertools
from dataclasses import replace

import pytest
import torch
from test_tasks import use_made_up_text
from torch import nn

from lora_from_scratch.analysis import changes
from lora_from_scratch.book.figures import ch16
from lora_from_scratch.inject import AdapterConfig
from lora_from_scratch.lab import practised, reinforce, rewarded, tasks, words
from lora_from_scratch.lab.corpus import decode, encode
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama
from lora_from_scratch.lab.practised import compare_rewarded, weights, with_weights
from lora_from_scratch.lab.presets import PRESETS
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.rewarded import ANSWERS, GROUPS, Rewarded, asked, batches, practise, supervised_step

SMOKE = replace(PRESETS["smoke"], pretrain_steps=4, eval_windows=4, steps=8, workers=1)
RUN = Rewarded(adapter=AdapterConfig(rank=2, alpha=8), lr=1e-2, seed=1)


@pytest.fixture(autouse=True)
def build(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BUILD", str(tmp_path))
    use_made_up_text(monkeypatch)
    for module in (words, rewarded):
        monkeypatch.setattr(module, "task_ids", tasks.task_ids)


def llama(vocabulary: int = 128) -> TinyLlama:
    torch.manual_seed(0)
    model = TinyLlama(LlamaConfig(vocabulary, 8, 12, 2, 2, 1, max_position_embeddings=32)).double()
    nn.init.normal_(model.lm_head.weight)
    return model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(result: dict) -> dict:
    return {k: v for k, v in result.items() if k not in ("seconds", "state")}


# --- Words ---


def test_every_prompt_ends_behind_a_word_and_none_is_left_out():
    text = decode(tasks.task_ids("text", "task"))
    found = [decode(p) for p in words.word_prompts("task", 6)]
    slow = [text[i : i + 6] for i in range(len(text) - 5) if text[i + 5] == " " and "a" <= text[i + 4] <= "z"]
    assert found == slow and len(found) > 20


@pytest.mark.parametrize("by_letter", [False, True])
def test_success_is_the_summed_chance_of_all_right_answers(by_letter):
    """By a slow loop over words and characters, each given what stands before it; the letter picks the word."""
    model, wanted = llama(), ("ab", "c")
    prompts = torch.stack([encode("xya "), encode("xyz "), encode("xym ")])
    for prompt, got in zip(prompts, words.success(model, prompts, wanted, by_letter), strict=True):
        right = [wanted[prompt[-2] > ord("m")]] if by_letter else wanted
        total = 0.0
        for word in right:
            ids, p = prompt.tolist(), 1.0
            for token in encode(word + " ").tolist():
                p *= torch.softmax(model(torch.tensor([ids]))[0, -1], 0)[token].item()
                ids.append(token)
            total += p
        assert got.item() == pytest.approx(total, rel=1e-9) and total > 0


def test_drawn_answers_are_those_of_reinforce_sample():
    """The same answers, rewards and log q from the same generator, though each prompt is read once."""
    model, prompts = llama(), torch.stack([encode("an apple "), encode("a bottle ")])
    model.lm_head.weight.data[32] += 2 * torch.randn(8, dtype=torch.float64, generator=seeded(1))  # some spaces
    ours = words.draw(model, prompts, 12, ("ab", "c"), seeded())
    theirs = reinforce.sample(model, prompts.tolist(), 12, 3, words.reward_of(("ab", "c")), seeded(), stop=[32])
    assert ours.answers == theirs.answers and len({len(a) for a in ours.answers}) > 1
    for field in ("ids", "mask", "rewards"):
        assert torch.equal(getattr(ours, field), getattr(theirs, field).to(getattr(ours, field).dtype)), field
    torch.testing.assert_close(ours.log_q, theirs.log_q)


def test_a_word_without_its_space_or_with_more_is_no_success():
    reward = words.reward_of(("the", "a"))
    told = {text: reward((), encode(text).tolist()) for text in ("the ", "a ", "the", "an ", "then", " a ", "")}
    assert told == {"the ": 1, "a ": 1, "the": 0, "an ": 0, "then": 0, " a ": 0, "": 0}
    rule = words.reward_of(("the", "a"), by_letter=True)
    told = {(p, a): rule(encode(p).tolist(), encode(a).tolist()) for p in ("m ", "n ") for a in ("the ", "a ")}
    assert told == {("m ", "the "): 1, ("m ", "a "): 0, ("n ", "the "): 0, ("n ", "a "): 1}


@pytest.mark.parametrize(("given", "by_letter"), [((), False), ("the", False), (("a", "a"), False), (("a ",), False),
                                                  (("a", "b", "c"), True)])  # fmt: skip
def test_words_that_are_none_are_refused(given, by_letter):
    with pytest.raises(ValueError, match=r"give one or more|leave its space|there are two"):
        words.check_words(given, by_letter)


# --- Runs ---


def test_all_methods_are_asked_the_same_prompts_and_none_twice():
    first, other = asked(RUN, SMOKE), asked(replace(RUN, adapter=None, lr=0.5, numbers=3), SMOKE)
    assert len(first) == batches(SMOKE) == 2 and all(map(torch.equal, first, other))
    longer = torch.cat(asked(RUN, replace(SMOKE, steps=12)))
    assert len(longer) == 3 * GROUPS and not torch.equal(first[0], asked(replace(RUN, seed=2), SMOKE)[0])


def often_right(monkeypatch) -> None:
    """Reward about half of what an untrained model writes, where real words would never come."""
    monkeypatch.setattr(words, "reward_of", lambda wanted, by_letter=False: lambda prompt, answer: answer[0] % 2)


@pytest.mark.parametrize(("decay", "rates"), [(True, (1e-2, 0.5e-2)), (False, (1e-2, 1e-2))])
def test_a_run_is_the_policy_gradient_written_out(monkeypatch, decay, rates):
    """Batch by batch with the parts of reinforce.py, two steps each: the same curve, rewards, bits and weights."""
    often_right(monkeypatch)
    found = practise(replace(RUN, decay=decay), SMOKE)
    torch.manual_seed(RUN.seed)
    model = rewarded.prepared(pretrained(SMOKE, 1), RUN)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, draws, lucky, told = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0), seeded(1), 0, 0.0
    for k, prompts in enumerate(asked(RUN, SMOKE)):
        optimizer.param_groups[0]["lr"] = rates[k]
        assert found["curve"][k] == pytest.approx(words.success(model, prompts, RUN.words).mean().item(), rel=1e-5)
        episodes = words.draw(model, prompts, ANSWERS, RUN.words, draws)
        told += reinforce.step(model, optimizer, episodes)["bits"]
        reinforce.step(model, optimizer, episodes)
        lucky += int(episodes.rewards.sum())
    assert (found["lucky"], found["bits"]) == (lucky, pytest.approx(told)) and 0 < lucky < 2 * GROUPS * ANSWERS
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(found["state"][name], p.detach())
    assert found["tune_loss"] == pytest.approx(1 - sum(found["curve"]) / 2)
    assert found["success"] == pytest.approx(words.held_out_success(model, RUN.words, 4), rel=1e-4)


def test_the_supervised_run_is_fed_the_rewarded_episodes_of_its_teacher_and_no_others(monkeypatch):
    seen = []

    def watch(model, optimizer, episodes):
        seen.append((episodes.answers, int(episodes.rewards.sum())))
        return supervised_step(model, optimizer, episodes)

    often_right(monkeypatch)
    monkeypatch.setattr(rewarded, "supervised_step", watch)
    teacher = practise(replace(RUN, lr=3e-3), SMOKE)
    practise(replace(RUN, fed="rewarded", taught_at=3e-3), SMOKE)
    assert [answers for answers, _ in seen[::2]] == teacher["answers"] and len(seen) == 4
    assert sum(count for _, count in seen[::2]) == teacher["lucky"] > 0


def test_a_supervised_step_hangs_on_the_rewarded_answers_alone():
    """Other answers without reward leave the step as it is; the gradient is that of -log p, the mean over answers."""
    prompts, right, wrong = torch.stack([encode("an apple ")]), encode("ab ").tolist(), encode("zz ").tolist()
    moved = []
    for other in (wrong, encode("qqq").tolist()):
        model = llama()
        episodes = words.episodes_of(model, prompts, [right, other, other, right], ("ab",))
        assert episodes.rewards.tolist() == [[1, 0, 0, 1]]
        before = model.lm_head.weight.detach().clone()
        supervised_step(model, torch.optim.SGD(model.parameters(), lr=1.0), episodes)
        moved.append(model.lm_head.weight.detach() - before)
    torch.testing.assert_close(*moved)
    model = llama()
    ids = torch.tensor([prompts[0].tolist() + right])
    (-torch.log_softmax(model(ids[:, :-1]), -1)[0, range(8, 11), right].sum()).backward()
    torch.testing.assert_close(moved[0], -model.lm_head.weight.grad)


def test_without_a_lucky_answer_nothing_moves_and_no_bit_is_told():
    found = practise(replace(RUN, words=("zqxj",)), SMOKE)
    assert (found["lucky"], found["bits"]) == (0, 0)
    before, after = (weights(replace(RUN, words=("zqxj",)), SMOKE, trained) for trained in (False, True))
    assert all(torch.equal(before[name], after[name]) for name in before) and len(before) == 14


def test_shown_a_word_the_model_learns_it():
    never = replace(RUN, words=("zqxj",), fed="shown", lr=3e-2)
    start = words.held_out_success(pretrained(SMOKE, 1), ("zqxj",), 4)
    found = practise(never, replace(SMOKE, steps=40))
    assert found["success"] > 100 * start and found["lucky"] == 10 * GROUPS * ANSWERS


@pytest.mark.parametrize(
    "run", [RUN, replace(RUN, adapter=None, scope="linear"), replace(RUN, adapter=None, numbers=5)]
)
def test_the_weights_of_a_run_put_into_the_base_succeed_as_the_run_did(run):
    run = replace(run, fed="shown", lr=1e-2)
    found, new = practise(run, SMOKE), weights(run, SMOKE)
    again = words.held_out_success(with_weights(SMOKE, 1, new), run.words, 4)
    assert again == pytest.approx(found["success"], rel=1e-3)
    assert not all(torch.equal(new[n], w) for n, w in weights(run, SMOKE, trained=False).items())
    assert found["trained"] == (5 if run.numbers else sum(p.numel() for p in found["state"].values()))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"fed": "rewarded"}, "needs the rate"),
        ({"taught_at": 1e-3}, "needs the rate"),
        ({"fed": "praise"}, "one of"),
        ({"numbers": 3}, "one of the two"),
        ({"numbers": -1}, "one of the two"),
        ({"words": ("the end",)}, "leave its space out"),
        ({"by_letter": True}, "there are two"),
        ({"task": "rot13"}, "leave task"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused_by_name(change, told):
    with pytest.raises(ValueError, match=told):
        replace(RUN, **change)


def test_a_comparison_gives_each_method_its_own_grid_and_picks_by_the_mean_along_the_run(monkeypatch):
    """With a made-up outcome: the curve is best at the rate 0.02 for one method and 0.3 for the other."""
    best = {2: 0.02, 3: 0.3}

    def fake(runs, preset, work):
        assert work is practise
        return [{"tune_loss": abs(run.lr / best[run.adapter.rank] - 1)} for run in runs]

    monkeypatch.setattr(practised, "carry_out_all", fake)
    methods = {"a": RUN, "b": replace(RUN, adapter=AdapterConfig(rank=3))}
    grids = {"a": (0.01, 0.02, 0.04, 0.08), "b": (0.1, 0.2, 0.3, 0.9)}
    tuned = compare_rewarded(methods, replace(SMOKE, budget=4), grids)
    assert {name: t.run.lr for name, t in tuned.items()} == {"a": 0.02, "b": 0.3}
    known = compare_rewarded(methods, replace(SMOKE, budget=0), grids, known={"a": 0.5, "b": 0.7})
    assert {name: t.run.lr for name, t in known.items()} == {"a": 0.5, "b": 0.7}


def update_of(run: Rewarded) -> tuple[dict, dict]:
    return practised.update(replace(run, fed="shown"), SMOKE, 1)


def test_what_a_run_starts_from_and_a_part_of_an_update_are_exact():
    """`started` is where the first step begins, A drawn by the seed and B zero; half an update is half way."""
    model, begin = practised.started(RUN, SMOKE)
    assert begin and all(not v.any() for n, v in begin.items() if n.endswith("B"))
    torch.manual_seed(RUN.seed)
    same = rewarded.prepared(pretrained(SMOKE, 1), RUN).state_dict()
    assert all(torch.equal(v, same[n]) and v.any() for n, v in begin.items() if n.endswith("A"))
    w, to = {"w": torch.tensor([[1.0, 2.0]])}, {"w": torch.tensor([[3.0, 2.0]])}
    assert practised.part_of(w, to, 0.5)["w"].tolist() == [[2.0, 2.0]]
    each = practised.held_out(model, RUN, SMOKE)
    assert each.mean().item() == pytest.approx(words.held_out_success(model, RUN.words, 4), rel=1e-6)


def test_controls_are_as_large_as_the_update_and_know_nothing_of_it():
    """Layer by layer: the very singular values, the size of noise, the size of another update, the best rank 1."""
    before, after = update_of(RUN)
    other = {name: w + torch.ones_like(w) for name, w in before.items()}
    random, noise = (make(before, after, 3) for make in (practised.random_like, practised.noise_like))
    scaled, thin = practised.scaled_like(before, other, after), practised.cut(before, after)
    for name, w in before.items():
        delta = after[name] - w
        values = torch.linalg.svdvals(delta)
        close = lambda a, b: torch.testing.assert_close(a, b, rtol=2e-3, atol=1e-5)  # noqa: E731
        close(torch.linalg.svdvals(random[name] - w), values)
        for control in (noise, scaled):
            close((control[name] - w).norm(), delta.norm())
        assert ((random[name] - w) * delta).sum().abs() < 0.9 * delta.norm() ** 2
        close((scaled[name] - w) / (scaled[name] - w).max(), torch.ones_like(w))
        close((after[name] - thin[name]).norm(), values[1:].norm())
    still = practised.noise_like(before, before, 0)
    assert all(torch.equal(still[name], w) for name, w in before.items())


def test_13_numbers_are_another_adapter_with_another_seed():
    run = replace(RUN, adapter=None, numbers=5, fed="shown", lr=3e-2)
    found, prompts = practise(run, SMOKE), torch.cat(asked(run, SMOKE))
    (v,) = found["state"].values()
    same, other = (practised.with_numbers(run, SMOKE, v, seed) for seed in (run.seed, run.seed + 1))
    assert words.held_out_success(same, run.words, 4) == pytest.approx(found["success"], rel=1e-4)
    assert not torch.allclose(same(prompts), other(prompts), atol=1e-4)
    assert practised.judged_on_asked(same, run, SMOKE).shape == (2 * GROUPS,)


# --- Changes ---


def test_bfloat16_hides_small_steps_and_float32_does_not():
    """Of ones, a step of 1/1024 is lost (the next number is 1 + 1/128), one of 1/64 is kept; zeros keep both."""
    before = {"a": torch.ones(4, 4), "b": torch.zeros(4, 4)}
    after = {"a": before["a"].clone(), "b": before["b"].clone()}
    after["a"][0] += 1 / 1024
    after["a"][1] += 1 / 64
    after["b"][0] += 1 / 1024
    assert changes.share_changed(before, after, torch.bfloat16) == pytest.approx(8 / 32)
    assert changes.share_changed(before, after, torch.float32) == pytest.approx(12 / 32)
    assert changes.share_changed(before, after, torch.float32, tolerance=1 / 500) == pytest.approx(4 / 32)


def test_rounding_makes_a_rank_1_update_look_full():
    before = {"w": torch.randn(32, 48, generator=seeded())}
    after = {"w": before["w"] + 0.01 * torch.outer(*(torch.randn(d, generator=seeded(1)) for d in (32, 48)))}
    assert changes.rank_share(before, after, torch.float32) == pytest.approx(1 / 32)
    assert changes.rank_share(before, after, torch.bfloat16) > 0.9


@pytest.mark.parametrize(
    ("before", "after", "kind", "told"),
    [
        ({"w": torch.ones(2, 2)}, {"v": torch.ones(2, 2)}, torch.float32, "same weights"),
        ({}, {}, torch.float32, "same weights"),
        ({"w": torch.ones(2, 2)}, {"w": torch.ones(2, 3)}, torch.float32, "one shape"),
        ({"w": torch.ones(2, 2)}, {"w": torch.ones(2, 2)}, torch.int8, "floats"),
        ({"w": torch.ones(2, 2)}, {"w": torch.full((2, 2), torch.nan)}, torch.float32, "NaN"),
    ],
)
def test_what_cannot_be_compared_is_refused(before, after, kind, told):
    for function in (changes.share_changed, changes.rank_share):
        with pytest.raises(ValueError, match=told):
            function(before, after, kind)


# --- The sums of chapter 16 ---


def test_shares_of_a_gain_by_hand():
    assert ch16.share([0.5, 0.9], [0.1, 0.1], [0.9, 0.5]) == pytest.approx([0.5, 2])
    assert ch16.lead([0.5], [0.7], [0.1], [0.9]) == pytest.approx([-0.25])
    assert ch16.share([0.5], [0.1], [0.1]) == [float("inf")]
    assert ch16.smoothed([1, 2, 3, 4], width=2).tolist() == [1, 1.5, 2.5, 3.5]
    assert list(itertools.pairwise(ch16.smoothed([2.0] * 9).tolist())) == [(2.0, 2.0)] * 8


def test_one_habit_gets_the_prompts_behind_which_it_is_right_and_no_others():
    """By a loop over the prompts: the share of last letters behind m."""
    prompts = words.word_prompts("held_out")
    chosen = [prompts[int(i)] for i in torch.linspace(0, len(prompts) - 1, SMOKE.eval_windows).long()]
    late = [decode(prompt)[-2] > "m" for prompt in chosen]
    assert practised.one_habit(SMOKE) == sum(late) / len(late)


def test_asked_k_times_is_one_less_the_chance_of_k_failures():
    p = torch.tensor([0.0, 0.5, 0.25, 1.0], dtype=torch.float64)
    by_hand = [(0 + 0.5 + 0.25 + 1) / 4, (0 + 0.75 + 1 - 0.75**2 + 1) / 4]
    assert practised.pass_at(p, (1, 2)) == pytest.approx(by_hand)


def test_the_first_direction_of_a_rank_1_update_keeps_all_of_it():
    """Cut to rank 1, an update of rank 1 is what it was, and needs no new size; one of full rank is another."""
    run = replace(Rewarded(lr=1e-2, seed=1), adapter=AdapterConfig(rank=1, alpha=32), fed="shown")
    base = words.held_out_success(pretrained(SMOKE, 1), run.words, SMOKE.eval_windows)
    kept = practised.cut_shares(run, run, SMOKE, {1: base})
    assert set(kept) == set(practised.CUTS)
    assert [v[0] for v in kept.values()] == pytest.approx([1, 1], rel=1e-3)
    whole = practised.cut_shares(replace(run, adapter=None, scope="linear"), run, SMOKE, {1: base})
    assert all(abs(v[0] - 1) > 1e-3 for v in whole.values())


def test_luck_is_told_by_what_was_expected_and_what_came():
    told = ch16.of_luck([True, True, False, False], [True, False, False, True], [1.0, 1.0, 0.0, 0.0])
    assert told == "of 4 runs 2 had a lucky answer, 1.3 were to; 2 learnt, 1 of them with one"
