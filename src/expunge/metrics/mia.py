"""The membership attacks by name, a column of an audit each; ``membership`` takes any as a setting."""

from __future__ import annotations

from typing import ClassVar, Literal

from expunge.metrics import metrics
from expunge.metrics.membership import Membership, Single

ORIENTATION = "near 0 memorised, near 1 suppressed, 0.5 as if never seen"
SHIFTED = (
    "Forget and holdout texts that differ in date or topic are told apart without any memory: "
    "only the distance to the retrained control's value is leakage."
)
TURNED = "Public code disagrees on which way round the AUC is; here ``protocol`` says it."


class _Attack(Membership):
    misleads: ClassVar[str] = SHIFTED
    known_errors: ClassVar[tuple[str, ...]] = (TURNED,)


@metrics.register("membership")
class AnyAttack(_Attack):
    """Any attack that looks at one model, as AUC or as hits at few false alarms.

    Source: open-unlearning's suite of attacks; orientation as in MUSE (arXiv 2407.06460) unless asked
    otherwise.
    """

    title: ClassVar[str] = "Membership attack"
    definition: ClassVar[str] = (
        f"AUC of holdout against forget texts under the chosen attack: {ORIENTATION}"
    )
    source: ClassVar[str] = "MUSE (arXiv 2407.06460); open-unlearning"

    attack: Single = "min_k"


@metrics.register("mia_loss")
class LossAttack(_Attack):
    """AUC by mean loss. Source: Yeom et al. 2018 (arXiv 1709.01604)."""

    title: ClassVar[str] = "Membership by loss"
    definition: ClassVar[str] = f"AUC of holdout against forget texts by mean loss: {ORIENTATION}"
    source: ClassVar[str] = "Yeom et al. 2018 (arXiv 1709.01604): LOSS"

    attack: Literal["loss"] = "loss"


@metrics.register("mia_zlib")
class ZlibAttack(_Attack):
    """AUC by loss over compressed size. Source: Carlini et al. 2021 (arXiv 2012.07805)."""

    title: ClassVar[str] = "Membership by loss and zlib"
    definition: ClassVar[str] = (
        f"AUC of holdout against forget texts by loss per compressed byte: {ORIENTATION}"
    )
    source: ClassVar[str] = "Carlini et al. 2021 (arXiv 2012.07805): zlib"

    attack: Literal["zlib"] = "zlib"


@metrics.register("mia_min_k_pp")
class MinKPlusPlusAttack(_Attack):
    """AUC by Min-K%++. Source: Zhang et al. 2024 (arXiv 2404.02936)."""

    title: ClassVar[str] = "Membership by Min-K%++"
    definition: ClassVar[str] = f"AUC of holdout against forget texts by Min-40%++: {ORIENTATION}"
    source: ClassVar[str] = "Zhang et al. 2024 (arXiv 2404.02936): Min-K%++"

    attack: Literal["min_k_pp"] = "min_k_pp"


@metrics.register("mia_gradnorm")
class GradNormAttack(_Attack):
    """AUC by the mean over parameter tensors of the 2-norm of a text's own gradient.

    Source: Wang et al. 2024 (arXiv 2402.17012), as open-unlearning computes it, in evaluation mode.
    """

    title: ClassVar[str] = "Membership by gradient norm"
    definition: ClassVar[str] = (
        f"AUC of holdout against forget texts by gradient norm: {ORIENTATION}. "
        "One backward pass a text, so it is measured only when asked for"
    )
    source: ClassVar[str] = "arXiv 2402.17012; open-unlearning: GradNorm"
    known_errors: ClassVar[tuple[str, ...]] = (
        TURNED,
        "open-unlearning takes gradients in training mode, with the adapters' dropout on.",
    )

    attack: Literal["gradnorm"] = "gradnorm"


@metrics.register("mia_reference")
class ReferenceAttack(_Attack):
    """AUC by the loss minus the retrained control's loss on the same text; 0.5 for the control itself.

    Source: Carlini et al. 2021 (arXiv 2012.07805), with the retrained model as the reference.
    """

    title: ClassVar[str] = "Membership by loss against the control's"
    definition: ClassVar[str] = (
        f"AUC of holdout against forget texts by loss minus the retrained model's: {ORIENTATION}"
    )
    source: ClassVar[str] = "Carlini et al. 2021 (arXiv 2012.07805): reference model"
    needs_control: ClassVar[bool] = True
    misleads: ClassVar[str] = (
        "The outsider it imagines has a model trained without the forget set. It is the strongest of these "
        "attacks, and tells the control's own training noise apart too."
    )

    attack: Literal["reference"] = "reference"


@metrics.register("mia_tpr")
class LowFalseAlarms(_Attack):
    """Share of forget texts found while one holdout text in a hundred is called trained-on.

    Source: Carlini et al. 2022 (arXiv 2112.03570): membership attacks at low false positive rates.
    """

    title: ClassVar[str] = "Membership at 1 % false alarms"
    definition: ClassVar[str] = "share of forget texts that Min-40% finds at a false positive rate of 1 %"
    source: ClassVar[str] = "Carlini et al. 2022 (arXiv 2112.03570): TPR at low FPR"
    lower_is_better: ClassVar[bool | None] = True
    misleads: ClassVar[str] = (
        "With fewer than a hundred holdout texts 1 % allows no false alarm at all, and one odd holdout "
        "text decides. The interval shows it."
    )
    known_errors: ClassVar[tuple[str, ...]] = ()

    attack: Single = "min_k"
    report: Literal["auc", "tpr"] = "tpr"
