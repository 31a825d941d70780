"""Every module imports by itself, and the command line starts without the heavy ones."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "expunge"
HEAVY = ("torch", "transformers", "scipy", "pyarrow", "datasets", "peft", "bitsandbytes")


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def modules() -> list[str]:
    return sorted(module_of(path) for path in PACKAGE.rglob("*.py"))


def test_every_module_imports() -> None:
    failures = {}
    for name in modules():
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other modules are tried too
            failures[name] = repr(error)
    assert failures == {}


def loaded_by(code: str) -> set[str]:
    """The heavy packages in memory after ``code`` ran in a fresh interpreter."""
    report = f"{code}\nimport sys\nprint('loaded:', *({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["unlearn", "--help"], ["audit", "--help"], ["methods", "npo"]]
)
def test_the_command_line_starts_light(arguments: list[str]) -> None:
    code = f"from expunge.cli.main import main\nassert main({arguments!r}) == 0"
    assert loaded_by(code) == set()


def test_the_package_imports_light() -> None:
    assert loaded_by("import expunge, expunge.types, expunge.registry, expunge.record") == set()


def test_what_reads_results_imports_light() -> None:
    modules = "expunge.report.listing, expunge.report.job, expunge.train.run.ledger, expunge.audit.summary"
    assert loaded_by(f"import {modules}") <= {"pyarrow"}  # reads and writes scores


def test_a_heavy_import_would_be_seen() -> None:
    assert loaded_by("import scipy") == {"scipy"}
