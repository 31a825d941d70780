"""What a scope lets change, in stages whose forget set is descended on or compared, not ascended."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from expunge.corpus.tokenise import Encoded
from expunge.forget.ga import GradientAscent
from expunge.scope import Scope
from expunge.scope.evidence import Evidence
from expunge.scope.localiser import chosen_by
from expunge.scope.selection import Selection
from expunge.train.loop import LoopSettings
from expunge.train.saliency import forget_gradient
from expunge.train.state import State


def chosen(
    scope: Scope, model: nn.Module, texts: Sequence[Encoded], settings: LoopSettings, state: State
) -> Selection:
    """What ``scope`` selects, shown all it may ask for; the saliency is that of gradient ascent."""

    def saliency() -> dict[str, Tensor]:
        return forget_gradient(
            model,
            GradientAscent(),
            texts,
            pad_id=state.tokenizer.pad_token_id,
            batch_size=settings.batch_size,
        )

    evidence = Evidence(
        forget=state.corpus.forget,
        retain=state.corpus.retain,
        tokenizer=state.tokenizer,
        saliency=saliency,
        seed=state.seed,
        max_length=settings.max_length,
        batch_size=settings.batch_size,
    )
    return chosen_by(scope, model, evidence)
