"""What was asked, of which models, how they were made, what it cost and how to do it again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import yaml

from expunge.audit.run.plan import Role
from expunge.report.filing import moment
from expunge.report.numbers import duration, memory, plural, short, thousands

if TYPE_CHECKING:
    from collections.abc import Mapping

    from expunge.report.items import ReportItem
    from expunge.report.run import AuditRun

ROLES = {
    Role.TARGET: "the model before unlearning",
    Role.RETRAINED: "trained without the forget set",
    Role.UNLEARNED: "unlearned",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a model came from: names and values for people, and its recipe as YAML if it has one."""

    name: str
    role: Role
    rows: tuple[tuple[str, str], ...]
    recipe: str
    title: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one run took."""

    what: str
    seconds: str
    memory: str
    steps: str
    weights: str
    hardware: str


def asked(run: AuditRun, items: list[ReportItem]) -> list[tuple[str, str]]:
    """The first facts a reader wants, as names and values."""
    return [
        ("Asked to forget", _forget_set(run, items)),
        ("From the model", _model(run, Role.TARGET, "no target model was given")),
        ("Compared with", _model(run, Role.RETRAINED, "no model trained without the forget set was given")),
        ("Tested at", ", ".join(["full precision", *run.grids])),
        ("Measured", f"{plural(len(run.metrics), 'measure')}, {_date(run)}"),
    ]


def origins(run: AuditRun) -> list[Origin]:
    """Every model: where it came from, and how to make it again."""
    return [_origin(run, model.name, model.role, model.hash) for model in run.models]


def costs(run: AuditRun) -> list[Cost]:
    """What each unlearning and the audit took; the audit's several runs are added up."""
    rows = []
    for model in run.models:
        record = run.record_of(model.name)
        if record:
            rows.append(_cost(f"{record.get('command', 'make')}: {model.name}", record))
    record = run.record
    earlier = record.get("earlier", ())
    if record:
        seconds = sum(facts_of_run.get("seconds", 0.0) for facts_of_run in (record, *earlier))
        rows.append(_cost("audit", {**record, "seconds": seconds}))
    return rows


def versions(run: AuditRun) -> list[tuple[str, str]]:
    """The versions the audit ran with."""
    return [(name, str(version)) for name, version in run.record.get("versions", {}).items()]


def settings(run: AuditRun) -> list[tuple[str, str]]:
    """What the numbers depend on beside models and probes."""
    rows = [("probes", run.record.get("probes", "")), *run.summary.bootstrap.items()]
    rows += [(name, run.record.get(name, "")) for name in ("max_length", "batch_tokens")]
    rule = run.summary.rule
    rows += [(f"rule: {name}", _flat(value)) for name, value in rule.items()]
    return [(name, str(value)) for name, value in rows if value != ""]


def command(record: Mapping[str, Any]) -> str:
    """The command line that made a record; empty if it is unknown."""
    typed = record.get("typed")
    return shlex.join(["expunge", *map(str, typed)]) if typed else ""


def _forget_set(run: AuditRun, items: list[ReportItem]) -> str:
    split = run.sources.get("splits", {}).get("forget")
    if split:
        counts = {"question": split["asked"] - split["documents"], "text": split["documents"]}
        parts = [plural(count, what) for what, count in counts.items() if count]
        groups = f" in {plural(split['groups'], 'group')}" if split["groups"] else ""
        return f"{' and '.join(parts)}{groups}, from {PurePath(split['file']).name}"
    forgotten = {item.item for item in items if item.split == "forget"}
    return f"{plural(len(forgotten), 'item')} of the forget set"


def _model(run: AuditRun, role: Role, missing: str) -> str:
    name = run.holder(role)
    if name is None:
        return missing
    digest = next(model.hash for model in run.models if model.name == name)
    return f"{name} (SHA-256 {short(digest)}…)"


def _date(run: AuditRun) -> str:
    at = moment(str(run.record.get("started", "")))
    return f"on {at}" if at else "on an unknown day"


def _origin(run: AuditRun, name: str, role: Role, digest: str) -> Origin:
    seeds = next((model.seeds for model in run.models if model.name == name), ())
    if seeds:
        mean = (("role", "a recipe: the mean of its seeds"), ("seeds", ", ".join(seeds)))
        return Origin(name=name, role=role, rows=mean, recipe="", title="", command="")
    source, record = run.source(name), run.record_of(name)
    rows = [("role", ROLES[role]), ("SHA-256 of the files", digest)]
    if source.get("path"):
        rows.append(("path", str(source["path"])))
    for key, what in (
        ("source", "made from"),
        ("source_sha256", "its weights (SHA-256)"),
        ("result_sha256", "weights (SHA-256)"),
        ("seed", "seed"),
    ):
        if key in record:
            rows.append((what, str(record[key])))
    for split in ("forget", "retain"):
        facts_of_split = record.get(split)
        if facts_of_split and facts_of_split["examples"]:
            rows.append(
                (
                    f"{split} set",
                    f"{plural(facts_of_split['examples'], 'example')}, SHA-256 {facts_of_split['sha256']}",
                )
            )
    if not record:
        rows.append(("record", "none was found beside the checkpoint: expunge did not make it"))
    recipe = record.get("recipe")
    return Origin(
        name=name,
        role=role,
        rows=tuple(rows),
        recipe=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100) if recipe else "",
        title=str(recipe.get("title", "")) if recipe else "",
        command=command(record),
    )


def _cost(what: str, record: Mapping[str, Any]) -> Cost:
    stages = record.get("stages", ())
    steps = sum(stage.get("steps", 0) for stage in stages)
    may_change = max((stage.get("weights_that_may_change", 0) for stage in stages), default=0)
    hardware = record.get("hardware", {})
    where = str(hardware.get("accelerator") or plural(hardware.get("cores", 0), "core"))
    return Cost(
        what=what,
        seconds=duration(float(record.get("seconds", 0.0))),
        memory=memory(float(record["peak_memory_mib"])) if "peak_memory_mib" in record else "",
        steps=thousands(steps) if steps else "",
        weights=thousands(may_change) if may_change else "",
        hardware=where,
    )


def _flat(value: object) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {item}" for name, item in value.items())
