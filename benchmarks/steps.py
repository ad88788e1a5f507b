"""What is measured: training steps and the bytes they save for backward. Each function gives a step ready to be called.

A step is forward, backward, one AdamW update and the reset of the gradients. PEFT's default for an adapter's
first values differs by chance only, so times don't depend on it.
"""

import weakref
from collections.abc import Callable

import peft
import torch
import transformers
from torch import Tensor, nn

from lora_from_scratch import AdapterConfig, add_adapters, trainable_parameters
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama

WIDTH, TOKENS, RANK, ALPHA = 2048, 256, 16, 32

Step = Callable[[], object]


class Holder(nn.Module):
    """A linear layer with a parent, since adapters replace a layer in its parent. (..., WIDTH) -> (..., WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def ours_layer(dora: bool = False) -> nn.Module:
    """The layer with our adapter, LoRA's or DoRA's."""
    return add_adapters(Holder(), AdapterConfig(rank=RANK, alpha=ALPHA, targets=["linear"], dora=dora)).linear


def peft_layer(dora: bool = False) -> nn.Module:
    """The layer with PEFT's adapter: the adapted layer itself, without the model wrapper that PEFT puts around."""
    holder = Holder()
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["linear"], use_dora=dora)
    peft.get_peft_model(holder, config)
    return holder.linear


def full_layer() -> nn.Module:
    """The layer with all of its weight trainable."""
    return Holder().linear


def layer_step(layer: nn.Module, inside: bool = True) -> Step:
    """A training step of one layer: `inside` a network, or else as its first layer.

    Inside, the layer also has to hand on a gradient of its input, because layers before it are trained too, so x
    requires grad. That is where nearly all adapters are. The gradient of the output is a given tensor, not a loss.

    Of the large products, full fine-tuning then does three (W0 x, the gradient of x, the gradient of W0) and LoRA the
    first two; in the first layer it is two and one. So 2/3 and 1/2 are what is left for LoRA if its own small
    products cost no more than it saves in AdamW's pass over the large weight.
    """
    numbers = torch.Generator().manual_seed(1)
    x = torch.randn(TOKENS, WIDTH, generator=numbers).requires_grad_(inside)  # (T, d_in)
    upstream = torch.randn(TOKENS, WIDTH, generator=numbers) / WIDTH  # (T, d_out)
    optimizer = torch.optim.AdamW(trainable_parameters(layer), lr=1e-3)

    def step() -> None:
        layer(x).backward(upstream)
        optimizer.step()
        optimizer.zero_grad()
        x.grad = None

    return step


class Kept:
    """A tensor that autograd holds for backward. It goes when the part of the graph that holds it goes."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def saved_bytes(layer: nn.Module) -> int:
    """Bytes that are kept for backward when a forward has returned: every storage once, but none of the layer's own.

    What a forward saves for a gradient that it then cuts off, by detach(), is gone when it returns and doesn't count.
    """
    x = torch.randn(TOKENS, WIDTH).requires_grad_()
    own = {t.untyped_storage().data_ptr() for t in (*layer.parameters(), *layer.buffers())}
    kept = weakref.WeakSet()

    def pack(tensor: Tensor) -> Kept:
        kept.add(held := Kept(tensor))
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        output = layer(x)
        storages = {s.data_ptr(): s.nbytes() for s in (held.tensor.untyped_storage() for held in kept)}
        total = sum(size for address, size in storages.items() if address not in own)
        output.sum().backward()
    return total


def llama_steps(batch: int = 16) -> tuple[Step, Step]:
    """A full training step of the book's tiny Llama, and of transformers' with the same weights and configuration."""
    config = LlamaConfig()
    torch.manual_seed(0)
    ours = TinyLlama(config)
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**vars(config), attn_implementation="sdpa", use_cache=False)
    )
    theirs.load_state_dict(ours.state_dict())
    ids = torch.randint(config.vocab_size, (batch, config.max_position_embeddings + 1))
    inputs, targets = ids[:, :-1], ids[:, 1:].reshape(-1)  # (B, T), (B · T)

    def step_of(model: nn.Module, logits_of: Callable[[Tensor], Tensor]) -> Step:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

        def step() -> None:
            loss = nn.functional.cross_entropy(logits_of(inputs).flatten(0, 1), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    return step_of(ours, ours), step_of(theirs, lambda ids: theirs(ids, use_cache=False).logits)
