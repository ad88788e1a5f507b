"""Shrinking intruder dimensions gives PEFT's numbers, and PEFT's lambda is the share that stays."""

import pytest
import torch
from pairs import make_pair, peft_adapters_of
from peft.tuners.lora.intruders import reduce_intruder_dimension
from torch import nn

from lora_from_scratch import AdapterConfig
from lora_from_scratch.analysis.mitigation import scale_directions
from lora_from_scratch.analysis.spectra import intruder_dimensions, low_rank_factors


@pytest.mark.parametrize("stays", [0.0, 0.25, 0.75, 1.5])
@pytest.mark.parametrize("epsilon", [0.5, 0.9])
def test_shrunk_intruders_cut_to_the_rank_are_pefts(stays, epsilon):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(60, 48), nn.Linear(48, 64, bias=False), nn.Linear(64, 50)).double()
    pair = make_pair(net, AdapterConfig(rank=3, alpha=5, targets=r"\d"))
    options = {"threshold_epsilon": epsilon, "top_k": 6, "mitigation_lambda": stays, "logging_sink": None}
    with torch.no_grad():
        reduce_intruder_dimension(pair.theirs, **options)
    found = 0
    for layer in peft_adapters_of(pair.theirs).values():
        w0, delta = layer.get_base_layer().weight.detach(), layer.get_delta_weight("default").detach()
        which = intruder_dimensions(w0, w0 + delta, k=6, epsilon=epsilon)
        B, A = low_rank_factors(scale_directions(w0 + delta, which, stays) - w0, 3)
        torch.testing.assert_close(layer.get_delta_weight("intruder_reduced").detach(), B @ A)
        found += len(which)
    assert found > 0
