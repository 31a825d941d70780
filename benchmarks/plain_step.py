"""NPO with a KL retain loss as scripts write it: a frozen second model, full logits, all gradients.

Nothing of the package is used here. Shapes: B sequences, T positions, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Set
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Tokens(NamedTuple):
    """Token ids, which are real, and which count, each [B, T]."""

    ids: Tensor
    real: Tensor
    counted: Tensor


class PlainStep:
    """One AdamW step on ``mean over B of (2/β) softplus(β Δ) + mean KL(reference ‖ model)``.

    ``trained`` names the parameters that get gradients, ``masked`` those whose gradients are set to
    zero before the step, as a mask applied to gradients does.
    """

    def __init__(self, model: Any, *, trained: Set[str], masked: Set[str], lr: float, beta: float) -> None:
        self.model = model
        self.reference = copy.deepcopy(model).eval().requires_grad_(False)
        self.masked = masked
        self.beta = beta
        for name, weight in model.named_parameters():
            weight.requires_grad_(name in trained)
        self.optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=lr)

    def __call__(self, forget: Tokens, retain: Tokens) -> float:
        """Forward, backward and update."""
        loss = self.backward(forget, retain)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def backward(self, forget: Tokens, retain: Tokens) -> float:
        """The loss, its gradients left in the model."""
        loss = self.loss(forget, retain)
        loss.backward()
        for name, weight in self.model.named_parameters():
            if name in self.masked and weight.grad is not None:
                weight.grad.zero_()
        return float(loss.detach())

    def loss(self, forget: Tokens, retain: Tokens) -> Tensor:
        """Four forward passes, then the two terms, as released code has it."""
        outputs_f = _run(self.model, forget)
        outputs_r = _run(self.model, retain)
        with torch.no_grad():
            outputs_f_ref = _run(self.reference, forget)
            outputs_r_ref = _run(self.reference, retain)
        log_ratio_B = _sequence_logp(outputs_f.logits, forget)
        log_ratio_B = log_ratio_B - _sequence_logp(outputs_f_ref.logits, forget)
        npo = (2 / self.beta * F.softplus(self.beta * log_ratio_B)).mean()
        logq_BTV = outputs_r.logits.log_softmax(-1)
        logp_BTV = outputs_r_ref.logits.log_softmax(-1)
        kl_BT = F.kl_div(logq_BTV, logp_BTV, reduction="none", log_target=True).sum(-1)[:, :-1]
        counted_BT = retain.counted[:, 1:]
        kl = ((kl_BT * counted_BT).sum(-1) / counted_BT.sum(-1)).mean()
        return npo + kl


def _run(model: Any, batch: Tokens) -> Any:
    return model(input_ids=batch.ids, attention_mask=batch.real, use_cache=False)


def _sequence_logp(logits_BTV: Tensor, batch: Tokens) -> Tensor:
    logps_BTV = logits_BTV[:, :-1].log_softmax(-1)
    logps_BT = logps_BTV.gather(-1, batch.ids[:, 1:, None]).squeeze(-1)
    return (logps_BT * batch.counted[:, 1:]).sum(-1)
