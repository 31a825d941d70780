"""Summaries of earlier versions, read under the current names.

Version 4 renamed fields to the field's own terms, version 5 added the roles of metrics. What was written
before is renamed here when it is read; nothing on disk changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED_IN = 4
"""The first version with today's names."""
ROLES_IN = 5
"""The first version that writes the role of a metric."""
SUMMARY = {"transforms": "conditions", "left_out": "skipped", "wanted": "missing_inputs"}
ROWS = {"transform": "condition"}
METRIC = {"misleads": "caveats", "notable": "minimal_difference"}
ESTIMATE = {"told": "conclusion"}
SKIPPED = {"lacks": "missing"}
ROLES = {
    "knowmem_forget": "knowledge",
    "verbmem": "verbatim",
    "utility": "utility",
    **dict.fromkeys(("paraphrase_questions", "paraphrase_retention"), "paraphrase"),
    **dict.fromkeys(("extraction_likelihood", "sensitive_extraction"), "extraction"),
    **dict.fromkeys(("exact_memorisation", "extraction_strength"), "memorization"),
    **dict.fromkeys(("memorisation_accuracy", "sensitive_accuracy"), "memorization"),
    **dict.fromkeys(
        ("auc", "privleak", "membership", "mia_loss", "mia_zlib", "mia_min_k_pp"), "membership"
    ),
    **dict.fromkeys(("mia_gradnorm", "mia_reference", "mia_tpr"), "membership"),
}
"""The roles of the metrics there were before version 5, which did not write them down."""
METRICS = {"second_phrasing": "paraphrase_questions", "fill_in": "cloze"}
"""Names of metrics and splits."""


def upgraded(summary: Any) -> Any:
    """A parsed ``summary.json`` under the names of this version; anything else is returned as it is."""
    if not isinstance(summary, dict) or not _is_older(summary, ROLES_IN):
        return summary
    return _with_roles(_today(summary) if _is_older(summary, RENAMED_IN) else summary)


def _today(summary: Mapping[str, Any]) -> dict[str, Any]:
    renamed: dict[str, Any] = _renamed(summary, SUMMARY)
    for rows in ("cells", "verdicts", "coverage", "diagnostics", "attacks"):
        renamed[rows] = [_row(row) for row in _list(renamed.get(rows))]
    renamed["metrics"] = [_named(_renamed(row, METRIC), "name") for row in _list(renamed.get("metrics"))]
    renamed["skipped"] = [_named(_renamed(row, SKIPPED), "metric") for row in _list(renamed.get("skipped"))]
    renamed["rule"] = _renamed(renamed.get("rule"), METRIC)
    return renamed


def _with_roles(summary: dict[str, Any]) -> dict[str, Any]:
    """The same with the role of each metric, and the points that the rule gave by name."""
    rule = summary.get("rule")
    points = rule.get("points") if isinstance(rule, dict) else None
    known = points if isinstance(points, dict) else {}
    metrics = [
        {"role": ROLES.get(str(row.get("name")), "other"), "points": known.get(row.get("name")), **row}
        if isinstance(row, dict)
        else row
        for row in _list(summary.get("metrics"))
    ]
    return {**summary, "metrics": metrics}


def _is_older(summary: Mapping[str, Any], version: int) -> bool:
    written = summary.get("version", 1)
    return isinstance(written, int) and written < version


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
