"""An audit's folder after somebody, or a kill, has been at it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expunge.audit.saved import edited_files, is_run_record, read_record, read_sources
from expunge.audit.store import CellScores, CellStore, read_long
from expunge.audit.summary import AuditSummary, read_summary
from expunge.errors import DataError
from tests.audit.fakes import Log, audit, plan_of, source
from tests.audit.test_store import FACTS, SCORES

SUMMARY = "summary.json"


def finished(folder: Path, log: Log | None = None) -> AuditSummary:
    return audit(plan_of(source("npo", full=(0.2, 0.9), log=log), resamples=99), folder, log).run()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished audit that no test changes."""
    folder = tmp_path_factory.mktemp("audit")
    finished(folder)
    return folder


def cells(folder: Path) -> list[Path]:
    return sorted((folder / "cells").glob("*.parquet"))


def edit(path: Path) -> None:
    """Give every item of a cell the full score, in a file that is otherwise as it was."""
    table = pq.read_table(path)
    column = pa.array([100.0] * table.num_rows)
    pq.write_table(table.set_column(table.schema.get_field_index("value"), "value", column), path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("damage", [edit, truncate])
def test_a_damaged_cell_is_named_and_measured_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    first = finished(tmp_path)
    # A cell that does not have the full score everywhere: there the edit would change nothing.
    damaged = next(
        path for path in cells(tmp_path) if set(pq.read_table(path)["value"].to_pylist()) != {100.0}
    )
    before = damaged.read_bytes()
    damage(damaged)
    log = Log()
    again = finished(tmp_path, log)
    assert again == first
    assert len(log.measured) == 1  # under one condition, and nothing else
    record = read_record(tmp_path / "record.json")
    assert record["parts"] == {"measured": 1, "all": 4}
    (named,) = record["measured_again"]
    assert named.startswith("npo · ")
    assert named.endswith(f"(cells/{damaged.name})")
    assert pq.read_table(damaged).equals(pq.read_table(pa.BufferReader(before)))
    finished(tmp_path)
    assert read_record(tmp_path / "record.json")["measured_again"] == []


@pytest.mark.parametrize("content", [b"", b"PAR1", b"null", None])
def test_a_cell_of_a_killed_audit_is_measured_again_if_it_cannot_be_read(
    tmp_path: Path, content: bytes | None
) -> None:
    first = finished(tmp_path)
    for name in ("record.json", SUMMARY, "scores.parquet"):  # a kill came before they were written
        (tmp_path / name).unlink()
    damaged = cells(tmp_path)[0]
    damaged.write_bytes(damaged.read_bytes()[:-20] if content is None else content)
    log = Log()
    assert finished(tmp_path, log) == first
    assert len(log.measured) == 1


def test_a_cell_under_another_s_name_is_measured_again(tmp_path: Path) -> None:
    first = finished(tmp_path)
    (tmp_path / "record.json").unlink()
    one, other = cells(tmp_path)[:2]
    one.write_bytes(other.read_bytes())
    assert finished(tmp_path) == first


def test_a_damaged_note_is_made_again(tmp_path: Path) -> None:
    from expunge.audit.run.plan import Role

    def diagnose(*_: Any) -> dict[str, Any]:
        return {"prediction": "holds"}

    plan = plan_of(
        source("npo", full=(0.2, 0.9)), source("target", Role.TARGET, full=(1.0, 1.0)), resamples=99
    )
    audit(plan, tmp_path, diagnose=diagnose).run()
    (note,) = (tmp_path / "cells").glob("*.json")
    note.write_text(note.read_text().replace("holds", "comes back"))
    summary = audit(plan, tmp_path, diagnose=diagnose).run()
    assert [each.content for each in summary.diagnostics] == [{"prediction": "holds"}]
    (named,) = read_record(tmp_path / "record.json")["measured_again"]
    assert "npo · int4 · diagnostics" in named


@pytest.mark.parametrize("content", ["", "null", "[]", '{"earlier": 3}', '{"files": [1]}', "[" * 9999])
def test_an_audit_goes_on_beside_a_record_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    first = finished(tmp_path)
    (tmp_path / "record.json").write_text(content)
    log = Log()
    assert finished(tmp_path, log) == first
    assert log.loaded == []
    (named,) = read_record(tmp_path / "record.json")["measured_again"]
    assert named.startswith("record.json (")


def test_the_record_has_the_hash_of_every_file(tmp_path: Path) -> None:
    finished(tmp_path)
    names = {f"cells/{path.name}" for path in cells(tmp_path)} | {SUMMARY, "scores.parquet"}
    assert read_record(tmp_path / "record.json")["files"].keys() == names
    assert edited_files(tmp_path, sorted(names)) == []
    edit(tmp_path / "scores.parquet")
    (tmp_path / SUMMARY).write_text((tmp_path / SUMMARY).read_text().replace("forgot", "held"))
    cells(tmp_path)[0].unlink()
    assert edited_files(tmp_path, sorted(names)) == ["scores.parquet", SUMMARY]


def test_what_an_earlier_version_recorded_says_nothing_of_files(tmp_path: Path) -> None:
    finished(tmp_path)
    record = json.loads((tmp_path / "record.json").read_text())
    del record["files"], record["measured_again"]
    (tmp_path / "record.json").write_text(json.dumps(record))
    edit(tmp_path / "scores.parquet")
    assert edited_files(tmp_path, ["scores.parquet"]) == []
    log = Log()
    finished(tmp_path, log)
    assert log.loaded == []


def changed(value: Any, *path: str | int, to: Any) -> Any:
    """A copy of nested JSON with another value at a path."""
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return copy


@pytest.mark.parametrize(
    ("path", "to", "says"),
    [
        (("cells", 0, "value", "value"), "0.5x", "cells.0.value.value: Input should be a valid number"),
        (("cells", 0, "value"), [], "cells.0.value: Input should be"),
        (("cells", 0, "model"), "nobody", "cells: there is no model 'nobody'"),
        (("cells", 0, "metric"), "theirs", "cells: there is no metric 'theirs'"),
        (("verdicts", 0, "condition"), "int2", "there is no model 'npo' or condition 'int2'"),
        (("conditions", 0, "label"), "half", "conditions: 'full' is missing"),
        (("conditions", 1, "kind"), "magic", "conditions.1.kind: Input should be"),
        (("models",), {}, "models: Input should be a valid tuple"),
        (("rule", "points"), [3], "points"),
        (("bootstrap", "level"), "sure", "level"),
        (("bootstrap", "level"), 7, "level"),
        (("coverage", 0, "content"), {"a": 1}, "coverage"),
        (("coverage", 0, "content"), [{"changed": "perhaps"}], "coverage"),
        (("version",), None, "version: Input should be a valid integer"),
        (("surprise",), 1, "surprise: Extra inputs are not permitted"),
    ],
)
def test_a_summary_with_a_wrong_type_is_refused_by_field(
    tmp_path: Path, whole: Path, path: tuple[str | int, ...], to: Any, says: str
) -> None:
    file = tmp_path / SUMMARY
    file.write_text(json.dumps(changed(json.loads((whole / SUMMARY).read_text()), *path, to=to)))
    with pytest.raises(DataError) as refused:
        read_summary(file)
    assert refused.value.what == f"{file} cannot be read"
    assert says in refused.value.why
    assert len(str(refused.value)) < 1500


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", "{", "[" * 100_000, '{"models": NaN}', "\xff"])
@pytest.mark.parametrize("read", [read_summary, read_record, read_sources])
def test_what_is_no_json_object_of_an_audit_is_refused(
    tmp_path: Path, read: Callable[[Path], Any], content: str
) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content.encode("latin-1"))
    if content == "{}" and read is not read_summary:
        assert read(path) == {}
        return
    if content == '{"models": NaN}' and read is read_record:
        assert read(path).keys() == {"models"}  # a field that is not read
        return
    with pytest.raises(DataError, match="cannot be read"):
        read(path)


@pytest.mark.parametrize(
    ("read", "value", "says"),
    [
        (read_record, {"seconds": None}, "seconds"),
        (read_record, {"seconds": -1}, "seconds"),
        (read_record, {"typed": "audit"}, "typed"),
        (read_record, {"typed": [3]}, "typed.0"),
        (read_record, {"versions": ["torch"]}, "versions"),
        (read_record, {"versions": {"torch": 2}}, "versions.torch"),
        (read_record, {"hardware": {"cores": "many"}}, "hardware.cores"),
        (read_record, {"earlier": [{"seconds": "x"}]}, "earlier.0.seconds"),
        (read_record, {"files": {"a": 1}}, "files.a"),
        (read_sources, {"models": {}}, "models"),
        (read_sources, {"models": [{}]}, "models.0.name: Field required (2 more of the kind)"),
        (read_sources, {"models": [{"name": "a", "role": "king", "path": "p"}]}, "models.0.role"),
        (read_sources, {"splits": {"forget": {"file": "f", "asked": "all"}}}, "splits.forget.asked"),
        (read_sources, {"splits": {"forget": None}}, "splits.forget"),
    ],
)
def test_wrong_types_in_record_and_sources_are_refused_by_field(
    tmp_path: Path, read: Callable[[Path], Any], value: Any, says: str
) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(value))
    with pytest.raises(DataError) as refused:
        read(path)
    assert refused.value.why.startswith(says)


def test_a_record_beside_a_checkpoint_is_ours_or_nothing() -> None:
    ours = {"command": "unlearn", "typed": ["unlearn"], "versions": {}, "hardware": {}, "seconds": 1.0}
    assert is_run_record(ours)
    assert is_run_record(ours | {"recipe": None, "stages": [{"steps": 3, "history": [{"loss": 1.0}]}]})
    for wrong in ({"stages": 7}, {"recipe": []}, {"forget": {"examples": "all"}}, {"typed": None}):
        assert not is_run_record(ours | wrong)


def columns(**to: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": "npo",
        "role": "unlearned",
        "condition": "full",
        "metric": "auc",
        "split": "forget",
        "item": "a",
        "group": None,
        "value": 1.0,
        "unscored": None,
        "detail": "{}",
    }
    return {name: [value] for name, value in (row | to).items()}


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ({"model": None}, "row 0: 'model' is empty"),
        ({"item": None}, "column 'item' is not one of type string"),
        ({"item": 3}, "column 'item' is not one of type string"),
        ({"value": "1.0"}, "column 'value' is not one of type double"),
        ({"value": float("nan")}, "row 0: its value is not a finite number"),
        ({"value": float("inf")}, "row 0: its value is not a finite number"),
        ({"detail": "[]"}, "row 0: 'detail' is not an object of texts"),
        ({"detail": '{"said": 3}'}, "row 0: 'detail' is not an object of texts"),
        ({"detail": "{"}, "Expecting property name"),
        ({"detail": "[" * 100_000}, "nested more than 100 deep"),
    ],
)
def test_scores_with_a_wrong_type_are_refused(tmp_path: Path, to: dict[str, Any], says: str) -> None:
    path = tmp_path / "scores.parquet"
    text = {name: pa.string() for name in ("group", "unscored", "model")}
    table = pa.table(
        {name: pa.array(values, type=text.get(name)) for name, values in columns(**to).items()}
    )
    pq.write_table(table, path)
    with pytest.raises(DataError) as refused:
        list(read_long(path))
    assert str(path) in refused.value.what
    assert says in refused.value.why


def test_scores_without_a_column_or_at_all_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    with pytest.raises(DataError, match="FileNotFoundError"):
        list(read_long(path))
    pq.write_table(pa.table({"model": ["npo"]}), path)
    with pytest.raises(DataError, match="column 'role' is missing"):
        list(read_long(path))
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match="cannot be read"):
        list(read_long(path))


@pytest.mark.parametrize("note", ["null", "[]", "{}", '{"facts": {}, "note": 1}', "[" * 100_000, "{"])
def test_a_note_of_something_else_is_refused(tmp_path: Path, note: str) -> None:
    store = CellStore(tmp_path)
    store.write_note(FACTS, {"a": 1})
    store.path(FACTS).write_text(note)
    with pytest.raises(DataError, match="cannot be read"):
        store.read_note(FACTS)


def test_a_cell_of_other_facts_or_coverage_is_refused(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    store.write(FACTS, CellScores(SCORES, []))
    table = pq.read_table(store.path(FACTS))
    for notes in ({"facts": "{}", "coverage": "[]"}, {"facts": json.dumps(FACTS), "coverage": "3"}, {}):
        pq.write_table(table.replace_schema_metadata(notes), store.path(FACTS))
        with pytest.raises(DataError, match="cannot be read"):
            store.read(FACTS)
