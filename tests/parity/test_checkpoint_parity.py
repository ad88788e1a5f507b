"""A checkpoint loaded by us is the one that transformers loads: its folders, and the pretrained model of the book."""

import pytest
import torch
import transformers
from checkpoints import small_llama, small_rule
from test_llama_parity import spread_out

from lora_from_scratch.lab.checkpoint import _packaged, load_checkpoint
from lora_from_scratch.lab.generate import generate
from lora_from_scratch.lab.llama import TinyLlama

PROMPTS = (
    [
        "The capital of France is",
        "Once upon a time",
        "def add(a, b):\n    return",
        "Water boils at",
        "The opposite of hot",
    ]
    + [f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in ("Name a colour.", "Hello!")]
    + [
        "My favourite food",
        "In the year",
        "Dogs and",
        "Python is a",
        "To be or not to be",
        "The sun",
        "One, two, three,",
    ]
    + ["import numpy as", "She said:", "Dear Sir,", "E = m", "Il était une fois", "A recipe for bread:"]
)
AGREED = [
    "",
    "plain words",
    "it's we'll",
    "été À l'école",
    "中文字",
    "a😀b",
    "\t\ttab\r\n",
    "x12y",
    "in 1999",
    "<|im_start|>user",
] + ["a<|im_end|>\nb", "def f(x):\n    return x[12]"]
DIFFER = ["\n\n1. x", "    0", " ²"]  # transformers' reader of GGUF does not let every digit stand alone


@pytest.fixture(scope="module")
def pair():
    """(ours, theirs, their tokenizer) of the packaged file."""
    path = _packaged()
    where = {"gguf_file": path.name}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where)
    return load_checkpoint(), theirs.eval(), transformers.AutoTokenizer.from_pretrained(path.parent, **where)


def test_the_real_model_s_logits_are_transformers_to_a_hundredth_of_a_percent(pair):
    ours, theirs, _ = pair
    ids = torch.tensor([ours.tokenizer.encode("The quick brown fox, 12 of them, jumps over the lazy dog.\n" * 3)])
    with torch.no_grad():
        found, wanted = ours.model(ids), theirs(ids).logits
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_greedy_continuations_of_twenty_prompts_are_transformers(pair):
    """Ours in one batch with a cache, theirs one by one. They may part only where two tokens are level."""
    ours, theirs, _ = pair
    prompts = [ours.tokenizer.encode(text) for text in PROMPTS]
    found = generate(ours.model, prompts, 12, stop=[ours.tokenizer.eos])
    for prompt, text in zip(prompts, found, strict=True):
        x = torch.tensor([prompt])
        options = {"do_sample": False, "eos_token_id": ours.tokenizer.eos, "pad_token_id": 2}
        wanted = theirs.generate(x, attention_mask=torch.ones_like(x), max_new_tokens=12, **options)[0, len(prompt) :]
        wanted = wanted.tolist()
        if text != wanted:
            at = next(i for i, (a, b) in enumerate(zip(text, wanted, strict=False)) if a != b)
            with torch.no_grad():
                first, second = ours.model(torch.tensor([prompt + text[:at]]))[0, -1].topk(2).values
            assert first - second < 1e-3, (text, wanted)


@pytest.mark.parametrize("text", AGREED)
def test_ids_are_transformers_where_the_two_rules_agree(pair, text):
    ours, _, theirs = pair
    assert ours.tokenizer.encode(text) == theirs.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("text", DIFFER)
def test_where_transformers_drops_the_file_s_rule_ours_keeps_it(pair, text):
    """The file's `pre` says that every number character stands alone. If this fails, transformers has learnt it."""
    ours, _, theirs = pair
    alone = [i for i in ours.tokenizer.encode(text) if ours.tokenizer.decode([i]).strip() in tuple("01²")]
    assert alone and ours.tokenizer.encode(text) != theirs.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_a_folder_that_transformers_saved_gives_its_logits_and_ids(tmp_path, tied, kv_heads):
    ours = spread_out(small_llama(tied, kv_heads))
    config = transformers.LlamaConfig(**vars(ours.config), eos_token_id=2)
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.load_state_dict(ours.state_dict())
    theirs.save_pretrained(tmp_path)
    transformers.PreTrainedTokenizerFast(tokenizer_object=small_rule(), eos_token="<|im_end|>").save_pretrained(
        tmp_path
    )
    found = load_checkpoint(tmp_path)
    ids = torch.randint(ours.config.vocab_size, (3, 20))
    with torch.no_grad():
        wanted = theirs(ids).logits
        assert (found.model(ids) - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert found.tokenizer.eos == 2 and found.tokenizer.encode("the and") == small_rule().encode("the and").ids
    assert isinstance(found.model, TinyLlama)
