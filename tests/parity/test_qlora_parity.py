"""QLoRA is that of bitsandbytes under PEFT: outputs, gradients, training. And it works on a model of transformers.

bitsandbytes on a CPU looks the second-level code of a constant up in a table, and so gets about one in 500 wrong by
one. Where double quantized layers are compared to the last digits, both hold its codes. Rows here are whole blocks of
64, since its CPU decoding goes wrong where a row is longer than a block and no multiple of it, or shorter than one.
"""

import bitsandbytes
import peft
import pytest
import torch
import transformers
from pairs import assert_near
from torch import Tensor, nn

from lora_from_scratch import (
    AdapterConfig,
    LoRALinear,
    NF4Linear,
    add_adapters,
    count_parameters,
    merge_adapters,
    nf4,
    qlora,
    quantize_model,
    trainable_parameters,
)

TOLERANCE = 2e-5  # float32 rounds by 6e-8; sums here have up to 256 terms
every_shape = pytest.mark.parametrize("d_in, d_out", [(64, 1), (64, 48), (128, 96), (192, 7), (256, 320)])
with_and_without_double = pytest.mark.parametrize("double", [True, False], ids=["double", "single"])
with_and_without_bias = pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])


class Holder(nn.Module):
    """bitsandbytes' layer with a parent, as PEFT needs it, and told to be in 4 bits, as transformers tells PEFT."""

    is_loaded_in_4bit = True

    def __init__(self, linear: nn.Linear, double: bool) -> None:
        super().__init__()
        options = {"compute_dtype": linear.weight.dtype, "compress_statistics": double, "quant_type": "nf4"}
        self.linear = bitsandbytes.nn.Linear4bit(
            linear.in_features, linear.out_features, linear.bias is not None, **options
        )
        self.linear.load_state_dict(linear.state_dict())
        self.linear.to("cpu")  # which quantizes

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def linear_of(d_in: int, d_out: int, bias: bool = False) -> nn.Linear:
    """Random, with rows that differ in size, and so in their constants."""
    linear = nn.Linear(d_in, d_out, bias=bias)
    with torch.no_grad():
        linear.weight.mul_(10 ** torch.rand(d_out, 1))
    return linear


def pair_of(linear: nn.Linear, double: bool, same_codes: bool = True) -> tuple[LoRALinear, nn.Module]:
    """(ours, PEFT's layer) over 4-bit copies of `linear`, with equal A and B; double quantized, with equal codes."""
    holder = Holder(linear, double)
    ours = NF4Linear.from_linear(linear, double=double)
    if double and same_codes:
        ours.load_state_dict(parts_of(holder.linear) | {"layout": ours.layout} | bias_of(linear))
    ours = LoRALinear(ours, rank=4, alpha=10)
    peft.get_peft_model(holder, peft.LoraConfig(r=4, lora_alpha=10, target_modules=["linear"]))
    theirs = holder.linear
    assert type(theirs).__module__ == "peft.tuners.lora.bnb"
    with torch.no_grad():
        ours.B.normal_(std=0.1)
        theirs.lora_A["default"].weight.copy_(ours.A)
        theirs.lora_B["default"].weight.copy_(ours.B)
    return ours, theirs


def parts_of(layer: bitsandbytes.nn.Linear4bit) -> dict[str, Tensor]:
    """bitsandbytes' codes and constants of a double quantized layer, under our names."""
    state = layer.weight.quant_state
    second = {"absmax": state.absmax, "absmax2": state.state2.absmax, "offset": state.offset}
    return {"packed": layer.weight.data.flatten()} | second


def bias_of(linear: nn.Linear) -> dict[str, Tensor]:
    return {} if linear.bias is None else {"bias": linear.bias.detach()}


@every_shape
@with_and_without_double
@with_and_without_bias
def test_outputs_and_gradients_are_those_of_bitsandbytes(d_in, d_out, double, bias):
    """Over the same codes the output, and the gradients of x, A and B, are those of Linear4bit under PEFT."""
    ours, theirs = pair_of(linear_of(d_in, d_out, bias), double)
    xs = [torch.randn(2, 5, d_in).requires_grad_()]
    xs.append(xs[0].detach().clone().requires_grad_())
    outputs = [ours(xs[0]), theirs(xs[1])]
    assert_near(*outputs, TOLERANCE, "output")
    upstream = torch.randn_like(outputs[0])
    for h in outputs:
        h.backward(upstream)
    assert_near(xs[0].grad, xs[1].grad, TOLERANCE, "gradient of x")
    assert_near(ours.A.grad, theirs.lora_A["default"].weight.grad, TOLERANCE, "gradient of A")
    assert_near(ours.B.grad, theirs.lora_B["default"].weight.grad, TOLERANCE, "gradient of B")
    frozen = [p for layer in (ours.base, theirs.base_layer) for p in layer.parameters()]
    assert not any(p.requires_grad or p.grad is not None for p in frozen)


@every_shape
@with_and_without_double
def test_weight_is_that_of_bitsandbytes(d_in, d_out, double):
    """Over the same codes `.weight` is what bitsandbytes decodes, to the last bit where the constants are float32."""
    ours, theirs = pair_of(linear_of(d_in, d_out), double)
    packed = theirs.base_layer.weight
    wanted = bitsandbytes.functional.dequantize_4bit(packed.data, packed.quant_state)
    assert torch.equal(ours.base.packed, packed.data.flatten())
    assert_near(ours.base.weight, wanted, 1e-6 if double else 0.0, "weight")


def test_double_quantized_from_the_same_weight():
    """Each on its own, the double quantized constants differ in at most 1 % of the codes, there by one step."""
    linear = linear_of(512, 512)
    ours, theirs = pair_of(linear, double=True, same_codes=False)
    codes = parts_of(theirs.base_layer)["absmax"].int()
    off = (ours.base.absmax.int() - codes).abs()
    assert off.max() <= 1 and (off > 0).float().mean() <= 0.01  # of 4,096; 0.2 % expected, so 1 % is far out
    steps = torch.from_numpy(nf4.DYNAMIC_MAP).diff().max() * ours.base.absmax2.max()
    assert (ours.base.weight - pair_of(linear, double=True)[0].base.weight).abs().max() <= steps


@with_and_without_double
def test_adamw_takes_the_same_path(double):
    """Eight steps of AdamW, weight decay included, lead to the A and B of PEFT over bitsandbytes."""
    ours, theirs = pair_of(linear_of(128, 96), double)
    x, target, losses = torch.randn(20, 128), torch.randn(20, 96), []
    for layer in (ours, theirs):
        optimizer = torch.optim.AdamW(trainable_parameters(layer), lr=1e-2, weight_decay=0.1)
        path = []
        for _ in range(8):
            loss = (layer(x) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            path.append(loss.detach())
        losses.append(torch.stack(path))
    assert_near(losses[0], losses[1], TOLERANCE, "losses")
    assert losses[0][-1] < 0.9 * losses[0][0], "nothing was learned, so nothing was compared"
    for mine, other in ((ours.A, theirs.lora_A), (ours.B, theirs.lora_B)):
        assert_near(mine, other["default"].weight, 1e-4)  # AdamW enlarges the rounding of small gradients


def test_count_is_that_of_full_precision_llama():
    """A quantized model counts as PEFT counts the model in full precision: weights, not bytes."""
    ours = add_adapters(quantize_model(llama()), AdapterConfig(rank=4, targets=r".*_proj"))
    theirs = peft.get_peft_model(llama(), peft.LoraConfig(r=4, target_modules=r".*_proj"))
    assert count_parameters(ours) == theirs.get_nb_trainable_parameters()


def llama() -> transformers.LlamaForCausalLM:
    """Two narrow blocks of transformers' Llama; rows of 40 and 96, so blocks of 64 run over their ends."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 31, "hidden_size": 40, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, initializer_range=0.2)).eval()


@with_and_without_double
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_llama_of_transformers_has_logits_of_its_decoded_weights(dtype, double, monkeypatch):
    """Quantized, a Llama of transformers gives the logits it gives with the decoded weights put in, in any slices.

    In bfloat16, sums of numbers that round to 2^-9 are taken in another order, through two blocks: 2^-5 covers it.
    """
    monkeypatch.setattr(qlora, "ROWS", 16)
    ours, wanted, ids = quantize_model(llama().to(dtype), double=double), llama().to(dtype), torch.randint(31, (3, 20))
    for name, layer in ours.named_modules():
        if isinstance(layer, NF4Linear):
            linear = wanted.get_submodule(name)
            values = nf4.dequantize(nf4.quantize(linear.weight.detach().float().numpy(), double=double))
            linear.weight.data = torch.from_numpy(values).to(dtype)
    assert sum(isinstance(m, NF4Linear) for m in ours.modules()) == 14 and type(ours.lm_head) is nn.Linear
    tolerance = TOLERANCE if dtype == torch.float32 else 2**-5
    assert_near(ours(ids).logits, wanted(ids).logits, tolerance, "logits")
    assert (ours(ids).logits - llama().to(dtype)(ids).logits).abs().max() > 0.01


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_llama_of_transformers_trains(checkpointing):
    """QLoRA lowers the loss of a Llama of transformers, with gradient checkpointing too, and merges into it."""
    model = add_adapters(quantize_model(llama()), AdapterConfig(rank=4))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    ids, losses = torch.randint(31, (3, 20)), []
    optimizer = torch.optim.AdamW(trainable_parameters(model), lr=1e-2)
    for _ in range(10):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in trainable_parameters(model))
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    model.eval()
    before = model(ids).logits.detach()
    merge_adapters(model)
    assert not any(isinstance(m, (NF4Linear, LoRALinear)) for m in model.modules())
    assert_near(model(ids).logits.detach(), before, TOLERANCE, "logits of the merge")
