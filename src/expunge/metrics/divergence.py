"""JSD: how far the model's next-token distributions are from the retrained model's."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import PositiveInt

from expunge.metrics import metrics
from expunge.metrics.base import absent
from expunge.metrics.beside import BesideControl, Witness
from expunge.metrics.per_text import NO_TOKEN, score_of
from expunge.model.arch import output_head, output_layer, vocabulary
from expunge.score.logprobs import token_jsd
from expunge.score.states import Head

if TYPE_CHECKING:
    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes
    from expunge.score.observer import Observer
    from expunge.score.states import States

SPLIT = "forget"
OTHER_VOCABULARY = "the retrained model has another vocabulary, so the distributions cannot be compared"
OTHER_TOKENS = "the retrained model reads this text as other tokens"


@metrics.register("jsd")
class JensenShannon(BesideControl):
    """``½ KL(p ‖ m) + ½ KL(q ‖ m)``, m the mean of both, in nats; mean over the first ``tokens`` tokens.

    p and q are the whole next-token distributions of the model and of the retrained one after the same
    true text, under the same transform. 0: the same; ln 2 = 0.693: nothing in common. Spans, where there
    are any, are all that counts.

    Source: Wang et al. 2023 (KGA, arXiv 2305.06535), as JSD is defined and not as its code has it.
    """

    title: ClassVar[str] = "Divergence from retrained (JSD)"
    definition: ClassVar[str] = (
        "Jensen-Shannon divergence of the next-token distributions from the retrained model's"
    )
    source: ClassVar[str] = "KGA (arXiv 2305.06535): JSD"
    scale: ClassVar[str] = "nats, 0 is best"
    lower_is_better: ClassVar[bool | None] = True
    misleads: ClassVar[str] = (
        "0 is out of reach: two models trained alike with other seeds differ too, so compare with a second "
        "control. It says how far, not which way: a ruined model may be as far as one that forgot nothing. "
        "It is measured after the true text, which such a model may never write."
    )
    known_errors: ClassVar[tuple[str, ...]] = (
        (
            "KGA's code has the arguments of KL swapped: KL(m ‖ p) has no upper end, and gives 0.118 where "
            "the divergence of (.5, .5) and (.9, .1) is 0.102."
        ),
        "Means there are over padding too, so they depend on the batch.",
    )

    tokens: PositiveInt = 200

    def witness(self, observed: Observer, probes: Probes) -> Witness:
        """The retrained model's states at every token, and its output layer."""
        return Witness(observed.states(probes.split(SPLIT), tokens=self.tokens), Head.of(observed.model))

    def measure_beside(self, observed: Observer, probes: Probes, witness: Witness) -> Measured:
        """One more reading of the beginning of every text."""
        examples = probes.split(SPLIT)
        if not examples:
            return absent(SPLIT, f"the {SPLIT} split is empty")
        if witness.head.weight_VH.shape[0] != len(output_layer(observed.model).get_parameter("weight")):
            return absent(SPLIT, OTHER_VOCABULARY)
        states = observed.states(examples, tokens=self.tokens)
        head = witness.head.to(next(observed.model.parameters()).device)
        return {
            SPLIT: [
                score_of(example, divergence(observed, own, head, other))
                for example, own, other in zip(examples, states, witness.states, strict=True)
            ]
        }


@torch.inference_mode()
def divergence(observed: Observer, own: States, head: Head, other: States) -> float | str:
    """The mean over the tokens of one text, or the reason why there is none."""
    if not torch.equal(own.token_n, other.token_n):
        return OTHER_TOKENS
    if not len(own.token_n):
        return NO_TOKEN
    device = head.weight_VH.device
    jsd_n = token_jsd(
        output_head(observed.model),
        own.hidden_nH.to(device),
        head,
        other.hidden_nH.to(device),
        vocabulary=vocabulary(observed.model),
    )
    return max(0.0, float(jsd_n.double().mean()))  # equal ones may come out a rounding below
