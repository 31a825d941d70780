"""Parts drawn by chance: what a localiser has to be better than."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from expunge.scope import scopes
from expunge.scope.localiser import Localiser, LocaliserResult

if TYPE_CHECKING:
    from torch import nn

    from expunge.scope.facts import LocaliserInputs
    from expunge.scope.parts import ModelPart


@scopes.register("random")
class RandomPartsScope(Localiser):
    """The control at a matched budget: any parts, with as many weights as another scope selects.

    Drawn anew with every seed of a run.

    Source: Guo et al. 2025 (arXiv 2410.12949), its baselines "random" and "random MLPs".
    """

    def find(self, model: nn.Module, parts: list[ModelPart], evidence: LocaliserInputs) -> LocaliserResult:  # noqa: ARG002
        rng = random.Random(evidence.seed)
        return LocaliserResult({part.name: rng.random() for part in parts})
