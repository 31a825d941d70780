"""The one thread in which everything is computed, whoever asks.

Every thread that computes brings its own team of OpenMP threads, and several teams get into each other's
way on the same cores. Jobs take turns; one job is what one model is asked, so browsers take turns too.
"""

from __future__ import annotations

import queue
import threading
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Result = TypeVar("Result")


@cache
def _jobs() -> queue.SimpleQueue[Callable[[], None]]:
    """Where jobs wait; the thread that takes them out starts with the first."""
    waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def work() -> None:
        while True:
            waiting.get()()

    threading.Thread(target=work, daemon=True, name="expunge-worker").start()
    return waiting


def streamed(work: Callable[[Callable[[Any], None], Callable[[], bool]], None]) -> Iterator[Any]:
    """What ``work(tell, stopped)`` tells, while the worker does it.

    A model's lock is taken and given back by the worker alone, so a browser that leaves cannot keep it:
    when nobody listens any more, ``stopped`` turns true. What the work raises is raised here.
    """
    news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    gone = threading.Event()

    def run() -> None:
        if gone.is_set():
            return
        try:
            work(lambda value: news.put(("said", value)), gone.is_set)
        except BaseException as error:  # noqa: BLE001 - handed to the listener, who raises it
            news.put(("failed", error))
        else:
            news.put(("over", None))

    _jobs().put(run)
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


def computed(work: Callable[[], Result]) -> Result:
    """The result of ``work``, done by the worker."""
    found: list[Result] = list(streamed(lambda tell, _: tell(work())))
    return found[0]
