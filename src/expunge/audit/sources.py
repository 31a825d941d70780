"""Where an audit's models and probes came from: paths, sizes, and the records of the checkpoints.

With these a report needs only the audit's folder, even after the checkpoints were moved.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.audit.saved import SOURCES
from expunge.corpus.columns import reading
from expunge.files import RECORD, write_json
from expunge.parsing import load_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from expunge.audit.plan import AuditPlan
    from expunge.types import Example

__all__ = ["SOURCES", "record_beside", "sources_of", "write_sources"]


def write_sources(folder: Path, sources: Mapping[str, Any]) -> None:
    """Keep where models and splits came from."""
    write_json(folder / SOURCES, sources)


def sources_of(
    plan: AuditPlan,
    *,
    paths: Sequence[str],
    files: Mapping[str, str],
    fields: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Facts about the models (``paths`` in the plan's order) and about how each split was read."""
    models = [
        {"name": source.name, "role": source.role, "path": path, "record": record_beside(Path(path))}
        for source, path in zip(plan.models, paths, strict=True)
    ]
    splits = {name: {"file": file, **_counts(plan.probes.split(name))} for name, file in files.items()}
    return {"models": models, "splits": splits, "reading": reading(fields)}


def record_beside(checkpoint: Path) -> dict[str, Any] | None:
    """The record of the run that wrote a checkpoint; ``None`` if expunge did not."""
    try:
        record = load_json((checkpoint / RECORD).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _counts(examples: Sequence[Example]) -> dict[str, int]:
    return {
        "asked": len(examples),
        "documents": sum(example.is_document for example in examples),
        "groups": len({example.group for example in examples if example.group is not None}),
    }
