"""The control for a start that is not zero: as large, as blind as chance, and the sum unchanged."""

import pytest
import torch
from torch import nn

from lora_from_scratch import AdapterConfig, LoRALinear
from lora_from_scratch.lab.begin import LOFTQ
from lora_from_scratch.lab.controls import from_random_factors, randomize
from lora_from_scratch.lab.finetune import Run
from lora_from_scratch.lab.presets import preset


def test_the_factors_keep_their_sizes_lose_their_directions_and_the_sum_stays():
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(12, 9).double(), rank=3, alpha=6)
    nn.init.normal_(layer.B)
    base, before = layer.base.weight.clone(), layer.delta_weight().clone()
    randomize(layer, torch.Generator().manual_seed(1))
    after = layer.delta_weight()
    torch.testing.assert_close(torch.linalg.svdvals(after), torch.linalg.svdvals(before))
    assert (after - before).norm() > 0.5 * before.norm()
    torch.testing.assert_close(layer.base.weight + after, base)


def test_a_packed_base_is_refused():
    run = Run(adapter=AdapterConfig(rank=2, alpha=4), base="NF4", start=LOFTQ)
    with pytest.raises(ValueError, match="NF2"):
        from_random_factors(run, preset("smoke"))
