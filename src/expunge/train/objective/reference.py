"""Which frozen reference a run gets, and what of it must be remembered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from expunge.corpus.batching import PairDataset
from expunge.corpus.tokenise import Encoded
from expunge.inference.reference import Key, LiveReference, Reference, ReferenceKind, cache_reference
from expunge.inference.token_view import OF_REFERENCE, STATES, Need
from expunge.model.arch import output_layer
from expunge.scope.selection import Selection


@dataclass(frozen=True, kw_only=True)
class ReferenceRequest:
    """The values of the reference that the losses of a run need, and for which sequences.

    ``layers`` are the blocks that forget and retain loss read, if they read states inside.
    """

    forget: frozenset[Need]
    retain: frozenset[Need]
    data: PairDataset
    retain_seen: list[int]
    layers: tuple[int | None, int | None] = (None, None)

    def items(self, needs: frozenset[Need]) -> Iterable[tuple[Key, Encoded]]:
        """The sequences of every stream whose loss asks for one of ``needs``."""
        if self.forget & needs:
            yield from self._forget()
        if self.forget & needs & {Need.REFERENCE_LOGPS} and Need.ALTERNATE in self.forget:
            others = (one for alternates in self.data.alternates for one in alternates)
            yield from ((Key("alternate", i), one) for i, one in enumerate(others))
        if self.retain & needs:
            yield from self._retain()

    def inside(self) -> dict[int | None, list[tuple[Key, Encoded]]]:
        """The sequences whose states inside are asked for, by the block that puts them out."""
        items_by_layer: dict[int | None, list[tuple[Key, Encoded]]] = {}
        streams = ((self.forget, self._forget), (self.retain, self._retain))
        for (needs, items), layer in zip(streams, self.layers, strict=True):
            if Need.REFERENCE_HIDDEN in needs:
                items_by_layer.setdefault(layer, []).extend(items())
        return items_by_layer

    def _forget(self) -> Iterable[tuple[Key, Encoded]]:
        return ((Key("forget", i), one) for i, one in enumerate(self.data.forget))

    def _retain(self) -> Iterable[tuple[Key, Encoded]]:
        return ((Key("retain", i), self.data.retain[i]) for i in self.retain_seen)


def frozen_reference(
    model: nn.Module,
    kind: ReferenceKind,
    request: ReferenceRequest,
    *,
    selection: Selection,
    adapters: bool,
    pad_id: int,
) -> Reference | None:
    """The reference a run needs, taken from the model before its first step; ``None`` if none is asked for.

    ``auto`` prefers switching adapters off, then a cache; a copy is made only when asked for.
    """
    if not (request.forget | request.retain) & OF_REFERENCE:
        return None
    if kind == "copy":
        return LiveReference.copied(model)
    if adapters and kind != "cache":
        return LiveReference(model, adapters_off=True)
    head = set(output_layer(model).parameters())
    in_head = {name for name, weight in model.named_parameters() if weight in head}
    return cache_reference(
        model,
        logps_of=request.items(frozenset({Need.REFERENCE_LOGPS})),
        states_of=request.items(STATES),
        inner_of=request.inside(),
        pad_id=pad_id,
        head_may_change=bool(in_head & selection.rows.keys()),
    )
