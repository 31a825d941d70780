"""Greedy answers, token by token, in the words that ``Observer.greedy`` gives."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.metrics.knowmem import STOPS
from expunge.score.generate import greedy
from expunge.score.mode import evaluating
from expunge.score.said import cut, end_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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


def streamed(work: Callable[[Callable[[Any], None], Callable[[], bool]], None]) -> Iterator[Any]:
    """What ``work(tell, stopped)`` tells, while it runs in a thread of its own.

    A model's lock is taken and given back by that thread alone, so a browser that leaves cannot keep it:
    when nobody listens any more, ``stopped`` turns true. What the work raises is raised here.
    """
    news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    gone = threading.Event()

    def run() -> None:
        try:
            work(lambda value: news.put(("said", value)), gone.is_set)
        except BaseException as error:  # noqa: BLE001 - handed to the listener, who raises it
            news.put(("failed", error))
        else:
            news.put(("over", None))

    threading.Thread(target=run, daemon=True, name="expunge-answer").start()
    try:
        while True:
            kind, value = news.get()
            if kind == "failed":
                raise value
            if kind == "over":
                return
            yield value
    finally:
        gone.set()
