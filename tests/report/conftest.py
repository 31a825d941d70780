from __future__ import annotations

from pathlib import Path

import pytest

from expunge.report.run import AuditRun
from tests.report.made import Made


@pytest.fixture
def run(tmp_path: Path) -> AuditRun:
    """An audit of four models in which one gives the text back at int4."""
    folder = tmp_path / "audit"
    folder.mkdir()
    return Made().run(folder)
