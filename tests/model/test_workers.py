from __future__ import annotations

import os
import signal
import time
from multiprocessing import active_children

import pytest
import torch

from expunge.model.resources import NO_BARS, worker_pool


def test_workers_have_one_thread_no_bars_and_leave_ctrl_c_to_their_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(NO_BARS, raising=False)
    with worker_pool(1) as pool:
        threads = pool.submit(torch.get_num_threads)
        bars = pool.submit(os.getenv, NO_BARS)
        handler = pool.submit(signal.getsignal, signal.SIGINT)
        assert (threads.result(), bars.result(), handler.result()) == (1, "1", signal.SIG_IGN)
    assert NO_BARS not in os.environ


def test_ctrl_c_ends_them_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NO_BARS, "as it was")
    before = set(active_children())
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        begin_and_interrupt()
    assert time.monotonic() - started < 300
    assert set(active_children()) <= before
    assert os.environ[NO_BARS] == "as it was"


def begin_and_interrupt() -> None:
    with worker_pool(1) as pool:
        pool.submit(os.getpid).result()  # it is up
        pool.submit(time.sleep, 600)
        raise KeyboardInterrupt
