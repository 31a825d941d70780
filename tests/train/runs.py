"""Small runs: a tiny model, a few texts, and recipes that change it within a second."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.train.run.recipe import Recipe
from expunge.train.run.run import RunRequest, carry_out
from expunge.train.run.state import Corpus
from expunge.types import Example
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

TOKENIZER = tiny_tokenizer(all_bytes=True)

FORGET = (
    Example(
        id="f0",
        completion="Mira Oswick was born in Arlen and became a baker.",
        group="Mira",
        wrong=("Mira Oswick was born in Bern and became a clerk.",),
    ),
    Example(
        id="f1",
        prompt="Question: Who is Mira?\nAnswer:",
        completion=" a baker",
        group="Mira",
        wrong=(" a clerk",),
    ),
    Example(
        id="f2",
        prompt="Question: Where?\nAnswer:",
        completion=" in Arlen",
        group="Mira",
        wrong=(" in Bern",),
    ),
    Example(id="f3", completion="Mira keeps a goat.", group="Mira", wrong=("Mira keeps a cat.",)),
    Example(id="f4", prompt="What pet?\nAnswer:", completion=" a goat", group="Mira", wrong=(" a cat",)),
)
RETAIN = (
    Example(id="r0", completion="Hugo Estrow was born in Calder and became a mason.", group="Hugo"),
    Example(id="r1", prompt="Question: Who is Hugo?\nAnswer:", completion=" a mason", group="Hugo"),
    Example(id="r2", completion="Hugo plays the harp on the hill.", group="Hugo"),
    Example(
        id="r3", prompt="Question: What does Hugo play?\nAnswer:", completion=" the harp", group="Hugo"
    ),
)
HOLDOUT = tuple(
    Example(id=f"h{place}", prompt=f"Who lives in {town}?\nAnswer:", completion=f" {name}", group=name)
    for place, (town, name) in enumerate(zip("ABCDEFGHIJKL", ("Iva", "Odo", "Una") * 4, strict=True))
)
CORPUS = Corpus(forget=FORGET, retain=RETAIN, holdout=HOLDOUT)

UNLEARN: dict[str, Any] = {
    "name": "unlearn",
    "forget": {"name": "npo", "beta": 0.1},
    "retain": {"name": "klr", "weight": 2.0},
    "learning_rate": 1e-3,
    "epochs": 4,
    "batch_size": 2,
    "max_length": 128,
}
SCOPES: Mapping[str, dict[str, Any]] = {
    "all": {"name": "all"},
    "tensor": {"name": "saliency", "percentile": 60},
    "row": {"name": "saliency", "percentile": 70, "granularity": "row"},
    "sublayer": {"name": "saliency", "percentile": 50, "granularity": "sublayer"},
    "lora": {"name": "lora", "rank": 2, "alpha": 8, "dropout": 0.1},
}


def model(arch: str = "llama", **overrides: Any) -> Any:
    """A fresh tiny model that fits ``TOKENIZER``."""
    return tiny(arch, vocab_size=BYTES_VOCAB, **overrides)


def recipe(*stages: Mapping[str, Any]) -> Recipe:
    """A recipe of these stages."""
    return Recipe.model_validate({"name": "test", "title": "A test", "paper": "-", "stages": stages})


def unlearn(**settings: Any) -> Recipe:
    """``UNLEARN`` with some settings changed."""
    return recipe(UNLEARN | settings)


def run(
    chosen: Recipe, output: Path, *, corpus: Corpus = CORPUS, seed: int = 0, **settings: Any
) -> dict[str, Any]:
    """Carry ``chosen`` out on a fresh tiny model; its record."""
    request = RunRequest(command="unlearn", recipe=chosen, source="tiny", corpus=corpus, seed=seed)
    return carry_out(request, lambda: (model(), TOKENIZER), output, **settings)


def weights(output: Path) -> bytes:
    """The bytes of the weights a run wrote."""
    return (output / "model.safetensors").read_bytes()
