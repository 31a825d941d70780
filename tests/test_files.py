from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from expunge import files
from expunge.errors import ModelError, OutputError
from expunge.files import RECORD, KeptError, refuse_existing, write_json, write_text, write_with, writing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_and_fail(target: Path, error: BaseException) -> None:
    with writing(target) as path:
        path.mkdir()
        (path / "half").write_text("written")
        raise error


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "notes.txt"
    with writing(target) as path:
        assert not path.exists()
        path.write_text("done")
        assert not target.exists()
    assert target.read_text() == "done"
    assert names(target.parent) == ["notes.txt"]


def test_a_folder_replaces_a_folder_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old.bin").touch()
    with writing(target) as path:
        path.mkdir()
        (path / "new.bin").touch()
    assert names(target) == ["new.bin"]
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize(
    "error", [RuntimeError("bug"), KeyboardInterrupt(), ModelError("m", why="w.", fix="f.")]
)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_crash_leaves_the_target_as_it_was_and_no_litter(
    error: BaseException, kind: str, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    if kind == "file":
        target.write_text("earlier")
    else:
        target.mkdir()
        (target / "earlier").touch()
    with pytest.raises(type(error)):
        write_and_fail(target, error)
    assert names(tmp_path) == ["out"]
    assert target.read_text() == "earlier" if kind == "file" else names(target) == ["earlier"]


def test_a_crash_without_an_earlier_target_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        write_and_fail(tmp_path / "out", RuntimeError())
    assert names(tmp_path) == []


def test_a_block_that_wrote_nothing_does_not_take_the_earlier_folder_with_it(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "earlier").touch()
    with pytest.raises(OutputError, match="cannot write"), writing(target):
        pass
    assert names(target) == ["earlier"]
    assert names(tmp_path) == ["out"]


def test_a_rename_that_fails_leaves_both_the_earlier_and_the_finished_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "earlier").touch()

    def full(source: Path, other: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "exchange", full)
    with (
        pytest.raises(KeptError, match=r"No space left on device\. The result is whole and lies in"),
        writing(target) as path,
    ):
        path.mkdir()
    assert names(target) == ["earlier"]
    assert names(tmp_path) == ["out", "out.finished"]


def test_a_folder_that_may_not_be_written_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(**_: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files.tempfile, "mkdtemp", denied)  # root may write anywhere
    with pytest.raises(OutputError, match=r"cannot write .*notes.txt: Permission denied\."):
        write_text(tmp_path / "notes.txt", "x")
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            write_text(tmp_path / "notes.txt", "x")
    finally:
        tmp_path.chmod(0o700)


def test_a_file_where_a_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "file" / "notes.txt", "x")


def test_a_refusal_from_inside_names_what_the_user_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "out"
    inner = OutputError("cannot write .out.x1/notes.txt", why="the disk is full.", fix="Buy another.")
    with pytest.raises(OutputError, match=r"the disk is full\. Buy another") as caught:
        write_and_fail(target, inner)
    assert str(target) in str(caught.value)
    assert f".{target.name}." not in str(caught.value)


def test_json_and_text_are_whole_and_readable(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": "Zoë"}
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.startswith('{\n  "b"')
    assert "Zoë" in text
    assert text.endswith("}\n")
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"no": object()})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == value


def test_a_saver_gets_the_path_to_write_to(tmp_path: Path) -> None:
    write_with(tmp_path / "out.bin", lambda path: path.write_bytes(b"x"))
    assert (tmp_path / "out.bin").read_bytes() == b"x"


def test_a_free_place_is_not_refused(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "absent" / "deeper", overwrite=False)
    (tmp_path / "empty").mkdir()
    refuse_existing(tmp_path / "empty", overwrite=False)
    assert names(tmp_path) == ["empty"]  # asking creates nothing


def test_an_earlier_result_is_replaced_only_when_told_to(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / RECORD).touch()
    with pytest.raises(OutputError, match=r"already exists.*--overwrite"):
        refuse_existing(target, overwrite=False)
    refuse_existing(target, overwrite=True)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_no_run_wrote_is_never_replaced(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    if kind == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "mine.txt").touch()
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="already exists" if not overwrite else "no run wrote it"):
            refuse_existing(target, overwrite=overwrite)


def test_a_place_below_a_file_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is not a folder"):
        refuse_existing(tmp_path / "file" / "out", overwrite=False)


def test_a_place_that_may_not_be_written_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="you may not write to"):
        refuse_existing(tmp_path / "out", overwrite=True)
