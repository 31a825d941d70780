"""Normalizers come with a checkpoint, and rewrite every text: one that makes it far longer is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from expunge.errors import ModelError

MOST = 64
"""How many times longer a text may get. SentencePiece's and BERT's make it a few times longer at most."""
PREPENDED = 1_000
"""Characters that may be put before a text."""


def check_normalizer(tokenizer: Any) -> None:
    """Refuse a fast tokenizer whose replacements could make a text too long to be held in memory.

    Raises:
        ModelError: saying how much longer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    normalizer = getattr(backend, "normalizer", None)
    if normalizer is None:
        return
    times, before = growth(json.loads(normalizer.__getstate__()))
    if times > MOST or before > PREPENDED:
        longer = f"up to {times:,.0f} times longer" if times > MOST else f"{before:,} characters longer"
        raise ModelError(
            "the tokenizer's normalizer",
            why=f"its replacements make a text {longer}, which no tokenizer of a language model does.",
            fix="Get tokenizer.json from where the model was published.",
        )


def growth(described: Mapping[str, Any]) -> tuple[float, int]:
    """How many times longer replacements can make a text, and how many characters are put before it."""
    times, before = 1.0, 0
    for step in described.get("normalizers") or ():
        factor, added = growth(step)
        times, before = times * factor, before * max(1, int(factor)) + added
    content = len(described.get("content") or "")
    pattern = described.get("pattern") or {}
    if "Regex" in pattern:
        times *= 1 + content  # it may match nothing, between any two characters
    elif "String" in pattern:
        times *= max(1.0, content / max(1, len(pattern["String"])))
    return times, before + len(described.get("prepend") or "")
