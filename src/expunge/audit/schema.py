"""The JSON Schema of ``summary.json``, docs/schema/summary.schema.json, from the model that writes it.

``python -m expunge.audit.schema`` (or ``make docs``) writes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expunge.audit.summary import Summary
from expunge.files import write_json

SCHEMA = Path("docs/schema/summary.schema.json")


def schema() -> dict[str, Any]:
    """The schema of what an audit writes: every field is there, whatever its default."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Summary.model_json_schema(mode="serialization"),
    }


if __name__ == "__main__":
    write_json(SCHEMA, schema())
