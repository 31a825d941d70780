"""What a terminal shows of a run: one bar with the loss on it."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from transformers.utils import logging

from tests.cli.conftest import expunge


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_run_draws_one_bar_and_no_line_for_each_epoch(
    owner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logging.enable_progress_bar()
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    shown = Terminal()
    monkeypatch.setattr("tests.cli.conftest.redirect_stderr", lambda _: redirect_stderr(shown))
    said = expunge(
        *("unlearn", "target", "--forget", "forget.jsonl", "--retain", "retain.jsonl", "-o", "out"),
        *("--set", "epochs=3"),
    )
    assert said.code == 0
    *_, last = [line for line in shown.getvalue().split("\r") if "3/3" in line]
    assert "loss_forget=" in last
    assert "Writing model shards" not in shown.getvalue()
    assert "{'loss'" not in shown.getvalue()
