"""One small registry: names to components, filled by decorator, open to third parties."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from pydantic import BeforeValidator, PlainSerializer, ValidationError

from expunge.component import Component
from expunge.errors import RecipeError, did_you_mean

T = TypeVar("T", bound=Component)


class Registry(Generic[T]):
    """Components of one kind, found on first use by importing ``package``, a module or a folder of them.

    A third party adds to it through the entry-point group ``<package>`` (for instance
    ``expunge.forget``): each entry point names a module, which registers itself on import.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._known: dict[str, type[T]] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Decorator: make a component class known as ``name``."""

        def add(component: type[T]) -> type[T]:
            holder = self._known.get(name)
            if holder is not None and _origin(holder) != _origin(component):
                raise RuntimeError(f"{self.kind} {name!r} is registered twice")
            self._known[name] = component
            return component

        return add

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._known))

    def __getitem__(self, name: str) -> type[T]:
        self._discover()
        if name not in self._known:
            raise RecipeError(
                f"{self.kind} {name!r}",
                why=f"no {self.kind} of that name is registered.",
                fix=did_you_mean(name, self._known),
            )
        return self._known[name]

    def build(self, settings: Mapping[str, Any] | str | T) -> T:
        """The component that ``{"name": ..., **fields}`` describes; a bare name means all its defaults.

        Raises:
            RecipeError: the name or a field is unknown, or a value is out of range.
        """
        if isinstance(settings, Component):
            return settings
        fields = dict(settings) if isinstance(settings, Mapping) else {"name": settings}
        name = fields.pop("name", None)
        if not isinstance(name, str):
            raise RecipeError(
                f"a {self.kind} without a name",
                why="its settings have no 'name'.",
                fix=did_you_mean("", self),
            )
        component = self[name]
        try:
            return component.model_validate(fields)
        except ValidationError as error:
            raise RecipeError(
                f"{self.kind} {name!r}",
                why=explain(error),
                fix=_instead(error, component),
            ) from error

    def name_of(self, component: T) -> str:
        """The name a component is registered under."""
        self._discover()
        return next(name for name, known in self._known.items() if known is type(component))

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self.package)
        for module in pkgutil.walk_packages(getattr(package, "__path__", []), prefix=f"{self.package}."):
            importlib.import_module(module.name)
        for plugin in entry_points(group=self.package):
            plugin.load()


def named(registry: Registry[Any]) -> tuple[BeforeValidator, PlainSerializer]:
    """How a field holds a component of ``registry``: read from and written as ``{name, **settings}``."""

    def dump(component: Component | None) -> dict[str, Any] | None:
        if component is None:
            return None
        return {"name": registry.name_of(component), **component.model_dump()}

    return BeforeValidator(lambda raw: None if raw is None else registry.build(raw)), PlainSerializer(dump)


def _origin(component: type[Component]) -> tuple[str, str]:
    """Where a class is defined: a module that is loaded anew defines the same one."""
    return component.__module__, component.__qualname__


def _instead(error: ValidationError, component: type[Component]) -> str:
    unknown = [
        str(problem["loc"][0])
        for problem in error.errors(include_url=False)
        if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1
    ]
    if unknown and component.model_fields:
        return did_you_mean(unknown[0], component.model_fields)
    return f"It takes: {', '.join(component.model_fields) or 'no settings'}."


def _said(message: str) -> str:
    return message.removeprefix("Value error, ").lower()


def explain(error: Exception) -> str:
    """An error as one line; of a validation error, which setting, and what is wrong with it."""
    if not isinstance(error, ValidationError):
        return f"{error}."
    return (
        "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'settings'}: {_said(problem['msg'])}"
            for problem in error.errors(include_url=False)
        )
        + "."
    )
