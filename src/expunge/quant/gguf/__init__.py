"""The quantized formats of llama.cpp: real GGUF blocks, and files that hold them."""

from __future__ import annotations

from expunge.quant.gguf.quantizer import GGUF

__all__ = ["GGUF"]
