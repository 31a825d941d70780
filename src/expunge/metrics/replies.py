"""What a model replies to questions, greedily, where its context leaves room for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.metrics.knowmem import fits
from expunge.model.positions import declared_positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.score.observer import Observer
    from expunge.types import Example


def replies(observed: Observer, asked: Sequence[Example], *, max_new_tokens: int) -> list[str | None]:
    """The reply to each prompt, up to its end token; ``None`` where the prompt leaves no room."""
    context = declared_positions(observed.model)
    room = None if context is None else context - max_new_tokens
    has_room = [room is None or fits(_prompt(each), room, observed.tokenizer) for each in asked]
    prompts = [_prompt(each) for each, fit in zip(asked, has_room, strict=True) if fit]
    said = iter(observed.greedy(prompts, max_new_tokens=max_new_tokens))
    return [next(said) if fit else None for fit in has_room]


def _prompt(asked: Example) -> str | Example:
    return asked if asked.is_chat else asked.prompt


def no_room(observed: Observer, max_new_tokens: int) -> str:
    """Why there is no reply."""
    context = declared_positions(observed.model)
    return f"prompt and {max_new_tokens} new tokens do not fit into the model's {context} tokens"
