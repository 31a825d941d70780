"""The frozen reference (the model before unlearning) without a second model in memory.

Three ways to have it, equal to rounding: switch the adapters off (LoRA), look its numbers up in a
cache filled before the first step, or keep a frozen copy. Shapes: B sequences, T positions,
N counted tokens of a batch, H hidden units, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from expunge.corpus.batching import Batch, collate, length_sorted_batches
from expunge.corpus.tokenise import Encoded
from expunge.inference.backbone import eval_mode, predictions
from expunge.inference.hidden_states import watching
from expunge.inference.logprobs import token_logps
from expunge.model.arch import output_head, output_layer, vocabulary

NOTHING = -1e4
"""Log-probability of an entry without any: its exponential is 0 in float32."""


class Target(NamedTuple):
    """A sequence and, for each counted token in order, the entries to predict there and their share."""

    encoded: Encoded
    entries_NK: Tensor
    shares_NK: Tensor


@dataclass(frozen=True)
class TargetReference:
    """The targets of a forget stream as a reference, so that a divergence measures the distance to them.

    A "state" is a row of K entries and their K shares; ids stay exact in float32 up to 2^24.
    """

    targets: Sequence[Target]
    vocabulary: int

    def logps(self, batch: Batch, keys: Sequence[Key]) -> Tensor:  # noqa: ARG002
        """Not available: targets are distributions and give no log-probability of the text."""
        raise LookupError("targets hold no log-probability of the text itself")

    def states(self, batch: Batch, keys: Sequence[Key]) -> Tensor:
        """Entries and shares of each counted token. Shape [N, 2K]."""
        targets = [self.targets[key.place] for key in keys]
        rows = [torch.cat([target.entries_NK.float(), target.shares_NK], dim=1) for target in targets]
        return torch.cat(rows).to(batch.input_ids_BT.device)

    def inner(self, batch: Batch, keys: Sequence[Key], layer: int | None) -> Tensor:  # noqa: ARG002
        """Not available: targets have no model with hidden states."""
        raise LookupError("targets have no states inside a model")

    def head(self, hidden_NH: Tensor) -> Tensor:
        """The log-probabilities given by entries and shares [N, 2K]. Shape [N, V]."""
        entries_NK, shares_NK = hidden_NH.chunk(2, dim=1)
        dense_NV = hidden_NH.new_full((len(hidden_NH), self.vocabulary), NOTHING)
        return dense_NV.scatter(1, entries_NK.long(), shares_NK.log().clamp(min=NOTHING))


# An estimate of the predictions of a model that never saw a text, from the model and a reinforced one.
#
# Shapes: N positions, V vocabulary, K entries kept.

GenericScores = Literal["logps", "logits"]


def generic_scores(base_NV: Tensor, reinforced_NV: Tensor, *, alpha: float) -> Tensor:
    """``base − α relu(reinforced − base)``: logits that reinforcement raised are lowered. [N, V].

    Source: Eldan and Russinovich 2023 (arXiv 2310.02238), Eq. 1.
    """
    return base_NV - alpha * (reinforced_NV - base_NV).clamp(min=0)


def as_scores(logits_NV: Tensor, kind: GenericScores) -> Tensor:
    """Scores that are comparable between two models. [N, V].

    Logits are defined up to a constant per position, which differs between two models;
    log-probabilities have none.
    """
    return logits_NV.float().log_softmax(-1) if kind == "logps" else logits_NV.float()


class Kept(NamedTuple):
    """The entries a target keeps and their shares, both [N, K], largest first."""

    entries_NK: Tensor
    shares_NK: Tensor


def kept(scores_NV: Tensor, count: int) -> Kept:
    """The ``count`` largest entries with their probabilities among themselves; 1 is the argmax."""
    top = scores_NV.topk(min(count, scores_NV.shape[-1]), dim=-1)
    return Kept(top.indices, torch.softmax(top.values, dim=-1))


ReferenceKind = Literal["auto", "adapter_off", "cache", "copy"]

Stream = Literal["forget", "retain", "alternate"]


class Key(NamedTuple):
    """One sequence of a run: its stream and its index in it."""

    stream: Stream
    place: int


class Reference(Protocol):
    """The quantities of the frozen reference that losses can use."""

    def logps(self, batch: Batch, keys: Sequence[Key]) -> Tensor:
        """Log-probability of each counted token. Shape [N]."""

    def states(self, batch: Batch, keys: Sequence[Key]) -> Tensor:
        """Hidden state that predicts each counted token. Shape [N, H]."""

    def inner(self, batch: Batch, keys: Sequence[Key], layer: int | None) -> Tensor:
        """The output of a block at the position that predicts each counted token. Shape [N, H]."""

    def head(self, hidden_NH: Tensor) -> Tensor:
        """The reference's logits for hidden states. Shape [N, V]."""


class LiveReference:
    """A reference that is computed: a frozen copy, or the model itself with its adapters disabled."""

    def __init__(self, model: nn.Module, *, adapters_off: bool) -> None:
        self.model = model
        self.adapters_off = adapters_off

    @classmethod
    def copied(cls, model: nn.Module) -> LiveReference:
        """A frozen copy: needs twice the memory, so it is the last resort."""
        return cls(copy.deepcopy(model).eval().requires_grad_(False), adapters_off=False)

    def logps(self, batch: Batch, keys: Sequence[Key]) -> Tensor:  # noqa: ARG002
        with _frozen(self.model, adapters_off=self.adapters_off):
            predictions_N = predictions(self.model, batch)
            return token_logps(
                output_head(self.model),
                predictions_N.hidden_NH,
                predictions_N.token_N,
                vocabulary=vocabulary(self.model),
            )

    def states(self, batch: Batch, keys: Sequence[Key]) -> Tensor:  # noqa: ARG002
        with _frozen(self.model, adapters_off=self.adapters_off):
            return predictions(self.model, batch).hidden_NH

    def inner(self, batch: Batch, keys: Sequence[Key], layer: int | None) -> Tensor:  # noqa: ARG002
        with _frozen(self.model, adapters_off=self.adapters_off), watching(self.model, layer) as states:
            predictions(self.model, batch)
            return states.predicting(batch).float()

    def head(self, hidden_NH: Tensor) -> Tensor:
        with _frozen(self.model, adapters_off=self.adapters_off):
            return output_head(self.model)(hidden_NH)


@dataclass(kw_only=True)
class CachedReference:
    """A cached reference: one number or one hidden state per counted token, as losses require.

    ``inside`` holds states of the block that the loss of their stream reads.
    """

    frozen_head: nn.Module
    model: nn.Module
    token_logps: dict[Key, Tensor] = field(default_factory=dict)
    hidden: dict[Key, Tensor] = field(default_factory=dict)
    inside: dict[Key, Tensor] = field(default_factory=dict)

    def logps(self, batch: Batch, keys: Sequence[Key]) -> Tensor:
        return self._look_up(self.token_logps, keys, batch)

    def states(self, batch: Batch, keys: Sequence[Key]) -> Tensor:
        return self._look_up(self.hidden, keys, batch)

    def inner(self, batch: Batch, keys: Sequence[Key], layer: int | None) -> Tensor:  # noqa: ARG002
        return self._look_up(self.inside, keys, batch)

    def head(self, hidden_NH: Tensor) -> Tensor:
        return output_head(self.model, head=self.frozen_head)(hidden_NH)

    @property
    def bytes(self) -> int:
        """Size of what is stored."""
        stored = [*self.token_logps.values(), *self.hidden.values(), *self.inside.values()]
        return sum(tensor.nbytes for tensor in stored)

    def _look_up(self, store: dict[Key, Tensor], keys: Sequence[Key], batch: Batch) -> Tensor:
        return torch.cat([store[key] for key in keys]).to(batch.input_ids_BT.device)


def cache_reference(
    model: nn.Module,
    *,
    logps_of: Iterable[tuple[Key, Encoded]],
    states_of: Iterable[tuple[Key, Encoded]],
    pad_id: int,
    head_may_change: bool,
    inner_of: Mapping[int | None, Iterable[tuple[Key, Encoded]]] = MappingProxyType({}),
    batch_tokens: int = 8192,
) -> CachedReference:
    """Fill a cache from the model as it is now; a head that may change is copied, not the model.

    ``inner_of`` names the sequences whose states inside are kept, by the block that puts them out.
    """
    head = output_layer(model)
    reference = CachedReference(
        frozen_head=copy.deepcopy(head).requires_grad_(False) if head_may_change else head, model=model
    )
    live = LiveReference(model, adapters_off=False)
    for batch, keys in _batches(logps_of, pad_id, model, batch_tokens):
        reference.token_logps |= _by_key(keys, live.logps(batch, keys), batch)
    for batch, keys in _batches(states_of, pad_id, model, batch_tokens):
        reference.hidden |= _by_key(keys, live.states(batch, keys), batch)
    for layer, items in inner_of.items():
        for batch, keys in _batches(items, pad_id, model, batch_tokens):
            reference.inside |= _by_key(keys, live.inner(batch, keys, layer), batch)
    return reference


def _batches(
    items: Iterable[tuple[Key, Encoded]], pad_id: int, model: nn.Module, batch_tokens: int
) -> Iterable[tuple[Batch, list[Key]]]:
    known = list(items)
    device = next(model.parameters()).device
    lengths = [len(encoded.input_ids) for _, encoded in known]
    for rows in length_sorted_batches(lengths, batch_tokens=batch_tokens):
        batch = collate([known[i][1] for i in rows], pad_id=pad_id).to(device)
        yield batch, [known[i][0] for i in rows]


def _by_key(keys: Sequence[Key], values: Tensor, batch: Batch) -> dict[Key, Tensor]:
    counts = batch.mask_BT[:, 1:].sum(-1).tolist()
    return {key: piece.cpu().clone() for key, piece in zip(keys, values.split(counts), strict=True)}


@contextmanager
def _frozen(model: nn.Module, *, adapters_off: bool) -> Iterator[None]:
    """Evaluation mode, no gradients and (if asked) no adapters inside the block."""
    with torch.no_grad(), eval_mode(model), _without_adapters(model) if adapters_off else nullcontext():
        yield


def _without_adapters(model: nn.Module) -> AbstractContextManager[None]:
    return cast("AbstractContextManager[None]", model.disable_adapter())  # type: ignore[operator]
