"""Latent probes: can the answer still be decoded from the hidden states, whatever the model answers?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from pydantic import Field

from expunge.inference.linear_probe import fit
from expunge.metrics import metrics
from expunge.metrics.base import Metric, not_applicable, score_of
from expunge.scope.facts import Fact, read_facts
from expunge.scope.probe import FOLDS, At, by_relation, can_look, cross_readable, labels, states_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from expunge.inference.observer import Observer
    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes
    from expunge.types import Example, Score

BATCH = 16
SHUFFLES = 5
NOT_ASKED = "the retain split does not ask this of five subjects in the same words"
NOT_ANSWERED = "no retain question of its kind has this answer, so no probe knows it"


class ProbedAnswer(NamedTuple):
    """Of one question: whether a probe reads its answer, and how often those of shuffled answers do."""

    right: bool
    by_chance: float


@metrics.register("latent_probe")
class LatentProbe(Metric):
    """Fits a linear probe for each kind of question on the retain set and asks it of the forget set.

    The probe (ridge regression on standardised states) reads the residual stream after the block where
    such probes read the retain set best, cross-validated by subject; the forget set has no part in
    choosing it. It is never fitted on what is to be forgotten, which would teach it.

    Source: Guo et al. 2025 (arXiv 2410.12949), latent knowledge; Lynch et al. 2024 (arXiv 2402.16835).
    """

    title: ClassVar[str] = "Read by a probe"
    definition: ClassVar[str] = "share of forget questions whose answer a linear probe reads from the model"
    source: ClassVar[str] = "Guo et al. 2025 (arXiv 2410.12949); Lynch et al. 2024 (arXiv 2402.16835)"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = True
    needs_splits: ClassVar[tuple[str, ...]] = ("forget", "retain")
    default: ClassVar[bool] = False
    caveats: ClassVar[str] = (
        "Some answers are commoner than others, so a retrained model's are read above 0 too: look at the "
        "control, and at latent_selectivity. Few subjects make weak probes: a low value on the target "
        "means that they could not be fitted."
    )
    known_errors: ClassVar[tuple[str, ...]] = (
        "Index 0 of a model's hidden states is its embeddings: those of index l are what block l reads.",
        "The last of them are already normed, and no longer the residual stream.",
    )

    at: At = Field(
        default="prompt",
        description=(
            "Where the probe reads the residual stream: at the last token of the `prompt` or of the "
            "`subject`."
        ),
    )

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """Fit on the retain split's questions, ask of the forget split's."""
        questions, kept = probes.questions("forget"), probes.questions("retain")
        if not questions:
            return not_applicable("forget", "the forget split has no questions")
        key = ("latent probe", self.at, *questions, None, *kept)
        results = observed.once(key, lambda: self._ask(observed, questions, kept))
        if results is None:
            return not_applicable("forget", NOT_ASKED)
        return {
            "forget": [self._score(question, results.get(question.id, NOT_ASKED)) for question in questions]
        }

    def _ask(
        self, observed: Observer, questions: Sequence[Example], others: Sequence[Example]
    ) -> dict[str, ProbedAnswer | str] | None:
        """What is read for each question that can be asked; ``None`` if no relation can be fitted."""
        kept = self._facts(observed, others)
        relations = {
            facts_of_relation[0].relation: facts_of_relation
            for facts_of_relation in by_relation(kept, self.at)
            if len(facts_of_relation) >= FOLDS
        }
        if not relations:
            return None
        right_LN = cross_readable(observed.model, kept, self.at, batch_size=BATCH, seed=0)
        layer = int(right_LN.double().mean(1).argmax())
        facts = self._facts(observed, questions)
        results: dict[str, ProbedAnswer | str] = {}
        for relation, fitted in relations.items():
            facts_of_relation = [
                fact for fact in facts if fact.relation == relation and can_look(fact, self.at)
            ]
            results |= self._read(observed, fitted, facts_of_relation, layer) if facts_of_relation else {}
        return results

    def value(self, read: ProbedAnswer) -> float:
        """The score of a question that a probe could be asked of."""
        return float(read.right)

    def _score(self, question: Example, read: ProbedAnswer | str) -> Score:
        return score_of(question, read if isinstance(read, str) else self.value(read))

    def _facts(self, observed: Observer, examples: Sequence[Example]) -> list[Fact]:
        return read_facts(examples, observed.tokenizer, max_length=observed.max_length)

    def _read(
        self, observed: Observer, fitted: list[Fact], facts: list[Fact], layer: int
    ) -> dict[str, ProbedAnswer | str]:
        numbers_N = labels([*fitted, *facts])
        known_N, wanted_N = numbers_N[: len(fitted)], numbers_N[len(fitted) :]
        states_NH = states_of(observed.model, [*fitted, *facts], self.at, batch_size=BATCH)[layer]
        train_NH, test_NH = states_NH[: len(fitted)], states_NH[len(fitted) :]
        right_N = fit(train_NH, known_N)(test_NH) == wanted_N
        by_chance_N = (
            torch.stack(
                [fit(train_NH, known_N[order])(test_NH) == wanted_N for order in _orders(len(fitted))]
            )
            .double()
            .mean(0)
        )
        return {
            fact.example.id: ProbedAnswer(bool(right), float(chance)) if wanted in known_N else NOT_ANSWERED
            for fact, right, chance, wanted in zip(facts, right_N, by_chance_N, wanted_N, strict=True)
        }


@metrics.register("latent_selectivity")
class LatentSelectivity(LatentProbe):
    """As ``latent_probe``, less the share that probes fitted on shuffled answers read: five shuffles.

    Source: Hewitt and Liang 2019 (arXiv 1909.03368), selectivity; here by shuffled labels.
    """

    title: ClassVar[str] = "Read by a probe, above chance"
    definition: ClassVar[str] = "latent_probe less what probes fitted on shuffled answers read"
    source: ClassVar[str] = "Hewitt and Liang 2019 (arXiv 1909.03368)"
    scale: ClassVar[str] = "-1 to 1"
    supports_retention: ClassVar[bool] = False

    def value(self, read: ProbedAnswer) -> float:
        return float(read.right) - read.by_chance


def _orders(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randperm(count, generator=generator) for _ in range(SHUFFLES)]
