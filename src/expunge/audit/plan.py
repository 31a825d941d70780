"""What an audit covers: named models, transforms, metrics and probes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from expunge.component import Component
from expunge.errors import RecipeError
from expunge.metrics import metrics as registry
from expunge.quant.base import Quantizer
from expunge.quant.calibration import require_calibration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from torch import nn

    from expunge.audit.missing_inputs import SkippedMetric
    from expunge.metrics.base import Metric
    from expunge.metrics.probes import Probes
    from expunge.quant.base import TensorCoverage
    from expunge.quant.calibration import CalibrationSource

Loader = Callable[[], tuple["nn.Module", Any]]
"""Returns a model and its tokenizer."""


class Role(StrEnum):
    """What a model is to the audit; the retrained one never saw the forget set."""

    TARGET = "target"
    RETRAINED = "retrained"
    UNLEARNED = "unlearned"


class Kind(StrEnum):
    """What is done to a model before it is measured."""

    FULL_PRECISION = "full precision"
    QUANTIZER = "quantizer"
    ATTACK = "attack"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model by name, loaded only if something of it must still be measured.

    ``hash`` identifies its bytes (``record.hash_folder`` of the checkpoint): scores are kept by it.
    ``load`` returns the model and its tokenizer; with several workers it must be picklable.
    """

    name: str
    role: Role
    hash: str
    load: Loader


class Applied(Protocol):
    """A model under a transform, and what the transform touched and left alone."""

    @property
    def model(self) -> nn.Module:
        """The model to measure."""

    @property
    def coverage(self) -> tuple[TensorCoverage, ...]:
        """What was changed and what was not."""


class Transform(Protocol):
    """A reversible change of a model: a quantizer, an attack. Any ``Component`` with these two.

    What is neither full precision nor derived from ``Quantizer`` counts as an attack.
    """

    @property
    def label(self) -> str:
        """Its name in tables, unique in an audit."""

    def applied(self, model: nn.Module) -> AbstractContextManager[Applied]:
        """The model changed inside the block and as it was after it."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Its settings; scores are kept by them."""


@dataclass(frozen=True, slots=True)
class Untouched:
    """A model as it is."""

    model: nn.Module
    coverage: tuple[TensorCoverage, ...] = ()


class FullPrecision(Component):
    """No transform: the precision the checkpoint was saved in."""

    @property
    def label(self) -> str:
        """Its name in tables."""
        return "full"

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[Untouched]:
        """The model as it is."""
        yield Untouched(model)


FULL: Transform = FullPrecision()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPlan:
    """Models x transforms x metrics on one set of probes.

    Full precision is always measured, whether or not ``transforms`` names it: recovery is counted
    from there. ``seed`` and ``resamples`` are the bootstrap's. ``seeds`` names recipes, each by the models
    that are the same recipe run with several seeds. ``skipped`` are the metrics that lack something.
    ``calibration`` is where calibrated quantizers get their text.

    Raises:
        RecipeError: a name occurs twice, there are two targets or two retrained models, what is named
            as seeds of a recipe are not several unlearned models of their own, or a calibrated quantizer
            has no text.
    """

    models: tuple[ModelSource, ...]
    metrics: tuple[Metric, ...]
    probes: Probes
    transforms: tuple[Transform, ...] = ()
    seed: int = 0
    resamples: int = 9_999
    max_length: int = 2048
    batch_tokens: int = 8192
    seeds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: tuple[SkippedMetric, ...] = ()
    calibration: CalibrationSource | None = None

    def __post_init__(self) -> None:
        for transform in self.transforms:
            if is_calibrated(transform):
                require_calibration(transform.label, self.calibration)
        _refuse_twice("model", (*(source.name for source in self.models), *self.seeds))
        _refuse_twice("metric", (registry.name_of(metric) for metric in self.metrics))
        _refuse_twice("transform", (transform.label for transform in self.transforms))
        for role in (Role.TARGET, Role.RETRAINED):
            names = [source.name for source in self.models if source.role is role]
            if len(names) > 1:
                raise RecipeError(
                    f"two {role} models ({names[0]!r} and {names[1]!r})",
                    why=f"every other model is compared with the one {role} model.",
                    fix="Keep one of them, or run a second audit for the other.",
                )

        _refuse_no_seeds(self.seeds, {source.name: source.role for source in self.models})

    @property
    def columns(self) -> tuple[Transform, ...]:
        """Full precision, then the transforms in their order."""
        return (FULL, *(transform for transform in self.transforms if transform.label != FULL.label))

    @property
    def named_metrics(self) -> dict[str, Metric]:
        """The metrics by their registered names."""
        return {registry.name_of(metric): metric for metric in self.metrics}

    def calibration_of(self, transform: Transform) -> CalibrationSource | None:
        """Where ``transform`` gets the text it is calibrated on; ``None`` if it reads none."""
        return self.calibration if is_calibrated(transform) else None

    def holder(self, role: Role) -> ModelSource | None:
        """The model that has ``role``, if any (the first)."""
        return next((source for source in self.models if source.role is role), None)


def kind_of(transform: Transform) -> Kind:
    """What kind of change a transform is."""
    if isinstance(transform, FullPrecision):
        return Kind.FULL_PRECISION
    return Kind.QUANTIZER if isinstance(transform, Quantizer) else Kind.ATTACK


def family_of(transform: Transform) -> str:
    """The family of a quantizer (``Quantizer.family``); empty for anything else."""
    return transform.family if isinstance(transform, Quantizer) else ""


def is_calibrated(transform: Transform) -> bool:
    """Whether a transform reads text before it changes the model."""
    return isinstance(transform, Quantizer) and transform.calibrated


def _refuse_twice(kind: str, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise RecipeError(
            f"{kind} {twice[0]!r}",
            why="the audit names it more than once, and its scores could not be told apart.",
            fix=f"Give every {kind} its own name and list it once.",
        )


def _refuse_no_seeds(seeds: Mapping[str, tuple[str, ...]], roles: Mapping[str, Role]) -> None:
    _refuse_twice("seed", (member for members in seeds.values() for member in members))
    for recipe, members in seeds.items():
        others = [member for member in members if roles.get(member) is not Role.UNLEARNED]
        if others:
            raise RecipeError(
                f"seeds of {recipe!r}",
                why=f"{others[0]!r} is not one of the unlearned models of this audit.",
                fix="Name checkpoints that one recipe made with several seeds.",
            )
        if len(members) < 2:
            raise RecipeError(
                f"seeds of {recipe!r}",
                why="one seed has no spread between seeds.",
                fix="Name two or more, three at least to learn something, or leave out --seeds-of.",
            )
