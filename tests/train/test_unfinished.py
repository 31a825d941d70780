"""What a killed run left is read back, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from expunge.errors import OutputError
from expunge.train.loop.callbacks import FILE, HeartbeatStatus, last_beat
from expunge.train.methods.quark_pool import Sample, read_samples, write_samples
from expunge.train.run.state import read_unfinished


def test_samples_come_back(tmp_path: Path) -> None:
    samples = [Sample(0, (1, 2), 0.5), Sample(1, (), -1.0)]
    write_samples(samples, tmp_path / "samples.json")
    assert read_samples(tmp_path / "samples.json") == samples


@pytest.mark.parametrize("content", ["", "{}", "[[0]]", '[[0, ["a"], 1.0]]', "[" * 5000 + "]" * 5000, "7"])
def test_samples_that_no_run_writes_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "samples.json").write_text(content)
    with pytest.raises(OutputError, match=r"samples\.json"):
        read_samples(tmp_path / "samples.json")


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"):
        read_unfinished(tmp_path / "facts.json", TypeAdapter(list[str]))


@pytest.mark.parametrize(
    ("content", "beat"),
    [('{"step": 3, "steps": 9}', HeartbeatStatus(3, 9)), ("", None), ("[]", None), ('{"step": 3}', None)],
)
def test_a_heartbeat_is_read_or_there_is_none(
    content: str, beat: HeartbeatStatus | None, tmp_path: Path
) -> None:
    (tmp_path / "stage-0").mkdir()
    (tmp_path / "stage-0" / FILE).write_text(content)
    assert last_beat(tmp_path) == beat
