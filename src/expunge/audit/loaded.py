"""A model in memory during an audit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from expunge.quant.base import Quantizer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import nn

    from expunge.audit.plan import Applied, AuditPlan, Transform
    from expunge.quant.calibration import Calibration


class Loaded:
    """A model in memory, and its calibration text once a quantizer asks for it."""

    def __init__(self, model: nn.Module, tokenizer: Any, plan: AuditPlan) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._plan = plan
        self._text: Calibration | None = None

    def under(self, transform: Transform) -> AbstractContextManager[Applied]:
        """The model under ``transform`` inside the block."""
        source = self._plan.calibration_of(transform)
        if source is None or not isinstance(transform, Quantizer):
            return transform.applied(self.model)
        if self._text is None:
            self._text = source.tokens(self.model, self.tokenizer)
        return transform.applied(self.model, self._text)
