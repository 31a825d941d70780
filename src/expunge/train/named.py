"""How a field of one component holds another: by name, with its settings."""

from __future__ import annotations

from typing import Any

from pydantic import BeforeValidator, PlainSerializer

from expunge.component import Component
from expunge.registry import Registry


def named(registry: Registry[Any]) -> tuple[BeforeValidator, PlainSerializer]:
    """How a field holds a component of ``registry``: read from and written as ``{name, **settings}``."""

    def dump(component: Component | None) -> dict[str, Any] | None:
        if component is None:
            return None
        return {"name": registry.name_of(component), **component.model_dump()}

    return BeforeValidator(lambda raw: None if raw is None else registry.build(raw)), PlainSerializer(dump)
