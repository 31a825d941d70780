"""What a scope lets change: shown the forget set, the retain set and where the forget loss would go."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from expunge.corpus.tokenise import Encoded
from expunge.forget import ForgetLoss
from expunge.forget.ga import GradientAscent
from expunge.scope import Scope
from expunge.scope.evidence import Evidence
from expunge.scope.localiser import chosen_by
from expunge.scope.selection import Selection
from expunge.train.loop import LoopSettings
from expunge.train.saliency import forget_gradient
from expunge.train.state import State


def chosen(
    scope: Scope,
    model: nn.Module,
    texts: Sequence[Encoded],
    settings: LoopSettings,
    state: State,
    *,
    forget: ForgetLoss | None = None,
    alternates: Sequence[Sequence[Encoded]] = (),
) -> Selection:
    """What ``scope`` selects, shown all it may ask for; saliency is that of ``forget``, or of ascent."""

    def saliency() -> dict[str, Tensor]:
        return forget_gradient(
            model,
            forget or GradientAscent(),
            texts,
            pad_id=state.tokenizer.pad_token_id,
            batch_size=settings.batch_size,
            alternates=alternates,
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
