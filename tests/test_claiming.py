"""Runs side by side, each of which creates the folder of its output."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from expunge.errors import OutputError
from expunge.files import claiming, require_writable


def test_runs_side_by_side_do_not_take_each_others_folder(tmp_path: Path) -> None:
    """One run removes the folder it created, still empty, while another is about to use it."""

    def claims(name: str) -> None:
        for _ in range(300):
            require_writable(tmp_path / "new" / "deep" / name)
            with claiming(tmp_path / "new" / "deep" / name):
                pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(claims, "abcd"))  # raises what any of them raised
    assert not any((tmp_path / "new").rglob("*.*"))


@pytest.mark.parametrize("path", ["", ".", "..", "/", "deep/.."])
def test_an_output_has_a_name_of_its_own(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="does not end in the name"), claiming(Path(path)):
        pass
    assert not any(tmp_path.iterdir())
