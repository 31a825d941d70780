"""An audit as a terminal shows it, without colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.audit.table import render
from expunge.terminal import Terminal

if TYPE_CHECKING:
    from expunge.audit.summary import AuditSummary


def to_text(summary: AuditSummary, *, width: int = 100) -> str:
    """The tables as lines, without the blanks at their ends."""
    console = Terminal(width=width, is_plain=True)
    with console.capture() as capture:
        console.print(render(summary, width=width))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"
