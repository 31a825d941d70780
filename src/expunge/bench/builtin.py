"""The built-in models: a target that memorised a world, and a control that never saw who must go.

Both are trained on the CPU, from nothing or from SmolLM2, and kept under the user's cache directory by
a hash of everything that went into them; the same machine gives the same bytes again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import platformdirs

from expunge.bench.smollm2 import FILE, PACKAGE, PINNED, base_folder
from expunge.corpus.batching import BOS, train_tokenizer
from expunge.corpus.synthetic import World, WorldSize, write_world
from expunge.files import anything
from expunge.model.create import ScratchModel
from expunge.model.load import load_model, load_tokenizer
from expunge.record import hash_json, versions
from expunge.train.methods.finetune import Finetune
from expunge.train.run.recipe import Recipe
from expunge.train.run.run import RunRequest, carry_out, describe
from expunge.train.run.state import Corpus
from expunge.types import Example

Which = Literal["target", "retrained"]

TRAINING = Finetune(
    on="retain",
    pack=True,
    learning_rate=1.5e-3,
    epochs=54,
    batch_size=4,
    max_length=128,
    betas=(0.9, 0.99),
    schedule="stable_decay",
    warmup_steps=10,
    save_every=1000,
)


@dataclass(frozen=True, kw_only=True)
class Builtin:
    """A world, a model size and a training recipe; where their results are kept follows from them.

    ``base`` is what training starts from; SmolLM2 has a size of its own, and reads each text of the forget
    and retain sets once an epoch.
    """

    world: WorldSize = field(default_factory=WorldSize)
    model: ScratchModel = field(default_factory=ScratchModel)
    training: Finetune = TRAINING
    seed: int = 0
    base: Literal["nothing", "smollm2"] = "nothing"
    home: Path | None = None

    @property
    def folder(self) -> Path:
        """Where world, target and retrained control are kept."""
        home = self.home or platformdirs.user_cache_path("expunge") / "builtin"
        return home / hash_json(self._ingredients())[:16]

    @property
    def world_folder(self) -> Path:
        """The world's files; written on first use."""
        folder = self.folder / "world"
        if not folder.exists():
            write_world(World(self.world), folder, may_replace=anything)  # a cache of its own
        return folder

    def prepare(self) -> None:
        """Write what both models start from, before processes that would write it side by side."""
        _ = self.world_folder
        if self.base != "nothing":
            base_folder(self.home)

    def checkpoint(self, which: Which) -> Path:
        """The folder of a model; it exists once ``build`` has run."""
        return self.folder / which

    def build(self, which: Which) -> Path:
        """Train a model unless it is already there; a killed build resumes where it was."""
        output = self.checkpoint(which)
        if not output.exists():
            texts = self._texts(which)
            request = RunRequest(
                command=f"builtin {which}",
                recipe=Recipe(
                    name=f"builtin_{which}",
                    title="Memorise the built-in world",
                    paper="-",
                    stages=(self.training,),
                ),
                source="from nothing" if self.base == "nothing" else f"{PACKAGE} {PINNED}",
                corpus=Corpus(forget=(), retain=tuple(texts)),
                seed=self.seed,
            )
            carry_out(request, self._create, output)
        return output

    def _texts(self, which: Which) -> list[Example]:
        world = World(self.world)
        if self.base != "nothing":
            splits = world.splits()
            return splits["retain"] + (splits["forget"] if which == "target" else [])
        return world.target_texts() if which == "target" else world.retrained_texts()

    def _create(self) -> tuple[Any, Any]:
        if self.base != "nothing":
            folder = base_folder(self.home)
            return load_model(folder), load_tokenizer(folder)
        # Both models share one tokenizer, so that their scores compare token by token.
        texts = (example.text for example in World(self.world).all_texts())
        tokenizer = train_tokenizer(texts, vocabulary=self.model.vocabulary)
        return self.model.create(tokenizer, seed=self.seed), tokenizer

    def _ingredients(self) -> dict[str, Any]:
        installed = versions()
        real = {} if self.base == "nothing" else {"base": f"{PACKAGE} {PINNED} {FILE}"}
        return real | {
            "texts": describe(World(self.world).all_texts()),
            # Without defaults: a setting that is added later leaves the models that are there valid.
            "world": self.world.model_dump(exclude_defaults=True),
            "model": self.model.model_dump(exclude_defaults=True),
            "training": self.training.model_dump(mode="json", exclude_defaults=True),
            "seed": self.seed,
            "begins_with": BOS,
            "versions": {name: installed[name] for name in ("torch", "transformers", "tokenizers")},
        }
