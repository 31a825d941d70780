from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge import files, scratch
from expunge.errors import ModelError, OutputError
from expunge.files import (
    RECORD,
    KeptError,
    MayReplace,
    claiming,
    discard,
    nothing,
    refuse_existing,
    replaced_by,
    write_json,
    write_text,
    write_with,
    writing,
)
from expunge.renames import ASIDE
from expunge.scratch import OWN, temporary_folder


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
        pytest.raises(KeptError, match=r"No space left on device\. The result is complete and is in"),
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

    monkeypatch.setattr(scratch.tempfile, "mkdtemp", denied)  # root may write anywhere
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


def write_over(
    target: Path, work: Callable[[Path], None], may_replace: MayReplace, *, beside: Path | None = None
) -> None:
    with writing(target, may_replace=may_replace, beside=beside) as path:
        work(path)


def mkdir_with(folder: Path, *names_in_it: str) -> Path:
    folder.mkdir()
    for name in names_in_it:
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_during_a_run_is_not_replaced_and_the_result_is_kept(
    overwrite: bool, tmp_path: Path
) -> None:
    target = tmp_path / "out"

    def work(path: Path) -> None:
        mkdir_with(path, RECORD)
        mkdir_with(target, "thesis.txt")

    for kept in ("out.finished", "out.finished-2"):
        with pytest.raises(KeptError, match=rf"appeared while this run was working.*is in .*{kept}:"):
            write_over(target, work, replaced_by(overwrite=overwrite))
        assert names(target) == ["thesis.txt"]
        assert names(tmp_path / kept) == [RECORD]
        with pytest.raises(OutputError, match="out already exists"):
            write_over(target, work, replaced_by(overwrite=overwrite))  # refused before the work
        shutil.rmtree(target)
    assert names(tmp_path) == ["out.finished", "out.finished-2"]


def test_a_file_that_appears_is_not_replaced_either(tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"

    def work(path: Path) -> None:
        path.write_text("weights")
        (path.parent / "model.record.json").write_text("record")
        target.write_text("mine")

    with pytest.raises(KeptError, match=r"model\.finished\.gguf"):
        write_over(target, work, nothing, beside=tmp_path / "model.record.json")
    assert target.read_text() == "mine"
    assert names(tmp_path) == ["model.finished.gguf", "model.finished.record.json", "model.gguf"]


def test_an_earlier_result_is_exchanged_in_one_step(tmp_path: Path) -> None:
    target = mkdir_with(tmp_path / "out", RECORD, "old")
    with writing(target, may_replace=replaced_by(overwrite=True)) as path:
        mkdir_with(path, RECORD, "new")
    assert names(target) == ["new", RECORD]
    assert names(tmp_path) == ["out"]


def dead(target: Path, *names_in_it: str) -> Path:
    """What a killed run leaves: the temporary folder, which nobody holds."""
    return mkdir_with(target.with_name(f".{target.name}{OWN}a1b2c3d4"), *names_in_it)


def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    target = tmp_path / "out"
    dead(target, "out")
    mkdir_with(tmp_path / ".out.settings", "mine")  # looks alike, and nobody's but the user's
    (tmp_path / f".out{OWN}file").touch()
    (tmp_path / f".out{OWN}link").symlink_to(tmp_path / ".out.settings")
    dead(tmp_path / "other")
    write_text(target, "done")
    assert names(tmp_path) == [
        f".other{OWN}a1b2c3d4", f".out{OWN}file", f".out{OWN}link", ".out.settings", "out"
    ]  # fmt: skip
    assert names(tmp_path / ".out.settings") == ["mine"]


def test_a_run_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "notes.txt"
    with writing(target) as first:
        first.write_text("first")
        write_text(target, "second")
        assert first.exists()
    assert target.read_text() == "first"


def test_what_a_killed_run_had_moved_aside_comes_back(tmp_path: Path) -> None:
    target = tmp_path / "out"
    scratch = dead(target)
    mkdir_with(scratch / f"out{ASIDE}", RECORD, "earlier")
    with claiming(target):
        assert names(target) == ["earlier", RECORD]
    assert names(tmp_path) == ["out"]


def test_a_pair_of_which_one_file_is_in_its_place_is_completed(tmp_path: Path) -> None:
    target, beside = tmp_path / "model.gguf", tmp_path / "model.record.json"
    target.write_text("new")
    beside.write_text("record of the one before")
    dead(target, beside.name)
    with claiming(target, beside=beside):
        assert beside.read_text() == beside.name
    assert names(tmp_path) == ["model.gguf", "model.record.json"]


def test_a_pair_that_was_cut_off_before_is_removed(tmp_path: Path) -> None:
    target, beside = tmp_path / "model.gguf", tmp_path / "model.record.json"
    dead(target, target.name, beside.name)
    with claiming(target, beside=beside):
        pass
    assert names(tmp_path) == []


def test_two_runs_on_one_output_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "out"
    with (
        claiming(target),
        pytest.raises(OutputError, match=r"out is in use: another command is writing it\."),
        claiming(target),
    ):
        pass
    assert names(tmp_path) == []  # nothing came to lie there
    with claiming(target, shared=True), claiming(target, shared=True):
        with pytest.raises(OutputError, match="in use"), claiming(target):
            pass
        target.write_text("x")
    assert names(target.parent) == ["out"]


def test_a_lock_of_a_killed_run_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / f".out{OWN}lock").touch()
    with claiming(tmp_path / "out"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_symbolic_link_is_no_output(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(mkdir_with(tmp_path / "other", RECORD))
    with pytest.raises(OutputError, match="is a symbolic link"):
        refuse_existing(tmp_path / "out", overwrite=overwrite)
    with pytest.raises(OutputError, match="is a symbolic link"):
        discard(tmp_path / "out")
    assert names(tmp_path / "other") == [RECORD]


def modes(folder: Path) -> set[str]:
    return {f"{path.is_dir():d} {stat.S_IMODE(path.stat().st_mode):o}" for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("umask", "expected"),
    [(0o022, {"0 644", "1 755"}), (0o027, {"0 640", "1 750"}), (0o077, {"0 600", "1 700"})],
)
def test_everything_gets_one_mode(umask: int, expected: set[str], tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with writing(tmp_path / "model") as path:
            mkdir_with(path, "config.json", "model.safetensors")
            (path / "model.safetensors").chmod(0o600)  # as safetensors leaves it
            mkdir_with(path / "epoch-1", "config.json").chmod(0o700)
    finally:
        os.umask(before)
    assert modes(tmp_path) == expected


def test_private_files_are_nobody_elses(tmp_path: Path) -> None:
    with writing(tmp_path / "cells" / "one", private=True) as path:
        path.write_text("a text that was to be forgotten")
    assert modes(tmp_path) == {"1 700", "0 600"}


def test_temporary_folders_of_killed_runs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    dead(tmp_path / "replay", "weights")
    with temporary_folder("replay") as folder:
        assert names(tmp_path) == [folder.name]
    assert names(tmp_path) == []


def test_half_a_surrogate_pair_is_written_as_an_escape(tmp_path: Path) -> None:
    write_json(tmp_path / "odd.json", value := {"\udcff": "Zürich \ud800"})
    assert json.loads((tmp_path / "odd.json").read_bytes()) == value
