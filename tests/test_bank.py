"""A bank of adapters: each row of a batch has what its own adapter gives, and rows without one what the base gives."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lora_from_scratch import AdapterConfig, add_adapters, quantize_model
from lora_from_scratch.bank import AdapterBank
from lora_from_scratch.bank_linear import Chosen
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama
from lora_from_scratch.peft_format import save_adapter

CONFIG = LlamaConfig(32, 16, 24, 2, 2, 1, 16)
KINDS = {  # different ranks, scalings and places
    "a": AdapterConfig(rank=2, alpha=8),
    "b": AdapterConfig(rank=5, alpha=3, rslora=True),
    "c": AdapterConfig(rank=1, alpha=4, targets=["q_proj", "down_proj"]),
    "d": AdapterConfig(rank=3, alpha=6),
}


def base(dtype=torch.float64) -> TinyLlama:
    torch.manual_seed(0)
    return TinyLlama(CONFIG).to(dtype).eval()


def adapted(name: str, dtype=torch.float64, **options) -> nn.Module:
    """The base with an adapter that has learnt something: no B is zero."""
    model = add_adapters(base(dtype), KINDS[name])
    torch.manual_seed(ord(name))
    for parameter in (p for p in model.parameters() if p.requires_grad):
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict:
    root = tmp_path_factory.mktemp("adapters")
    for name in KINDS:
        save_adapter(adapted(name), root / name)
    return {name: root / name for name in KINDS}


def filled(folders, names="abcd", model=None, **options) -> AdapterBank:
    bank = AdapterBank(model or base(), **options)
    for name in names:
        assert bank.load(name, folders[name]) is None
    return bank


def test_each_row_has_its_own_adapter_and_the_others_are_the_base_s_to_the_bit(folders):
    """In any mixture, for any number of rows, with one adapter for all rows too, and whatever was asked before."""
    bank, plain = filled(folders), base()
    alone = {name: adapted(name) for name in KINDS}

    @given(st.lists(st.sampled_from([None, *KINDS]), min_size=1, max_size=6), st.integers(0, 99))
    def holds(adapters, seed):
        ids = torch.randint(32, (len(adapters), 7), generator=torch.Generator().manual_seed(seed))
        logits, without = bank(ids, adapters=adapters), plain(ids)
        for row, name in enumerate(adapters):
            if name is None:
                assert torch.equal(logits[row], without[row])
            else:
                torch.testing.assert_close(logits[row], alone[name](ids)[row], rtol=1e-10, atol=1e-10)
                assert (logits[row] - without[row]).abs().max() > 1e-3

    holds()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_other_number_formats_too(folders, dtype, tmp_path):
    """What the adapted layers give in that format, whether all rows have an adapter or some, one or several."""
    bank, model, ids = AdapterBank(base(dtype)), adapted("a", dtype), torch.arange(21).view(3, 7)
    for name in "ab":
        save_adapter(adapted(name, dtype), tmp_path / name)
        bank.load(name, tmp_path / name)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.1}
    for adapters in (["a"] * 3, ["a", None, "a"], ["a", "b", "b"], ["a", None, "b"]):
        logits = bank(ids, adapters=adapters)
        assert logits.dtype == dtype
        torch.testing.assert_close(logits[0], model(ids)[0], **tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("adapters", "grouped"),
    [(list("abababbaabab"), True), (["c", None, *"ddccddccd", None], True), (list("bbbbbbbbbacd"), False)],
)
def test_short_rows_are_put_side_by_side_where_that_copies_less(folders, adapters, grouped, dtype):
    """Rows of one token: of two adapters they are grouped, and not where one of four adapters has nearly all rows."""
    bank, ids = filled(folders, model=base(dtype)), torch.arange(12)[:, None]
    chosen = Chosen.of([bank.slots.get(name) for name in adapters], ids.device)
    assert chosen.grouped(5, 1) == grouped and not chosen.grouped(5, 7)
    logits, plain = bank(ids, adapters=adapters), base(dtype)(ids)
    tolerance = {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 0.05, "atol": 0.15}
    for row, name in enumerate(adapters):
        alone = None if name is None else bank(ids[row : row + 1], adapters=[name])[0]
        torch.testing.assert_close(logits[row], plain[row] if name is None else alone, **tolerance)
        assert name is not None or torch.equal(logits[row], plain[row])


def test_over_a_base_in_4_bits(folders):
    model = quantize_model(base(torch.float32), block_size=16)
    bank, ids = filled(folders, "a", copy.deepcopy(model)), torch.arange(14).view(2, 7)
    alone = add_adapters(model, KINDS["a"])
    taught = dict(adapted("a").named_parameters())
    with torch.no_grad():
        for name, parameter in alone.named_parameters():
            if name.endswith((".A", ".B")):
                parameter.copy_(taught[name])
    logits = bank(ids, adapters=["a", None])
    torch.testing.assert_close(logits[0], alone(ids)[0], rtol=1e-4, atol=1e-4)


def test_layers_without_positions_and_layers_with_more_dimensions(tmp_path):
    """(rows, d_in) and (rows, 3, 4, d_in)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    taught = add_adapters(copy.deepcopy(model), AdapterConfig(rank=2, alpha=8))
    for parameter in (p for p in taught.parameters() if p.requires_grad):
        nn.init.normal_(parameter)
    save_adapter(taught, tmp_path)
    plain, bank = copy.deepcopy(model), AdapterBank(model)
    bank.load("x", tmp_path)
    for shape in ((4, 6), (4, 3, 4, 6)):
        x = torch.randn(shape, dtype=torch.float64)
        for adapters in (["x"] * 4, ["x", None, None, "x"]):
            found = bank(x, adapters=adapters)
            wanted = torch.stack([(taught if n else plain)(x[i : i + 1])[0] for i, n in enumerate(adapters)])
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_a_name_that_is_loaded_again_has_the_new_adapter_and_nothing_of_the_old(folders):
    """The new one is of a smaller rank and on fewer layers, so what the old one left would be seen."""
    bank, ids = filled(folders, "b"), torch.arange(14).view(2, 7)
    bank.load("b", folders["c"])
    torch.testing.assert_close(bank(ids, adapters=["b", "b"]), adapted("c")(ids), rtol=1e-10, atol=1e-10)
    assert bank.names == ["b"]


def test_a_full_bank_lets_the_least_recently_used_go_and_says_which(folders):
    bank, ids = filled(folders, "ab", capacity=2), torch.arange(7).view(1, 7)
    bank(ids, adapters=["a"])
    assert bank.load("c", folders["c"]) == "b" and bank.names == ["a", "c"]
    torch.testing.assert_close(bank(ids, adapters=["c"]), adapted("c")(ids), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(bank(ids, adapters=["a"]), adapted("a")(ids), rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="no adapter is called 'b'; there are c, a"):
        bank(ids, adapters=["b"])
    bank.evict("a")
    assert bank.names == ["c"] and bank.load("d", folders["d"]) is None
    with pytest.raises(ValueError, match="no adapter is called 'a'"):
        bank.evict("a")


def test_what_is_refused_leaves_the_bank_as_it_was(folders, tmp_path):
    """A folder that is not there, DoRA, an adapter of a layer that is no target, a name that is none."""
    save_adapter(add_adapters(base(), AdapterConfig(rank=2, alpha=8, dora=True)), tmp_path / "dora")
    bank, ids = filled(folders, "ac", capacity=2), torch.arange(14).view(2, 7)
    before = bank(ids, adapters=["a", "c"])
    for folder, words in ((tmp_path / "nowhere", "cannot be read"), (tmp_path / "dora", "is DoRA")):
        with pytest.raises(ValueError, match=words):
            bank.load("new", folder)
    with pytest.raises(ValueError, match="name is None"):
        bank.load(None, folders["a"])
    assert bank.names == ["a", "c"] and torch.equal(bank(ids, adapters=["a", "c"]), before)
    narrow = AdapterBank(base(), targets=["q_proj"])
    with pytest.raises(ValueError, match="none of this bank's targets"):
        narrow.load("a", folders["a"])


def test_there_is_one_adapter_or_none_for_each_row(folders):
    bank, ids = filled(folders, "a"), torch.arange(14).view(2, 7)
    for adapters in (["a"], ["a"] * 3, "a", []):
        with pytest.raises(ValueError, match="for 2 rows"):
            bank(ids, adapters=adapters)
    with pytest.raises(ValueError, match="no tensor among the inputs"):
        bank(adapters=[])
    with pytest.raises(ValueError, match="no adapter is called 'z'; there are a"):
        bank(ids, adapters=["a", "z"])
    assert torch.equal(bank(ids, adapters=[None, None]), base()(ids)), "and a refusal leaves nothing chosen"


def test_a_forward_that_fails_leaves_no_choice_behind(folders):
    bank, ids = filled(folders, "a"), torch.arange(7).view(1, 7)
    with pytest.raises(IndexError):
        bank(ids + 1000, adapters=["a"])
    assert torch.equal(bank.model(ids), base()(ids))


def test_the_base_is_kept_once_and_frozen(folders):
    """What the bank loads into has the model's own tensors; memory grows by the adapters alone."""
    model = base()
    bank = AdapterBank(model, capacity=3)
    assert not any(p.requires_grad for p in bank.parameters())
    own = {p.data_ptr() for p in bank.model.parameters()}
    assert {p.data_ptr() for p in bank.plain[0].parameters()} == own
    bank.load("a", folders["a"])
    ranks = {layer.A.shape for name, layer in bank.layers.items() if name.endswith("q_proj")}
    assert ranks == {(3, 2, 16)} and not any(n.startswith("plain") for n, _ in bank.named_modules())


@pytest.mark.parametrize("capacity", [0, -1, 1.5, True])
def test_a_bank_without_room_is_refused(capacity):
    with pytest.raises(ValueError, match=f"capacity is {capacity}; it is how many adapters lie in memory"):
        AdapterBank(base(), capacity=capacity)


def test_a_model_that_has_an_adapter_is_refused():
    with pytest.raises(ValueError, match=r"has an adapter at model\.layers\.0.*merge it into the base"):
        AdapterBank(adapted("a"))
