"""The analyses under autocast, on a device that is not here, and on layers in wrappers: the same as without."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils._python_dispatch import TorchDispatchMode

from lora_from_scratch import AdapterConfig, add_adapters
from lora_from_scratch.analysis import directions, mitigation, spectra, subspaces
from lora_from_scratch.analysis.spectra import adapted_weights, intruders_by_layer
from lora_from_scratch.inject import is_adapter

torch.manual_seed(0)
W0, W1 = torch.randn(40, 30), torch.randn(40, 30)
B, A = torch.randn(40, 4), torch.randn(4, 30)
FUNCTIONS = {  # every public function of tensors
    "singular_values": lambda w0, w1, b, a: spectra.singular_values(w0),
    "low_rank_factors": lambda w0, w1, b, a: spectra.low_rank_factors(w0, 3),
    "energy": lambda w0, w1, b, a: spectra.energy(w0),
    "stable_rank": lambda w0, w1, b, a: spectra.stable_rank(w0),
    "effective_rank": lambda w0, w1, b, a: spectra.effective_rank(w0),
    "similarity": lambda w0, w1, b, a: spectra.similarity(w0, w1),
    "intruder_dimensions": lambda w0, w1, b, a: spectra.intruder_dimensions(w0, w1, 10),
    "product_svd": lambda w0, w1, b, a: subspaces.product_svd(b, a),
    "subspace_similarity": lambda w0, w1, b, a: subspaces.subspace_similarity(a, w0),
    "amplification": lambda w0, w1, b, a: subspaces.amplification(w0, w1, 3),
    "scale_directions": lambda w0, w1, b, a: mitigation.scale_directions(w0, [0, 2], 0.5),
    "magnitude_and_direction": lambda w0, w1, b, a: directions.magnitude_and_direction(w0, w1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_autocast_changes_no_spectrum(name):
    """Products of singular vectors keep their precision inside autocast: the same bits as outside."""
    outside = FUNCTIONS[name](W0, W1, B, A)
    with torch.autocast("cpu", torch.bfloat16):
        inside = FUNCTIONS[name](W0, W1, B, A)
    for one, other in zip(
        *((found if isinstance(found, tuple) else (found,)) for found in (outside, inside)), strict=True
    ):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def ones_for_numbers(func, args) -> float | None:
    """Tensors without memory hold no numbers; where one is asked for, a check is passed and a size is 1."""
    if func is torch.ops.aten._local_scalar_dense.default:
        return True if args[0].dtype == torch.bool else 1.0
    return None


class FakeCuda(FakeTensorMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        one = ones_for_numbers(func, args)
        return super().__torch_dispatch__(func, types, args, kwargs) if one is None else one


class Meta(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        one = ones_for_numbers(func, args)
        return func(*args, **(kwargs or {})) if one is None else one


READ = ("intruder_dimensions", "magnitude_and_direction")  # they go on with numbers read from the tensors
SLICE = (
    "low_rank_factors",
    "stable_rank",
    "amplification",
    "scale_directions",
)  # t[:k] asks a fake device for its driver
PLACES = [(name, Meta, "meta") for name in FUNCTIONS if name not in READ]
PLACES += [(name, FakeCuda, "cuda") for name in FUNCTIONS if name not in READ + SLICE]


@pytest.mark.parametrize(("name", "mode", "device"), PLACES)
def test_no_tensor_is_made_on_another_device_than_the_input_s(name, mode, device):
    """A stray CPU tensor raises where it joins in; what comes back is on the input's device."""
    with mode():
        found = FUNCTIONS[name](*(torch.empty(t.shape, device=device) for t in (W0, W1, B, A)))
        found = [t for t in (found if isinstance(found, tuple) else (found,)) if isinstance(t, torch.Tensor)]
        assert all(t.device.type == device for t in found)


def model() -> nn.Module:
    torch.manual_seed(1)
    made = add_adapters(nn.Sequential(nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 16)), AdapterConfig(rank=2))
    for layer in filter(is_adapter, made.modules()):
        nn.init.normal_(layer.B)
    return made


@pytest.mark.parametrize("wrap", [checkpoint_wrapper, lambda layer: torch.compile(layer, backend="eager")])
def test_a_wrapped_layer_counts_once_in_whole_model_tables(wrap):
    """Under the name that it has without the wrapper, so that tables of both kinds of model can be compared."""
    plain, wrapped = model(), model()
    wrapped[0] = wrap(wrapped[0])
    before, after = adapted_weights(wrapped)
    assert list(before) == list(after) == list(adapted_weights(plain)[0]) == ["0", "2"]
    assert intruders_by_layer(adapted_weights(plain)[0], after, k=5) == intruders_by_layer(*adapted_weights(plain), k=5)
    whole = wrap(model())
    assert list(adapted_weights(whole)[0]) == ["0", "2"]


def test_weights_under_autocast_are_those_outside():
    """adapted_weights takes the sum in full precision, wherever it is called."""
    outside = adapted_weights(model())[1]
    with torch.autocast("cpu", torch.bfloat16):
        inside = adapted_weights(model())[1]
    assert all(torch.equal(outside[name], inside[name]) for name in outside)
