"""The policy gradient against enumeration, the importance weights, and the meter of bits."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import assert_close
from torch import nn

from lora_from_scratch import AdapterConfig, add_adapters, trainable_parameters
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama
from lora_from_scratch.lab.reinforce import Episodes, bits, log_probabilities, policy_loss, sample, step

ONES = torch.ones(1, 1, dtype=torch.bool)


def llama(vocabulary: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> TinyLlama:
    """Two small layers, with weights large enough for shares of tokens that differ."""
    torch.manual_seed(seed)
    model = TinyLlama(LlamaConfig(vocabulary, 8, 12, 2, 2, 1, max_position_embeddings=16)).to(dtype)
    nn.init.normal_(model.lm_head.weight)
    return model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- The gradient, by enumeration ---


@st.composite
def bandits(draw):
    """Logits of the policy and of the sampler, a reward for each of K arms, and a group's size."""
    K, n = draw(st.integers(2, 4)), draw(st.integers(2, 3))
    numbers = st.floats(-2, 2)
    theta, other, rewards = (draw(st.lists(numbers, min_size=K, max_size=K)) for _ in range(3))
    return *(torch.tensor(x, dtype=torch.float64) for x in (theta, other, rewards)), n


def expected_gradient(theta, phi, rewards, n):
    """The gradient of `policy_loss`, weighted by how likely each of the K^n groups is under the sampler phi."""
    total, log_q = torch.zeros_like(theta), torch.log_softmax(phi, 0)
    for group in itertools.product(range(len(theta)), repeat=n):
        arms, policy = list(group), theta.clone().requires_grad_()
        log_p = torch.log_softmax(policy, 0)[arms][:, None]  # (n, 1): episodes of one token
        loss = policy_loss(log_p, log_q[arms][:, None], ONES.expand(n, 1), rewards[arms][None])
        (gradient,) = torch.autograd.grad(loss, policy)
        total += log_q[arms].sum().exp() * gradient
    return total


@given(bandits())
def test_the_expected_gradient_is_the_analytic_one_times_n_minus_1_over_n(bandit):
    """On-policy: of the expected reward J = Σ p_k r_k the gradient is p_k (r_k - J); the loss has a minus."""
    theta, _, rewards, n = bandit
    p = torch.softmax(theta, 0)
    analytic = p * (rewards - p @ rewards)
    assert_close(expected_gradient(theta, theta, rewards, n), -(n - 1) / n * analytic, "the gradient")


@given(bandits())
def test_the_weights_make_it_that_of_the_policy_whoever_sampled(bandit):
    """Off-policy, for episodes of one token: the very same gradient of p's expected reward, from samples of q."""
    theta, phi, rewards, n = bandit
    p = torch.softmax(theta, 0)
    analytic = p * (rewards - p @ rewards)
    assert_close(expected_gradient(theta, phi, rewards, n), -(n - 1) / n * analytic, "the gradient", tolerance=1e-10)


def test_a_llama_s_expected_gradient_is_that_of_its_expected_reward():
    """Two prompts, answers of two tokens, groups of two: over all 25 · 25 groups of each, for every parameter."""
    model, prompts, n = llama(), ([1, 2, 3], [4]), 2
    answers = list(itertools.product(range(5), repeat=2))
    rewards = {(i, a): float((3 * a[0] + a[1] + i) % 4 == 1) for i in range(2) for a in answers}
    parameters, value, total = list(model.parameters()), 0.0, None
    for i, prompt in enumerate(prompts):
        ids = torch.tensor([[*prompt, *answer] for answer in answers])
        log_p = log_probabilities(model, ids)[:, len(prompt) - 1 :]  # (25, 2)
        r = torch.tensor([rewards[i, a] for a in answers], dtype=torch.float64)
        value = value + log_p.sum(1).exp() @ r / 2
        first, second = (x.flatten() for x in torch.meshgrid(torch.arange(25), torch.arange(25), indexing="ij"))
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            rows, mask = log_p[[a, b]], torch.ones(2, 2, dtype=torch.bool)
            likely = rows.detach().sum().exp()
            loss = policy_loss(rows, rows.detach(), mask, r[[a, b]][None]) * likely / 2
            total = loss if total is None else total + loss
    wanted = torch.autograd.grad(value, parameters, retain_graph=True)
    got = torch.autograd.grad(total, parameters)
    assert value.item() > 0.1
    for one, other in zip(got, wanted, strict=True):
        assert_close(one, -(n - 1) / n * other, "the gradient", tolerance=1e-10)


def test_the_loss_is_a_mean_of_episodes_of_sums_of_tokens():
    """Two groups of two, by hand: weights of e, advantages of ±½ and ±1, and masked tokens that count for nothing."""
    log_p = torch.tensor([[1.0, 1.0], [0.0, 9.0], [0.0, 0.0], [0.0, math.inf]], dtype=torch.float64)
    mask = torch.tensor([[True, True], [True, False], [True, True], [True, False]])
    loss = policy_loss(log_p, torch.zeros(4, 2, dtype=torch.float64), mask, torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    wanted = -(0.5 * 2 * math.e - 0.5 * 1 - 1 * 2 + 1 * 1) / 4
    assert loss.item() == pytest.approx(wanted)


def test_a_masked_token_has_no_gradient_whatever_it_is():
    log_p = torch.tensor([[0.0, -math.inf], [0.0, 900.0]], requires_grad=True)
    mask = torch.tensor([[True, False], [True, False]])
    policy_loss(log_p, torch.zeros(2, 2), mask, torch.tensor([[1.0, 0.0]])).backward()
    assert torch.isfinite(log_p.grad).all() and not log_p.grad[:, 1].any() and log_p.grad[:, 0].all()


# --- Sampling ---


def test_on_policy_every_weight_is_1():
    """log p is log q, bit for bit, right after sampling; after a step on what was not all alike it no longer is."""
    model = llama()
    episodes = sample(model, [[1, 2, 3], [4]], 4, 3, lambda p, a: a[0] % 2, seeded())
    log_p = log_probabilities(model, episodes.ids, episodes.temperature)
    assert torch.equal(log_p, episodes.log_q) and 0 < episodes.rewards.mean() < 1
    step(model, torch.optim.SGD(model.parameters(), lr=0.1), episodes)
    assert not torch.equal(log_probabilities(model, episodes.ids, episodes.temperature), episodes.log_q)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_probabilities_are_those_of_each_token_given_what_stands_before(temperature):
    """A slow loop over rows and tokens, without padding; prompts of two lengths, answers that stop."""
    model = llama()
    episodes = sample(model, [[1, 2, 3], [4]], 8, 5, lambda p, a: len(a), seeded(), temperature, stop=[2])
    assert len({len(a) for a in episodes.answers}) > 2, "some stop early"
    prompts = [[1, 2, 3]] * 8 + [[4]] * 8
    for row, (prompt, answer) in enumerate(zip(prompts, episodes.answers, strict=True)):
        told = episodes.log_q[row][episodes.mask[row]]
        wanted = []
        for t, token in enumerate(answer):
            logits = model(torch.tensor([prompt + answer[:t]]))[0, -1] / temperature
            wanted.append((logits - logits.logsumexp(0))[token])
        assert_close(told, torch.stack(wanted).detach(), f"row {row}")
    assert torch.equal(episodes.mask.sum(1), torch.tensor([len(a) for a in episodes.answers]))


def test_answers_come_as_often_as_log_q_says():
    """Of 600 answers of one token at a temperature of 3, each token's share is within five standard errors of q."""
    model = llama()
    episodes = sample(model, [[1, 2]], 600, 1, lambda p, a: 0.0, seeded(), temperature=3.0)
    every = torch.tensor([[1, 2, token] for token in range(5)])
    q = log_probabilities(model, every, temperature=3.0)[:, 1].exp().detach()
    share = torch.bincount(torch.tensor(episodes.answers).flatten(), minlength=5) / 600
    assert q.sum().item() == pytest.approx(1) and ((share - q).abs() <= 5 * (q * (1 - q) / 600).sqrt()).all()


def test_rewards_stand_by_prompt_and_the_generator_goes_on():
    """reward(prompt, answer) is asked for each; a second call draws others; torch's own random state stays."""
    model, asked, generator, state = llama(), [], seeded(), torch.get_rng_state()

    def reward(prompt, answer):
        asked.append((list(prompt), answer))
        return len(prompt)

    first = sample(model, [[1, 2, 3], [4]], 3, 4, reward, generator)
    assert first.rewards.tolist() == [[3, 3, 3], [1, 1, 1]]
    assert [p for p, _ in asked] == [[1, 2, 3]] * 3 + [[4]] * 3 and [a for _, a in asked] == first.answers
    assert sample(model, [[1, 2, 3], [4]], 3, 4, reward, generator).answers != first.answers
    assert sample(model, [[1, 2, 3], [4]], 3, 4, reward, seeded()).answers == first.answers
    assert torch.equal(torch.get_rng_state(), state) and not first.log_q.requires_grad


def test_a_step_goes_against_the_loss_at_the_temperature_of_its_episodes():
    """One step of plain gradient descent, after gradients of something else: minus the rate times L's own gradient."""
    model, other = llama(), llama()
    episodes = sample(model, [[1, 2, 3], [4]], 4, 3, lambda p, a: float(a[0] % 2), seeded(), temperature=2.0)
    assert 0 < episodes.rewards.mean() < 1
    model(torch.tensor([[1, 2]])).sum().backward()
    step(model, torch.optim.SGD(model.parameters(), lr=0.1), episodes)
    log_p = log_probabilities(other, episodes.ids, temperature=2.0)
    policy_loss(log_p, episodes.log_q, episodes.mask, episodes.rewards).backward()
    for moved, start in zip(model.parameters(), other.parameters(), strict=True):
        assert_close(moved.detach(), (start - 0.1 * start.grad).detach(), "a parameter")


# --- The meter ---


def test_bits_are_0_at_the_ends_and_1_in_the_middle():
    assert bits(torch.tensor([0.0, 1.0, 0.5])).tolist() == [0, 0, 1]
    assert bits(torch.tensor(0.25)).item() == pytest.approx(2 - 0.75 * math.log2(3))


@given(st.floats(0, 1))
def test_bits_are_those_of_a_coin(p):
    """At most 1, the same for p and 1 - p, and -p log2 p - (1 - p) log2 (1 - p)."""
    x = torch.tensor(p, dtype=torch.float64)
    wanted = -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)
    assert bits(x).item() == pytest.approx(wanted, abs=1e-12) and 0 <= bits(x) <= 1 + 1e-12
    assert bits(1 - x).item() == pytest.approx(bits(x).item(), abs=1e-12)


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=4, max_size=4), min_size=1, max_size=5))
def test_a_group_tells_bits_exactly_where_it_moves_the_policy(rewards):
    """The step's meter is the sum of n H(p) over groups, at most one an episode, 0 just where all advantages are."""
    model, rewards = llama(), torch.tensor(rewards)
    ids = torch.randint(5, (rewards.numel(), 4), generator=seeded())
    mask = torch.tensor([False, True, True]).expand(len(ids), 3)
    episodes = Episodes(ids, mask, log_probabilities(model, ids).detach(), rewards, [], 1.0)
    told = step(model, torch.optim.SGD(model.parameters(), lr=1e-3), episodes)
    shares = rewards.mean(dim=1).tolist()
    coin = {0.0: 0.0, 0.25: 2 - 0.75 * math.log2(3), 0.5: 1.0, 0.75: 2 - 0.75 * math.log2(3), 1.0: 0.0}
    assert told["bits"] == pytest.approx(4 * sum(coin[p] for p in shares)) and told["bits"] <= rewards.numel()
    assert told["reward"] == pytest.approx(rewards.mean().item())
    assert (told["bits"] > 0) == ((rewards - rewards.mean(dim=1, keepdim=True)) != 0).any()


@pytest.mark.parametrize(("p", "n"), [(0.5, 32), (0.3, 32), (0.3, 64)])
def test_a_share_of_n_answers_makes_it_too_small_by_1_over_2_n_ln_2(p, n):
    """The mean of H(k / n) over all k, weighted by how likely each is."""
    weights = torch.tensor([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)], dtype=torch.float64)
    mean = weights @ bits(torch.arange(n + 1, dtype=torch.float64) / n)
    missing = bits(torch.tensor(p, dtype=torch.float64)) - mean
    assert missing.item() == pytest.approx(1 / (2 * n * math.log(2)), rel=0.05)


# --- Learning ---


def beginner() -> TinyLlama:
    """A rank-1 adapter on a model of 11 tokens that prefers none by much."""
    model = llama(11, dtype=torch.float32)
    model.lm_head.weight.data *= 0.6
    return add_adapters(model, AdapterConfig(rank=1, alpha=8))


def run(reward, steps: int) -> tuple[list[dict], list[torch.Tensor]]:
    """Eight answers of one token to each of three prompts a step."""
    model, draw = beginner(), seeded()
    optimizer = torch.optim.Adam(trainable_parameters(model), lr=0.05)
    told = [step(model, optimizer, sample(model, [[1], [2, 3], [7]], 8, 1, reward, draw)) for _ in range(steps)]
    return told, [p.detach().clone() for p in trainable_parameters(model)]


def test_what_is_done_sometimes_is_sharpened_at_rank_1():
    """Answers that are even: from about a half to nearly all, and the bits fade as it is learnt."""
    told, _ = run(lambda prompt, answer: float(answer[0] % 2 == 0), steps=25)
    late = {key: sum(t[key] for t in told[-10:]) / 10 for key in ("reward", "bits")}
    assert told[0]["reward"] < 0.7 and late["reward"] > 0.93
    assert told[0]["bits"] > 12 > 6 > late["bits"], "of 24, one an episode"


def test_what_is_never_done_is_not_discovered():
    """No answer is right, so no bit is told and no parameter moves, with Adam too: its first moment stays zero."""
    told, after = run(lambda prompt, answer: float(answer == [99]), steps=3)
    assert all(t == {"reward": 0, "bits": 0} for t in told)
    assert all(torch.equal(*pair) for pair in zip(after, trainable_parameters(beginner()), strict=True))


# --- What is refused ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompts": []}, "0 prompts"),
        ({"n": 1}, "n 1, .* at least 2"),
        ({"temperature": 0.0}, "temperature 0.0: .* above 0"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"reward": lambda p, a: math.nan}, "the rewards are .*nan.* must be finite"),
        ({"prompts": [[9]]}, "the id 9"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(options, words):
    given = {"prompts": [[1]], "n": 2, "new_tokens": 2, "reward": lambda p, a: 0.0, "generator": seeded()} | options
    with pytest.raises(ValueError, match=words):
        sample(llama(), **given)
