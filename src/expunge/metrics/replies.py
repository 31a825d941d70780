"""What a model replies to questions, greedily, where its context leaves room for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.metrics.knowmem import fits
from expunge.model.positions import declared_positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.score.observer import Observer
    from expunge.types import Example


def expect_replies(observed: Observer, asked: Sequence[Example], *, max_new_tokens: int) -> None:
    """Tell the observer that ``replies`` will be asked this."""
    prompts = [each for each in _prompts(observed, asked, max_new_tokens) if each is not None]
    observed.expect_answers(prompts, max_new_tokens=max_new_tokens)


def replies(observed: Observer, asked: Sequence[Example], *, max_new_tokens: int) -> list[str | None]:
    """The reply to each prompt, up to its end token; ``None`` where the prompt leaves no room."""
    prompts = _prompts(observed, asked, max_new_tokens)
    fitting = [each for each in prompts if each is not None]
    said = iter(observed.greedy(fitting, max_new_tokens=max_new_tokens))
    return [None if each is None else next(said) for each in prompts]


def _prompts(observed: Observer, asked: Sequence[Example], max_new_tokens: int) -> list[Example | None]:
    """Each prompt, or ``None`` where it leaves no room."""
    context = declared_positions(observed.model)
    room = None if context is None else context - max_new_tokens
    return [each if room is None or fits(each, room, observed.tokenizer) else None for each in asked]


def no_room(observed: Observer, max_new_tokens: int) -> str:
    """Why there is no reply."""
    context = declared_positions(observed.model)
    return f"prompt and {max_new_tokens} new tokens do not fit into the model's {context} tokens"
