"""Who's Harry Potter without the last training: the reinforced model and the source answer as one."""

from __future__ import annotations

from pydantic import NonNegativeFloat

from expunge.model.contrast import Scores, contrasted
from expunge.train.stages import Stage, stages
from expunge.train.state import State


@stages.register("contrast")
class Contrast(Stage):
    """Makes one model of the source checkpoint and the model so far, reinforced on the forget set.

    It predicts ``base − alpha · relu(reinforced − base)`` (``expunge.model.contrast``). Nothing more is
    trained and nothing is forgotten: the result holds both models, takes twice memory and time, and
    protects only who is served by it.

    Source: Eldan and Russinovich 2023 (arXiv 2310.02238), Eq. 1; as a model to serve: the baseline of
    Shi et al. 2024 (arXiv 2407.06460).
    """

    alpha: NonNegativeFloat = 1.0
    scores: Scores = "logps"

    def run(self, state: State) -> State:
        """Put the two together."""
        state.model = contrasted(state.source(), state.model, alpha=self.alpha, scores=self.scores)
        state.facts.append({"stage": "contrast", "alpha": self.alpha, "scores": self.scores})
        return state
