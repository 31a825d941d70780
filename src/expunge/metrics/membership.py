"""Membership attacks: whether an outsider can tell the forget set from texts the model never saw.

Shapes: n tokens of the text. Log-probabilities are in nats.
"""

from __future__ import annotations

import zlib
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from expunge.metrics import metrics
from expunge.metrics.base import NO_TOKEN, Metric, MetricRole, not_applicable, score_of
from expunge.metrics.rouge_recall import READ, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from expunge.inference.observer import Observer
    from expunge.inference.texts import TokenStats
    from expunge.metrics.base import Floats, Measured, Values, Weights
    from expunge.metrics.probes import Probes
    from expunge.types import Example, Score

Attack = Literal["loss", "zlib", "reference", "gradnorm", "min_k", "min_k_pp"]
"""``reference`` is the loss minus the retrained control's; the others look at one model."""

SMALLEST_VARIANCE = 1e-6
"""Min-K++ divides by no less than the root of it: a model may be certain."""


def min_k(logps_T: Tensor, share: float) -> float:
    """Min-K%: minus the mean of the lowest ``share`` of the log-probabilities, one of them at least.

    Higher means less like a text the model was trained on. In nats.
    Source: Shi et al. 2023 (arXiv 2310.16789).
    """
    lowest = max(1, int(len(logps_T) * share))
    return -float(torch.topk(logps_T.double(), lowest, largest=False).values.mean())


def min_k_pp(facts: TokenStats, share: float) -> float:
    """Min-K%++: Min-K% of log-probabilities standardised by the model's own mean and deviation there.

    Source: Zhang et al. 2024 (arXiv 2404.02936), Eq. 3-4.
    """
    spread_n = facts.variance_n.double().clamp(min=SMALLEST_VARIANCE).sqrt()
    return min_k((facts.logp_n.double() - facts.mean_n.double()) / spread_n, share)


def mean_loss(facts: TokenStats) -> float:
    """LOSS: mean negative log-likelihood of a token. Source: Yeom et al. 2018 (arXiv 1709.01604)."""
    return -float(facts.logp_n.double().mean())


def loss_per_zlib_byte(facts: TokenStats, text: str) -> float:
    """The mean loss over the bytes of the compressed text: what is easy for zlib is easy for anybody.

    Source: Carlini et al. 2021 (arXiv 2012.07805), section 5.
    """
    return mean_loss(facts) / len(zlib.compress(text.encode()))


# How well a score separates forget from holdout texts: AUC, and TPR at a low false positive rate.
#
# Shapes: N forget texts, M holdout texts, R resamples. Scores are like losses: higher means less like a
# text the model was trained on.


def holdout_auc(forget_N: Floats, holdout_M: Floats, forget_RN: Floats, holdout_RM: Floats) -> Floats:
    """P(a holdout text looks more like training text than a forget text), a tie counting half.

    Takes scores [N] and [M], and how often each resample holds each, [R, N] and [R, M].
    Near 0 when the forget set is memorised, 0.5 when it looks unseen, near 1 when it is
    suppressed. Shape [R].
    """
    order = np.argsort(holdout_M)
    drawn_RM = np.cumsum(holdout_RM[:, order], axis=-1)
    below_RM = np.concatenate([np.zeros_like(drawn_RM[:, :1]), drawn_RM], axis=-1)
    lower = np.searchsorted(holdout_M[order], forget_N, side="left")
    not_higher = np.searchsorted(holdout_M[order], forget_N, side="right")
    wins_RN = (below_RM[:, lower] + below_RM[:, not_higher]) / 2
    pairs_R = forget_RN.sum(-1) * holdout_RM.sum(-1)
    auc_R: Floats = (forget_RN * wins_RN).sum(-1) / pairs_R
    return auc_R


def tpr_at_fpr(
    rate: float, forget_N: Floats, holdout_M: Floats, forget_RN: Floats, holdout_RM: Floats
) -> Floats:
    """Largest share of forget texts called trained-on while at most ``rate`` of the holdout texts are.

    Texts below a threshold are called trained-on; it is drawn just below the first holdout text that would
    be one false alarm too many, so a forget text tied with it is no hit. Shape [R].
    """
    order = np.argsort(holdout_M)
    drawn_RM = np.cumsum(holdout_RM[:, order], axis=-1)
    # Sums of small whole numbers are exact; their share of the total is compared with a little slack.
    too_many_RM = drawn_RM > rate * drawn_RM[:, -1:] * (1 + 1e-12)
    limit_R = np.where(too_many_RM.any(-1), holdout_M[order][too_many_RM.argmax(-1)], np.inf)
    hit_RN = forget_N < limit_R[:, None]
    hits_R: Floats = (forget_RN * hit_RN).sum(-1) / forget_RN.sum(-1)
    return hits_R


# Membership attacks: can an outsider distinguish the forget set from texts the model never saw?

Share = Annotated[float, Field(gt=0, le=1)]


TOKEN_WISE = frozenset({"min_k", "min_k_pp"})
Single = Literal["loss", "zlib", "gradnorm", "min_k", "min_k_pp"]
"""The attacks that look at one model only."""


class Membership(Metric):
    """Base of the attacks: scores of forget and holdout texts, and how well these separate the two.

    Documents are read, or every example's completion when either split has none.
    """

    scale: ClassVar[str] = "0-1"
    role: ClassVar[MetricRole] = MetricRole.MEMBERSHIP
    supports_retention: ClassVar[bool] = False
    needs_splits: ClassVar[tuple[str, ...]] = ("forget", "holdout")
    default: ClassVar[bool] = False

    attack: Attack = Field(default="min_k", description="The score that separates the texts.")
    report: Literal["auc", "tpr"] = Field(
        default="auc",
        description=(
            "Whether the area under the ROC curve is reported (`auc`), or the share of forget texts "
            "found at a low false positive rate (`tpr`)."
        ),
    )
    protocol: Protocol = Field(
        default="muse",
        description=(
            "Whose way of measuring is followed, which turns the AUC: near 0 the forget set is "
            "memorised under `muse`, near 1 under `open_unlearning`, which also reads only the first "
            "2,048 tokens."
        ),
    )
    share: Share = Field(
        default=0.40, description="The K of Min-K% and Min-K%++ as a fraction, above 0 and at most 1."
    )
    false_positive_rate: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.01,
        description=(
            "The share of holdout texts that may be called trained-on with report tpr, at least 0 and "
            "below 1."
        ),
    )

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """The score of every text of both splits under the attack."""
        splits = {"forget": probes.documents("forget"), "holdout": probes.documents("holdout")}
        if not all(splits.values()):
            splits = {"forget": probes.forget, "holdout": probes.holdout}
        missing = {
            name: not_applicable(name, f"the {name} split is empty")[name]
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
        stats = zip(texts, observed.facts(texts), strict=True)
        return [score_of(text, self._value(text, facts)) for text, facts in stats]

    def _value(self, text: Example, facts: TokenStats) -> float | str:
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
        statistic = holdout_auc if self.report == "auc" else partial(tpr_at_fpr, self.false_positive_rate)
        found_R = statistic(values["forget"], values["holdout"], weights["forget"], weights["holdout"])
        turned = self.report == "auc" and self.protocol == "open_unlearning"
        return 1 - found_R if turned else found_R


def _above(values: Values, control: Values | None) -> dict[str, Floats]:
    """By how much each loss is above the retrained model's."""
    if control is None:
        raise LookupError("this attack compares with a retrained model and was given none")
    return {split: values_of_split - control[split] for split, values_of_split in values.items()}


# The membership attacks by name, a column of an audit each; ``membership`` takes any as a setting.

ORIENTATION = "near 0 memorised, near 1 suppressed, 0.5 as if never seen"
SHIFTED = (
    "Forget and holdout texts that differ in date or topic are separable without any memorisation: "
    "only the distance to the retrained control's value is leakage."
)
TURNED = "Public code disagrees on the orientation of the AUC; here ``protocol`` sets it."


def fixed(attack: Attack) -> Any:
    """The setting ``attack`` of a metric that has one only."""
    return Field(default=attack, description="The score that separates the texts; fixed here.")


class _AttackMetric(Membership):
    caveats: ClassVar[str] = SHIFTED
    known_errors: ClassVar[tuple[str, ...]] = (TURNED,)


@metrics.register("membership")
class AnyAttack(_AttackMetric):
    """Any attack that looks at one model, as AUC or as hits at few false alarms.

    Source: open-unlearning's suite of attacks; orientation as in MUSE (arXiv 2407.06460) unless asked
    otherwise.
    """

    title: ClassVar[str] = "Membership attack"
    definition: ClassVar[str] = (
        f"AUC of holdout against forget texts under the chosen attack: {ORIENTATION}"
    )
    source: ClassVar[str] = "MUSE (arXiv 2407.06460); open-unlearning"

    attack: Single = Field(default="min_k", description="The score that separates the texts.")


@metrics.register("mia_loss")
class LossAttack(_AttackMetric):
    """AUC by mean loss. Source: Yeom et al. 2018 (arXiv 1709.01604)."""

    title: ClassVar[str] = "Membership by loss"
    definition: ClassVar[str] = f"AUC of holdout against forget texts by mean loss: {ORIENTATION}"
    source: ClassVar[str] = "Yeom et al. 2018 (arXiv 1709.01604): LOSS"

    attack: Literal["loss"] = fixed("loss")


@metrics.register("mia_zlib")
class ZlibAttack(_AttackMetric):
    """AUC by loss over compressed size. Source: Carlini et al. 2021 (arXiv 2012.07805)."""

    title: ClassVar[str] = "Membership by loss and zlib"
    definition: ClassVar[str] = (
        f"AUC of holdout against forget texts by loss per compressed byte: {ORIENTATION}"
    )
    source: ClassVar[str] = "Carlini et al. 2021 (arXiv 2012.07805): zlib"

    attack: Literal["zlib"] = fixed("zlib")


@metrics.register("mia_min_k_pp")
class MinKPlusPlusAttack(_AttackMetric):
    """AUC by Min-K%++. Source: Zhang et al. 2024 (arXiv 2404.02936)."""

    title: ClassVar[str] = "Membership by Min-K%++"
    definition: ClassVar[str] = f"AUC of holdout against forget texts by Min-40%++: {ORIENTATION}"
    source: ClassVar[str] = "Zhang et al. 2024 (arXiv 2404.02936): Min-K%++"

    attack: Literal["min_k_pp"] = fixed("min_k_pp")


@metrics.register("mia_gradnorm")
class GradNormAttack(_AttackMetric):
    """AUC by the mean over parameter tensors of the 2-norm of a text's own gradient.

    Source: Wang et al. 2024 (arXiv 2402.17012), as open-unlearning computes it, in evaluation mode.
    """

    title: ClassVar[str] = "Membership by gradient norm"
    definition: ClassVar[str] = (
        f"AUC of holdout against forget texts by gradient norm: {ORIENTATION}. "
        "It needs one backward pass per text, so it is measured only on request"
    )
    source: ClassVar[str] = "arXiv 2402.17012; open-unlearning: GradNorm"
    known_errors: ClassVar[tuple[str, ...]] = (
        TURNED,
        "open-unlearning takes gradients in training mode, with the adapters' dropout on.",
    )

    attack: Literal["gradnorm"] = fixed("gradnorm")


@metrics.register("mia_reference")
class ReferenceAttack(_AttackMetric):
    """AUC by the loss minus the retrained control's loss on the same text; 0.5 for the control itself.

    Source: Carlini et al. 2021 (arXiv 2012.07805), with the retrained model as the reference.
    """

    title: ClassVar[str] = "Membership by loss against the control's"
    definition: ClassVar[str] = (
        f"AUC of holdout against forget texts by loss minus the retrained model's: {ORIENTATION}"
    )
    source: ClassVar[str] = "Carlini et al. 2021 (arXiv 2012.07805): reference model"
    needs_control: ClassVar[bool] = True
    caveats: ClassVar[str] = (
        "The outsider it imagines has a model trained without the forget set. It is the strongest of these "
        "attacks, and also detects the control's own training noise."
    )

    attack: Literal["reference"] = fixed("reference")


@metrics.register("mia_tpr")
class TPRAtLowFPR(_AttackMetric):
    """Share of forget texts found while one holdout text in a hundred is called trained-on.

    Source: Carlini et al. 2022 (arXiv 2112.03570): membership attacks at low false positive rates.
    """

    title: ClassVar[str] = "Membership at 1 % false alarms"
    definition: ClassVar[str] = "share of forget texts that Min-40% finds at a false positive rate of 1 %"
    source: ClassVar[str] = "Carlini et al. 2022 (arXiv 2112.03570): TPR at low FPR"
    lower_is_better: ClassVar[bool | None] = True
    caveats: ClassVar[str] = (
        "With fewer than a hundred holdout texts 1 % allows no false alarm at all, and one odd holdout "
        "text decides. The interval shows it."
    )
    known_errors: ClassVar[tuple[str, ...]] = ()

    attack: Single = Field(default="min_k", description="The score that separates the texts.")
    report: Literal["auc", "tpr"] = Field(
        default="tpr",
        description=(
            "Whether the share of forget texts found at a low false positive rate is reported "
            "(`tpr`), or the area under the ROC curve (`auc`)."
        ),
    )
