"""Adapters on models of transformers: six architectures, each against PEFT on the same model.

Every model is random, small, in eval mode and built from a configuration. float64 tells a wrong formula from a
rounding; B is far from zero unless a test says otherwise.
"""

import copy

import pytest
import torch
import transformers
from pairs import Pair, adapters_of, assert_near, make_pair, peft_adapters_of
from torch import Tensor, nn

from lora_from_scratch import AdapterConfig, add_adapters, count_parameters, merge_adapters, trainable_parameters
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.targets import find_targets

# PEFT and these tests use the name that this method has had for years; its new name is not in older versions.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

V, C, F, L, H, K, T = 53, 32, 48, 2, 4, 2, 12  # vocabulary, width, MLP width, layers, heads, kv heads, positions
SIZES = {"vocab_size": V, "hidden_size": C, "intermediate_size": F, "num_hidden_layers": L, "num_attention_heads": H}
SIZES |= {"max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = SIZES | {"num_key_value_heads": K}
KINDS = {
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig, GROUPED),
    "mistral": (transformers.MistralForCausalLM, transformers.MistralConfig, GROUPED | {"sliding_window": 5}),
    "qwen2": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config, GROUPED),
    "gpt_neox": (transformers.GPTNeoXForCausalLM, transformers.GPTNeoXConfig, SIZES),
    "opt": (
        transformers.OPTForCausalLM,
        transformers.OPTConfig,
        SIZES | {"ffn_dim": F, "word_embed_proj_dim": C, "dropout": 0.0},
    ),
    "bert": (
        transformers.BertForMaskedLM,
        transformers.BertConfig,
        SIZES | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    ),
}
every_kind = pytest.mark.parametrize("kind", KINDS)

# What all-linear means in each: the layers of a block, what there is beside the blocks, and the parameters per unit
# of rank, r · (in + out) summed. Key and value layers of a grouped model are C / 2 wide.
LAYERS_A_BLOCK = {"llama": 7, "mistral": 7, "qwen2": 7, "gpt_neox": 4, "opt": 6, "bert": 6}
BESIDE_THE_BLOCKS = {"bert": ["cls.predictions.transform.dense"]}
GATED_BLOCK = 2 * (C + C) + 2 * (C + C // 2) + 3 * (C + F)
PLAIN_BLOCK = 4 * (C + C) + 2 * (C + F)
FUSED_BLOCK = (C + 3 * C) + (C + C) + 2 * (C + F)  # q, k and v are one matrix, and it gets one A and one B
PER_RANK = {
    "llama": L * GATED_BLOCK,
    "mistral": L * GATED_BLOCK,
    "qwen2": L * GATED_BLOCK,
    "gpt_neox": L * FUSED_BLOCK,
    "opt": L * PLAIN_BLOCK,
    "bert": L * PLAIN_BLOCK + (C + C),
}


def make(kind: str, **changes) -> nn.Module:
    """A model of transformers in eval mode and float64, its numbers large enough that every layer shows."""
    model_class, config_class, fields = KINDS[kind]
    torch.manual_seed(0)
    model = model_class(config_class(**fields | changes)).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.5)  # they start at zero, where a lost one could not be seen
    return model


def random_ids() -> Tensor:
    """Two sequences without special tokens."""
    return torch.randint(3, V, (2, T))


def pair_of(kind: str, **changes) -> Pair:
    """The model of this kind with our adapters on all linear layers, and with PEFT's."""
    return make_pair(make(kind, **changes), AdapterConfig(rank=3, alpha=7))


def loss_of(model: nn.Module, ids: Tensor) -> Tensor:
    """Cross-entropy of every token given the logits at its place: some loss that all logits take part in."""
    return nn.functional.cross_entropy(model(input_ids=ids).logits.flatten(0, 1), ids.flatten())


@every_kind
def test_all_linear_chooses_the_layers_that_peft_chooses(kind):
    """The adapted layers have PEFT's names, in order: all in the blocks, and never the head that gives the logits."""
    pair = pair_of(kind)
    names = list(adapters_of(pair.ours))
    assert names == list(peft_adapters_of(pair.theirs))
    beside = BESIDE_THE_BLOCKS.get(kind, [])
    assert len(names) == L * LAYERS_A_BLOCK[kind] + len(beside) and set(beside) <= set(names)
    head = pair.ours.get_output_embeddings()
    assert isinstance(head, nn.Linear) and not any(p.requires_grad for p in head.parameters())


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_head_of_another_name_is_found_as_peft_finds_it(tied):
    """BERT's head is called decoder: all-linear leaves it out, tied to the embedding or not, as PEFT does."""
    pair = pair_of("bert", tie_word_embeddings=tied)
    head, embedding = pair.ours.get_output_embeddings(), pair.ours.get_input_embeddings()
    assert (head.weight is embedding.weight) == tied
    assert head is pair.ours.cls.predictions.decoder and type(head) is nn.Linear
    assert list(adapters_of(pair.ours)) == list(peft_adapters_of(pair.theirs))


@every_kind
def test_counts_are_those_of_peft_and_the_closed_form(kind):
    """(trainable, all) is what PEFT counts, and the trainable ones are the sum of r · (in + out)."""
    pair = pair_of(kind)
    assert count_parameters(pair.ours) == pair.theirs.get_nb_trainable_parameters()
    assert count_parameters(pair.ours)[0] == 3 * PER_RANK[kind]


@every_kind
def test_logits_and_gradients_are_those_of_peft(kind):
    """With the same A and B, logits and the gradients of A and B are PEFT's, and the logits are not the base's."""
    pair, base, ids = pair_of(kind), make(kind), random_ids()
    ours, theirs = pair.ours(input_ids=ids).logits, pair.theirs(input_ids=ids).logits
    assert_near(ours, theirs, 1e-12, "logits")
    assert (ours - base(input_ids=ids).logits).abs().max() > 0.1, "the adapters do nothing"
    for model in (pair.ours, pair.theirs):
        loss_of(model, ids).backward()
    for name, mine, other in pair.factors():
        assert mine.grad.any(), f"{name} got no gradient"
        assert_near(mine.grad, other.grad, 1e-11, name)


@every_kind
def test_trained_and_merged_a_model_is_what_it_was_and_what_peft_makes_of_it(kind):
    """After a step of AdamW, merging changes no logit, and gives PEFT's merged state dict, key for key."""
    pair, ids = pair_of(kind), random_ids()
    keys = make(kind).state_dict().keys()
    for model in (pair.ours, pair.theirs):
        optimizer = torch.optim.AdamW(trainable_parameters(model), lr=1e-2)
        loss_of(model, ids).backward()
        optimizer.step()
    with torch.no_grad():
        before = pair.ours(input_ids=ids).logits
        ours, theirs = merge_adapters(pair.ours), pair.theirs.merge_and_unload()
        assert_near(ours(input_ids=ids).logits, before, 1e-12, "our logits after the merge")
        assert_near(ours(input_ids=ids).logits, theirs(input_ids=ids).logits, 1e-11, "PEFT's logits after the merge")
    assert ours.state_dict().keys() == theirs.state_dict().keys() == keys
    for name, tensor in ours.state_dict().items():
        assert_near(tensor, theirs.state_dict()[name], 1e-11, name)


@every_kind
def test_at_the_start_logits_are_the_base_s_and_the_rest_is_frozen(kind):
    """While B is zero the logits are the base's, to the bit; only A and B are trainable; eval mode stays."""
    model, ids = make(kind), random_ids()
    with torch.no_grad():
        before = model(input_ids=ids).logits
        after = add_adapters(model, AdapterConfig(rank=3))(input_ids=ids).logits
    assert torch.equal(before, after)
    assert not any(module.training for module in model.modules())
    trained = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"A", "B"}


@every_kind
def test_gradient_checkpointing_of_transformers_changes_no_gradient(kind):
    """gradient_checkpointing_enable(use_reentrant=False) gives A and B the gradients that they have without it.

    Everything in front of the first adapter is frozen, which is where adapters have lost their gradients elsewhere.
    The model is in train mode, since only there is anything recomputed; no dropout makes the two runs differ.
    """
    model, ids = pair_of(kind).ours.train(), random_ids()
    calls = []
    next(iter(adapters_of(model).values())).register_forward_hook(lambda *_: calls.append(1))

    def gradients() -> list[Tensor]:
        calls.clear()
        return torch.autograd.grad(loss_of(model, ids), trainable_parameters(model))

    wanted, plain_calls = gradients(), len(calls)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    got, checkpointed_calls = gradients(), len(calls)
    assert (plain_calls, checkpointed_calls) == (1, 2), "nothing was recomputed, so nothing was compared"
    for mine, theirs in zip(got, wanted, strict=True):
        assert theirs.any()
        assert_near(mine, theirs, 1e-12)


@every_kind
def test_autocast_to_bfloat16_runs_and_stays_near(kind):
    """Under autocast a float32 model with adapters trains, and its logits are those without autocast to bfloat16."""
    model, ids = pair_of(kind).ours.float(), random_ids()
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(input_ids=ids).logits
        loss_of(model, ids).backward()
    # a dozen layers round by 2^-9 each, and the sizes of the errors add up as in a random walk or a little worse
    assert_near(got.float(), wanted, 0.05)
    for parameter in trainable_parameters(model):
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all() and parameter.grad.any()


@every_kind
def test_a_deep_copy_is_a_model_of_its_own(kind):
    """copy.deepcopy gives the same logits, shares no parameter, and trains and merges without changing the original."""
    model, ids = pair_of(kind).ours, random_ids()
    other = copy.deepcopy(model)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        assert torch.equal(other(input_ids=ids).logits, before)
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in other.parameters()}
    loss_of(other, ids).backward()
    torch.optim.SGD(trainable_parameters(other), lr=1.0).step()
    merge_adapters(other)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, before)
        assert not torch.equal(other(input_ids=ids).logits, before)
    assert all(parameter.grad is None for parameter in model.parameters())


@every_kind
def test_a_traced_model_gives_the_same_logits_and_gradients(kind):
    """torch.compile gives the logits and the gradients of A and B that the model gives by itself."""
    model, ids = pair_of(kind, num_hidden_layers=1).ours, random_ids()  # tracing is slow
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")  # traced, forward and backward, but no C++ compiler needed
    wanted = torch.autograd.grad(loss_of(model, ids), trainable_parameters(model))
    got = torch.autograd.grad(loss_of(compiled, ids), trainable_parameters(model))
    for mine, theirs in zip(got, wanted, strict=True):
        assert_near(mine, theirs, 1e-12)


def tied_llama() -> nn.Module:
    """A Llama whose head is its embedding."""
    model = make("llama", tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    return model


def test_all_linear_leaves_a_tied_head_alone():
    """Where head and embedding share a weight, all-linear adapts neither, and a merge keeps them one parameter."""
    model = add_adapters(tied_llama(), AdapterConfig(rank=3))
    assert type(model.lm_head) is nn.Linear and "lm_head" not in adapters_of(model)
    merge_adapters(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_merging_an_adapter_on_a_tied_head_leaves_the_embedding():
    """A tied head that is asked for by name gets its update on its own: the embedding keeps every bit."""
    model, ids = add_adapters(tied_llama(), AdapterConfig(rank=3, targets=["lm_head"])), random_ids()
    embedding = model.model.embed_tokens.weight.clone()
    nn.init.normal_(model.lm_head.B)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        merge_adapters(model)
        assert_near(model(input_ids=ids).logits, before, 1e-12)
    assert torch.equal(model.model.embed_tokens.weight, embedding)
    assert (model.lm_head.weight - embedding).abs().max() > 0.1


def small_gpt2() -> nn.Module:
    """GPT-2, whose linear layers are Conv1D: their weights are stored (in, out)."""
    config = transformers.GPT2Config(vocab_size=V, n_embd=C, n_layer=L, n_head=H, n_positions=32, bos_token_id=1)
    return transformers.GPT2LMHeadModel(config).double().eval()


@pytest.mark.parametrize("targets", ["all-linear", ["c_attn"], r".*mlp\.c_fc"], ids=str)
def test_conv1d_is_refused_by_name_and_with_advice(targets):
    """A Conv1D is a ValueError that names the layer and its type and says what to do; the model is unchanged."""
    model = small_gpt2()
    before = {name: (type(module), module.training) for name, module in model.named_modules()}
    with pytest.raises(ValueError, match=r"transformer\.h\.0\.\S+: Conv1D .*nn\.Linear.*conv\.weight\.T"):
        add_adapters(model, AdapterConfig(rank=3, targets=targets))
    assert {name: (type(module), module.training) for name, module in model.named_modules()} == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_advice_about_conv1d_works():
    """With Conv1D replaced as the message says, GPT-2 gives its own logits, takes adapters, and merges."""
    model, ids = small_gpt2(), random_ids()
    with torch.no_grad():
        before = model(input_ids=ids).logits
    for name, conv in list(model.named_modules()):
        if isinstance(conv, transformers.pytorch_utils.Conv1D):
            d_in, d_out = conv.weight.shape
            linear = nn.Linear(d_in, d_out, dtype=conv.weight.dtype)
            linear.weight, linear.bias = nn.Parameter(conv.weight.T), conv.bias
            model.set_submodule(name, linear)
    with torch.no_grad():
        assert_near(model(input_ids=ids).logits, before, 1e-12, "with nn.Linear")
    pair = make_pair(model, AdapterConfig(rank=3, alpha=7))
    assert len(adapters_of(pair.ours)) == 4 * L
    with torch.no_grad():
        adapted = pair.ours(input_ids=ids).logits
        assert_near(adapted, pair.theirs(input_ids=ids).logits, 1e-12, "against PEFT")
        assert (adapted - before).abs().max() > 0.01
        assert_near(merge_adapters(pair.ours)(input_ids=ids).logits, adapted, 1e-12, "merged")


def small(kind, **options):
    """A random `transformers` model of the kind, a few thousand weights."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = kind.config_class(vocab_size=31, max_position_embeddings=16, pad_token_id=0, **sizes, **options)
    torch.manual_seed(0)
    return kind(config)


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        (transformers.LlamaForSequenceClassification, ["score"]),
        (transformers.BertForQuestionAnswering, ["qa_outputs"]),
        (transformers.BertForSequenceClassification, ["classifier"]),
        (transformers.RobertaForSequenceClassification, ["classifier.dense", "classifier.out_proj"]),
        (transformers.BertForMaskedLM, ["cls.predictions.decoder"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_heads_of_real_models_are_no_targets(kind, head):
    """Classifiers' fresh heads and the one that the model names, bare and inside a wrapper of the user's."""
    for model in (small(kind), torch.nn.ModuleDict({"inner": small(kind)})):
        names = {name.removeprefix("inner.") for name in find_targets(model, "all-linear")}
        assert names and not names & set(head)
        assert all("layer" in name or name.startswith(("bert.pooler", "cls.predictions.transform")) for name in names)


def test_experts_of_a_real_model_are_named_in_a_warning():
    """`transformers` keeps a mixture's experts in 3-D parameters; its attention is adapted."""
    model = small(transformers.MixtralForCausalLM, num_local_experts=4, num_experts_per_tok=2, num_key_value_heads=1)
    with pytest.warns(UserWarning, match=r"model\.layers\.0\.mlp\.experts\.gate_up_proj"):
        add_adapters(model, AdapterConfig(rank=2))
    assert not any("experts" in name for name, module in model.named_modules() if is_adapter(module))
