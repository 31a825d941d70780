"""The world that is broken, and the process that reads it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.commands import ADAPTER, FAIR, LAYERS, MODEL, PLAN, REPORTS, SWAP
from tests.fuzz.sandbox import Sandbox


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    held = Sandbox()
    yield held
    held.close()


@pytest.fixture(scope="session")
def world(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of valid inputs; what reads them is imported, so that later children need not."""
    folder = tmp_path_factory.mktemp("world")
    sandbox.call("tests.fuzz.world:build", str(folder))
    copy = tmp_path_factory.mktemp("copy") / "world"
    shutil.copytree(folder, copy)
    for number, command in enumerate((*MODEL, *PLAN, FAIR, *REPORTS, ADAPTER, LAYERS, SWAP)):
        named = [word.replace("out", f"out{number}") for word in command]
        sandbox.run(copy, named, warm=True)
    return folder
