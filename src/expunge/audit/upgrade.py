"""Summaries of earlier versions, read under the current names.

Version 4 renamed fields to standard terms. Older files are renamed here when they are read;
nothing on disk changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED_IN = 4
"""The first version with the current names."""
SUMMARY = {"transforms": "conditions", "left_out": "skipped", "wanted": "missing_inputs"}
ROWS = {"transform": "condition"}
METRIC = {"misleads": "caveats", "notable": "minimal_difference"}
ESTIMATE = {"told": "conclusion"}
SKIPPED = {"lacks": "missing"}
METRICS = {"second_phrasing": "paraphrase_questions", "fill_in": "cloze"}
"""Names of metrics and splits."""


def upgraded(summary: Any) -> Any:
    """A parsed ``summary.json`` under the names of this version; anything else is returned as it is."""
    if not isinstance(summary, dict) or not _is_older(summary):
        return summary
    renamed = _renamed(summary, SUMMARY)
    for rows in ("cells", "verdicts", "coverage", "diagnostics", "attacks"):
        renamed[rows] = [_row(row) for row in _list(renamed.get(rows))]
    renamed["metrics"] = [_named(_renamed(row, METRIC), "name") for row in _list(renamed.get("metrics"))]
    renamed["skipped"] = [_named(_renamed(row, SKIPPED), "metric") for row in _list(renamed.get("skipped"))]
    renamed["rule"] = _renamed(renamed.get("rule"), METRIC)
    return renamed


def _is_older(summary: Mapping[str, Any]) -> bool:
    version = summary.get("version", 1)
    return isinstance(version, int) and version < RENAMED_IN


def _row(row: Any) -> Any:
    row = _named(_renamed(row, ROWS), "metric")
    if not isinstance(row, dict):
        return row
    return {key: _renamed(value, ESTIMATE) if key != "content" else value for key, value in row.items()}


def _named(row: Any, key: str) -> Any:
    if isinstance(row, dict) and isinstance(row.get(key), str):
        row[key] = METRICS.get(row[key], row[key])
    return row


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if not isinstance(value, dict):
        return value
    return {names.get(key, key): item for key, item in value.items()}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
