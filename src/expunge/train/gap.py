"""Knowledge gap alignment: the gaps, the loss, and when it has done enough.

Shapes: B forget texts of a piece of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from expunge.corpus.batching import Batch, collate
from expunge.corpus.streams import PairBatch
from expunge.corpus.tokenise import Encoded
from expunge.errors import TrainingError
from expunge.score.look import look
from expunge.score.mode import evaluating
from expunge.score.reference import Key, Reference
from expunge.score.view import Need
from expunge.train.objective import keys_of
from expunge.train.outcome import StopOutcome

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
                "the holdout is no stranger to the model than the forget set",
                why=f"learning it moved the model by {self.new:.3g} nats, and learning the forget set by "
                f"{self.forget:.3g}: aligning the two would make the forget set better known.",
                fix="Give holdout text of that kind which the model never saw, or raise teaching.epochs.",
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
        """Find the sign of a step that has several pieces, in a pass of its own."""
        self._sign = None
        if len(pieces) > 1:
            with torch.no_grad(), evaluating(model):
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
            view = look(
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
        view = look(model, forget, needs=BEHIND, reference=self.learnt, keys=keys)
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
        found = []
        with evaluating(model):
            for start in range(0, len(self._forget), self._size):
                pieces = self._forget[start : start + self._size]
                keys = [Key("forget", place) for place in range(start, start + len(pieces))]
                batch = collate(pieces, pad_id=self._pad_id).to(device)
                found.append(self._objective.gaps(model, batch, keys))
        return float(torch.cat(found).mean()) - self._objective.wanted
