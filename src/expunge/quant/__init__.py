"""Quantizers, and the diagnostics of what they do to an unlearning update."""

from __future__ import annotations

from expunge.quant.base import Quantizer
from expunge.registry import Registry

quantizers: Registry[Quantizer] = Registry("quantizer", "expunge.quant")

__all__ = ["Quantizer", "quantizers"]
