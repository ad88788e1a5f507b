# %% [markdown]
# # 20 · What goes wrong
#
# **The question.** Your run does not do what the chapters promise. Nothing has crashed. Where do you look?
#
# **What you will be able to do.** Tell a broken run by one number, and know which number to ask for. Let `diagnose`
# look at a model, its optimizer, a batch and a file, and know what it cannot see. Mend faults that people report.
#
# **What you need.** Chapter 01 for the layer. Or come with a symptom: the headings below are symptoms. (A loss that is
# NaN is under the first.) Each case points to the chapter that explains it.
#
# **Where the cases come from.** Somebody asked each in public. Its heading names threads that we read, as
# `repository#number`, told in our words; nobody counted them. Each was then broken on purpose, on a tiny model.
#
# What is tested is our own tool: does it name what is broken, and is it silent where nothing is?

# %%
import torch

from lora_from_scratch.book import shares, stats
from lora_from_scratch.book.figures import ch20 as figures
from lora_from_scratch.book.results import Results
from lora_from_scratch.book.verdicts import AtLeast, AtMost, Equal, Higher
from lora_from_scratch.diagnose import diagnose
from lora_from_scratch.lab import train
from lora_from_scratch.lab.answers import answer_loss
from lora_from_scratch.lab.broken import guises, healthy, unseen, world
from lora_from_scratch.lab.broken.ward import CASES, QUESTIONS, told
from lora_from_scratch.lab.presets import preset

# %%
size = preset()
if size.name == "smoke":
    world.LENGTH.update(pretraining=20, lesson=4)
seeds = range(1, 1 + max(2, size.seeds))  # a seed is a base
scope = {"model": "a Llama of 2 layers", "width": world.SIZES.hidden_size, "task": "counting letters"}
results = Results("20_what_goes_wrong", size, scope | {"seeds": len(seeds), "bases": len(seeds)})
torch.set_num_threads(1)

# %% [markdown]
# ## A small world, and a healthy run in it
#
# The tokens are 24 letters, a few marks, and an end. The base has read texts that count on from a letter for ever: by
# 1 after the mark `<a>`, by 11 after `<b>`, by 7 after `<c>`. The lesson gives `<c>` another meaning: two letters on,
# then by five, until a letter that six divides; and then the end, which the base has never used.


# %%
def spelled(ids):
    names = {world.END: "<end>", world.A: "<a>", world.B: "<b>", world.C: "<c>"}
    return " ".join(names.get(i, chr(97 + i) if i < world.LETTERS else "?") for i in ids)


model = world.adapted(seed=1)  # the base with fresh adapters, rank 4, alpha 16
optimizer = world.optimizer_of(model)
example = world.lesson()[3]
print("the lesson      ", spelled(example.ids[:2]), "|", spelled(example.ids[2:]))
print("before          ", spelled(world.answers(model)[3]))
print("diagnose, before", diagnose(model, optimizer, world.lesson(), answer_loss))
world.train(model, world.lesson(), optimizer=optimizer)
print("after           ", spelled(world.answers(model)[3]))
print("diagnose, after ", diagnose(model, optimizer, world.lesson(), answer_loss))
print(f"exact answers {world.exact(model):.0%}, loss {world.loss_on(model, world.lesson()):.3f} nats a token")

# %% [markdown]
# An empty list: `diagnose` has nothing to say. It takes what a training loop has in its hands: the model, the
# optimizer, a batch, and the function that gives the loss of the batch; and, if you have it, the file that the run
# saves. It looks at flags and names, at the numbers in `A` and `B`, and at one forward and backward pass. Then it puts
# back modes, gradients, the random state, and buffers of up to 65,536 numbers.
#
# `B` is zero before and not zero after, and both are well. A `B` of zeros is how a run usually begins. Adam's count of
# steps tells the two apart.
#
# Guess, and keep it: of the runs below, how many end in an error? How many can a tool see that is given these things?

# %%
seen = {}


def show(*names):
    """Break these runs, on every seed, and print the first."""
    for name in names:
        with train.threads(1):
            seen[name] = [CASES[name].run(seed) for seed in seeds]
        print(told(CASES[name], seen[name][0]), end="\n\n")


# %% [markdown]
# ## Nothing learns: the loss does not go down
#
# **Nothing is trainable.** The model was frozen after the adapters were added, or loaded for use and then trained on.
# It raises. **Target names that are not found.** Layers have other names in other models. PEFT
# raises an error when *no* name fits, and passes over the rest in silence, so two of six names are enough. Look at how
# many layers were adapted, not whether any was. (`diagnose` sees it where the model keeps the names it was asked for,
# as PEFT does. In a notebook of your own it cannot.) The twin here adapts four kinds of layers, not all seven.

# %%
show("nothing is trainable", "target names not found")

# %% [markdown]
# ### The optimizer first
#
# An optimizer holds the parameters that there were when it was made. Adapters that come later are not among them.
# Gradients arrive, `step()` runs, and the loss stays to the last digit where it was.
#
# ### Checkpointing before a frozen embedding
#
# A checkpoint runs a block without a graph and runs it again in backward. The older, *reentrant* kind goes back only if
# an input of the block needs a gradient. With a frozen base none does. If every block is checkpointed, backward raises;
# if only the first are, those learn nothing, and torch warns once.

# %%
show("optimizer before the adapters", "checkpointing before a frozen embedding")

# %% [markdown]
# ### No label is left
#
# A template that was not found, or an answer that was cut off, leaves every label out. The mean over none is 0 / 0;
# some programs print it as 0.0. No gradient comes of it.

# %%
show("no label is left")

# %% [markdown]
# ### The rate is too low
#
# No tool tells this beforehand: before the first step a hundred steps to come look like ten thousand. Adam moves a
# number by about the rate a step, so a hundred steps at 1e-4 move it by about a hundredth at most. Below is base 1; the
# lowest rate comes again with twenty times the steps. **Too high** is the last row: the loss has fallen, and nearly all
# answers are wrong. `diagnose` does not see that either.

# %%
rows, steps = [], world.LENGTH["lesson"]
for rate, many in ((1e-4, 1), (1e-4, 20), (1e-3, 1), (1e-2, 1), (3e-2, 1)):
    one = world.adapted(1)
    world.train(one, world.lesson(), rate=rate, steps=many * steps, seed=1)
    rows.append([f"{rate:g}", many * steps, f"{world.loss_on(one, world.lesson()):.3f}", f"{world.exact(one):.0%}"])
print(stats.table(["rate", "steps", "loss", "exact"], rows))
show("the rate is too low")

# %% [markdown]
# ### Trained in float16
#
# Adam divides by the root of a mean square plus 1e-8. In float16, 1e-8 is zero. The gradient of `A` is zero in the
# first step, since `B` is, so this is 0 / 0. That is so for AdamW as torch runs it by default. With `fused=True` it
# computes in 32 bits, an eps of 1e-4 is no zero, SGD divides by nothing: there `diagnose` is silent. Keep the *base* in
# 16 bits, and what trains in 32.

# %%
show("trained in float16")

# %% [markdown]
# ## It learns the wrong thing: the loss goes down, and the answers are wrong
#
# ### The base is not frozen
#
# Then `A` and `B` alone are saved, and put on the base as it was. What the base learnt in this run is gone. The share
# that `print_trainable_parameters` gives tells this before the first step: it should be small.

# %%
show("the base is not frozen")

# %% [markdown]
# ### What the loss counts
#
# A row is a prompt, an answer, an end, and padding up to the longest row. The answer and its end are to be learnt, and
# nothing else. Three ways to get this wrong, at one row; a dot is left out.

# %%
from lora_from_scratch.lab.broken import wrong

row = world.lesson()[3]
print("the row           ", spelled(row.ids[1:]))
losses = {"right": answer_loss, "pad is the end": wrong.loss_padded_with(world.END)}
losses |= {"one token too far": wrong.loss_one_too_far, "the prompt too": wrong.loss_on_the_prompt}
for name, loss in losses.items():
    logits = []
    hook = model.register_forward_hook(lambda m, args, out, to=logits: to.append(out.retain_grad() or out))
    loss(model, [row]).backward()
    hook.remove()
    counted = logits[0].grad[0].abs().sum(dim=-1) > 0
    said = [spelled([i]) if there else "." for i, there in zip(row.ids[1:], counted, strict=True)]
    print(f"{name:18}", " ".join(said))

# %% [markdown]
# This is also how `diagnose` sees it. Where the loss does not look, its gradient with respect to the logits is zero. So
# the loss itself tells which places it counts, however its labels were made. The batch must tell where the answers are:
# by `completion_mask` beside `input_ids`, as in TRL, or by examples that know where their answer starts, as here.
#
# ### The padding is the end
#
# Many tokenizers have no padding token, so people take the end. A collator then leaves the padding out *by its id*, and
# with it every true end. No label teaches the end. Here the base never used it, and no answer stops; a base that knows
# the end may still stop at times.

# %%
show("the padding is the end")

# %% [markdown]
# ### One token too far
#
# The first token of an answer is predicted at the last place of the prompt. Shift first and then leave out `start`
# places, where `start - 1` would be right, or count a start token twice, and that label is lost. Every other token is
# learnt, so the loss can look fine. But nothing opens an answer as it was taught.
#
# ### On the prompt
#
# Often done on purpose: `diagnose` cannot know whether you meant it. The model learns to write prompts too. The loss
# that is printed holds what nobody can know, here one letter of 24, and so hides the part that matters. The last line
# has that part, of the same run.

# %%
show("the mask reaches one token too far", "the prompt is learnt too")
one = world.adapted(1)
world.train(one, world.lesson(), seed=1, loss=wrong.loss_on_the_prompt)
print(
    f"the prompt learnt too: loss of the answers {world.loss_on(one, world.lesson()):.3f}, exact {world.exact(one):.0%}"
)

# %% [markdown]
# ### Another template at use
#
# The mark stands for a chat template. Under `<a>` the tuned model says something, fluently. No answer is right.
# `diagnose` cannot see this: it does not know which prompt is right. You can: compare the answers, or the loss, of a
# row of the training data under both prompts. Make prompts by the same function in both places (chapter 12).

# %%
tuned = world.taught(1)
for mark in (world.C, world.A, world.B):
    print(spelled([mark, 3]), "|", spelled(world.answers(tuned, mark)[3]))
show("another template at use")

# %% [markdown]
# ### Alpha and the rank
#
# "Set alpha to twice the rank" is common advice, and people ask what happens when the rank changes and alpha stays.
# **Write down your prediction**: where is the loss more even over the ranks, with alpha kept, or with alpha = 4 · rank?

# %%
bases = seeds if size.name == "smoke" else range(1, 6)  # bases differ, so these two rows ask more of them
alpha_kept = results.finding(
    "alpha_kept",
    says="with alpha kept, rank 64 stands where rank 4 does, after 30 steps at a rate that is low for both",
    test=Equal(0.5, "a tenth of what 30 steps take off the loss"),
    scope={"seeds": len(bases), "bases": len(bases)},
)
alpha_raised = results.finding(
    "alpha_raised",
    says="at the rate that is right for rank 4, rank 64 with alpha raised beside it ends higher than with alpha kept",
    test=Higher(0.1, "about what a healthy run ends at"),
    scope={"seeds": len(bases), "bases": len(bases)},
)

# %%
from dataclasses import replace


def after(rank, alpha, seed, draw=0):
    """The loss after 30 steps at 1e-3."""
    one = world.adapted(seed + draw, replace(world.CONFIG, rank=rank, alpha=alpha), over=world.base(seed))
    world.train(one, world.lesson(), rate=1e-3, steps=min(30, world.LENGTH["lesson"]), seed=seed)
    return world.loss_on(one, world.lesson())


ends = {(r, a): [after(r, a, seed) for seed in bases] for r in (4, 16, 64) for a in {16, 4 * r}}
again = [after(4, 16, seed, draw=50) for seed in bases]
rows = [[r, *(stats.shown(ends[r, a]) for a in (16, 4 * r))] for r in (4, 16, 64)]
print(stats.table(["rank", "loss, alpha 16", "loss, alpha = 4 · rank"], rows))
print(f"± is the half width of a 95 % interval over {len(bases)} bases")
mean, half = stats.paired(again, ends[4, 16])
print(f"rank 4, another draw of A, less the first: {mean:.3f} ± {half:.3f}", end="\n\n")
show("alpha and the rank")

# %%
alpha_kept.measure(stats.paired(ends[64, 16], ends[4, 16]), chance=stats.paired(ends[64, 256], ends[4, 16]))
of = [CASES["alpha and the rank"].run(seed) for seed in bases]
others = [world.loss_on(world.taught(seed), world.lesson()) for seed in bases]  # rank 4, alpha 16: nothing is wrong
alpha_raised.measure(
    stats.paired([s.broken for s in of], [s.healthy for s in of]),
    chance=stats.paired(others, [s.healthy for s in of]),
)

# %% [markdown] rests_on="20.alpha_kept=not settled, 20.alpha_raised=holds"
# With alpha kept, rank 64 ends {20.alpha_kept.shown} nats above rank 4. The interval reaches just beyond the margin, so
# it is not settled that they are level. The row's chance is the other rule. Another draw of `A` at rank 4 differs by
# -0.16 ± 0.64: five bases are few for this margin. With alpha raised beside the rank, a step is longer. At the rate
# that was right, the lesson ends {20.alpha_raised.shown} nats higher; in the table, at a rate that was too low, it ends
# lower. So raising alpha is no fault in itself, and keeping it is not shown to be none. Whoever changes alpha should
# look at the rate again.

# %% [markdown]
# ### B not zero at the start
#
# Then training begins at the base plus noise. `diagnose` tells a drawn `B` from a trained one by its numbers: drawn
# entries come from one law, and training makes some rows and layers larger. It needs many entries for that, in the `B`
# of all layers. Of a small adapter, or a `B` set by hand, it says nothing.

# %%
show("B is not zero at the start")

# %% [markdown]
# ### Dropout on at use
#
# Two calls, two answers. A model that comes from training is in train mode until somebody says otherwise. A batch
# *without* a loss tells `diagnose` that the model is at use.
#
# ### Two adapters in one
#
# `(B1 + B2)(A1 + A2)` holds `B1 A2` and `B2 A1`, which nobody trained. The factors side by side give the exact sum, at
# twice the rank. In a model of PEFT that still holds the parts, `diagnose` sees the short cut; here the sum is one `A`
# and one `B`.
#
# ### Adapters on adapters
#
# A notebook's cell run twice wraps what it has wrapped. Load the trained file on top, and each update is in it twice.

# %%
show("dropout on at use", "adapters added with cross terms", "adapters on adapters")

# %% [markdown]
# ## What it learnt is lost: well in training, gone after loading
#
# ### Names that fit nothing
#
# `load_state_dict(…, strict=False)` takes any file. If a prefix differs, nothing fits, and `B` stays zero: the tuned
# model *is* the base. What it gives back lists the names that it could not place. A fresh adapter that is used as a
# baseline has a `B` of zeros too, and is well. So `diagnose` speaks only where it is shown the file,
# `saved=load_file(path)`, or where PEFT's settings say that the adapter came from one.
#
# ### A file without weights
#
# A script laid a filter over `state_dict()`, and the library began to filter by itself. After both nothing was left.

# %%
show("the file's names fit nothing", "the file holds no weights")

# %% [markdown]
# ### New tokens, and a new head
#
# An adapter's file holds `A` and `B`. A row of the embedding that was trained for a new token, or a classifier's head,
# is in neither. A head is worse: even a *frozen* random one works while it trains, since the adapters learn to suit it.
# Loading draws another. Here are six classes, of which a guess finds one in six. What you save stands in your script,
# so here too `diagnose` has to be shown it: `saved`, the tensors that the file holds or will hold. Under PEFT it knows
# what `save_pretrained` keeps.

# %%
show("new tokens, and the embedding not saved", "a new head, neither trained nor saved")

# %% [markdown]
# ### Merged into 4 bits
#
# A light lesson makes a small update, most of it below half a step of a 16-level grid. Quantize the merge, and most of
# it is gone (chapter 05).
#
# ### On another base
#
# An adapter is a difference; beside other weights, from something else.
#
# ### Merged and unmerged differ
#
# Rounding moves logits by up to 0.2 in bfloat16 here, by 1e-5 in float32 (chapter 03). That is no fault. A larger
# difference in float32 is: look for dropout still on (`eval()` for both, then `diagnose(model, batch=batch)`), a scale
# forgotten or applied twice, another base.
#
# A merged layer has no mark of what was added or rounded away, and an adapter none of its base's numbers. So compare:
# run one batch before and after, there and here. (One exception: adapters that PEFT merged in place into a 4-bit layer
# are marked, and `diagnose` names them.)

# %%
show("merged into 4 bits", "on another base", "merged and unmerged differ")
for seed in seeds:
    one = world.adapted(seed, over=world.base(seed + 50))
    before = world.loss_on(one, world.lesson())
    one.load_state_dict(world.factors(world.taught(seed)), strict=False)
    print(f"on another base, {seed}: loss {before:.1f} -> {world.loss_on(one, world.lesson()):.1f},", end=" ")
    print(f"exact {world.exact(one):.0%}")

# %% [markdown]
# ### Another program reads it
#
# An engine may know one alpha for all layers, or `alpha / r` where `alpha / √r` was meant, or have room for rank 16.
# The model is right; what another program makes of it stands in the *folder*. `make check FILE=adapter/` says so for
# PEFT and vLLM.

# %%
show("another engine reads alpha otherwise", "the server refuses it")

# %% [markdown]
# ## It costs more than expected: slow, or too large
#
# Nothing is wrong here, and `diagnose` is right to be silent.
#
# ### Not faster
#
# An adapter saves the products for the gradient of `W0`, a third of a step's, and adds products of its own. At a high
# rank these outweigh the saving.
#
# ### As much memory
#
# LoRA shrinks gradients and optimizer state. What forward keeps for backward stays, and at a large batch that is most
# of it.
#
# ### The share that is printed
#
# A byte holds two weights in 4 bits, and a sum of `numel()` counts bytes.

# %%
show("why isn't it faster?", "why does it take as much memory?", "the printed share is wrong")

# %% [markdown]


# ## How good is the tool?
#
# Three rows. The first takes the broken runs that `diagnose` was made to name, each with its *mended twin*: the same
# run with the one line put right, asked at the same moment. A case counts if it is named on every base, by its own name
# and no other, and the twin is met with silence.
#
# The second takes runs that are well, of many kinds: before a step, after one, after five, taken up again with a new
# optimizer, and at use; shown the file, and not shown it. A kind counts as a false alarm if `diagnose` speaks at any of
# these moments on any base. The list holds many of the mended twins, and false alarms that readers of this page found
# while the rules were made.
#
# The third takes two dozen more healthy kinds, thought of when the rules stood, by those who knew the rules. They are
# asked once, and no rule is mended for them: what comes out stands. (A rule on padding came later.)
#
# What is counted are cases and kinds: bases, and more looks at one kind, are near copies. Were 13 of the 48 kinds
# copies too, the second row would not be settled. A tool that never speaks passes the second and the third, so they
# count only beside the first. The nulls are a tool that knows which of the two runs is broken; and one that speaks of
# healthy kinds as often as this one does of the runs above.
#
# **Write down your predictions.** With 17 right of 17, where does the interval of the share begin?

# %%
named = results.finding(
    "named",
    says="of the broken runs that it was made to name, diagnose names each, and no other fault, and is silent on "
    "its mended twin",
    test=AtLeast(0.75, "with one fault in four missed, its silence would not be worth asking for"),
)
silent = results.finding(
    "silent",
    says="of the kinds of healthy runs below diagnose calls fewer than one in ten broken, at any moment",
    test=AtMost(0.1, "with one healthy kind in ten called broken, one stops reading"),
)
unasked = results.finding(
    "unseen",
    says="of healthy kinds thought of after the rules diagnose calls fewer than one in four broken, at any moment",
    test=AtMost(0.25, "with one in four of one's own healthy runs called broken, its word sends one searching in vain"),
)

# %%
visible = [name for name, case in CASES.items() if case.finding]
right = [all(one.names == {CASES[n].finding} and not one.silent for one in seen[n]) for n in visible]
findings = [CASES[n].finding for n in visible]
guessed = shares.share(max(map(findings.count, findings)), len(findings))
of = shares.share(sum(right), len(right))
named.measure(of, chance=guessed, shown=f"{sum(right)} of {len(right)} cases, {of}")


# %%
def judged(kinds):
    """(the share of kinds that diagnose speaks of, in words): any look on any base; alarms are printed."""
    alarms, looks, told = {}, 0, set()
    torch.manual_seed(0)
    for name, _when, found in (one for seed in seeds for one in healthy.said(seed, kinds.TRAINING, kinds.AT_USE)):
        alarms.setdefault(name, []).extend(found)
        looks, told = looks + 1, told | {(name, f.name) for f in found}
    for name, finding in sorted(told):
        print(f"a false alarm: {name}: {finding}")
    bad = sum(map(bool, alarms.values()))
    of = shares.share(bad, len(alarms))
    return of, f"{bad} of {len(alarms)} kinds ({looks} looks), {of}"


spoken = sum(any(one.findings for one in runs) for runs in seen.values())
speaks = shares.share(spoken, len(seen))  # a tool that speaks of healthy kinds as often as this one of the runs above
for row, kinds in ((silent, healthy), (unasked, unseen)):
    of, words = judged(kinds)
    row.measure(of, chance=speaks, shown=words)

# %%
results.figure(
    figures.ward(CASES, {name: of[0] for name, of in seen.items()}),
    "ward",
    f"The {len(QUESTIONS)} questions, {len(CASES)} runs. One number of each and of its twin (first base), and what "
    "tells it.",
    alt="A table of runs in four groups. Most of those in which nothing or the wrong thing is learnt have their mark "
    "under diagnose; two under an error; two under the folder; rates, alpha, the template, cross terms, a merge into "
    "4 bits and another base under comparing.",
)
raised = [name for name, of in seen.items() if of[0].raised]
print(f"{len(QUESTIONS)} questions, {len(CASES)} runs, {sum(not c.fault for c in CASES.values())} without a fault")
print(f"end in an error here: {len(raised)} ({', '.join(raised)}); and a server refuses one")
folder = sum(bool(of[0].elsewhere) for of in seen.values())
print(f"made to be named by diagnose: {len(visible)}; told by the folder: {folder}")
results.record(runs={n: [[s.broken, s.healthy, sorted(s.names)] for s in of] for n, of in seen.items()})

# %% [markdown]
# **Where silence means nothing.** Other guises, found later.

# %%
others = {name: {n for seed in seeds for n in dict(guises.said(seed))[name]} for name in guises.GUISES}
print(stats.table(["the fault", "diagnose"], [[n, ", ".join(sorted(f)) or "silent"] for n, f in others.items()]))
results.record(guises={name: sorted(found) for name, found in others.items()})

# %% [markdown] rests_on="20.named=holds, 20.silent=holds, 20.unseen=not settled"
# `diagnose` names {20.named.shown}, and speaks of {20.silent.shown}. Neither interval is the tool's reach. The 17 cases
# and the 48 kinds were chosen, and the rules mended until all were right. The 14 guises above were chosen because the
# rules fail on them. Twelve are met with silence; two, labels not shifted and labels shifted twice, are called by other
# faults' names.
#
# Of kinds that were thought of after the rules it calls {20.unseen.shown} broken. Whether that is fewer than one in
# four is not settled. Both are losses that count the prompt's places on purpose; one counts the padding too, and is
# named by the rule that came later. `diagnose` takes any count there for a slip. The random half of the tokens was
# lucky: by arithmetic, about one draw in fifty leaves out most ends or openings and is called broken.
#
# Two of 29 runs raise. What `diagnose` cannot see is told by comparing: a batch kept from before (a merge into 4 bits,
# another base), the folder, other rates, the prompt's ids, the sum of the updates. After an empty list, compare the
# adapted model's loss before a step with its base's: they should be equal.
#
# ## Exercises
#
# **1. What does the optimizer miss?** Write the check for the third case: the names of the parameters that train and
# that no group of the optimizer holds.

# %%
from lora_from_scratch.book.checks import ch20 as check


def my_missing(model, optimizer):
    """A model and a torch optimizer -> a list of names."""
    return None  # your code here


print(check.check_missing(my_missing))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_missing(model, optimizer):
#     held = {id(p) for group in optimizer.param_groups for p in group["params"]}
#     return [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in held]
# ```
#
# `p in group["params"]` would compare numbers with `==`, and fail; `torch.equal` finds one that is merely equal.
#
# </details>
#
# **2. Padded with ends.** There is no padding token, so rows are filled up with the end. `ids` is a row: a prompt, from
# `start` on the answer, its end, and perhaps more ends. The model reads `ids[:-1]`. Write its labels: the answer and
# *one* end are learnt.


# %%
def my_labels(ids, start, end):
    """A list of n ids, the place where the answer starts, the id of the end -> a list of n - 1 labels."""
    return None  # your code here


print(check.check_labels(my_labels))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_labels(ids, start, end):
#     last = ids.index(end, start)  # the first end of the answer
#     kept = [i if start <= place <= last else -100 for place, i in enumerate(ids)]
#     return kept[1:]
# ```
#
# Mask by place, then shift.
#
# </details>
#
# **3. Name it.** Four runs, told by their numbers. *First*: its file takes two bytes a number; before a step all is
# finite, after two not one entry of `A` and `B` is. Name the cause, not what is left. *Second*: the loss fell to 0.2 in
# training, and the file has all its tensors; loaded elsewhere, the model's logits are the base's to the last bit.
# *Third*: the loss is lower than ever before, and each answer goes on until it is cut off. *Fourth*: "trainable: 32,224
# of 32,224 numbers"; training went well, and the file holds 4,928 numbers; loaded on the base, the loss is 5.5, where
# the base's is 10.9. Give `diagnose`'s names.

# %%
for name in check.KNOWN:
    print(name)
my_names = {"first": None, "second": None, "third": None, "fourth": None}  # your answers here
print(check.check_runs(my_names))

# %% [markdown]
# <details><summary>Solution</summary>
#
# First: trained in float16. Second: an adapter does nothing; its names fitted nothing. Third: the end of an answer is
# not learnt. Fourth: the base is not frozen, and what it learnt was not saved.
#
# </details>
#
# ## The same with PEFT
#
# ```python
# import torch
# from peft import LoraConfig, get_peft_model
# from transformers import LlamaConfig, LlamaForCausalLM
#
# from lora_from_scratch.diagnose import diagnose
#
# sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
# model = get_peft_model(LlamaForCausalLM(LlamaConfig(**sizes)), LoraConfig(r=4, target_modules="all-linear"))
# optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
# ids = torch.randint(3, 64, (4, 10))
# batch = {"input_ids": ids, "labels": torch.full_like(ids, -100)}  # no label is left
# for finding in diagnose(model, optimizer, batch):
#     print(finding)
# ```
#
# `diagnose` imports neither PEFT nor transformers, and knows their layers by what they hold. `make parity` runs cases
# there.

# %%
results.save()
