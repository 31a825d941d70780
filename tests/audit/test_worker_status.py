from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from expunge.audit.run.worker_status import worker_status


def test_the_last_word_of_every_worker(tmp_path: Path) -> None:
    with worker_status(tmp_path / "audit" / "doing") as now:
        assert now.summary() == ""
        now.report("a · full · utility")
        now.report("a · int4 · verbmem")
        (tmp_path / "audit" / "doing" / "0.txt").write_text("b · full · auc")
        assert now.summary() == "b · full · auc; a · int4 · verbmem"
        assert sorted(path.name for path in now.folder.iterdir()) == ["0.txt", f"{os.getpid()}.txt"]


def test_nothing_stays_whatever_happens(tmp_path: Path) -> None:
    folder = tmp_path / "doing"
    folder.mkdir()
    (folder / "7.txt").write_text("of an audit that was killed")
    with pytest.raises(KeyboardInterrupt):
        interrupted(folder)
    assert not folder.exists()


def interrupted(folder: Path) -> None:
    with worker_status(folder) as now:
        assert now.summary() == ""
        raise KeyboardInterrupt


def test_a_worker_can_be_given_it(tmp_path: Path) -> None:
    with worker_status(tmp_path / "doing") as now:
        pickle.loads(pickle.dumps(now.report))("there")  # noqa: S301 - as a pool of processes does
        assert now.summary() == "there"
