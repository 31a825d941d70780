from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from expunge import renames
from expunge.renames import ASIDE, exchange, rename_onto_nothing


@pytest.fixture(params=["system call", "fallback"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs twice: by ``renameat2`` where there is one, and without."""
    if request.param == "fallback":
        monkeypatch.setattr(renames, "_system_call", lambda: None)
    name: str = request.param
    return name


def made(path: Path, kind: str, content: str) -> Path:
    if kind == "file":
        path.write_text(content)
    else:
        path.mkdir()
        (path / "inside").write_text(content)
    return path


def read(path: Path) -> str:
    return (path / "inside" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_rename_onto_nothing(kind: str, tmp_path: Path) -> None:
    source = made(tmp_path / "source", kind, "new")
    rename_onto_nothing(source, tmp_path / "target")
    assert read(tmp_path / "target") == "new"
    assert not source.exists()


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("there", ["file", "folder", "link", "dangling link"])
def test_what_is_there_is_never_replaced(kind: str, there: str, tmp_path: Path) -> None:
    source, target = made(tmp_path / "source", kind, "new"), tmp_path / "target"
    if "link" in there:
        elsewhere = tmp_path / "elsewhere"
        if there == "link":
            elsewhere.mkdir()
        target.symlink_to(elsewhere)
    else:
        made(target, there, "mine")
    with pytest.raises(FileExistsError):
        rename_onto_nothing(source, target)
    assert read(source) == "new"
    assert target.is_symlink() if "link" in there else read(target) == "mine"


def test_an_empty_folder_is_as_good_as_nothing(tmp_path: Path) -> None:
    source, target = made(tmp_path / "source", "folder", "new"), tmp_path / "target"
    target.mkdir()
    rename_onto_nothing(source, target)
    assert read(target) == "new"


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    source, target = made(tmp_path / "source", "file", "new"), tmp_path / "target"
    rename_onto_nothing(source, target)
    assert (read(target), source.exists()) == ("new", False)
    with pytest.raises(FileExistsError):
        rename_onto_nothing(made(tmp_path / "source", "file", "newer"), target)
    assert read(target) == "new"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_two_change_places(kind: str, tmp_path: Path) -> None:
    one, other = made(tmp_path / "one", kind, "1"), made(tmp_path / "other", kind, "2")
    exchange(one, other)
    assert (read(one), read(other)) == ("2", "1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


def test_an_interruption_between_the_renames_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way != "fallback":
        monkeypatch.setattr(renames, "_system_call", lambda: None)
    one, other = made(tmp_path / "one", "folder", "new"), made(tmp_path / "other", "folder", "earlier")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self == one:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        exchange(one, other)
    assert (read(one), read(other)) == ("new", "earlier")
    assert not (tmp_path / f"one{ASIDE}").exists()
