"""What a run computes before training: which frozen reference it gets, and which weights are salient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from expunge.adversary import Rounding
from expunge.corpus.batching import PairDataset, collate
from expunge.corpus.tokenise import Encoded
from expunge.errors import RecipeError
from expunge.files import discard
from expunge.forget import ForgetLoss
from expunge.forget.ascent import GA
from expunge.inference.backbone import eval_mode
from expunge.inference.forward import AlternateAnswers, compute_token_view
from expunge.inference.reference import (
    CacheFolder,
    Key,
    LiveReference,
    Reference,
    ReferenceKind,
    cache_reference,
)
from expunge.inference.token_view import OF_REFERENCE, STATES, Need
from expunge.model.arch import output_layer
from expunge.quant import Quantizer, parse_quantizer
from expunge.scope import Scope
from expunge.scope.facts import LocaliserInputs
from expunge.scope.localiser import chosen_by
from expunge.scope.selection import Selection
from expunge.train.loop.settings import LoopSettings
from expunge.train.run.state import State


def forget_gradient(
    model: nn.Module,
    loss: ForgetLoss,
    forget: Sequence[Encoded],
    *,
    pad_id: int,
    batch_size: int,
    alternates: Sequence[Sequence[Encoded]] = (),
) -> dict[str, Tensor]:
    """Gradient of the mean forget loss for every parameter, by name; leaves no gradient behind.

    Independent of order and batch size. At the original weights the model is its own reference.
    ``alternates`` are other answers to each prompt, for a loss that asks for them.
    Source: Zhang et al. 2025 (arXiv 2410.16454), Eq. 4.
    """
    device = next(model.parameters()).device
    model.requires_grad_(True)
    model.zero_grad(set_to_none=True)
    with eval_mode(model):
        for start in range(0, len(forget), batch_size):
            batch = collate(forget[start : start + batch_size], pad_id=pad_id).to(device)
            others = [
                one
                for alternates_of_text in alternates[start : start + batch_size]
                for one in alternates_of_text
            ]
            view = compute_token_view(
                model,
                batch,
                needs=loss.needs,
                layer=loss.reads_layer,
                alternates=AlternateAnswers(collate(others, pad_id=pad_id).to(device)) if others else None,
            )
            (loss(view).sum() / len(forget)).backward()
    gradients = {name: w.grad for name, w in model.named_parameters() if w.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradients


# Resolving a scope: it can use the forget set, the retain set and the gradient of the forget loss.


def resolve_scope(
    scope: Scope,
    model: nn.Module,
    texts: Sequence[Encoded],
    settings: LoopSettings,
    state: State,
    *,
    forget: ForgetLoss | None = None,
    alternates: Sequence[Sequence[Encoded]] = (),
) -> Selection:
    """The selection of ``scope``, given all it may need; saliency is that of ``forget``, or of ascent."""

    def saliency() -> dict[str, Tensor]:
        return forget_gradient(
            model,
            forget or GA(),
            texts,
            pad_id=state.tokenizer.pad_token_id,
            batch_size=settings.batch_size,
            alternates=alternates,
        )

    evidence = LocaliserInputs(
        forget=state.corpus.forget,
        retain=state.corpus.retain,
        tokenizer=state.tokenizer,
        saliency=saliency,
        seed=state.seed,
        max_length=settings.max_length,
        batch_size=settings.batch_size,
    )
    return chosen_by(scope, model, evidence)


# Deployed formats as plain functions of a weight, so that adversaries do not depend on quantizers.


def rounding(name: str) -> Rounding:
    """A weight [O, I] rounded by a format without calibration; unchanged if the format cannot hold it.

    Raises:
        RecipeError: see ``uncalibrated``.
        MissingExtraError: the format needs a library that is not installed.
    """
    quantizer = uncalibrated(name)
    quantizer.quantize(torch.zeros(1, 256))  # a library it needs is missed now, not at the first step

    def values(weight_OI: Tensor) -> Tensor:
        if quantizer.why_not(weight_OI) is not None:
            return weight_OI
        return quantizer.quantize(weight_OI).dequantized

    return values


def uncalibrated(name: str) -> Quantizer:
    """The quantizer of that short name.

    Raises:
        RecipeError: there is none, or it decides with the help of text.
    """
    quantizer = parse_quantizer(name)
    if quantizer.calibrated:
        raise RecipeError(
            f"quantizer {name!r} as an adversary",
            why="it needs calibration on text, which cannot be done at every step.",
            fix="Choose one that rounds weights alone: int4, int4-g128, int8, nf4, fp4.",
        )
    return quantizer


REFERENCE = "reference"
"""The folder of the cache in the working folder of a stage."""


def discard_caches(workdir: Path, *names: str) -> None:
    """Remove the caches of a stage that is through."""
    for name in names:
        if (workdir / name).exists():
            discard(workdir / name)


@dataclass(frozen=True, kw_only=True)
class ReferenceRequest:
    """The values of the reference that the losses of a run need, and for which sequences.

    ``forget_seen`` and ``retain_seen`` are the places of the sequences the run visits.
    ``layers`` are the blocks that forget and retain loss read, if they read states inside.
    """

    forget: frozenset[Need]
    retain: frozenset[Need]
    data: PairDataset
    forget_seen: list[int]
    retain_seen: list[int]
    layers: tuple[int | None, int | None] = (None, None)

    def items(self, needs: frozenset[Need]) -> Iterable[tuple[Key, Encoded]]:
        """The sequences of every stream whose loss asks for one of ``needs``."""
        if self.forget & needs:
            yield from self._forget()
        if self.forget & needs & {Need.REFERENCE_LOGPS} and Need.ALTERNATE in self.forget:
            for index in self.forget_seen:
                others = self.data.alternates[index]
                yield from (
                    (Key("alternate", index * len(others) + k), one) for k, one in enumerate(others)
                )
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
        return ((Key("forget", i), self.data.forget[i]) for i in self.forget_seen)

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
    keep: CacheFolder | None = None,
) -> Reference | None:
    """The reference a run needs, taken from the model before its first step; ``None`` if none is asked for.

    ``auto`` prefers switching adapters off, then a cache; a copy is made only when asked for. A cache lies
    in files of ``keep``.
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
        keep=keep,
    )
