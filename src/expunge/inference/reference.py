"""The frozen reference (the model before unlearning) without a second model in memory.

Three ways to have it, equal to rounding: switch the adapters off (LoRA), look its numbers up in a
cache filled before the first step, or keep a frozen copy. Shapes: B sequences, T positions,
N counted tokens of a batch, H hidden units, V vocabulary.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from expunge.corpus.batching import Batch, collate, length_sorted_batches
from expunge.corpus.tokenise import Encoded
from expunge.files import make_private
from expunge.inference.backbone import eval_mode, predictions
from expunge.inference.hidden_states import watching
from expunge.inference.logprobs import token_logps
from expunge.inference.state_file import StateDtype, StateFile, require_room
from expunge.model.arch import output_head, output_layer, vocabulary
from expunge.model.load import hash_model
from expunge.model.resources import NO_BARS

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
    token_logps: Mapping[Key, Tensor] = field(default_factory=dict)
    hidden: Mapping[Key, Tensor] = field(default_factory=dict)
    inside: Mapping[Key, Tensor] = field(default_factory=dict)

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
        return sum(_size(store) for store in (self.token_logps, self.hidden, self.inside))

    def _look_up(self, store: Mapping[Key, Tensor], keys: Sequence[Key], batch: Batch) -> Tensor:
        return torch.cat([store[key] for key in keys]).to(batch.input_ids_BT.device)


def _size(store: Mapping[Key, Tensor]) -> int:
    return store.nbytes if isinstance(store, StateFile) else sum(each.nbytes for each in store.values())


class CacheFolder(NamedTuple):
    """Where a cache keeps its files, and how it stores hidden states there."""

    folder: Path
    dtype: StateDtype = "fp32"


@dataclass(frozen=True)
class _CachePart:
    """One kind of number of a cache: ``compute`` gives it for the ``items``, pass after pass."""

    name: str
    passes: Sequence[tuple[Sequence[tuple[Key, Encoded]], Callable[[Batch, list[Key]], Tensor]]]

    @property
    def counts(self) -> dict[Key, int]:
        """Counted tokens of every sequence."""
        return {key: sum(one.mask[1:]) for items, _ in self.passes for key, one in items}


def cache_reference(
    model: nn.Module,
    *,
    logps_of: Iterable[tuple[Key, Encoded]],
    states_of: Iterable[tuple[Key, Encoded]],
    pad_id: int,
    head_may_change: bool,
    inner_of: Mapping[int | None, Iterable[tuple[Key, Encoded]]] = MappingProxyType({}),
    batch_tokens: int = 8192,
    keep: CacheFolder | None = None,
) -> CachedReference:
    """Fill a cache from the model as it is now; a head that may change is copied, not the model.

    ``inner_of`` names the sequences whose states inside are kept, by the block that puts them out. The
    numbers go to files of ``keep``, or stay in memory without it. Files that an interrupted run filled
    from the same model, texts and device are used again.

    Raises:
        OutputError: the disk has too little room for the files.
    """
    head = output_layer(model)
    live = LiveReference(model, adapters_off=False)
    parts = [
        _CachePart("token_logps", [(list(logps_of), live.logps)]),
        _CachePart("hidden", [(list(states_of), live.states)]),
        _CachePart(
            "inside", [(list(items), partial(live.inner, layer=layer)) for layer, items in inner_of.items()]
        ),
    ]
    stores = {part.name: _store(part, model, pad_id, keep) for part in parts if part.counts}
    missing = [part for part in parts if part.counts and not _is_whole(stores[part.name])]
    _make_files([stores[part.name] for part in missing])
    tokens = sum(len(one.input_ids) for part in missing for items, _ in part.passes for _, one in items)
    hidden = True if NO_BARS in os.environ else None  # None: unless it would go to a file
    with tqdm(total=tokens, desc="caching the reference", delay=2, unit="tok", disable=hidden) as bar:
        for part in missing:
            for items, compute in part.passes:
                for batch, keys in _batches(items, pad_id, model, batch_tokens):
                    stores[part.name].update(_by_key(keys, compute(batch, keys), batch))
                    bar.update(int(batch.attention_mask_BT.sum()))
    for part in missing:
        store = stores[part.name]
        if isinstance(store, StateFile):
            store.close()
    return CachedReference(
        frozen_head=copy.deepcopy(head).requires_grad_(False) if head_may_change else head,
        model=model,
        **stores,
    )


def _is_whole(store: Mapping[Key, Tensor]) -> bool:
    return isinstance(store, StateFile) and store.is_whole


def _make_files(stores: Sequence[Mapping[Key, Tensor]]) -> None:
    files = [store for store in stores if isinstance(store, StateFile)]
    if files:
        for file in files:
            file.remove()
        require_room(files[0].path.parent, sum(file.nbytes for file in files))
        for file in files:
            file.create()


def _store(
    part: _CachePart, model: nn.Module, pad_id: int, keep: CacheFolder | None
) -> MutableMapping[Key, Tensor]:
    """The place for a part's numbers; what they look like is found out with the shortest sequence."""
    if keep is None:
        return {}
    make_private(keep.folder)
    items, compute = min(part.passes, key=lambda each: min(len(one.input_ids) for _, one in each[0]))
    key, shortest = min(items, key=lambda item: len(item[1].input_ids))
    device = next(model.parameters()).device
    values = compute(collate([shortest], pad_id=pad_id).to(device), [key])
    rounded = part.name != "token_logps" and keep.dtype == "bf16"
    return StateFile(
        keep.folder / part.name,
        part.counts,
        row=tuple(values.shape[1:]),
        computed=values.dtype,
        stored=torch.bfloat16 if rounded else values.dtype,
        fingerprint=_fingerprint(part, model),
    )


def _fingerprint(part: _CachePart, model: nn.Module) -> str:
    """SHA-256 of all that the numbers depend on: weights, texts, blocks, device and its arithmetic."""
    device = next(model.parameters()).device.type
    digest = hashlib.sha256(hash_model(model).encode())
    digest.update(f"{torch.__version__} {device} {torch.is_autocast_enabled(device)}".encode())
    for items, compute in part.passes:
        digest.update(f"{compute.keywords if isinstance(compute, partial) else part.name}".encode())
        for key, one in items:
            digest.update(f"{key} {len(one.input_ids)}".encode())
            digest.update(np.asarray(one.input_ids, dtype=np.int64).tobytes())
            digest.update(bytes(one.mask))
    return digest.hexdigest()


def _batches(
    known: Sequence[tuple[Key, Encoded]], pad_id: int, model: nn.Module, batch_tokens: int
) -> Iterable[tuple[Batch, list[Key]]]:
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
