"""Put the study's tables into the page that explains them, between its markers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.durability import tables
from expunge.files import write_text

TABLES = {
    "retention": tables.retention,
    "factors": tables.factors,
    "paper": tables.table_of_the_paper,
}


def fill(path: Path, results: Mapping[str, Any]) -> None:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- end -->`` by the table of that name."""
    text = path.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        made = f"\n{table(results)}\n\n"
        text, times = between.subn(lambda match, made=made: match[1] + made + match[2], text)
        if times != 1:
            raise ValueError(f"{path} has {times} places for the table {name}")
    write_text(path, text)
