"""What a model is measured under: full precision, a quantizer, an attack, or a chain of them.

Quantizers and attacks derive from ``Condition``, so that one audit has columns for all of them, and for an
attack on a quantized model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from expunge.component import Component
from expunge.types import Example

if TYPE_CHECKING:
    from torch import nn

Knowledge = Literal["nothing", "half", "all"]
"""How much of the forget set an attacker knows; of a half, the questions are about the other half."""

Need = Literal["calibration", "forget", "retain", "target"]
"""Calibration text, examples to forget or to keep, or the model before unlearning."""


class Kind(StrEnum):
    """What is done to a model before it is measured; a chain with an attack in it is an attack."""

    FULL_PRECISION = "full precision"
    QUANTIZER = "quantizer"
    ATTACK = "attack"


def unchanged(example: Example) -> Example:
    """The question as it is."""
    return example


def no_report(_: str) -> None:
    """Ignore a progress message."""


def _no_target() -> nn.Module:
    raise LookupError("this condition was applied without a way to load the target")


def _no_calibration() -> Any:
    raise LookupError("this condition was applied without calibration text")


@dataclass(frozen=True, kw_only=True)
class ConditionContext:
    """What a condition may use besides the model.

    Attributes:
        tokenizer: the model's tokenizer.
        workdir: a folder for temporary files.
        forget: the part of the forget set that the attacker knows.
        retain: examples that are to be kept.
        target: loads the model as it was before unlearning.
        calibration: gives the text a calibrated quantizer reads (``quant.calibration.Calibration``).
        seed: the seed of everything random.
        max_length: the most tokens of a text that are read at once.
        report: called with a line of progress during a long search.
    """

    tokenizer: Any
    workdir: Path
    forget: tuple[Example, ...] = ()
    retain: tuple[Example, ...] = ()
    target: Callable[[], nn.Module] = field(default_factory=lambda: _no_target)
    calibration: Callable[[], Any] = field(default_factory=lambda: _no_calibration)
    seed: int = 0
    max_length: int = 2048
    report: Callable[[str], None] = field(default_factory=lambda: no_report)


@dataclass(frozen=True, kw_only=True)
class Applied:
    """A model under a condition.

    Attributes:
        model: the model to measure.
        coverage: what was done to every parameter (``quant.base.TensorCoverage``).
        rewrite_prompt: how each question is put to the model.
        facts: what a record should say of what was done.
    """

    model: nn.Module
    coverage: tuple[Any, ...] = ()
    rewrite_prompt: Callable[[Example], Example] = field(default_factory=lambda: unchanged)
    facts: dict[str, Any] = field(default_factory=dict)

    def then(self, later: Applied) -> Applied:
        """Both, one after the other: the later one's model, and the prompts rewritten by both."""
        first, second = self.rewrite_prompt, later.rewrite_prompt
        return replace(
            later,
            coverage=self.coverage + later.coverage,
            rewrite_prompt=lambda example: second(first(example)),
            facts=self.facts | later.facts,
        )


class Condition(Component, ABC):
    """Base of quantizers and attacks: applied inside a ``with`` block, and gone without a trace after it.

    ``kind`` is a fact of the audit: nothing is guessed from a label. ``title`` says in a few words what is
    done to the model. ``attacker_knowledge`` narrows what is asked. ``model_independent`` says that
    ``search`` does not look at the model, so that its result serves for all of them.
    """

    kind: ClassVar[Kind]
    family: ClassVar[str] = ""
    title: ClassVar[str] = ""

    @property
    @abstractmethod
    def label(self) -> str:
        """Its name in tables, unique in an audit."""

    @property
    def parts(self) -> tuple[Condition, ...]:
        """The single conditions, in the order in which they are applied."""
        return (self,)

    @property
    def attacker_knowledge(self) -> Knowledge:
        """How much of the forget set the attacker knows."""
        return "nothing"

    @property
    def needs(self) -> frozenset[Need]:
        """What the audit must be given."""
        return frozenset()

    @property
    def model_independent(self) -> bool:
        """Whether the result of ``search`` does not depend on the model."""
        return False

    def search(self, model: nn.Module, context: ConditionContext) -> Any:  # noqa: ARG002
        """The result of a search, as JSON can hold it; an audit keeps it and passes it to ``under``."""
        return None

    @abstractmethod
    def under(
        self, model: nn.Module, context: ConditionContext, result: Any = None
    ) -> AbstractContextManager[Applied]:
        """The model under the condition inside the block, and bit for bit as it was after it."""


class FullPrecision(Condition):
    """The model as its checkpoint was saved."""

    kind: ClassVar[Kind] = Kind.FULL_PRECISION

    @property
    def label(self) -> str:
        return "full"

    @property
    def parts(self) -> tuple[Condition, ...]:
        return ()

    @contextmanager
    def under(self, model: nn.Module, context: ConditionContext, result: Any = None) -> Iterator[Applied]:  # noqa: ARG002
        yield Applied(model=model)


class Chain(Condition):
    """Conditions one after another: ``int4+relearn`` is what an attacker does to the quantized model."""

    steps: tuple[Condition, ...] = Field(
        description="The conditions, in the order in which they are applied."
    )

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        return Kind.ATTACK if any(step.kind is Kind.ATTACK for step in self.steps) else Kind.QUANTIZER

    @property
    def family(self) -> str:  # type: ignore[override]
        return next((step.family for step in self.steps if step.family), "")

    @property
    def title(self) -> str:  # type: ignore[override]
        return ", then ".join(step.title or step.label for step in self.steps)

    @property
    def label(self) -> str:
        return "+".join(step.label for step in self.steps)

    @property
    def parts(self) -> tuple[Condition, ...]:
        return tuple(part for step in self.steps for part in step.parts)

    def under(self, model: nn.Module, context: ConditionContext, result: Any = None) -> Any:  # noqa: ARG002
        raise LookupError("a chain is applied part by part, because each part has its own context")


FULL = FullPrecision()
