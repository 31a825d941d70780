"""Methods on the built-in world, with the settings of the methods table: minutes each, for slow tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.methods.arms import settings_of
from benchmarks.methods.data import CHANGES

from expunge.bench.builtin import Builtin
from expunge.corpus.synthetic import World
from expunge.inference.observer import Observer
from expunge.metrics import metrics
from expunge.metrics.probes import Probes
from expunge.model.load import load_model, load_tokenizer
from expunge.train.run.recipe import load_recipe
from expunge.train.run.run import RunRequest, carry_out
from expunge.train.run.state import Corpus
from expunge.types import Example

MAX_LENGTH = 256


@dataclass(frozen=True)
class Stand:
    """The built-in world with its target, and the forget set as a method wants it."""

    splits: Mapping[str, tuple[Example, ...]]
    target: Path
    builtin: Builtin = field(repr=False)

    @classmethod
    def built(cls) -> Stand:
        """The world of seed 0; its target is trained once and kept."""
        builtin = Builtin()
        splits = {name: tuple(examples) for name, examples in World(builtin.world).splits().items()}
        return cls(splits, builtin.build("target"), builtin)

    def forget(self, variant: str) -> tuple[Example, ...]:
        """The forget set in one of the variants of the methods table."""
        people = {person.name: person for person in World(self.builtin.world).forget_people}
        change = CHANGES[variant]  # type: ignore[index]
        return tuple(change(example, people[example.group or ""]) for example in self.splits["forget"])

    def unlearn(
        self, recipe: str, output: Path, *overrides: str, forget: tuple[Example, ...] | None = None
    ) -> dict[str, Any]:
        """Carry a shipped recipe out as the methods table does; its record."""
        settings = settings_of(recipe)
        corpus = Corpus(
            forget=self.forget(settings.data) if forget is None else forget,
            retain=self.splits["retain"],
            holdout=self.splits["holdout"],
        )
        request = RunRequest(
            command="unlearn",
            recipe=load_recipe(recipe, (*settings.set, *overrides)),
            source=str(self.target),
            corpus=corpus,
        )
        return carry_out(request, lambda: self.load(self.target), output)

    def load(self, folder: Path) -> tuple[Any, Any]:
        """Model and tokenizer of a checkpoint."""
        model = load_model(folder)
        return model, load_tokenizer(folder, model=model)

    def measure(self, folder: Path, *names: str, **splits: tuple[Example, ...]) -> dict[str, float]:
        """Some metrics of a checkpoint, on the world's splits or on others."""
        known = {
            name: self.splits[name]
            for name in (
                "retain",
                "holdout",
                "neighbours",
                "paraphrase_questions",
                "forget_icl",
                "retain_icl",
            )
        }
        probes = Probes(**{"forget": self.splits["forget"], **known, **splits})
        model, tokenizer = self.load(folder)
        observed = Observer(model, tokenizer, max_length=MAX_LENGTH)
        found = {}
        for name in names:
            metric = metrics.build(name)
            value = metric.point_estimate(metric.measure(observed, probes))
            assert value is not None
            found[name] = value
        return found
