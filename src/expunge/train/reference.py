"""Which frozen reference a run gets, and what of it must be remembered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from expunge.corpus.streams import PairDataset
from expunge.corpus.tokenise import Encoded
from expunge.model.arch import output_layer
from expunge.scope.selection import Selection
from expunge.score.reference import Key, LiveReference, Reference, ReferenceKind, cache_reference
from expunge.score.view import Need

DIVERGENCES = frozenset({Need.FORWARD_KL, Need.REVERSE_KL})


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the losses of a run ask of the reference, and on which sequences."""

    forget: frozenset[Need]
    retain: frozenset[Need]
    data: PairDataset
    retain_seen: list[int]

    def items(self, needs: frozenset[Need]) -> Iterable[tuple[Key, Encoded]]:
        """The sequences of every stream whose loss asks for one of ``needs``."""
        if self.forget & needs:
            yield from ((Key("forget", i), one) for i, one in enumerate(self.data.forget))
        if self.retain & needs:
            yield from ((Key("retain", i), self.data.retain[i]) for i in self.retain_seen)


def frozen_reference(
    model: nn.Module,
    kind: ReferenceKind,
    asked: Asked,
    *,
    selection: Selection,
    adapters: bool,
    pad_id: int,
) -> Reference | None:
    """The reference a run needs, taken from the model before its first step; ``None`` if none is asked for.

    ``auto`` prefers switching adapters off, then a cache; a copy is made only when asked for.
    """
    if not asked.forget | asked.retain:
        return None
    if kind == "copy":
        return LiveReference.copied(model)
    if adapters and kind != "cache":
        return LiveReference(model, adapters_off=True)
    head = set(output_layer(model).parameters())
    in_head = {name for name, weight in model.named_parameters() if weight in head}
    return cache_reference(
        model,
        logps_of=asked.items(frozenset({Need.REFERENCE_LOGPS})),
        states_of=asked.items(DIVERGENCES),
        pad_id=pad_id,
        head_may_change=bool(in_head & selection.rows.keys()),
    )
