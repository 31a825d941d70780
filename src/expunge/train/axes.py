"""The axes a method is made of, and what else is registered: names, summaries, settings."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.adversary import adversaries
from expunge.attacks import attacks
from expunge.errors import RecipeError, did_you_mean
from expunge.forget import forget_losses
from expunge.quant import quantizers
from expunge.retain import retain_losses
from expunge.scope import scopes
from expunge.train.methods import stages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expunge.component import Component
    from expunge.registry import Registry

AXES: dict[str, Registry[Any]] = {
    "forget loss": forget_losses,
    "retain loss": retain_losses,
    "scope": scopes,
    "adversary": adversaries,
    "stage": stages,
    "quantizer": quantizers,
    "attack": attacks,
}
"""Every registry whose members a recipe or an audit names, by the kind of its members."""


_HELD = re.compile(r"^Annotated\[(.+), (?:\*named|BeforeValidator)\(.*\]$")
"""An annotation of a field that holds a component, and the component's kind in it."""


class Setting(NamedTuple):
    """One field of a component: its name, type, default as text (empty if required) and description."""

    name: str
    type: str
    default: str
    description: str


class Member(NamedTuple):
    """One registered component: its kind, name, the first line of its docstring, and its settings."""

    kind: str
    name: str
    summary: str
    settings: tuple[Setting, ...]


def members(kind: str) -> Iterator[Member]:
    """Every component registered for an axis, by name."""
    for name in AXES[kind]:
        yield _member(kind, name, AXES[kind][name])


class QuantizerMember(NamedTuple):
    """One registered quantizer: names it is typed as, what it needs, and the forms it can be written in."""

    labels: tuple[str, ...]
    family: str
    needs: tuple[str, ...]
    formats: tuple[str, ...]


def quantizer_members() -> Iterator[QuantizerMember]:
    """Every registered quantizer with its default settings, ordered by family."""
    from expunge.quant import EXAMPLES, parse_quantizer
    from expunge.quant.export import formats_of

    examples = [parse_quantizer(label) for label in EXAMPLES]
    for default in sorted((quantizers[name]() for name in quantizers), key=lambda one: one.family):
        alike = (example.label for example in examples if type(example) is type(default))
        needs = {
            "calibration text": default.calibrated,
            f"extra {default.extra}": default.extra is not None,
            "an accelerator": default.needs_accelerator,
        }
        yield QuantizerMember(
            labels=tuple(dict.fromkeys((default.label, *alike))),
            family=default.family,
            needs=tuple(need for need, is_needed in needs.items() if is_needed),
            formats=formats_of(default),
        )


def find_members(name: str) -> list[Member]:
    """The components of that name: several axes may share one (``ga`` is a loss, ``all`` a scope).

    Raises:
        RecipeError: no component has that name.
    """
    matches = [_member(kind, name, axis[name]) for kind, axis in AXES.items() if name in set(axis)]
    if not matches:
        known = {known for axis in AXES.values() for known in axis}
        raise RecipeError(
            f"{name!r}",
            why="no loss, scope, adversary, stage, quantizer or attack has that name.",
            fix=did_you_mean(name, known),
        )
    return matches


def _member(kind: str, name: str, component: type[Component]) -> Member:
    summary = inspect.cleandoc(component.__doc__ or "").partition("\n")[0]
    settings = tuple(_setting(field, component) for field in component.model_fields)
    return Member(kind, name, summary, settings)


def _setting(name: str, component: type[Component]) -> Setting:
    field = component.model_fields[name]
    # The annotation as it is written: resolved types spell out every constraint of pydantic.
    declaring = (inspect.get_annotations(kind) for kind in component.__mro__)
    written = next((annotations[name] for annotations in declaring if name in annotations), "")
    default = "" if field.is_required() else _as_text(field.get_default(call_default_factory=True))
    return Setting(name, _HELD.sub(r"\1", str(written)), default, field.description or "")


def _as_text(default: Any) -> str:
    if default is None:
        return "null"
    for axis in AXES.values():
        if type(default) in {axis[name] for name in axis}:
            return axis.name_of(default)
    return f"{default:g}" if isinstance(default, float) else str(getattr(default, "label", default))
