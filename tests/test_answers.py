"""The loss is the answer's alone, from its first token to its end, whatever else is in the batch."""

import pytest
import torch
import torch.nn.functional as F
from checkpoints import small_llama, small_rule

from lora_from_scratch.lab.answers import LEFT_OUT, Example, answer_loss, answered, as_batch, chat, example
from lora_from_scratch.lab.generate import generate
from lora_from_scratch.lab.tokens import Tokenizer

TOKENIZER = Tokenizer(small_rule(), eos=2)
PAIRS = [("a", "the"), ("land", "and in the"), ("in", ""), ("or", "12é")]
EXAMPLES = [example(TOKENIZER, *pair) for pair in PAIRS]


def slow_loss(model, examples):
    """-log p of every answer token, one example and one token at a time."""
    places = [(e, i) for e in examples for i in range(e.start, len(e.ids))]
    lost = [-F.log_softmax(model(torch.tensor([e.ids[:i]]))[0, -1], -1)[e.ids[i]] for e, i in places]
    return torch.stack(lost).mean()


def test_an_example_is_the_question_then_the_answer_then_the_end():
    for (question, answer), e in zip(PAIRS, EXAMPLES, strict=True):
        assert TOKENIZER.decode(e.ids) == chat(question) + answer + "<|im_end|>"
        assert TOKENIZER.decode(e.ids[e.start :]) == answer + "<|im_end|>" and e.ids[-1] == TOKENIZER.eos


def test_the_loss_is_the_mean_over_the_answers_tokens_their_ends_included():
    """Against a slow loop, in float64, for one example and for a batch of unequal ones."""
    model = small_llama().double()
    for some in ([EXAMPLES[1]], EXAMPLES, EXAMPLES[::-1]):
        torch.testing.assert_close(answer_loss(model, some).double(), slow_loss(model, some), rtol=1e-5, atol=0)


def test_the_fill_and_the_question_do_not_touch_the_loss():
    """Another id in the fill changes nothing; and the gradient of the question's labels is none."""
    model, (inputs, labels) = small_llama().double(), as_batch(EXAMPLES)
    filled = torch.tensor([[column >= len(e.ids) - 1 for column in range(inputs.shape[1])] for e in EXAMPLES])
    assert filled.any() and (labels[filled] == LEFT_OUT).all()
    other = torch.where(filled, 7, inputs)
    lost = [F.cross_entropy(model(x).flatten(0, 1), labels.flatten()) for x in (inputs, other)]
    torch.testing.assert_close(*lost, rtol=1e-12, atol=0)
    assert [int((row != LEFT_OUT).sum()) for row in labels] == [len(e.ids) - e.start for e in EXAMPLES]


def test_the_labels_are_the_inputs_one_place_on():
    inputs, labels = as_batch(EXAMPLES)
    for row, e in enumerate(EXAMPLES):
        for place in range(len(e.ids) - 1):
            assert inputs[row, place] == e.ids[place]
            assert labels[row, place] == (e.ids[place + 1] if place + 1 >= e.start else LEFT_OUT)


def test_an_answer_that_is_the_end_alone_is_learnt():
    e = example(TOKENIZER, "a", "")
    assert e.ids[e.start :] == (TOKENIZER.eos,) and (as_batch([e])[1] != LEFT_OUT).sum() == 1


def test_answered_is_what_greedy_decoding_gives():
    """An example made of the model's own greedy text is answered; with one token changed it is not."""
    model, asked = small_llama().double(), EXAMPLES[1]
    prompt = asked.ids[: asked.start]
    own = generate(model, [prompt], 6)[0]
    right = Example((*prompt, *own), len(prompt))
    wrong = [Example((*prompt, *own[:i], own[i] ^ 1, *own[i + 1 :]), len(prompt)) for i in range(6)]
    assert answered(model, [right, *wrong, right], batch=3) == [True] + [False] * 6 + [True]
    assert answered(model, []) == []


def test_training_on_the_answers_teaches_them_and_the_end():
    """A few steps on two pairs: generated text is then the answer, and it stops."""
    torch.manual_seed(0)
    model, some = small_llama(), EXAMPLES[:2]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        answer_loss(model, some).backward()
        optimizer.step()
    assert answered(model, some) == [True, True]
    for e, (_, answer) in zip(some, PAIRS, strict=False):
        text = generate(model, [e.ids[: e.start]], 12, stop=[TOKENIZER.eos])[0]
        assert TOKENIZER.decode(text) == answer + "<|im_end|>"


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match="no examples"):
        as_batch([])
