"""Packages that a library looks for on the side are not found while it is imported."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from expunge import quiet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OUTER = """
try:
    import quiet_inner
    found = True
except ImportError:
    found = False
"""


@pytest.fixture
def _packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "quiet_outer.py").write_text(OUTER)
    (tmp_path / "quiet_inner.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(quiet, "NOT_FOUND_BY", {"quiet_outer": "quiet_inner"})
    yield
    for name in ("quiet_outer", "quiet_inner"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("_packages")
@pytest.mark.parametrize("before", [False, True])
def test_it_is_not_found_by_that_one_alone(before: bool) -> None:
    quiet.keep_kernels_out()
    if before:
        import quiet_inner  # type: ignore[import-not-found]
    import quiet_outer  # type: ignore[import-not-found]

    assert not quiet_outer.found
    assert ("quiet_inner" in sys.modules) == before
    import quiet_inner

    assert sys.modules["quiet_inner"] is quiet_inner


@pytest.mark.usefixtures("_packages")
def test_nothing_else_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet.keep_kernels_out()
    monkeypatch.setattr(quiet, "NOT_FOUND_BY", {})
    import quiet_outer

    assert quiet_outer.found
    assert sum(type(finder).__name__ == "_Finder" for finder in sys.meta_path) == 1


NEEDS_IT = "import quiet_inner\nfound = True\n"


@pytest.fixture
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    """The finder of this program's own processes, with the packages of this file; gone after the test."""
    monkeypatch.setattr(quiet, "NOT_FOUND_BY", {})
    monkeypatch.setattr(quiet, "UNUSED_BY", {"quiet_outer": "quiet_inner"})
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    quiet.start_light()


@pytest.mark.usefixtures("_packages", "_light")
def test_an_unused_package_is_not_imported() -> None:
    import quiet_outer

    assert not quiet_outer.found
    assert "quiet_inner" not in sys.modules


@pytest.mark.usefixtures("_packages", "_light")
def test_an_imported_package_is_not_hidden() -> None:
    import quiet_inner  # noqa: F401
    import quiet_outer

    assert quiet_outer.found


@pytest.mark.usefixtures("_packages", "_light")
def test_a_module_that_needs_the_package_has_it(tmp_path: Path) -> None:
    (tmp_path / "quiet_outer.py").write_text(NEEDS_IT)
    import quiet_outer

    assert quiet_outer.found
    assert sys.modules["quiet_inner"] is quiet_outer.quiet_inner


@pytest.mark.usefixtures("_light")
def test_both_finders_are_installed_once() -> None:
    for _ in range(2):
        quiet.start_light()
        quiet.keep_kernels_out()
    names = [type(finder).__name__ for finder in sys.meta_path]
    assert (names.count("_LightFinder"), names.count("_Finder")) == (1, 1)


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(quiet.HUB_KERNELS, "YES")
    quiet.keep_kernels_out()
    assert quiet.os.environ[quiet.HUB_KERNELS] == "YES"
    monkeypatch.delenv(quiet.HUB_KERNELS)
    quiet.keep_kernels_out()
    assert quiet.os.environ[quiet.HUB_KERNELS] == "NO"
