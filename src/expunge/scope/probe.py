"""FLU by probing: the MLPs of the blocks in which the answer becomes readable at the subject."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from expunge.errors import RecipeError
from expunge.scope import scopes
from expunge.scope.facts import read_facts
from expunge.scope.localiser import Found, Localiser
from expunge.scope.readable import At, cross_readable

if TYPE_CHECKING:
    from torch import nn

    from expunge.scope.evidence import Evidence
    from expunge.scope.parts import Part

EDGE = 0.05
"""Of the whole climb: what is within it of the plateau is on the plateau."""


@scopes.register("probe")
class ReadableParts(Localiser):
    """Scores each block by how much better a linear probe tells the answer after it than before it.

    The probe reads the residual stream at the last token of the ``subject`` or of the whole ``prompt``,
    of the questions of the retain set. There is one probe for each relation (what is asked, whoever it
    is asked of), fitted on four fifths of the subjects and asked of the rest, five times round. Without
    a budget every block is taken through which accuracy climbs: up to the first that already begins on
    the plateau, which is within 5 % of the climb or one standard error (over questions) of the best.

    Source: Guo et al. 2025 (arXiv 2410.12949), fact lookup by probing. Ridge regression instead of their
    logistic one; the rule for the plateau is ours, as they read it off a plot.
    """

    decides: ClassVar[bool] = True

    modules: Literal["mlp", "attention", "sublayers"] = "mlp"
    at: At = "subject"

    @property
    def needs_retain(self) -> bool:
        return True

    def find(self, model: nn.Module, parts: list[Part], evidence: Evidence) -> Found:
        facts = read_facts(evidence.retain, evidence.tokenizer, max_length=evidence.max_length)
        right = cross_readable(model, facts, self.at, batch_size=evidence.batch_size, seed=evidence.seed)
        accuracy = right.double().mean(1).tolist()
        scores = {part.name: accuracy[part.site.block + 1] - accuracy[part.site.block] for part in parts}
        return Found(scores, {"accuracy": accuracy, "questions": right.shape[1]})

    def strength(self, score: float) -> float:
        return score

    def own_choice(self, ranked: list[Part], found: Found) -> list[Part]:
        accuracy = found.facts["accuracy"]
        best = max(accuracy)
        error = math.sqrt(best * (1 - best) / found.facts["questions"])
        edge = max(EDGE * (best - accuracy[0]), error)
        plateau = next(place for place, value in enumerate(accuracy) if value >= best - edge)
        if plateau == 0:
            raise RecipeError(
                "scope 'probe' finds no block",
                why="no probe tells the retain set's answers better than from the embeddings.",
                fix="Set scope.at=prompt, or give a budget (scope.share, scope.count).",
            )
        return [part for part in ranked if part.site.block < plateau]
