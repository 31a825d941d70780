"""Membership attacks: can an outsider tell the forget set from texts the model never saw?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from expunge.metrics.attacks import Attack, loss_per_zlib_byte, mean_loss, min_k, min_k_pp
from expunge.metrics.base import Metric, absent
from expunge.metrics.per_text import NO_TOKEN, score_of
from expunge.metrics.protocol import READ, Protocol
from expunge.metrics.roc import hits_at, holdout_auc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.metrics.base import Floats, Measured, Values, Weights
    from expunge.metrics.probes import Probes
    from expunge.score.facts import TokenFacts
    from expunge.score.observer import Observer
    from expunge.types import Example, Score

Share = Annotated[float, Field(gt=0, le=1)]


TOKEN_WISE = frozenset({"min_k", "min_k_pp"})
Single = Literal["loss", "zlib", "gradnorm", "min_k", "min_k_pp"]
"""The attacks that look at one model only."""


class Membership(Metric):
    """Base of the attacks: scores of forget and holdout texts, and what tells them apart.

    ``report`` is ``auc`` (in the orientation of ``protocol``) or ``tpr``, the share of forget texts found
    at a ``false_positive_rate``. ``share`` is the K of Min-K% and Min-K%++ as a fraction. Documents are
    read, or every example's completion when either split has none.
    """

    scale: ClassVar[str] = "0-1"
    is_share: ClassVar[bool] = False
    needs_splits: ClassVar[tuple[str, ...]] = ("forget", "holdout")
    default: ClassVar[bool] = False

    attack: Attack = "min_k"
    report: Literal["auc", "tpr"] = "auc"
    protocol: Protocol = "muse"
    share: Share = 0.40
    false_positive_rate: Annotated[float, Field(ge=0, lt=1)] = 0.01

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """The score of every text of both splits under the attack."""
        splits = {"forget": probes.documents("forget"), "holdout": probes.documents("holdout")}
        if not all(splits.values()):
            splits = {"forget": probes.forget, "holdout": probes.holdout}
        missing = {
            name: absent(name, f"the {name} split is empty")[name]
            for name, texts in splits.items()
            if not texts
        }
        return {name: missing.get(name) or self._scores(texts, observed) for name, texts in splits.items()}

    def _scores(self, texts: Sequence[Example], observed: Observer) -> list[Score]:
        if self.attack == "gradnorm":
            return [
                score_of(text, float(np.mean(norms)) if norms else NO_TOKEN)
                for text, norms in zip(texts, observed.gradient_norms(texts), strict=True)
            ]
        found = zip(texts, observed.facts(texts), strict=True)
        return [score_of(text, self._value(text, facts)) for text, facts in found]

    def _value(self, text: Example, facts: TokenFacts) -> float | str:
        seen = facts.counted
        if self.protocol == "open_unlearning":
            seen = seen.first(READ)
            seen = seen.text if self.attack in TOKEN_WISE else seen
        if not len(seen):
            return NO_TOKEN
        if not torch.isfinite(seen.logp_n).all():
            return float("nan")
        if self.attack == "zlib":
            return loss_per_zlib_byte(seen, text.completion)
        if self.attack == "min_k_pp":
            return min_k_pp(seen, self.share)
        return min_k(seen.logp_n, self.share) if self.attack == "min_k" else mean_loss(seen)

    def statistic(self, values: Values, weights: Weights, control: Values | None = None) -> Floats:
        """The AUC or the true positive rate of each resample."""
        if self.attack == "reference":
            values = _above(values, control)
        tell = holdout_auc if self.report == "auc" else partial(hits_at, self.false_positive_rate)
        found_R = tell(values["forget"], values["holdout"], weights["forget"], weights["holdout"])
        turned = self.report == "auc" and self.protocol == "open_unlearning"
        return 1 - found_R if turned else found_R


def _above(values: Values, control: Values | None) -> dict[str, Floats]:
    """By how much each loss is above the retrained model's."""
    if control is None:
        raise LookupError("this attack compares with a retrained model and was given none")
    return {split: own - control[split] for split, own in values.items()}
