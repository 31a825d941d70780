"""What each metric says of itself as data, and docs/metrics.md written from it.

``python -m expunge.metrics.cards`` (or ``make docs``) writes it, and ``cards.json``.
"""

from __future__ import annotations

import inspect
import json
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from expunge.errors import RecipeError, did_you_mean
from expunge.files import write_json, write_text
from expunge.metrics import metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from expunge.metrics.base import Metric

PAGE = Path("docs/metrics.md")

HEAD = "page.md"
"""The file with the introduction of the page."""


def page(cards: Mapping[str, MetricCard]) -> str:
    """docs/metrics.md."""
    unasked = [card for card in cards.values() if card.default]
    optional = [card for card in cards.values() if not card.default]
    parts = [
        introduction(),
        "## The metrics\n\nMeasured unasked, where what they need is there:\n",
        overview(unasked),
    ]
    if optional:
        parts += ["Only when named (`--metric NAME`, or `--metric all`):\n", overview(optional)]
    first_with: dict[tuple[str, ...], str] = {}
    for card in cards.values():
        warnings = (card.caveats, *card.known_errors)
        parts.append(
            section(card, like=first_with.setdefault(warnings, card.name) if any(warnings) else None)
        )
    return "\n".join(parts)


def introduction() -> str:
    """How to read a number, and what public evaluations get wrong: what no single metric can say."""
    return resources.files("expunge.metrics").joinpath(HEAD).read_text(encoding="utf-8")


def overview(cards: Sequence[MetricCard]) -> str:
    """Metrics as a table; the arrow points to the better."""
    lines = ["| metric | | scale | what it is | needs |", "|---|---|---|---|---|"]
    lines += [
        f"| [{card.name}](#{card.name}) | {card.arrow} | {card.scale} | {card.definition} | {card.needs} |"
        for card in cards
    ]
    return "\n".join(lines) + "\n"


def section(card: MetricCard, *, like: str | None = None) -> str:
    """One metric in full; ``like`` names the metric whose warnings are the same and stand there."""
    better = "" if "best" in card.scale else f"; {card.better}"
    lines = [
        f"### {card.name}",
        "",
        f"**{card.title}**: {card.definition}. {card.scale}{better}.",
        "",
        *_paragraphs(card.about),
        f"*Source:* {card.source}. *Needs:* {card.needs}."
        + ("" if card.default else f" *Measured only on request:* `--metric {card.name}`."),
        "",
        *_settings(card),
    ]
    if like is not None and like != card.name:
        return "\n".join(
            [*lines, f"*Caveats and errors in other implementations:* as [{like}](#{like}).", ""]
        )
    if card.caveats:
        lines += [f"*Caveats:* {_as_code(card.caveats)}", ""]
    if card.known_errors:
        lines += ["*What public implementations get wrong:*", ""]
        lines += [*(f"- {_as_code(error)}" for error in card.known_errors), ""]
    return "\n".join(lines)


def _settings(card: MetricCard) -> list[str]:
    """A line for each setting: its default and what it means."""
    if not card.settings:
        return []
    lines = (
        f"- `{name}` = {_value(setting.default)}: {setting.description}"
        for name, setting in card.settings.items()
    )
    return ["*Settings:*", "", *lines, ""]


def _value(default: Any) -> str:
    """A default as a recipe or the command line has it."""
    return default if isinstance(default, str) else json.dumps(default)


def _paragraphs(docstring: str) -> list[str]:
    """A docstring as Markdown: one line a paragraph, literals as code."""
    paragraphs = (" ".join(part.split()) for part in docstring.split("\n\n"))
    return [line for part in paragraphs for line in (_as_code(part), "")]


def _as_code(text: str) -> str:
    """Literals of a docstring as Markdown has them."""
    return text.replace("``", "`")


def write(root: Path) -> None:
    """Write the page and the cards below the project's folder ``root``."""
    cards = fresh_cards()
    write_text(root / PAGE, page(cards))
    write_json(
        Path(__file__).with_name(KEPT), {name: card.model_dump(mode="json") for name, card in cards.items()}
    )


# The metadata of each metric as data, so that listing the metrics needs no model library.
#
# ``cards.json`` in this folder is written from the metrics by ``python -m expunge.metrics.cards``; a test
# keeps the two the same. Where third parties add metrics, all are asked themselves.

KEPT = "cards.json"


class MetricSetting(BaseModel):
    """A setting of a metric: its default, as JSON holds it, and what it means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: Any
    description: str


class MetricCard(BaseModel):
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
    caveats: str
    known_errors: tuple[str, ...]
    settings: dict[str, MetricSetting]

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
        """The splits and models it needs in addition to the model it measures."""
        inputs = [*self.needs_splits, *(["a retrained model"] if self.needs_control else [])]
        return ", ".join(inputs) or "its own files"


def card(name: str, metric: type[Metric]) -> MetricCard:
    """The card of a metric registered as ``name``."""
    defaults = metric().model_dump(mode="json", include=set(metric.model_fields))
    return MetricCard(
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
        caveats=metric.caveats,
        known_errors=metric.known_errors,
        settings={
            name: MetricSetting(default=defaults[name], description=field.description or "")
            for name, field in metric.model_fields.items()
        },
    )


def _about(metric: type[Metric]) -> str:
    """A metric's docstring without its source, and those of the families it belongs to."""
    registered = {metrics[name] for name in metrics} - {metric}
    *kin, _ = (kind for kind in metric.__mro__ if hasattr(kind, "caveats"))  # the last one is Metric
    texts = (inspect.cleandoc(kind.__doc__ or "") for kind in kin if kind not in registered)
    return "\n\n".join(filter(None, (text.partition("Source:")[0].strip() for text in texts)))


def fresh_cards() -> dict[str, MetricCard]:
    """Every metric's card, asked of the metrics themselves: this imports torch."""
    return {name: card(name, metrics[name]) for name in metrics}


def known_cards() -> dict[str, MetricCard]:
    """Every metric's card by its name; those kept with the package unless third parties add some."""
    if entry_points(group=metrics.package):
        return fresh_cards()
    kept = json.loads(resources.files(metrics.package).joinpath(KEPT).read_text(encoding="utf-8"))
    return {name: MetricCard.model_validate(fields) for name, fields in kept.items()}


def card_of(name: str) -> MetricCard:
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


if __name__ == "__main__":
    write(Path())
