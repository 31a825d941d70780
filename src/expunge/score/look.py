"""From a batch to the ``TokenView`` a loss sees: one forward of the model, the reference only if needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from expunge.model.arch import output_head, vocabulary
from expunge.score.backbone import predictions, scatter
from expunge.score.logprobs import token_kl, token_logps
from expunge.score.view import Need, TokenView

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
    logps_N = token_logps(head, found.hidden_NH, found.token_N, vocabulary=entries)
    reference_logps_N = kl_N = None
    if Need.REFERENCE_LOGPS in needs:
        reference_logps_N = reference.logps(batch, keys) if reference else logps_N.detach()
    if reference and needs & {Need.FORWARD_KL, Need.REVERSE_KL}:
        kl_N = token_kl(
            head,
            found.hidden_NH,
            reference.head,
            reference.states(batch, keys),
            vocabulary=entries,
            direction="forward" if Need.FORWARD_KL in needs else "reverse",
        )
    where = found.where_BT
    return TokenView(
        logps=scatter(logps_N, where),
        mask=where,
        reference_logps=None if reference_logps_N is None else scatter(reference_logps_N, where),
        kl=None if kl_N is None else scatter(kl_N, where),
    )
