"""From a batch to the ``TokenView`` a loss sees: one forward of the model, the reference only if needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from expunge.model.arch import output_head, vocabulary
from expunge.score.backbone import predictions, scatter
from expunge.score.logprobs import Direction, token_kl, token_logps
from expunge.score.view import LateView, Need, TokenView

if TYPE_CHECKING:
    from expunge.corpus.batching import Batch
    from expunge.score.reference import Key, Reference


def look(
    model: nn.Module,
    batch: Batch,
    *,
    needs: frozenset[Need] = frozenset(),
    reference: Reference | None = None,
    keys: Sequence[Key] = (),
) -> TokenView:
    """Run ``model`` on ``batch`` and gather exactly what ``needs`` names.

    Without a reference, the reference's log-probabilities are the model's own: the model is its
    own reference before the first step.
    """
    entries = vocabulary(model)
    head = output_head(model)
    found = predictions(model, batch)
    where = found.where_BT

    def logps() -> Tensor:
        return scatter(token_logps(head, found.hidden_NH, found.token_N, vocabulary=entries), where)

    if reference is None:
        own = logps()
        known = own.detach() if Need.REFERENCE_LOGPS in needs else None
        return TokenView(logps=own, mask=where, reference_logps=known)
    known = kl = None
    if Need.REFERENCE_LOGPS in needs:
        known = scatter(reference.logps(batch, keys), where)
    if needs & {Need.FORWARD_KL, Need.REVERSE_KL}:
        states_NH = reference.states(batch, keys)
        direction: Direction = "forward" if Need.FORWARD_KL in needs else "reverse"
        kl_N = token_kl(
            head, found.hidden_NH, reference.head, states_NH, vocabulary=entries, direction=direction
        )
        kl = scatter(kl_N, where)
    return LateView(read_logps=logps, mask=where, reference_logps=known, kl=kl)
