"""Attacks by the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import expunge

SETS = ("--target", "target", "--retrained", "retrained", "--forget", "forget.jsonl")
KEPT = ("--retain", "retain.jsonl")
CHEAP = ("--max-length", "64", "--metric", "exact_memorisation", "--metric", "utility")


def test_models_are_attacked_and_compared_with_the_control(
    owner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A copy of the target stands for a model that forgot nothing.
    shutil.copytree(owner / "target", owner / "again")
    line = (
        *("attack", "again", *SETS, *KEPT, *CHEAP, "-o", "out", "--verbose"),
        *("-a", "relearn:on=benign,steps=1,rank=2", "-a", "in_context:of=retain,count=1"),
    )
    said = expunge(*line)
    assert said.code == 0, said.err
    assert "relearn:on=benign,steps=1,rank=2 · exact_memorisation" in said.out
    summary = json.loads((owner / "out" / "summary.json").read_text())
    cells = [cell for cell in summary["cells"] if cell["model"] == "again" and cell["condition"] != "full"]
    assert {cell["regained"]["value"] for cell in cells if cell["metric"] == "exact_memorisation"} == {1.0}
    assert all(cell["baseline"] is not None for cell in cells)
    assert (owner / "out" / "scores.parquet").is_file()
    record = json.loads((owner / "out" / "record.json").read_text())
    assert record["parts"] == {"all": 18, "measured": 18}

    monkeypatch.setattr("expunge.audit.run.diagnose.Checkpoint.__call__", None)
    again = expunge(*line)
    assert again.code == 0, again.err
    assert again.out == said.out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((*SETS, "-a", "relern"), "Did you mean 'relearn'"),
        ((*SETS, "-a", "relearn", "-a", "relearn"), "names it more than once"),
        (("--target", "target", "--forget", "forget.jsonl", "-a", "relearn:on=benign"), "--retain FILE"),
        (("--target", "target", "-a", "ablate"), "forget set"),
    ],
)
def test_what_cannot_be_done_is_refused(owner: Path, arguments: tuple[str, ...], complaint: str) -> None:
    said = expunge("attack", "retrained", *arguments, "-o", "out")
    assert said.code == 2
    assert complaint in said.plain
    assert not (owner / "out").exists()
