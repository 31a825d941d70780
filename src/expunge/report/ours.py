"""Whether a file is a report that this program wrote: only such a one is replaced without being asked."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING

from expunge.report.document import COLUMNS, Document

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GENERATOR = b'<meta name="generator" content="expunge '
HEAD = 4096
"""Bytes of a page in which its generator stands."""
COMMENTS = {"md": ("<!-- ", " -->"), "latex": ("% ", "")}
"""How a comment begins and ends."""
FIGURES = {"recovery", "tradeoff"}
"""What figures are called, without their suffix."""


def is_report(path: Path, form: str) -> bool:
    """Whether ``path`` is a report of a format, and of text, one that nobody has edited since."""
    if path.is_symlink():
        return False
    if form in ("png", "svg"):
        return path.is_dir() and all(
            each.stem in FIGURES and each.suffix == f".{form}" for each in path.iterdir()
        )
    return path.is_file() and _CHECKS[form](path)


def signed(text: str, form: str) -> str:
    """Markdown or LaTeX with a comment below that holds the hash of the text above it."""
    before, after = COMMENTS[form]
    return f"{text}\n{before}expunge report {hashlib.sha256(text.encode()).hexdigest()[:16]}{after}\n"


def _is_page(path: Path) -> bool:
    with path.open("rb") as stream:
        return GENERATOR in stream.read(HEAD)


def _is_signed(path: Path, form: str) -> bool:
    mark = f"\n{COMMENTS[form][0]}expunge report "
    text, line, _ = path.read_text(encoding="utf-8", errors="replace").rpartition(mark)
    return bool(line) and path.read_bytes() == signed(text, form).encode()


def _is_table(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.readline().strip() == ",".join(COLUMNS).encode()


def _is_document(path: Path) -> bool:
    try:
        Document.model_validate_json(path.read_bytes())
    except ValueError:
        return False
    return True


_CHECKS: dict[str, Callable[[Path], bool]] = {
    "html": _is_page,
    "md": partial(_is_signed, form="md"),
    "latex": partial(_is_signed, form="latex"),
    "csv": _is_table,
    "json": _is_document,
}
