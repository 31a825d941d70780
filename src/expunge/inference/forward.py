"""From a batch to the ``TokenView`` a loss sees: one forward of the model, the reference only if needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from expunge.inference.backbone import Predictions, counted, predictions, scatter
from expunge.inference.hidden_states import watching
from expunge.inference.logprobs import Direction, token_kl, token_logps, token_numbers
from expunge.inference.token_view import INNER, LOGITS, LateView, Need, TokenRule, TokenView
from expunge.model.arch import output_head, vocabulary

if TYPE_CHECKING:
    from expunge.corpus.batching import Batch
    from expunge.inference.reference import Key, Reference


class AlternateAnswers(NamedTuple):
    """Alternate answers to the prompts of a batch, in order, with their keys for a reference."""

    batch: Batch
    keys: Sequence[Key] = ()


def compute_token_view(
    model: nn.Module,
    batch: Batch,
    *,
    needs: frozenset[Need] = frozenset(),
    reference: Reference | None = None,
    keys: Sequence[Key] = (),
    layer: int | None = None,
    alternates: AlternateAnswers | None = None,
) -> TokenView:
    """Run ``model`` on ``batch`` and gather exactly what ``needs`` names.

    Without a reference, the reference's numbers are the model's own: the model is its own reference
    before the first step. ``layer`` is the block whose states are requested. For alternate answers
    (``alternates``) a loss sees log-probabilities, and the reference's if it requests them; a loss may
    need nothing else, so the batch itself is then only read when it is accessed.
    """
    reading = _ForwardPass(model, batch, layer=layer, inside=bool(needs & INNER))
    if Need.ALTERNATE not in needs:
        reading.read()
    frozen = reading if reference is None else reference
    where = counted(batch)
    known = kl = hidden = before = alternate = None
    if Need.REFERENCE_LOGPS in needs:
        known = scatter(frozen.logps(batch, keys), where)
    if needs & {Need.FORWARD_KL, Need.REVERSE_KL}:
        kl = scatter(reading.divergence(needs, frozen, keys), where)
    if Need.HIDDEN in needs:
        hidden = _placed(reading.inner_NH, where)
    if Need.REFERENCE_HIDDEN in needs:
        before = _placed(frozen.inner(batch, keys, layer), where)
    if Need.ALTERNATE in needs and alternates is not None:
        alternate = compute_token_view(
            model,
            alternates.batch,
            needs=needs & {Need.REFERENCE_LOGPS},
            reference=reference,
            keys=alternates.keys,
        )

    def read_logits(rule: TokenRule) -> Tensor:
        compared = frozen if Need.REFERENCE_LOGITS in needs else None
        return scatter(reading.per_token(rule, compared, keys), where)

    return LateView(
        read_logps=lambda: scatter(reading.logps_N, where),
        mask=where,
        reference_logps=known,
        kl=kl,
        hidden=hidden,
        reference_hidden=before,
        alternate=alternate,
        read_logits=read_logits if needs & LOGITS else None,
    )


class _ForwardPass:
    """A single forward pass of the model on a batch; detached, it serves as its own reference."""

    def __init__(self, model: nn.Module, batch: Batch, *, layer: int | None, inside: bool) -> None:
        self._model = model
        self._batch = batch
        self._layer = layer
        self._inside = inside
        self._head = output_head(model)
        self._entries = vocabulary(model)

    @cached_property
    def _read(self) -> tuple[Predictions, Tensor | None]:
        if not self._inside:
            return predictions(self._model, self._batch), None
        with watching(self._model, self._layer) as inner:
            reading = predictions(self._model, self._batch)
        return reading, inner.predicting(self._batch).float()

    def read(self) -> None:
        """Run the forward pass now, before the model changes."""
        _ = self._read

    @cached_property
    def logps_N(self) -> Tensor:  # noqa: N802
        hidden, _ = self._read
        return token_logps(self._head, hidden.hidden_NH, hidden.token_N, vocabulary=self._entries)

    @property
    def inner_NH(self) -> Tensor:  # noqa: N802
        _, inner_NH = self._read
        if inner_NH is None:
            raise LookupError("no block was observed while this batch was read")
        return inner_NH

    def divergence(self, needs: frozenset[Need], frozen: Reference, keys: Sequence[Key]) -> Tensor:
        direction: Direction = "forward" if Need.FORWARD_KL in needs else "reverse"
        states_NH = frozen.states(self._batch, keys)
        hidden, _ = self._read
        return token_kl(
            self._head,
            hidden.hidden_NH,
            frozen.head,
            states_NH,
            vocabulary=self._entries,
            direction=direction,
        )

    def per_token(self, rule: TokenRule, frozen: Reference | None, keys: Sequence[Key]) -> Tensor:
        states_NH = None if frozen is None else frozen.states(self._batch, keys)
        hidden, _ = self._read
        return token_numbers(
            self._head,
            hidden.hidden_NH,
            hidden.token_N,
            rule,
            vocabulary=self._entries,
            reference_head=None if frozen is None else frozen.head,
            reference_NH=states_NH,
        )

    def logps(self, batch: Batch, keys: Sequence[Key]) -> Tensor:  # noqa: ARG002
        return self.logps_N.detach()

    def states(self, batch: Batch, keys: Sequence[Key]) -> Tensor:  # noqa: ARG002
        return self._read[0].hidden_NH.detach()

    def inner(self, batch: Batch, keys: Sequence[Key], layer: int | None) -> Tensor:  # noqa: ARG002
        return self.inner_NH.detach()

    def head(self, hidden_NH: Tensor) -> Tensor:
        with torch.no_grad():
            return self._head(hidden_NH)


def _placed(states_NH: Tensor, where_BT: Tensor) -> Tensor:
    """One state per counted token put back at its position; zero everywhere else. Shape [B, T, H]."""
    empty_BTH = states_NH.new_zeros((*where_BT.shape, states_NH.shape[-1]))
    return empty_BTH.masked_scatter(where_BT[..., None], states_NH)
