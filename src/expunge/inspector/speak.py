"""Greedy answers, token by token, in the words that ``Observer.greedy`` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.metrics.knowmem import STOPS
from expunge.score.generate import greedy
from expunge.score.mode import evaluating
from expunge.score.said import cut, end_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

QUESTION = "Answer:"
"""How a prompt ends that asks for one answer: there, models go on to the next question."""


class Way(NamedTuple):
    """How far to answer: so many tokens, or until one of the texts was said."""

    tokens: int
    stop: tuple[str, ...] = ()


def way_of(prompt: str, tokens: int) -> Way:
    """A question is answered as the audit lets it be, up to where the next one would begin."""
    return Way(tokens, STOPS if prompt.rstrip().endswith(QUESTION) else ())


def answer(
    model: nn.Module,
    tokenizer: Any,
    ids: Sequence[int],
    way: Way,
    *,
    told: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
) -> str:
    """The most likely continuation of ``ids``; ``told`` hears the text after every token.

    It ends early once ``stopped`` says so.
    """

    def text_of(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True))

    def is_done(tokens: list[int]) -> bool:
        told(cut(text_of(tokens), way.stop))
        said = tokenizer.decode(tokens)
        return stopped() or any(text in said for text in way.stop)

    with evaluating(model):
        said = greedy(
            model,
            [list(ids)],
            max_new_tokens=way.tokens,
            eos_ids=end_tokens(model, tokenizer),
            is_done=is_done,
        )
    return cut(text_of(said[0]), way.stop)
