"""A few malformed inputs for the fast suite, always the same: verbs that need no model, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.cli.conftest import expunge
from tests.fuzz import tables, values
from tests.fuzz.commands import ANCHORS, FAIR
from tests.fuzz.sandbox import Outcome
from tests.fuzz.surfaces import as_csv, as_json, lines

FACTS = [{"id": name, "question": f"Where is {name}?", "answer": "In Bern."} for name in ("Ada", "Bo")]
VOTES = [{"votes": [n % 2, 1], "label": n // 2 % 2, "group": "ab"[n // 4]} for n in range(8)]
INPUTS = 12

KINDS = {
    "jsonl": ("forget.jsonl", lines(FACTS), values.broken_lines, (ANCHORS,)),
    "json": ("forget.json", as_json(FACTS), values.broken_json, (ANCHORS,)),
    "csv": ("forget.csv", as_csv(FACTS), values.broken_csv, (ANCHORS,)),
    "parquet": ("forget.parquet", tables.as_parquet(FACTS), tables.broken_parquet, (ANCHORS,)),
    "votes": ("votes.jsonl", lines(VOTES), values.broken_lines, (FAIR,)),
    "record": ("run/record.json", as_json({"command": "merge"}), values.broken_json, (("runs", "."),)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_malformed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, content, breaker, commands = KINDS[kind]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    (tmp_path / "run").mkdir()

    @settings(
        max_examples=INPUTS,
        derandomize=True,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(breaker(content), st.sampled_from(commands))
    def try_one(broken: bytes, command: tuple[str, ...]) -> None:
        for left in tmp_path.glob("out*"):
            left.unlink()
        (tmp_path / name).write_bytes(broken)
        said = expunge(*(name if word == "forget.jsonl" else word for word in command))
        outcome = Outcome(said.code, False, 0.0, 0.0, 0, said.out, said.err)
        assert not outcome.faults(), (broken[:1000], outcome.faults())

    try_one()


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (Outcome(1, False, 0, 0, 0, "", "internal error"), "traceback"),
        (Outcome(-11, False, 0, 0, 0, "", ""), "exit code -11"),
        (Outcome(2, True, 40, 1, 0, "", ""), "time"),
        (Outcome(2, False, 12, 11, 0, "", ""), "time"),
        (Outcome(0, False, 1, 1, 2 << 30, "", ""), "memory"),
        (Outcome(2, False, 1, 1, 0, "", "line\n" * 25), "screen"),
        (Outcome(2, False, 1, 1, 0, "", "x" * 80 * 25), "screen"),
        (Outcome(0, False, 1, 1, 0, "\x1b[31m", ""), "control character"),
        (Outcome(2, False, 1, 1, 0, "", "refused"), None),
    ],
)
def test_every_kind_of_fault_is_seen(outcome: Outcome, fault: str | None) -> None:
    faults = outcome.faults()
    assert len(faults) == (fault is not None)
    assert all(each.startswith(str(fault)) for each in faults)


def test_json_that_no_writer_writes_is_written() -> None:
    assert values.dumps({"a": [values.Raw("NaN"), 1]}) == '{"a": [NaN, 1]}'
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(values.dumps({"a": values.Raw("[" * 9)}))
