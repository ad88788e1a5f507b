"""Broken runs that lose on the way to disk, or back, what was learnt."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from lora_from_scratch.diagnose import diagnose
from lora_from_scratch.lab.answers import Example, answer_loss
from lora_from_scratch.lab.broken import world
from lora_from_scratch.lab.broken.case import Case, Seen


def names_unmatched(seed: int) -> Seen:
    """A file whose names have a prefix more, loaded with strict=False: nothing fits, and nothing is said."""
    file, ends, said = world.factors(world.taught(seed)), [], []
    for prefix in ("base_model.model.", ""):
        model = world.adapted(seed)
        model.load_state_dict({prefix + name: tensor for name, tensor in file.items()}, strict=False)
        said.append(diagnose(model.eval(), batch=torch.tensor([[world.C, 0]]), saved=file))
        ends.append(world.loss_on(model, world.lesson()))
    return Seen(ends[0], ends[1], said[0], said[1])


def filtered(model: nn.Module) -> nn.Module:
    """state_dict() replaced by one that keeps names with "lora_" and "default" in them, as a script had it for PEFT."""
    whole = model.state_dict
    model.state_dict = lambda: {n: t for n, t in whole().items() if "lora_" in n and "default" in n}
    return model


def file_without_weights(seed: int) -> Seen:
    """A filter that fits no name of this model's, so the file is empty."""
    model, healthy = filtered(world.taught(seed)), world.taught(seed)
    said = [diagnose(m, world.optimizer_of(m), world.lesson(), answer_loss) for m in (model, healthy)]
    kept = (model.state_dict(), world.factors(healthy))
    return Seen(*(len(save({n: t.contiguous() for n, t in file.items()})) for file in kept), *said)


def with_new_token() -> list[Example]:
    """The lesson under a mark that the base has never read."""
    return world.lesson(world.NEW)


def embedding_not_saved(seed: int) -> Seen:
    """A new token's row is trained with the embedding. save_adapter keeps A and B; the mended run keeps it too."""
    ends, said, lesson = [], [], with_new_token()
    for beside in ((), ("model.embed_tokens.weight",)):
        model = world.adapted(seed)
        model.model.embed_tokens.requires_grad_(True)
        said.append(diagnose(model, world.optimizer_of(model), lesson, answer_loss, saved=file_of(model, beside)))
        world.train(model, lesson, seed=seed)
        loaded = world.adapted(seed)
        loaded.load_state_dict(file_of(model, beside), strict=False)
        ends.append(world.loss_on(loaded, lesson))
    return Seen(ends[0], ends[1], said[0], said[1])


def file_of(model: nn.Module, beside: Sequence[str] = ()) -> dict[str, Tensor]:
    """A and B, as an adapter's file holds them, and what else is kept by name."""
    return world.factors(model) | {name: model.state_dict()[name].clone() for name in beside}


class Classifier(nn.Module):
    """A Llama's hidden state at the last token, and a new head for six classes: ids (B, T) -> logits (B, 6)."""

    def __init__(self, llama: nn.Module, seed: int) -> None:
        super().__init__()
        self.model = llama.model
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.score = nn.Linear(world.SIZES.hidden_size, 6, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.score(self.model(ids)[:, -1])


IDS = torch.tensor([[world.C, x] for x in range(world.LETTERS)])
CLASSES = IDS[:, 1] // 4  # letters in fours: a b c d are 0, e f g h are 1, …
HEADS = 8  # a head drawn anew may fit by luck: one of two classes does in every other draw


def class_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of the classes."""
    return F.cross_entropy(model(batch[0]), batch[1])


def head_not_saved(seed: int) -> Seen:
    """The head is frozen as it was drawn, and the adapters learn to suit it. At loading others are drawn, HEADS.

    The mended run trains the head beside the adapters and saves it.
    """
    right, said = [0.0, 0.0], []
    for mended, beside in enumerate(((), ("score.weight",))):
        model = world.adapted(seed, over=Classifier(world.base(seed), seed))
        model.score.requires_grad_(bool(mended))
        optimizer = world.optimizer_of(model)
        said.append(diagnose(model, optimizer, (IDS, CLASSES), class_loss, saved=file_of(model, beside)))
        learn_classes(model, optimizer)
        for draw in range(1, HEADS + 1):
            loaded = world.adapted(seed, over=Classifier(world.base(seed), seed + 100 * draw))
            loaded.load_state_dict(file_of(model, beside), strict=False)
            right[mended] += float((loaded(IDS).argmax(dim=1) == CLASSES).double().mean()) / HEADS
    return Seen(right[0], right[1], said[0], said[1])


def learn_classes(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 60) -> None:
    """Train what the optimizer holds on the classes."""
    for _ in range(steps):
        optimizer.zero_grad()
        class_loss(model, (IDS, CLASSES)).backward()
        optimizer.step()


CASES = (
    Case(
        name="the file's names fit nothing",
        group="lost",
        asks="the tuned model answers exactly like the base",
        slip="load_state_dict(file, strict=False), names with a prefix more",
        mend="load_adapter, which refuses a name that fits nothing; or look at what load_state_dict gives back",
        number="loss after loading",
        run=names_unmatched,
        finding="an adapter does nothing",
        threads=("peft#793", "peft#2115", "peft#2566"),
        chapter="12",
    ),
    Case(
        name="the file holds no weights",
        group="lost",
        asks="adapter_model.bin has 443 bytes",
        slip="model.state_dict = a filter for other names",
        mend="save_adapter or save_pretrained, nothing over it",
        number="bytes in the file",
        run=file_without_weights,
        finding="saving leaves the adapters out",
        threads=("alpaca-lora#293", "alpaca-lora#539", "peft#286"),
        chapter="12",
    ),
    Case(
        name="new tokens, and the embedding not saved",
        group="lost",
        asks="new tokens work until I load the model",
        slip="embed_tokens.requires_grad_(True); save_adapter(model, folder)",
        mend="save the embedding too; in PEFT, modules_to_save",
        number="loss after loading",
        run=embedding_not_saved,
        finding="an embedding trains and is not saved",
        threads=("qlora#214", "peft#1457"),
        chapter="12",
    ),
    Case(
        name="a new head, neither trained nor saved",
        group="lost",
        asks="a classifier that is right until it is loaded",
        slip="the head left as it was drawn, frozen",
        mend="score.requires_grad_(True), and save it; in PEFT, modules_to_save",
        number="classes right after loading (8 heads)",
        run=head_not_saved,
        finding="a new head is frozen",
        threads=("peft#310", "peft#876", "transformers#26160"),
        chapter="12",
    ),
)
