"""How a field of one component holds another: by name, with its settings."""

from __future__ import annotations

from expunge.registry import named

__all__ = ["named"]
