"""The loss of a conditioned sample by token: likelihood, divergence from the reference, entropy.

Shapes: N counted tokens, H hidden units, V vocabulary, k rows of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from expunge.inference.logprobs import Head, Numbers, Rows

Toward = Literal["reference", "model"]


@dataclass(frozen=True, kw_only=True)
class ConditionedLoss:
    """``−log π(y | r) + β KL − γ H`` of each token, in float32.

    The divergence is between next-token distributions without the entries ``added``, which the
    reference does not know: KL(reference ‖ model), or KL(model ‖ reference) with ``toward="model"``. The
    entropy H is that of the model over all entries.

    Source: Lu et al. 2022 (arXiv 2205.13636), Eq. 3; the released code has KL(model ‖ reference).
    """

    vocabulary: int
    added: tuple[int, ...]
    beta: float
    gamma: float
    toward: Toward = "reference"

    def __call__(
        self, head: Head, hidden_NH: Tensor, token_N: Tensor, reference_head: Head, reference_NH: Tensor
    ) -> Tensor:
        """One number per counted token [N]. Token ids stay exact in float32 up to 2^24."""

        def extra_inputs(other_n: Tensor) -> Tensor:
            logits_nV = reference_head(other_n[:, :-1]).float()
            return torch.cat([logits_nV, other_n[:, -1:].float()], dim=1)

        rows = Rows(head=head, rule=self._rule, vocabulary=self.vocabulary, extra_inputs=extra_inputs)
        return rows(hidden_NH, torch.cat([reference_NH, token_N[:, None].to(reference_NH)], dim=1))

    def _rule(self, logits_kV: Tensor, beside_k: Tensor) -> Numbers:
        token_k1 = beside_k[:, -1:].long()
        logp_kV = logits_kV.log_softmax(-1)
        p_kV = logp_kV.exp()
        entropy_k1 = -(p_kV * logp_kV).sum(-1, keepdim=True)
        known = torch.ones(logits_kV.shape[1], dtype=torch.bool, device=logits_kV.device)
        known[list(self.added)] = False
        known[beside_k.shape[1] - 1 :] = False
        logq_kU = logits_kV[:, known].log_softmax(-1)
        logr_kU = beside_k[:, :-1][:, known[: beside_k.shape[1] - 1]].log_softmax(-1)
        moved_k1, slopes_kU = self._divergence(logq_kU, logr_kU)
        values_k1 = self.beta * moved_k1 - logp_kV.gather(-1, token_k1) - self.gamma * entropy_k1

        def slopes() -> Tensor:
            found_kV = p_kV + self.gamma * p_kV * (logp_kV + entropy_k1)
            found_kV[:, known] += self.beta * slopes_kU
            return found_kV.scatter_add_(-1, token_k1, -torch.ones_like(token_k1, dtype=p_kV.dtype))

        return Numbers(values_k1.squeeze(-1), slopes)

    def _divergence(self, logq_kU: Tensor, logr_kU: Tensor) -> tuple[Tensor, Tensor]:
        """The divergence [k, 1] and its slopes by the model's logits [k, U]."""
        q_kU, r_kU = logq_kU.exp(), logr_kU.exp()
        if self.toward == "reference":
            return (r_kU * (logr_kU - logq_kU)).sum(-1, keepdim=True), q_kU - r_kU
        surplus_kU = logq_kU - logr_kU
        values_k1 = (q_kU * surplus_kU).sum(-1, keepdim=True)
        return values_k1, q_kU * (surplus_kU - values_k1)
