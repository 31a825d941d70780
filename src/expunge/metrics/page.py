"""The page for a sceptic, docs/metrics.md, from what the metrics say of themselves.

``python -m expunge.metrics.page`` (or ``make docs``) writes it, and ``cards.json``.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.files import write_json, write_text
from expunge.metrics.cards import KEPT, fresh_cards

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from expunge.metrics.cards import Card

PAGE = Path("docs/metrics.md")

HEAD = "page.md"
"""The file whose text the page begins with, beside this one."""


def page(cards: Mapping[str, Card]) -> str:
    """docs/metrics.md."""
    unasked = [card for card in cards.values() if card.default]
    asked = [card for card in cards.values() if not card.default]
    parts = [
        introduction(),
        "## The metrics\n\nMeasured unasked, where what they need is there:\n",
        overview(unasked),
    ]
    if asked:
        parts += ["Only when named (`--metric NAME`, or `--metric all`):\n", overview(asked)]
    told: dict[tuple[str, ...], str] = {}
    for card in cards.values():
        warnings = (card.misleads, *card.known_errors)
        parts.append(section(card, like=told.setdefault(warnings, card.name) if any(warnings) else None))
    return "\n".join(parts)


def introduction() -> str:
    """How to read a number, and what public evaluations get wrong: what no single metric can say."""
    return resources.files("expunge.metrics").joinpath(HEAD).read_text(encoding="utf-8")


def overview(cards: Sequence[Card]) -> str:
    """Metrics as a table; the arrow points to the better."""
    lines = ["| metric | | scale | what it is | needs |", "|---|---|---|---|---|"]
    lines += [
        f"| [{card.name}](#{card.name}) | {card.arrow} | {card.scale} | {card.definition} | {card.needs} |"
        for card in cards
    ]
    return "\n".join(lines) + "\n"


def section(card: Card, *, like: str | None = None) -> str:
    """One metric in full; ``like`` names the metric whose warnings are the same and stand there."""
    better = "" if "best" in card.scale else f"; {card.better}"
    settings = ", ".join(f"`{name}` = {value}" for name, value in card.settings.items())
    lines = [
        f"### {card.name}",
        "",
        f"**{card.title}**: {card.definition}. {card.scale}{better}.",
        "",
        *_paragraphs(card.about),
        f"*Source:* {card.source}. *Needs:* {card.needs}."
        + (f" *Settings:* {settings}." if settings else "")
        + ("" if card.default else f" *Measured only when named:* `--metric {card.name}`."),
        "",
    ]
    if like is not None and like != card.name:
        return "\n".join(
            [*lines, f"*When it misleads and what others get wrong:* as [{like}](#{like}).", ""]
        )
    if card.misleads:
        lines += [f"*When it misleads:* {_as_code(card.misleads)}", ""]
    if card.known_errors:
        lines += ["*What public implementations get wrong:*", ""]
        lines += [*(f"- {_as_code(error)}" for error in card.known_errors), ""]
    return "\n".join(lines)


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


if __name__ == "__main__":
    write(Path())
