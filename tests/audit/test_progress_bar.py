from __future__ import annotations

import io

from rich.console import Console

from expunge.audit.run.worker_status import progress_bar


def test_the_bar_says_how_far_and_what() -> None:
    out = io.StringIO()
    with progress_bar(Console(file=out, force_terminal=True, width=100)) as tell:
        tell(3, 12, "npo · int4 · utility")
    assert "3/12" in out.getvalue()
    assert "npo · int4 · utility" in out.getvalue()
