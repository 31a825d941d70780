"""Processes side by side: one thread each, no bars of their own, gone when nobody wants their work."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context

import torch

from expunge.quiet import quiet_loggers

NO_BARS = "TQDM_DISABLE"
"""Set where somebody else draws the screen; what is started from there draws no bars."""


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool that ends with the block.

    An error in the block, Ctrl-C included, ends the workers at once: whatever they write is written
    whole or not at all, and is gone on with the next time.
    """
    others = set(active_children())
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin)
    before = os.environ.get(NO_BARS)
    os.environ[NO_BARS] = "1"
    try:
        yield pool
    except BaseException:
        for worker in set(active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        if before is None:
            del os.environ[NO_BARS]
        else:
            os.environ[NO_BARS] = before


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all: the parent decides
    torch.set_num_threads(1)
    quiet_loggers()
