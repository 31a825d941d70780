from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from expunge.audit.run.plan import Role
from expunge.audit.summary import SCHEMA, VERSION, AuditSummary, read_summary, schema
from tests.audit.fakes import audit, plan_of, source

ROOT = Path(__file__).parents[2]


def test_the_schema_is_what_the_code_writes() -> None:
    kept = json.loads((ROOT / SCHEMA).read_text(encoding="utf-8"))
    assert kept == schema(), "run 'make docs' and commit what it writes"


def fits(value: Any, rule: dict[str, Any], found: dict[str, Any]) -> bool:
    """As much of JSON Schema as the summary uses."""
    if "$ref" in rule:
        return fits(value, found["$defs"][rule["$ref"].rsplit("/", 1)[1]], found)
    if "anyOf" in rule:
        return any(fits(value, each, found) for each in rule["anyOf"])
    if "enum" in rule and value not in rule["enum"]:
        return False
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    kind = rule.get("type")
    if kind in ("number", "integer"):
        return isinstance(value, int | float if kind == "number" else int)
    if kind is not None and not isinstance(value, kinds[kind]):
        return False
    if kind == "array":
        return all(fits(each, rule["items"], found) for each in value)
    if kind == "object" and "properties" in rule:
        own = rule["properties"]
        return value.keys() <= own.keys() and all(fits(value[name], own[name], found) for name in value)
    return True


def test_a_summary_fits_the_schema(tmp_path: Path) -> None:
    models = [source("a", full=(0.1, 0.9)), source("t", Role.TARGET, full=(1.0, 1.0))]
    audit(plan_of(*models, resamples=99), tmp_path).run()
    written = json.loads((tmp_path / "summary.json").read_text())
    assert fits(written, schema(), schema())
    assert written["version"] == VERSION
    written["cells"][0]["value"]["conclusion"] = "surely"
    assert not fits(written, schema(), schema())


def test_what_an_earlier_version_wrote_is_still_read(tmp_path: Path) -> None:
    audit(plan_of(source("a", full=(0.1, 0.9)), resamples=99), tmp_path).run()
    path = tmp_path / "summary.json"
    written = json.loads(path.read_text())
    for name in ("version", "skipped", "missing_inputs"):
        del written[name]
    for model in written["models"]:
        del model["seeds"], model["seed_of"]
    for metric in written["metrics"]:
        del metric["caveats"], metric["minimal_difference"]
    for cell in written["cells"]:
        del cell["excess"], cell["same_distribution_p"]
        for estimate in (cell["value"], cell["recovery"], cell["retention"]):
            for name in ("p", "detectable", "conclusion"):
                (estimate or {}).pop(name, None)
    path.write_text(json.dumps(written))
    read = read_summary(path)
    assert isinstance(read, AuditSummary)
    assert read.version == 1
