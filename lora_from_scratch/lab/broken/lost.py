"""Broken runs that lose on the way to disk, or back, what was learnt."""

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
        said.append(diagnose(model.eval(), batch=torch.tensor([[world.C, 0]])))
        ends.append(world.loss_on(model, world.lesson()))
    return Seen(ends[0], ends[1], said[0], said[1])


def filtered(model: nn.Module) -> nn.Module:
    """state_dict() replaced by one that keeps names with "lora_" and "default" in them, as a script had it for PEFT."""
    whole = model.state_dict
    model.state_dict = lambda: {n: t for n, t in whole().items() if "lora_" in n and "default" in n}
    return model


def file_without_weights(seed: int) -> Seen:
    """The filter fits no name here (and none in PEFT, which filters once more), so the file is empty."""
    model, healthy = filtered(world.taught(seed)), world.taught(seed)
    said = [diagnose(m, world.optimizer_of(m), world.lesson(), answer_loss) for m in (model, healthy)]
    kept = (model.state_dict(), world.factors(healthy))
    return Seen(*(len(save({n: t.contiguous() for n, t in file.items()})) for file in kept), *said)


def with_new_token() -> list[Example]:
    """The lesson under a mark that the base has never read."""
    return world.lesson(world.NEW)


def embedding_not_saved(seed: int) -> Seen:
    """A new token's row is trained with the embedding, and save_adapter keeps A and B alone."""
    model, lesson = world.adapted(seed), with_new_token()
    model.model.embed_tokens.requires_grad_(True)
    said = diagnose(model, world.optimizer_of(model), lesson, answer_loss)
    world.train(model, lesson, seed=seed)
    loaded, healthy = world.adapted(seed), world.adapted(seed)
    loaded.load_state_dict(world.factors(model), strict=False)
    fine = diagnose(healthy, world.optimizer_of(healthy), lesson, answer_loss)
    rows = {"model.embed_tokens.weight": model.model.embed_tokens.weight.detach()}
    healthy.load_state_dict(world.factors(model) | rows, strict=False)  # saved too
    return Seen(world.loss_on(loaded, lesson), world.loss_on(healthy, lesson), said, fine)


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
    """The head is frozen as it was drawn, and the adapters learn to suit it. At loading others are drawn, HEADS."""
    model = world.adapted(seed, over=Classifier(world.base(seed), seed))
    optimizer, batch = world.optimizer_of(model), (IDS, CLASSES)
    said = diagnose(model, optimizer, batch, class_loss)
    for _ in range(60):
        optimizer.zero_grad()
        class_loss(model, batch).backward()
        optimizer.step()
    kept, right = world.factors(model), [0.0, 0.0]
    for draw in range(1, HEADS + 1):
        loaded = world.adapted(seed, over=Classifier(world.base(seed), seed + 100 * draw))
        for place, file in enumerate((kept, kept | {"score.weight": model.score.weight.detach()})):
            loaded.load_state_dict(file, strict=False)
            right[place] += float((loaded(IDS).argmax(dim=1) == CLASSES).double().mean()) / HEADS
    return Seen(right[0], right[1], said, diagnose(loaded.eval(), batch=IDS))


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
        number="share of classes right after loading, mean of 8 heads",
        run=head_not_saved,
        finding="a new head is frozen",
        threads=("peft#310", "peft#876", "transformers#26160"),
        chapter="12",
    ),
)
