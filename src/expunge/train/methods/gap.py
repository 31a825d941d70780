"""Knowledge gap alignment: gaps, loss and end, and batches of several retain texts.

Shapes: B forget texts of a piece of a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from expunge.corpus.batching import Batch, PairBatch, PairSampler, collate
from expunge.corpus.tokenise import Encoded
from expunge.errors import TrainingError
from expunge.inference.backbone import eval_mode
from expunge.inference.forward import compute_token_view
from expunge.inference.reference import Key, Reference
from expunge.inference.token_view import Need
from expunge.train.objective.pair import keys_of
from expunge.train.run.outcome import StopOutcome

BEHIND = frozenset({Need.REVERSE_KL})
"""KL(model ‖ reference), as the paper has every gap."""

NOTHING_LEARNT = 1e-6
"""Nats below which a model that learnt something is the one it was before."""


@dataclass(frozen=True, kw_only=True)
class Gaps:
    """How far the model is, in nats, from those that learnt new text and the forget set."""

    new: float
    forget: float

    def check(self) -> None:
        """Refuse gaps that no aligning would forget by.

        Raises:
            TrainingError: the forget set taught nothing, or no more strangeness is wanted than there is.
        """
        if self.forget <= NOTHING_LEARNT:
            raise TrainingError(
                "the forget set taught its model nothing",
                why=f"it is {self.forget:.2g} nats from the target, so the loss has no slope to follow.",
                fix="Raise teaching.learning_rate or teaching.epochs.",
            )
        if self.new <= self.forget:
            raise TrainingError(
                "the holdout is as familiar to the model as the forget set",
                why=f"learning it moved the model by {self.new:.3g} nats, and learning the forget set by "
                f"{self.forget:.3g}: aligning the two would make the forget set better known.",
                fix="Use similar holdout text that the model never saw, or raise teaching.epochs.",
            )


@dataclass(kw_only=True)
class GapObjective:
    """``|g_f − g_n|`` and ``weight · r`` for a step, in as many pieces as it has.

    ``g_f`` is the mean divergence from the model that learnt the forget set, over the forget texts of
    the whole step; ``g_n`` (``wanted``) is a constant; ``r`` the mean divergence from the model before
    unlearning over the retain texts, of which there are ``several`` to each forget text. What is
    outside the absolute value is linear, so pieces add up to the step once its sign is known.

    Source: Wang et al. 2023 (arXiv 2305.06535).
    """

    wanted: float
    learnt: Reference
    before: Reference
    weight: float
    several: int
    _sign: Tensor | None = field(default=None, init=False)

    def begin(self, model: nn.Module, pieces: Sequence[PairBatch], step: int, steps: int) -> None:  # noqa: ARG002
        """Find the sign of a step with several micro-batches, in a separate pass."""
        self._sign = None
        if len(pieces) > 1:
            with torch.no_grad(), eval_mode(model):
                gaps = [
                    self.gaps(model, piece.forget, keys_of("forget", piece.forget_ids)) for piece in pieces
                ]
            self._sign = torch.cat(gaps).mean().sub(self.wanted).sign()

    def __call__(self, model: nn.Module, batch: PairBatch) -> dict[str, Tensor]:
        """The terms of the loss, each a scalar: sums over the forget texts of the piece."""
        gaps_B = self.gaps(model, batch.forget, keys_of("forget", batch.forget_ids))
        sign = self._sign if self._sign is not None else gaps_B.detach().mean().sub(self.wanted).sign()
        terms = {"gap": sign * (gaps_B - self.wanted).sum()}
        if batch.retain is not None and batch.retain_ids is not None:
            view = compute_token_view(
                model,
                batch.retain,
                needs=BEHIND,
                reference=self.before,
                keys=keys_of("retain", batch.retain_ids),
            )
            kept = view.mean(view.given(Need.REVERSE_KL)).sum()
            terms["retain"] = self.weight * kept / self.several
        return terms

    def gaps(self, model: nn.Module, forget: Batch, keys: Sequence[Key]) -> Tensor:
        """KL(model ‖ model that learnt the forget set), mean over the counted tokens of each text. [B]."""
        view = compute_token_view(model, forget, needs=BEHIND, reference=self.learnt, keys=keys)
        return view.mean(view.given(Need.REVERSE_KL))


class GapClosed(TrainerCallback):
    """Measures the gap on the whole forget set after each epoch, and ends the run when it is small."""

    def __init__(
        self,
        objective: GapObjective,
        forget: Sequence[Encoded],
        *,
        limit: float | None,
        batch_size: int,
        pad_id: int,
    ) -> None:
        self.limit = limit
        self.history: list[float] = []
        self.epoch = 0.0
        self._objective = objective
        self._forget = forget
        self._size = batch_size
        self._pad_id = pad_id

    @property
    def outcome(self) -> StopOutcome | None:
        """How the rule ended; None where no limit was set. The gap is compared without its sign."""
        if self.limit is None:
            return None
        size = abs(self.history[-1])
        return StopOutcome(
            ended_by="levels" if size <= self.limit else "epochs",
            last={"epoch": self.epoch, "gap": size},
            levels={"gap": self.limit},
        )

    def on_epoch_end(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any
    ) -> None:
        """Measure and decide; nothing is measured where no limit was set."""
        if self.limit is None:
            return
        self.epoch = round(state.epoch or 0, 2)
        self.history.append(self.gap(keywords["model"]))
        if abs(self.history[-1]) <= self.limit:
            control.should_training_stop = True

    @torch.no_grad()
    def gap(self, model: nn.Module) -> float:
        """g_f − g_n on the whole forget set."""
        device = next(model.parameters()).device
        gaps = []
        with eval_mode(model):
            for start in range(0, len(self._forget), self._size):
                pieces = self._forget[start : start + self._size]
                keys = [Key("forget", index) for index in range(start, start + len(pieces))]
                batch = collate(pieces, pad_id=self._pad_id).to(device)
                gaps.append(self._objective.gaps(model, batch, keys))
        return float(torch.cat(gaps).mean()) - self._objective.wanted


# Batches of several retain texts for each forget text, drawn as ``corpus.streams`` draws one.


class MultiRetain(NamedTuple):
    """One forget item and the retain items drawn for it, with their indices."""

    forget: Encoded
    retain: tuple[Encoded, ...]
    forget_id: int
    retain_ids: tuple[int, ...]


class MultiRetainDataset(Dataset[MultiRetain]):
    """What ``SeveralSampler`` indexes."""

    def __init__(self, forget: Sequence[Encoded], retain: Sequence[Encoded]) -> None:
        self.forget = forget
        self.retain = retain

    def __len__(self) -> int:
        return len(self.forget)

    def __getitem__(self, index: tuple[int, tuple[int, ...]]) -> MultiRetain:
        forget_id, retain_ids = index
        return MultiRetain(
            self.forget[forget_id], tuple(self.retain[i] for i in retain_ids), forget_id, retain_ids
        )


class MultiRetainSampler(Sampler[tuple[int, tuple[int, ...]]]):
    """As ``PairSampler``, with ``several`` retain indices for each forget index."""

    def __init__(self, n_forget: int, n_retain: int, *, several: int, seed: int) -> None:
        self.several = several
        self._forget = PairSampler(n_forget, 0, seed=seed)
        self._retain = PairSampler(n_forget * several, n_retain, seed=seed)

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration epoch ``epoch``, counted from 0."""
        self._forget.set_epoch(epoch)
        self._retain.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._forget)

    def __iter__(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        drawn = (index for _, index in self._retain if index is not None)
        forget = (index for index, _ in self._forget)
        return zip(forget, zip(*[drawn] * self.several, strict=True), strict=True)

    def retain_seen(self, items: int) -> list[int]:
        """The retain indices of the first ``items`` items, epoch after epoch, sorted."""
        return self._retain.retain_seen(items * self.several)


def collate_multi_retain(items: Sequence[MultiRetain], pad_id: int) -> PairBatch:
    """Items as a batch of forget texts and one of all their retain texts."""
    return PairBatch(
        collate([item.forget for item in items], pad_id=pad_id),
        collate([text for item in items for text in item.retain], pad_id=pad_id),
        torch.tensor([item.forget_id for item in items]),
        torch.tensor([index for item in items for index in item.retain_ids]),
    )
