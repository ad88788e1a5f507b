# %% [markdown]
# # 16 · Reinforcement
#
# **The question.** A model answers, and all that it is told is how good the answer was. How few numbers can learn from
# that? And what can it teach a model that never gives the right answer?
#
# **What you will be able to do.** Write a policy gradient with importance weights and group-centred rewards. Count the
# bits that episodes tell, beside the numbers that an adapter holds. Say beforehand when reinforcement can teach
# nothing. Doubt a count of changed weights.
#
# **What you need.** Chapters 00 (cutting an update to a low rank), 01 (the layer and its own rate), 03 (what a 16-bit
# base rounds away) and 10 (random updates of the same spectrum).
#
# **The published claims.** "LoRA Without Regret" (Thinking Machines, 2025, section "Reinforcement learning"): LoRA
# "fully matches" full fine-tuning under a policy gradient, at ranks as low as 1, for an episode tells one bit or so.
# TinyLoRA (arXiv 2602.04118v1, abstract): 13 trained numbers bring Qwen2.5 to 91 % on GSM8K (the abstract says 8B, its
# figure 1 says 7B), and supervised training needs 100 to 1,000 times larger updates for the same. 2505.11711v2
# (abstract): reinforcement changes 5 to 30 % of the weights, at nearly full rank. 2510.00553v3 (abstract): the first
# singular direction of each update holds over 99 % of the gain. 2504.13837v4 (abstract): what is learnt was in the
# base's answers already.
#
# Three seeds are three bases at `full`, one at `quick`. `a ± b` is a mean over seeds with its 95 % interval.

# %%
from dataclasses import replace
from functools import partial
from itertools import product

import torch

from lora_from_scratch import AdapterConfig
from lora_from_scratch.analysis import changes
from lora_from_scratch.analysis.counting import lora_parameters
from lora_from_scratch.book import shares, stats, tables
from lora_from_scratch.book.figures import ch16 as figures
from lora_from_scratch.book.results import Results
from lora_from_scratch.book.verdicts import AtLeast, AtMost, Equal, Figures, Higher, Identity, Lower
from lora_from_scratch.lab import practised
from lora_from_scratch.lab.corpus import decode
from lora_from_scratch.lab.presets import preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.reinforce import bits, policy_loss
from lora_from_scratch.lab.rewarded import ANSWERS, GROUPS, Rewarded, asked, batches, practise
from lora_from_scratch.lab.words import draw, held_out_success, success
from lora_from_scratch.lab.workers import carry_out_all

size = preset()
results = Results("16_reinforcement", size, scope={"optimizer": "AdamW", "rule": "policy gradient, group-centred"})
seeds = range(1, size.seeds + 1)

# %% [markdown]
# ## A policy gradient in raw lines
#
# A policy gives answers `k` with chances `p_k`, and each has a reward `r_k`. The expected reward is `J = Σ p_k r_k`. Of
# a softmax over logits θ, its gradient is short: what is better than the mean becomes likelier.
#
# $$\frac{\partial J}{\partial \theta_k} = p_k\, (r_k - J)$$
#
# Nobody can sum over all answers of a language model, so one samples. If another policy q sampled (the same model, a
# step ago), each answer is weighted by p / q. From each reward the mean over its *group* is taken, the n answers to one
# prompt. (GRPO, arXiv 2402.03300, the method most in use, centres so too, and divides by the group's spread as well.)
# Here is the whole expectation, over all groups of two that q may draw.

# %%
theta = torch.tensor([0.5, -1.0, 0.3, 1.2], dtype=torch.float64)
p, q = torch.softmax(theta, 0), torch.softmax(theta.flip(0), 0)  # (4,), (4,): trained, and that which samples
r, n = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64), 2
exact = p * (r - p @ r)  # (4,)
one_hot = torch.eye(4, dtype=torch.float64)


def expected(weighted=True, centred=True, shift=0.0):
    """The mean of the sampled gradient over all 16 groups, (4,), and the spread about it."""
    groups = list(product(range(4), repeat=n))
    chance = torch.stack([q[list(g)].prod() for g in groups])  # (16,)
    terms = []
    for g in groups:
        rewards = r[list(g)] + shift
        advantage = rewards - rewards.mean() * centred  # (n,)
        weight = p[list(g)] / q[list(g)] if weighted else torch.ones(n, dtype=torch.float64)
        terms.append(((weight * advantage)[:, None] * (one_hot[list(g)] - p)).mean(0))
    mean = chance @ torch.stack(terms)
    return mean, (chance @ (torch.stack(terms) - mean).square().sum(1)).sqrt().item()


print("exact              ", exact.numpy().round(3))
print("sampled, × n/(n-1) ", (expected()[0] * n / (n - 1)).numpy().round(3))

# %% [markdown]
# A group's mean holds the answer's own reward too; that makes the gradient (n - 1) / n times as large, and changes
# nothing else. In the package the same is a loss, `policy_loss(log_p, log_q, mask, rewards)`, whose gradient autograd
# takes.

# %%
says = "the loss of the package, over all groups that q may draw, has the exact gradient times (n - 1) / n"
gradient = results.identity("gradient", says, Identity(1e-12))
logits, total = theta.clone().requires_grad_(), torch.zeros(4, dtype=torch.float64)
for group in map(list, product(range(4), repeat=n)):
    log_p = torch.log_softmax(logits, 0)[group][:, None]  # (n, 1): answers of one token
    loss = policy_loss(log_p, q.log()[group][:, None], torch.ones(n, 1, dtype=torch.bool), r[group][None])
    total += q[group].prod() * torch.autograd.grad(loss, logits)[0]
gradient.measure((-total * n / (n - 1) - exact).abs().max().item())

# %% [markdown]
# ## Broken on purpose
#
# First the weights p / q are left out. Then the centring is, with rewards of 1 and 0, and with 11 and 10, which are the
# same task.

# %%
for words, options in {
    "as it should be": {},
    "no weights": {"weighted": False},
    "rewards 11 and 10": {"shift": 10.0},
    "not centred": {"centred": False},
    "not centred, 11 and 10": {"centred": False, "shift": 10.0},
}.items():
    mean, spread = expected(**options)
    print(f"{words:24s} gradient {mean.numpy().round(3)}  spread {spread:.2f}")

# %% [markdown]
# Without the weights it is the gradient of *q's* reward at q's logits: it improves the policy that sampled, and we
# would be adding it to another. Without centring it is right in the mean (and larger, by n / (n - 1)), but ten points
# of reward that mean nothing drown it in spread.
#
# ## Two rewards
#
# The model reads 12 characters that end behind a word, and writes the next word.
#
# - **The habit**: 1 if it writes *the*, *a* or *an*, and a space behind it. One habit for all prompts will do.
# - **The rule**: behind a letter from a to m only *the* counts, behind one from n to z only *a*. One habit gets about
#   half; beyond that the answer has to depend on the prompt.
#
# Few answers are right, so the chance of success is a sum of products, which no sampling blurs. We judge on held-out
# prompts by that.

# %%
habit, rule = Rewarded(), Rewarded(words=("the", "a"), by_letter=True)
model, prompts = pretrained(size, 1), asked(habit, size)[0]
episodes = draw(model, prompts, 4, habit.words, torch.Generator(size.device).manual_seed(0))
for i in range(2):
    answers = [decode(torch.tensor(answer)) for answer in episodes.answers[4 * i : 4 * i + 4]]
    print(f"{decode(prompts[i])!r} {answers} -> {episodes.rewards[i].tolist()}")
chance = success(model, prompts, habit.words)
print("exact chance of success:", [round(c, 3) for c in chance.tolist()])


# %%
def of_base(run):
    """The held-out success of each judging base, untrained."""
    return [held_out_success(pretrained(size, s), run.words, size.eval_windows, run.by_letter) for s in seeds]


base = {"habit": of_base(habit), "rule": of_base(rule)}
print({name: stats.shown(values) for name, values in base.items()})
count = batches(size) * GROUPS * ANSWERS
print(f"a run: {batches(size)} batches of {GROUPS} prompts, {ANSWERS} answers to each: {count:,d} episodes")

# %% [markdown]
# Each batch serves two steps of AdamW: the first on-policy, the second with weights p / q at work. (They go by token,
# each given what stands before it: exact for the first token of an answer alone.) The rate falls linearly to 0.
#
# ## The meter of bits
#
# All that an episode tells is its reward. With a chance p of success that is H(p) bits at most:
#
# $$H(p) = -p \log_2 p - (1 - p) \log_2 (1 - p)$$
#
# One bit at p = ½, none at 0 or 1. A group with no success tells nothing: its advantages are all 0. The post compares
# such bits with a rank-1 adapter on Llama-3.1-8B.

# %%
post = 'Schulman et al., "LoRA Without Regret", Thinking Machines, 2025, section Reinforcement learning'
h, kv, m = 4096, 1024, 14336
block = [(h, h), (kv, h), (kv, h), (h, h), (m, h), (m, h), (h, m)]  # (out, in)
numbers = lora_parameters(block * 32, rank=1)
ends = numbers + 2 * (128_256 + h)  # with the embedding and the head, as the post may have counted
print(f"rank 1 on Llama-3.1-8B: {numbers:,d} numbers, {numbers / 320_000:.1f} times the bits; with both ends {ends:,d},"
      f" {ends / 320_000:.1f} times; 3M over 320,000 would be {3e6 / 320_000:.1f}. The post: 'almost 10'")  # fmt: skip
for name, says, published, test, ours in (
    ("math_bits", "10,000 problems, 32 answers each, one bit an answer", "320,000 bits", Figures(320_000), 10_000 * 32),
    ("llama_rank_1", "rank 1 in every layer of Llama-3.1-8B", "3M parameters", Figures(3e6, -6), numbers),
    ("r1_zero", "R1-Zero: 10,400 steps of 32 questions and 16 answers", "5.3M bits", Figures(5.3e6, -5), 10_400 * 512),
):
    results.arithmetic(name, says, post, published, test, "full text").measure(ours)

# %% [markdown]
# ## What would count
#
# All methods get the same prompts and sweeps of equally many rates, on base 0; bases 1 to 3 judge. A rate is picked by
# the mean success along the run, for the end is soon the same for many. Like everything here it was fixed after a first
# run, whose rate was constant; nothing else of the sweep has changed since.
#
# The **gain** is success less the base's. We give it as a share of the gain of full fine-tuning (all linear layers). A
# tenth of that is our margin. Chance for rank 1 is a random update with the singular values of its own, and on the way
# the untrained base. Beside it we print full fine-tuning against itself, on other prompts: the noise of reinforcement.
# (The post claims equality "within the precision limits" of that noise.) For 13 numbers chance is 13 random ones of the
# same norm.
#
# **Write down your prediction.** Will rank 1 end where full fine-tuning does, on the habit and on the rule? Will 13
# numbers? Ours goes by the count of bits. A run has 3,200 episodes at `full`, so 3,200 bits at most; rank 1 has 9,856
# numbers, so it follows full fine-tuning everywhere. A habit takes few bits, and 13 numbers hold 416, in float32: they
# reach it too.

# %%
end, way = "at the end", "on the way"
within = Equal(0.1, "a tenth of full fine-tuning's gain")
share_of_gain = {"unit": "share of full fine-tuning's gain"}
rank_1 = results.claim(
    "rank_1",
    says="under a policy gradient rank 1 gains what full fine-tuning gains",
    source=post,
    read="full text",
    published="LoRA fully matches FullFT, even with ranks as low as 1",
    test={f"{reward}, {when}": within for reward in base for when in (end, way)},
    scope=share_of_gain,
)
thirteen = results.claim(
    "thirteen",
    says="13 trained numbers recover 90 % of full fine-tuning's gain",
    source="arXiv 2602.04118v1, abstract",
    read="abstract",
    published="91 % on GSM8K with 13 parameters",
    test=AtLeast(0.9, "our line; the abstract's 90 % is of other benchmarks, with 1,000 times fewer"),
    scope={"reward": "habit", "method": "TinyLoRA, rank 2, v shared by all layers"} | share_of_gain,
)

# %%
fits = results.finding(
    "fits",
    says="all bits that the episodes can have told rank 1 are fewer than 13 float32 numbers hold: their ratio",
    test=AtMost(1, "13 · 32 = 416 bits"),
    scope={"reward": "habit"},
)
needs_rl = {
    f"{numbers} numbers": results.finding(
        f"needs_rl_{numbers}",
        says=f"{numbers} numbers gain more by reinforcement than by training on the rewarded of the same episodes",
        source="arXiv 2602.04118v1, abstract, which asks how much larger the update of supervised training must be",
        test=Higher(0.1, "a tenth of full fine-tuning's gain"),
        scope={"reward": "habit"} | share_of_gain,
    )
    for numbers in (13, 112)
}
same_episodes = results.finding(
    "same_episodes",
    says="rank 1 gains as much by supervised training on the rewarded of the same episodes",
    test=within,
    scope={"reward": "habit"} | share_of_gain,
)

# %% [markdown]
# ## The sweep

# %%
lora = {f"rank {rank}": AdapterConfig(rank=rank, alpha=32) for rank in (1, 4)}
few = {f"{count} numbers": count for count in (13, 112)}
grid = lambda *halves: tuple(10 ** (k / 2) for k in halves)  # noqa: E731
grids = {name: grid(-8, -7, -6, -5) for name in ("full", *lora)}
grids |= {name: grid(-6, -5, -4, -3) for name in few}
methods = {"full": replace(habit, scope="linear")} | {name: replace(habit, adapter=a) for name, a in lora.items()}
arms = {"rule": {name: replace(run, words=rule.words, by_letter=True) for name, run in methods.items()}}
arms["habit"] = methods | {name: replace(habit, numbers=count) for name, count in few.items()}
tuned = {}
for reward in base:
    tuned[reward] = practised.compare_rewarded(arms[reward], size, grids, known=results.known_rates(reward))
    results.record_sweep(reward, tuned[reward])
    print(reward)
    print(tables.comparison(tuned[reward], against="full", value="success"))
    print("English after:", {m: stats.shown(t.values("text_loss"), 1) for m, t in tuned[reward].items()}, "\n")

# %% [markdown]
# *13* and *112 numbers* are TinyLoRA: W + U Σ (Σᵢ vᵢ Pᵢ) Vᵀ. U, Σ, V are the two largest pieces of W's SVD, the Pᵢ
# random 2 × 2 matrices; only v is trained, one for all layers. More than 112 reach nothing more. *English after* is the
# loss of held-out text, in nats a character; a blind guess among 128 costs ln 128 = 4.85.

# %%
results.figure(
    figures.curves(tuned, base),
    "curves",
    "The chance of success on each batch's prompts before they are trained on, each method at its own rate; mean over "
    "the judging bases, smoothed over five batches. Left: the habit. Right: the rule; one habit alone gets no "
    "further than about a half.",
    alt="Two panels over the number of episodes. On the habit full, rank 1 and rank 4 rise to nearly 1 within a few "
    "hundred episodes, 112 numbers slowly to two thirds, and 13 numbers hardly rise. On the rule full is above ranks 1 "
    "and 4, and none ends near 1.",
)

# %% [markdown]
# ## Rank 1 beside full


# %%
def judged(model, run):
    return held_out_success(model, run.words, size.eval_windows, run.by_letter)


def random_like(run):
    """The base of each seed with random updates, of the singular values that the run's updates have."""
    return [practised.with_weights(size, s, practised.random_like(*practised.update(run, size, s), s)) for s in seeds]


def at_end_and_on_the_way(found):
    """Success after each run, and its mean along it, {when: one value a base}."""
    return {end: [r["success"] for r in found], way: [1 - r["tune_loss"] for r in found]}


idle = {  # the base's success on every prompt that is asked, one tensor a base
    reward: [practised.judged_on_asked(pretrained(size, s), replace(of, seed=s), size) for s in seeds]
    for reward, of in (("habit", habit), ("rule", rule))
}

# %%
measured, null = {}, {}
for reward, of in (("habit", habit), ("rule", rule)):
    low, high = tuned[reward]["rank 1"], tuned[reward]["full"]
    others = [replace(high.run, seed=s + size.bases) for s in seeds]  # full again: the same bases, other prompts
    thin, whole = at_end_and_on_the_way(low.results), at_end_and_on_the_way(high.results)
    again = at_end_and_on_the_way(carry_out_all(others, size, work=practise))
    start = {end: base[reward], way: [p.mean().item() for p in idle[reward]]}
    blind = {end: [judged(m, of) for m in random_like(low.run)], way: start[way]}
    for when in (end, way):  # (rank 1 - full) / (full - base), base by base
        lead = partial(figures.lead, other=whole[when], start=start[when], full=whole[when])
        measured[f"{reward}, {when}"], null[f"{reward}, {when}"] = (
            stats.interval(lead(x[when])) for x in (thin, blind)
        )
        print(f"{reward}, {when}: rank 1 {figures.each(thin[when])}; full {figures.each(whole[when])}; "
              f"full again {figures.each(again[when])}: {stats.shown(lead(again[when]))}")  # fmt: skip
rank_1.measure(measured, chance=null)

# %% [markdown]
# **A rate that stays.** The same runs at a constant rate, as our first run had them and as the post has. Base by base:

# %%
kept_up = {}
for name in ("rank 1", "full"):
    runs = [replace(tuned["habit"][name].run, decay=False, seed=s) for s in seeds]
    kept_up[name] = [(max(r["curve"]), r["success"]) for r in carry_out_all(runs, size, work=practise)]
    best_and_last = "; ".join(f"{best:.3f} at best, {last:.3f} at the end" for best, last in kept_up[name])
    print(f"{name}, constant rate: {best_and_last}")
results.record(constant_rate=kept_up)

# %% [markdown]
# ## 13 numbers, and their seed


# %%
tiny, whole = tuned["habit"]["13 numbers"], tuned["habit"]["full"].values("success")
drawn = []
for s, found in zip(seeds, tiny.results, strict=True):
    (v,), mine = found["state"].values(), replace(tiny.run, seed=s)  # (13,)
    aside = torch.randn(len(v), generator=torch.Generator().manual_seed(s))
    drawn.append(judged(practised.with_numbers(mine, size, aside * v.norm() / aside.norm(), s), habit))
    same, other = (judged(practised.with_numbers(mine, size, v, seed), habit) for seed in (s, s + 1))
    print(f"base {s}: success {same:.3f} with P from its own seed, {other:.3f} with P from the next")
gains = (stats.interval(figures.share(ends, base["habit"], whole)) for ends in (tiny.values("success"), drawn))
thirteen.measure(next(gains), chance=next(gains))

# %% [markdown]
# **The caution.** Only v is saved; P comes again from its seed, U and V from an SVD of W. With another seed the same 13
# numbers are another update. And a seed is a promise of one machine: PyTorch gives equal draws neither across releases
# nor across platforms, and an SVD is free in its signs. 26 bytes (13 numbers in 16 bits) are an adapter only beside all
# that. What is to last is the product, `delta_weight()`.
#
# ## Bits beside numbers
#
# Chance below is a policy that learns nothing, and so goes on telling H of the base's chance.

# %%
rows = []
for reward in base:
    for name, method in tuned[reward].items():
        told = [stats.shown(method.values(which), 0) for which in ("bits", "bits_most")]
        rows.append([reward, name, f"{method.values('trained')[0]:,d}", *told, f"{count:,d}"])
print(stats.table(["reward", "method", "numbers", "bits, counted", "bits, exact", "episodes"], rows))
told = [b / (13 * 32) for b in tuned["habit"]["rank 1"].values("bits_most")]
idle_told = [ANSWERS * bits(p).sum().item() / (13 * 32) for p in idle["habit"]]
fits.measure(stats.interval(told), chance=stats.interval(idle_told))

# %% [markdown]
# *Counted* takes the share of successes in each group of eight, which makes H too small in the mean, by 0.11 bits at
# most; *exact* takes the chance itself. A policy that fell to no success at all would tell nothing, and pass *fits*.
#
# ## Supervised on the very same episodes
#
# What it is fed: the rewarded episodes of the reinforced run of the same method, at its rate, on the same base, batch
# by batch, as many steps. It is told nothing of failures. But it is shown answers, and most of them were drawn by a
# policy that had already learnt: this is distillation from the reinforced run, and may tell more than a reward does.
# The loss is -log p of the answer. It gets a sweep of its own.
#
# Chance for the few numbers: the reinforced run once more, with other prompts and other factors P. For rank 1: the
# random update.

# %%
fed = {name: replace(tuned["habit"][name].run, fed="rewarded", taught_at=tuned["habit"][name].run.lr)
       for name in ("rank 1", *few)}  # fmt: skip
supervised = practised.compare_rewarded(fed, size, grids, known=results.known_rates("supervised"))
results.record_sweep("supervised", supervised)
print(tables.comparison(supervised, against="rank 1", value="success"))
full_end = tuned["habit"]["full"].values("success")


def ahead(first, other):
    """first - other as a share of full fine-tuning's gain on the habit, with its interval."""
    return stats.interval(figures.lead(first, other, base["habit"], full_end))


for name in few:
    mine = tuned["habit"][name]
    again = carry_out_all([replace(mine.run, seed=s + size.bases) for s in seeds], size, work=practise)
    noise = ahead([r["success"] for r in again], mine.values("success"))
    needs_rl[name].measure(ahead(mine.values("success"), supervised[name].values("success")), chance=noise)
article = tuned["habit"]["rank 1"].values("success")
random_models = random_like(tuned["habit"]["rank 1"].run)
by_random = [judged(m, habit) for m in random_models]
same_episodes.measure(ahead(supervised["rank 1"].values("success"), article), chance=ahead(by_random, article))

# %% [markdown]
# ## Sharpening, and discovering
#
# Now other words, rarer and rarer: *if*, *how*, *why*, and *sky*, which the base all but never writes behind a word.
# The gradient is a sum over rewarded answers. Until the first lucky one every advantage is 0, and so is every step. How
# many lucky answers may we expect in a whole run, by the base's own chances? Less than one is not none: where 0.8 are
# expected, 55 % of runs have one or more, for 1 - exp(-0.8) = 0.55.

# %%
rare = {word: Rewarded(adapter=lora["rank 1"], words=(word,), lr=tuned["habit"]["rank 1"].run.lr)
        for word in ("if", "how", "why", "sky")}  # fmt: skip
rate = {word: of_base(run) for word, run in rare.items()}
for word, chances in rate.items():
    p = max(chances)
    print(f"{word:4s} {p:.1e} an episode at most; {count * p:.1e} lucky answers expected in {count:,d} episodes, "
          f"at least one with chance {1 - (1 - p) ** count:.2g}")  # fmt: skip

# %%
often = Higher(0.5, "it does it more often than not, and did not before")
sharpened, seldom = (
    results.finding(name, f"what the base does {words}: success less the base's", often, {"method": "rank 1"}, **more)
    for name, words, more in (
        ("sharpened", "once in ten times (an article) is sharpened", {}),
        ("seldom", "once in a hundred times (if, and on some prompts mostly) is sharpened too", {}),
    )
)  # fmt: skip
luck = results.finding(
    "luck",
    says="what the base does less than once in a run's worth of answers (how) is learnt just where a lucky answer came",
    test=AtLeast(0.8, "of the runs, each with draws of its own"),
    scope={"method": "rank 1", "word": "how", "seeds": "three bases, eight draws each"},
)
unmoved = results.identity(
    "unmoved", says="a run without one lucky answer (sky) leaves all that it trains as it was", test=Identity(0.0)
)
shown = results.finding(
    "shown",
    says="shown a word that it never says (sky), in as many episodes, supervised training learns it",
    test=often,
    scope={"method": "rank 1", "word": "sky"},
)

# %% [markdown]
# Without a lucky answer nothing can be learnt: that is an identity, not a finding. Predict: which of the four will be?

# %%
jobs = [(word, s) for word in rare for s in seeds]
found = dict(zip(jobs, carry_out_all([replace(rare[w], seed=s) for w, s in jobs], size, work=practise), strict=True))
ends = {word: [found[word, s]["success"] for s in seeds] for word in rare}
for word, s in jobs:
    of = found[word, s]
    print(
        f"{word:4s} base {s}: {of['lucky']:5d} lucky, {of['bits_most']:7.1f} bits at most, success {of['success']:.1e}"
    )
sharpened.measure(stats.paired(article, base["habit"]), stats.paired(by_random, base["habit"]))
blind = stats.paired([judged(m, rare["if"]) for m in random_models], rate["if"])
seldom.measure(stats.paired(ends["if"], rate["if"]), blind)
unlucky = [s for s in seeds if found["sky", s]["lucky"] == 0]
assert unlucky, "a lucky answer for sky in every run: that was less likely than one in a thousand"
moved = 0.0
for s in unlucky:
    _, at_start = practised.started(replace(rare["sky"], seed=s), size)
    moved = max(moved, *((found["sky", s]["state"][k] - was).abs().max().item() for k, was in at_start.items()))
unmoved.measure(moved)
print(f"{len(unlucky)} of {len(seeds)} runs had no luck with sky")
taught = carry_out_all([replace(rare["sky"], fed="shown", seed=s) for s in seeds], size, work=practise)
shown.measure(stats.paired([r["success"] for r in taught], rate["sky"]), chance=stats.paired(ends["sky"], rate["sky"]))

# %% [markdown]
# One run of *how* a base says what can be, not how often. So eight more on each base, with other prompts and draws (two
# at `quick`). Chance for the row *luck* is a learning that does not ask for luck: it comes as often, but to runs at
# random.

# %%
draws = [replace(rare["how"], seed=s + size.bases * (i + 1)) for s in seeds for i in range(8 if size.budget else 2)]
fresh = carry_out_all(draws, size, work=practise)
lucky, learnt = [r["lucky"] > 0 for r in fresh], [r["success"] > 0.5 for r in fresh]
hoped = [ANSWERS * practised.judged_on_asked(pretrained(size, run.seed), run, size).sum().item() for run in draws]
of_all, at_random = len(fresh), sum(learnt) / len(fresh)
luck.measure(
    shares.share(sum(a == b for a, b in zip(lucky, learnt, strict=True)), of_all),
    chance=sum(at_random if a else 1 - at_random for a in lucky) / of_all,
)
print(figures.of_luck(lucky, learnt, hoped))

# %%
points = {"article": (base["habit"], article)} | {word: (rate[word], ends[word]) for word in rare}
results.figure(
    figures.dial(points, count, [r["success"] for r in taught]),
    "dial",
    "Success at the end, by how many lucky answers the base alone would give in a run; a point for each judging base, "
    "rank 1. Left of the dashed line less than one is expected. Open marks: supervised, shown the word.",
    alt="One panel, logarithmic across. The points of the article, if, and how, just left of the dashed line, lie near "
    "1; those of why and sky at 0, with the open marks of the supervised runs above sky, near 1.",
)

# %% [markdown]
# ## What the update looks like
#
# 2505.11711 compares checkpoints in bfloat16, and counts a difference of at most 1e-5 as none. Ours are in float32.
# Chapter 03 showed what bfloat16 does to a small update: it rounds it away. So both are counted. (2509.04259v1, section
# 6, which we know second hand, trained again in float32: "identical performance but without any sparsity".)
#
# Chance is noise of the same size, layer by layer. The other control is *supervised*: full fine-tuning on the rewarded
# episodes at the same rate, its update scaled to the same size. For the rank and for the first direction the supervised
# update is chance: what it passes too is nothing that reinforcement does. (For the first direction it is that of the
# habit, beside both rewards.) Rank alone says little of a method: noise is of full rank at any size. The paper counts
# all parameters; we count the linear layers.

# %%
sparse = results.claim(
    "sparse",
    says="reinforcement changes at most 30 % of the weights",
    source="arXiv 2505.11711v2, abstract; counted as in its code, check_sparsity.py",
    read="abstract",
    published="5 to 30 % changed, counted in bfloat16 with a tolerance of 1e-5",
    test={kind: AtMost(0.3, "the abstract's 30 %") for kind in ("bfloat16", "float32")},
    scope={"method": "full", "reward": "habit"},
)
sparser = results.finding(
    "sparser",
    says="a tenth of it changes fewer weights than a tenth of a supervised update of that size, in bfloat16",
    test=Lower(0.02, "one weight in fifty"),
    scope={"method": "full", "reward": "habit", "unit": "difference of shares"},
    seen_first="two of the three bases",
    tested_on="all three",
)

# %%
full_rank = results.claim(
    "full_rank",
    says="the updates are of nearly full rank: the rank over the most that is possible",
    source="arXiv 2505.11711v2, abstract; counted as in its code, update_rank.py, in bfloat16, and in float32",
    read="abstract",
    published="nearly full-rank",
    test={kind: AtLeast(0.9, "nearly") for kind in ("bfloat16", "float32")},
    scope={"method": "full", "reward": "habit"},
)
ways = practised.CUTS
top = results.claim(
    "top",
    says="each update of full fine-tuning, cut to its first singular direction, keeps the gain: the share kept",
    source="arXiv 2510.00553v3, abstract; its equation 3 gives the direction the size of the whole update",
    read="abstract",
    published="over 99 % of performance gains",
    test={f"{reward}, {how}": AtLeast(0.99, "the abstract's 99 %") for reward in base for how in ways},
    scope={"method": "full"},
)


# %% [markdown]
# Predict the share of changed weights in float32 and in bfloat16, and whether one direction a layer is enough.


# %%
full, low = tuned["habit"]["full"].run, tuned["habit"]["rank 1"].run
beside = replace(full, fed="rewarded", taught_at=full.lr)
carry_out_all([replace(beside, seed=s) for s in seeds], size, work=practise)
kinds = {"bfloat16": torch.bfloat16, "float32": torch.float32}
changed = {}  # {(which, kind): a value a base}
for s in seeds:
    before, after = practised.update(full, size, s)
    several = {"full": after, "supervised": practised.update(beside, size, s)[1]}
    several["supervised, scaled"] = practised.scaled_like(before, several["supervised"], after)
    several |= {"noise": practised.noise_like(before, after, s), "rank 1": practised.update(low, size, s)[1]}
    alike = ("full", "supervised, scaled", "noise")  # of one size
    several |= {f"a tenth: {name}": practised.part_of(before, several[name], 0.1) for name in alike}
    for which, kind in product(several, kinds):
        changed.setdefault((which, kind), []).append(changes.share_changed(before, several[which], kinds[kind]))

# %%
print(
    stats.table(["changed", *kinds], [[which, *(stats.shown(changed[which, k]) for k in kinds)] for which in several])
)
sparse.measure(
    {k: stats.interval(changed["full", k]) for k in kinds},
    chance={k: stats.interval(changed["noise", k]) for k in kinds},
)
taught_tenth = changed["a tenth: supervised, scaled", "bfloat16"]
sparser.measure(
    stats.paired(changed["a tenth: full", "bfloat16"], taught_tenth),
    chance=stats.paired(changed["a tenth: noise", "bfloat16"], taught_tenth),
)


# %% [markdown]
# Our updates are large: AdamW's step is about as long as its rate, and ours are far above the 1e-6 or so of large
# models. Is it reinforcement that is counted, or size? The same updates made smaller, on one base, in bfloat16:

# %%
before, after = practised.update(full, size, seeds[0])
distilled = practised.scaled_like(before, practised.update(beside, size, seeds[0])[1], after)
noisy = practised.noise_like(before, after, seeds[0])
rows = []
for part in (1, 0.1, 0.01, 0.001):
    smaller = [practised.part_of(before, of, part) for of in (after, distilled, noisy)]
    rows.append([f"× {part:g}", *(f"{changes.share_changed(before, of, torch.bfloat16):.3f}" for of in smaller)])
print(stats.table(["the update", "reinforced", "supervised", "noise"], rows))

# %% [markdown]
# And the rank?

# %%
which_of = {"full": full, "supervised": beside, "rank 1": low}
ranks = {key: [] for key in product(which_of, kinds)}
for s, (who, kind) in product(seeds, ranks):
    ranks[who, kind].append(changes.rank_share(*practised.update(which_of[who], size, s), kinds[kind]))
full_rank.measure(
    {k: stats.interval(ranks["full", k]) for k in kinds},
    chance={k: stats.interval(ranks["supervised", k]) for k in kinds},
)
for (who, kind), values in ranks.items():
    print(f"{who:10s} {kind:9s} rank over the most there can be {stats.shown(values, 3)}")


# %%
kept = {
    reward: practised.cut_shares(tuned[reward]["full"].run, of, size, dict(zip(seeds, base[reward], strict=True)))
    for reward, of in (("habit", habit), ("rule", rule))
}
of_taught = practised.cut_shares(beside, habit, size, dict(zip(seeds, base["habit"], strict=True)))
top.measure(
    {f"{reward}, {how}": stats.interval(values) for reward, by in kept.items() for how, values in by.items()},
    chance={f"{reward}, {how}": stats.interval(of_taught[how]) for reward in kept for how in ways},
)

# %% [markdown]
# ## Asked k times
#
# 2504.13837v4 suggests that reinforcement makes likelier what the base could do, and adds nothing: asked often enough,
# the base gets more prompts right (pass@k). We know each chance p, so pass@k is the mean of 1 - (1 - p)^k, without
# sampling. Chance is a policy that knows one habit and nothing else: it writes *a* behind every prompt.

# %%
pass_at_k = results.claim(
    "pass_at_k",
    says="asked once full fine-tuning by reinforcement gets more prompts right than its base, asked 4,096 times fewer",
    source="arXiv 2504.13837v4, abstract",
    read="abstract",
    published="larger pass@k of the base when k is large, smaller at k = 1",
    test={"once": Higher(0.1, "a tenth of the prompts"), "4,096 times": Lower(0.01, "one prompt in a hundred")},
    scope={"reward": "rule", "method": "full", "quantity": "pass@k, reinforced less base"},
)
ks, passed = [2**i for i in range(13)], {"base": [], "full": []}
for s in seeds:
    after = practised.with_weights(size, s, practised.update(tuned["rule"]["full"].run, size, s)[1])
    for who, model in (("base", pretrained(size, s)), ("full", after)):
        p = practised.held_out(model, rule, size)  # (prompts,)
        passed[who].append(practised.pass_at(p, ks))

at = {"once": 0, "4,096 times": -1}  # places in ks
gap = {part: stats.paired([v[i] for v in passed["full"]], [v[i] for v in passed["base"]]) for part, i in at.items()}
one_habit = practised.one_habit(size)  # its pass@k, for every k
pass_at_k.measure(
    gap, chance={part: stats.interval([one_habit - v[i] for v in passed["base"]]) for part, i in at.items()}
)
for k in ks[::2]:
    print(f"k {k:5d}: " + "; ".join(f"{w} {figures.each([v[ks.index(k)] for v in of])}" for w, of in passed.items()))
print(f"one habit: {one_habit:.3f}")

# %%
results.forest("forest", "Rows of this chapter, each against its line. Bars are 95 % intervals over bases.")
results.record(
    base=base,
    rare={w: {"base": rate[w], "end": ends[w], "lucky": [found[w, s]["lucky"] for s in seeds]} for w in rare},
    changed={", ".join(key): values for key, values in changed.items()},
    fresh_how={"lucky": [r["lucky"] for r in fresh], "success": [r["success"] for r in fresh], "expected": hoped},
)

# %% [markdown] rests_on="16.rank_1=not settled"
# **Rank 1.** On the habit these three pairs of runs are within our tenth: rank 1 is behind on every base, by 0.4 % of
# the gain at the end, 4.6 % on the way. But full fine-tuning on other prompts was at 0.424 on the way on one base,
# where it had been at 0.968: one pair a base understates the noise. On the rule it is open, and so is our prediction.
# One base ends at 0.471 with every method, about what *a* alone is worth (*the* alone: 0.527). On other prompts full
# fine-tuning ended there at 0.875, and on another base at 0.521 instead of 0.840: two of its six runs end at one
# habit's worth, and the draw has a part in which. The price on English, each at its own rate, is in the table of the
# sweep: after the habit full fine-tuning ends higher on all three bases (7.4 against 5.3 nats a character), after the
# rule rank 1 does (4.9 against 3.1). A blind guess costs 4.85.

# %% [markdown] rests_on="16.thirteen=not reproduced, 16.fits=not settled"
# **Few numbers.** 13 numbers reach 0.19 where the base has 0.10: {16.thirteen.shown} of full fine-tuning's gain. 112
# reach 0.68 ± 0.30. Our prediction was wrong, and the count does not say why. Full fine-tuning learnt the habit from at
# most 240 ± 84 bits: 13 numbers of float32 hold 416, of 16 bits, as the source has them, 208. (For rank 1 *fits* is
# open.)

# %% [markdown] rests_on="16.needs_rl_13=does not hold, 16.needs_rl_112=not settled"
# Supervised on the rewarded of the same episodes 13 numbers get no further. As neither way was enough, this does not
# test whether reinforcement is what lets few numbers suffice; with 112 it is open.

# %% [markdown] rests_on="16.same_episodes=holds"
# On the habit, at the end, where both are near 1, rank 1 gains as much from the rewarded answers of the reinforced run.
# Those were drawn by a policy that was learning, so this does not say that the reward was not needed.

# %% [markdown] rests_on="16.sharpened=holds, 16.seldom=holds, 16.luck=not settled, 16.unmoved=holds, 16.shown=holds"
# **Luck.** What the base does once in ten times, or once in a hundred, becomes what it nearly always does. *How*, with
# less than one lucky answer expected, was learnt in the three runs drawn, and it would be wrong to stop there: of 24
# fresh runs 15 had a lucky answer, about as many as were to, and 9 of these learnt. Of the other 6 three had one, and
# three had 11 to 14 and ended at 0.02 to 0.06, about a hundred times the base or more: begun, not done. (Our rate falls
# to 0 along a run; late luck may be too late. That was not tested.) That the 9 without luck did not learn is the
# identity again; a coin for the lucky 15 would score 0.69, the row has 0.75. It is not settled. *Sky* never came, and
# no weight moved (with weight decay it would have); less than a bit was told. Shown, in as many episodes, *sky* is
# learnt.

# %% [markdown] rests_on="16.sparse=not reproduced,16.sparser=not settled,16.full_rank=not settled,16.top=not settled"
# **The update.** Nearly every weight changes, in either format, so at full size the counts cannot differ by our 2 %. At
# a tenth of it 90 % change in bfloat16, of a supervised update as large 94 ± 5 %, of noise 89 %: whether who taught it
# shows in the count is open, and noise would pass as well. On one base it is 42 to 49 % of all three at a hundredth, 7
# to 9 % at a thousandth: between, all would pass our 30 %, noise too. So most of the count is size against the spacing
# of bfloat16. The update is of nearly full rank, and so is the supervised one; that shows nothing of reinforcement. In
# bfloat16 even rank 1's update counts as nearly full.
#
# One direction a layer: made as large as the whole, as the source has it, it keeps none of the habit and 0.24, 0.24 and
# 0.62 of the rule, base by base. Cut alone it keeps 0.84, 0.80 and 0.04 of the habit, 0.42, 0.48 and 0.93 of the rule;
# no base keeps 99 %. So the source's way is not reproduced; the row is open for the plain cut. The habit's supervised
# update keeps 0.23 ± 1.48 rescaled, 0.84 ± 0.29 cut alone: too wide to tell reinforcement apart.

# %% [markdown] rests_on="16.pass_at_k=not settled"
# **Asked k times.** Asked once, the reinforced model is ahead on all three bases. Asked 4,096 times it is still ahead
# on the two that learnt the rule (0.99 against 0.96), and far behind in the one run that learnt one habit (0.48 against
# 0.87). The mean crosses between 256 and 1,024 answers because of that run; on other prompts the same base came to
# 0.875 asked once. And a policy that always writes *a* passes this test, which asks for more at once and less at 4,096:
# what the row sees can be had without any rule.

# %% [markdown]
# **What these tests cannot say.** Our answers are one word, and our rewards ask for a habit or for 26 letters sorted
# into two: a few dozen bits. The rarer words were trained at the rate that suits the article. 13 numbers here sit on
# the two largest directions of layers 128 wide; in a model 28 times as wide those may carry more. The rate was chosen
# on one base, and the falling rate after a first run on the same bases. And "never" is never in one run: ten thousand
# times as many episodes are ten thousand times the luck.
#
# ## Exercises
#
# **1. Centre.** Write `advantages`: rewards (G, n), a row for each prompt, less the mean of their group.

# %%
from lora_from_scratch.book.checks import ch16 as check


def advantages(rewards):
    return None  # change this: (G, n) -> (G, n)


print(check.check_advantages(advantages))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def advantages(rewards):
#     return rewards - rewards.mean(dim=1, keepdim=True)
# ```
#
# </details>
#
# **2. Bits.** A quarter of all answers succeeds. How many bits do 64 episodes tell at most?

# %%
my_bits = 0  # change this
print(check.check_bits(my_bits))

# %% [markdown]
# <details><summary>Solution</summary>
#
# H(¼) = ¼ · 2 + ¾ · log2(4/3) = 0.811 bits an episode, so 51.9.
#
# </details>
#
# **3. Luck.** The base gives the right answer once in 5,000 times. How likely are 3,200 episodes to hold at least one?

# %%
my_luck = 0  # change this: a chance between 0 and 1
print(check.check_luck(my_luck))

# %% [markdown]
# <details><summary>Solution</summary>
#
# None is right with chance (1 - 1/5000)^3200 = 0.527. So 0.473.
#
# </details>
#
# ## The same with PEFT and TRL
#
# ```python
# from peft import LoraConfig
# from trl import GRPOConfig, GRPOTrainer
#
# trainer = GRPOTrainer(
#     model="Qwen/Qwen3-0.6B",
#     reward_funcs=lambda completions, **given: [float(c.startswith("the ")) for c in completions],
#     args=GRPOConfig(
#         num_generations=8, num_iterations=2, scale_rewards=False, beta=0.0, loss_type="grpo", learning_rate=1e-5
#     ),
#     train_dataset=dataset,  # with a column "prompt"
#     peft_config=LoraConfig(r=1, lora_alpha=32, target_modules="all-linear"),
# )
# trainer.train()
# ```
#
# `scale_rewards=False` leaves out the division by the spread; `beta` is the penalty for leaving the base;
# `num_iterations` are our two steps a batch. TRL clips the weights p / q as well, and its `loss_type` says how tokens
# are averaged: "grpo" takes each answer's mean, where ours sums over its tokens.
#
# ## What to take along
#
# - Centre by group, and weight by p / q as soon as the sampler is not the learner.
# - Before you train: how often does the base succeed? Times the episodes, that is the luck you build on.
# - Count bits as an upper bound for what can be learnt, not as what a method needs.
# - Ask a count of changed weights for its number format, and noise of the same size for its count.

# %%
results.save()
