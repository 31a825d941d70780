"""What each metric says of itself, as data: listing the metrics needs no model library.

``cards.json`` beside this file is written from the metrics by ``python -m expunge.metrics.page``; a test
keeps the two the same. Where third parties add metrics, all are asked themselves.
"""

from __future__ import annotations

import inspect
import json
from importlib import resources
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from expunge.errors import RecipeError, did_you_mean
from expunge.metrics import metrics

if TYPE_CHECKING:
    from expunge.metrics.base import Metric

KEPT = "cards.json"


class Card(BaseModel):
    """A metric as people read it; the fields are those of ``Metric``, ``about`` is its docstring."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    definition: str
    source: str
    scale: str
    lower_is_better: bool | None
    default: bool
    needs_splits: tuple[str, ...]
    needs_control: bool
    about: str
    misleads: str
    known_errors: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def arrow(self) -> str:
        """The way to the better: down, up, or neither."""
        return {True: "↓", False: "↑", None: "·"}[self.lower_is_better]

    @property
    def better(self) -> str:
        """The same in words."""
        return {
            True: "lower is better",
            False: "higher is better",
            None: "neither end is best",
        }[self.lower_is_better]

    @property
    def needs(self) -> str:
        """The splits and models it reads beside the model it measures."""
        found = [*self.needs_splits, *(["a retrained model"] if self.needs_control else [])]
        return ", ".join(found) or "files of its own"


def card(name: str, metric: type[Metric]) -> Card:
    """The card of a metric registered as ``name``."""
    return Card(
        name=name,
        title=metric.title,
        definition=metric.definition,
        source=metric.source,
        scale=metric.scale,
        lower_is_better=metric.lower_is_better,
        default=metric.default,
        needs_splits=metric.needs_splits,
        needs_control=metric.needs_control,
        about=_about(metric),
        misleads=metric.misleads,
        known_errors=metric.known_errors,
        settings=metric().model_dump(mode="json", include=set(metric.model_fields)),
    )


def _about(metric: type[Metric]) -> str:
    """A metric's docstring without its source, and those of the families it belongs to."""
    registered = {metrics[name] for name in metrics} - {metric}
    *kin, _ = (each for each in metric.__mro__ if hasattr(each, "misleads"))  # the last one is Metric
    texts = (inspect.cleandoc(each.__doc__ or "") for each in kin if each not in registered)
    return "\n\n".join(filter(None, (text.partition("Source:")[0].strip() for text in texts)))


def fresh_cards() -> dict[str, Card]:
    """Every metric's card, asked of the metrics themselves: this imports torch."""
    return {name: card(name, metrics[name]) for name in metrics}


def known_cards() -> dict[str, Card]:
    """Every metric's card by its name; those kept with the package unless third parties add some."""
    if entry_points(group=metrics.package):
        return fresh_cards()
    kept = json.loads(resources.files(metrics.package).joinpath(KEPT).read_text(encoding="utf-8"))
    return {name: Card.model_validate(fields) for name, fields in kept.items()}


def card_of(name: str) -> Card:
    """The card of one metric.

    Raises:
        RecipeError: no metric of that name is known.
    """
    cards = known_cards()
    if name not in cards:
        raise RecipeError(
            f"metric {name!r}",
            why="no metric of that name is known.",
            fix=f"{did_you_mean(name, cards)} 'expunge metrics' lists them all.",
        )
    return cards[name]
