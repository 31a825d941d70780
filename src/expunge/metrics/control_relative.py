"""Metrics that compare a model's distributions with the retrained model's, token by token."""

from __future__ import annotations

import json
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveInt

from expunge.files import write_with
from expunge.inference.hidden_states import Head, States
from expunge.inference.logprobs import token_jsd
from expunge.metrics import metrics
from expunge.metrics.base import NO_TOKEN, Metric, PerText, not_applicable, score_of
from expunge.model.arch import output_head, output_layer, vocabulary
from expunge.parsing import load_json

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from expunge.inference.observer import Observer
    from expunge.inference.texts import TokenStats
    from expunge.metrics.base import Floats, Measured, Values, Weights
    from expunge.metrics.probes import Probes
    from expunge.types import Example

NO_WITNESS = "only an audit with a retrained model measures it: it reads that model's distributions"


@dataclass(frozen=True, slots=True)
class ControlStates:
    """What the retrained model was at every token asked about: its states, and the head behind them."""

    states: list[States]
    head: Head

    def save(self, path: Path) -> None:
        """Write it as one file, whole or not at all."""
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {"weight": self.head.weight_VH}
        if self.head.bias_V is not None:
            tensors["bias"] = self.head.bias_V
        for index, (token_n, hidden_nH) in enumerate(self.states):
            tensors |= {f"token {index}": token_n, f"hidden {index}": hidden_nH}
        facts = json.dumps([len(self.states), self.head.divisor, self.head.softcap])
        write_with(
            path, lambda scratch: save_file(tensors, scratch, metadata={"facts": facts}), private=True
        )

    @classmethod
    def read(cls, path: Path) -> ControlStates:
        """What ``save`` wrote."""
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            count, divisor, softcap = load_json(file.metadata()["facts"])
            states = [
                States(file.get_tensor(f"token {index}"), file.get_tensor(f"hidden {index}"))
                for index in range(count)
            ]
            bias_V = file.get_tensor("bias") if "bias" in file.keys() else None  # noqa: SIM118
            weight_VH = file.get_tensor("weight")
        return cls(states, Head(weight_VH=weight_VH, bias_V=bias_V, divisor=divisor, softcap=softcap))


class ControlRelativeMetric(Metric):
    """Base: an audit keeps the retrained model's states under each condition, then measures the others.

    The two models are never in memory together.
    """

    needs_control: ClassVar[bool] = True
    supports_retention: ClassVar[bool] = False
    default: ClassVar[bool] = False

    @abstractmethod
    def control_states(self, observed: Observer, probes: Probes) -> ControlStates:
        """What ``measure_against`` reads of the retrained model."""

    @abstractmethod
    def measure_against(
        self, observed: Observer, probes: Probes, control_states: ControlStates
    ) -> Measured:
        """The score of every item of a model relative to the retrained one."""

    def measure(self, observed: Observer, probes: Probes) -> Measured:  # noqa: ARG002
        """Nothing: one model alone has no distance."""
        return not_applicable(self.needs_splits[0], NO_WITNESS)


# JSD: how far the model's next-token distributions are from the retrained model's.

SPLIT = "forget"
OTHER_VOCABULARY = "the retrained model has another vocabulary, so the distributions cannot be compared"
OTHER_TOKENS = "the retrained model reads this text as other tokens"


@metrics.register("jsd")
class JensenShannon(ControlRelativeMetric):
    """``½ KL(p ‖ m) + ½ KL(q ‖ m)``, m the mean of both, in nats; mean over tokens.

    p and q are the whole next-token distributions of the model and of the retrained one after the same
    true text, under the same condition. 0: the same; ln 2 = 0.693: nothing in common. Spans, where there
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
    caveats: ClassVar[str] = (
        "0 is out of reach: two models trained alike with other seeds differ too, so compare with a second "
        "control. It is a distance, not a direction: a broken model may be as far as an unchanged one. "
        "It is measured after the true text, which such a model may never write."
    )
    known_errors: ClassVar[tuple[str, ...]] = (
        (
            "KGA's code has the arguments of KL swapped: KL(m ‖ p) has no upper end, and gives 0.118 where "
            "the divergence of (.5, .5) and (.9, .1) is 0.102."
        ),
        "Means there are over padding too, so they depend on the batch.",
    )

    tokens: PositiveInt = Field(
        default=200, description="Tokens of each text that are compared, from its beginning."
    )

    def control_states(self, observed: Observer, probes: Probes) -> ControlStates:
        """The retrained model's states at every token, and its output layer."""
        return ControlStates(
            observed.states(probes.split(SPLIT), tokens=self.tokens), Head.of(observed.model)
        )

    def measure_against(
        self, observed: Observer, probes: Probes, control_states: ControlStates
    ) -> Measured:
        """One more reading of the beginning of every text."""
        examples = probes.split(SPLIT)
        if not examples:
            return not_applicable(SPLIT, f"the {SPLIT} split is empty")
        if control_states.head.weight_VH.shape[0] != len(
            output_layer(observed.model).get_parameter("weight")
        ):
            return not_applicable(SPLIT, OTHER_VOCABULARY)
        states = observed.states(examples, tokens=self.tokens)
        head = control_states.head.to(next(observed.model.parameters()).device)
        return {
            SPLIT: [
                score_of(example, divergence(observed, states_of_model, head, other))
                for example, states_of_model, other in zip(
                    examples, states, control_states.states, strict=True
                )
            ]
        }


@torch.inference_mode()
def divergence(observed: Observer, states_of_model: States, head: Head, other: States) -> float | str:
    """The mean over the tokens of one text, or the reason why there is none."""
    if not torch.equal(states_of_model.token_n, other.token_n):
        return OTHER_TOKENS
    if not len(states_of_model.token_n):
        return NO_TOKEN
    device = head.weight_VH.device
    jsd_n = token_jsd(
        output_head(observed.model),
        states_of_model.hidden_nH.to(device),
        head,
        other.hidden_nH.to(device),
        vocabulary=vocabulary(observed.model),
    )
    return max(0.0, float(jsd_n.double().mean()))  # equal ones may come out a rounding below


# How far a model's perplexities are from the retrained model's: LPD and PDLP.
#
# Shapes: n texts, R resamples.

SOURCE = "KGA (arXiv 2305.06535)"


class Perplexities(PerText):
    """Base: the perplexity of every forget text, ``exp`` of its mean loss, against the retrained model's.

    Spans, where there are any, are all that counts.
    """

    source: ClassVar[str] = SOURCE
    needs_control: ClassVar[bool] = True
    supports_retention: ClassVar[bool] = False
    default: ClassVar[bool] = False

    def value(self, example: Example, facts: TokenStats) -> float | str:  # noqa: ARG002
        """The perplexity of one text."""
        logp_n = facts.counted.logp_n.double()
        return float((-logp_n.mean()).exp()) if len(logp_n) else NO_TOKEN

    def _mean(self, each_N: Floats, weights: Weights) -> Floats:
        weights_RN = weights[self.split]
        mean_R: Floats = weights_RN @ each_N / weights_RN.sum(axis=1)
        return mean_R

    def _both(self, values: Values, control: Values | None) -> tuple[Floats, Floats]:
        if control is None:
            raise LookupError("perplexities are compared with a retrained model's and were given none")
        return values[self.split], control[self.split]


@metrics.register("lpd")
class PerplexityDistance(Perplexities):
    """Mean over texts of ``|ppl - ppl_retrained| / ppl_retrained``.

    Source: Wang et al. 2023 (KGA, arXiv 2305.06535), its relative form; which name the paper gives to which
    of its two forms is inferred.
    """

    title: ClassVar[str] = "Perplexity distance (LPD)"
    definition: ClassVar[str] = (
        "relative distance of the forget texts' perplexities from the retrained model's"
    )
    scale: ClassVar[str] = "ratio, 0 is best"
    lower_is_better: ClassVar[bool | None] = True
    caveats: ClassVar[str] = (
        "It has no upper end: one text that the model finds absurd outweighs all others. It does not say "
        "which way the distance goes; PDLP does."
    )

    def statistic(self, values: Values, weights: Weights, control: Values | None = None) -> Floats:
        """The mean relative distance of each resample."""
        own_N, retrained_N = self._both(values, control)
        return self._mean(np.abs(own_N - retrained_N) / retrained_N, weights)


@metrics.register("pdlp")
class PDLP(Perplexities):
    """Share of texts that the model finds less likely than the retrained model does; a tie counts half.

    Source: Wang et al. 2023 (KGA, arXiv 2305.06535), whose code counts a tie as none.
    """

    title: ClassVar[str] = "Less likely than retrained (PDLP)"
    definition: ClassVar[str] = "share of forget texts whose perplexity is above the retrained model's"
    scale: ClassVar[str] = "share, 0.5 is best"
    lower_is_better: ClassVar[bool | None] = None
    caveats: ClassVar[str] = (
        "It counts texts, not by how much they differ: 1 may be a hair's breadth or a ruined model. Near 0 "
        "the forget set is still remembered, near 1 avoided."
    )

    def statistic(self, values: Values, weights: Weights, control: Values | None = None) -> Floats:
        """The share of each resample."""
        own_N, retrained_N = self._both(values, control)
        alike_N = np.isclose(own_N, retrained_N, rtol=1e-9, atol=0)
        return self._mean(np.where(alike_N, 0.5, own_N > retrained_N).astype(np.float64), weights)
