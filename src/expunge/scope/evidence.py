"""What a localiser is shown to find out where a model keeps what is to be forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from expunge.scope import Saliency
from expunge.types import Example


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The texts of a run, how to read them, and its seed; ``saliency`` as scopes are given it."""

    forget: Sequence[Example]
    retain: Sequence[Example]
    tokenizer: Any
    saliency: Saliency
    seed: int = 0
    max_length: int = 2048
    batch_size: int = 8
