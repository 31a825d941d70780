"""The few SVG elements the charts need, escaped; a coordinate is a share of the width or height."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

EDGE = 4.0
"""Percent left free on both sides, so that a mark on the edge is whole."""
MARKS = {
    "circle": '<circle r="5" class="{}"/>',
    "dot": '<circle r="3" class="{}"/>',
    "square": '<rect x="-5" y="-5" width="10" height="10" class="{}"/>',
    "diamond": '<path d="M0-6.5 6.5 0 0 6.5-6.5 0Z" class="{}"/>',
    "right": '<path d="M2 0-8-6-8 6Z" class="{}"/>',
    "left": '<path d="M-2 0 8-6 8 6Z" class="{}"/>',
}
"""Marks of a fixed size around the point they stand on."""


def tag(name: str, attributes: Mapping[str, object], content: str | Markup = "") -> Markup:
    """An element; everything in it that is not markup already is escaped."""
    # Safe: names are ours, values and content are escaped.
    shown = Markup("").join(Markup(' {}="{}"').format(key, value) for key, value in attributes.items())
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), shown, content)  # noqa: S704


def drawing(parts: Iterable[Markup], *, height: int, says: str = "", kind: str = "") -> Markup:
    """A drawing as wide as its place. Without words for those who cannot see it, it is decoration."""
    attributes = {"role": "img", "aria-label": says} if says else {"aria-hidden": "true"}
    return tag(
        "svg", {"class": f"chart {kind}".strip(), "height": height, **attributes}, Markup("").join(parts)
    )


def percent(share: float) -> str:
    """A share of the width as a coordinate, kept within the drawing."""
    return f"{EDGE + (100 - 2 * EDGE) * min(1.0, max(0.0, share)):.2f}%"


def line(start: tuple[str, str], end: tuple[str, str], kind: str) -> Markup:
    """A straight line between two points."""
    return tag("line", {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1], "class": kind})


def mark(shape: str, at: tuple[str, str], kind: str, *, title: str = "") -> Markup:
    """A mark on a point, the same size at every width."""
    drawn = Markup(MARKS[shape]).format(kind)  # noqa: S704 - a constant, its class escaped
    inside = tag("title", {}, title) + drawn if title else drawn
    return tag("svg", {"x": at[0], "y": at[1], "overflow": "visible"}, inside)


def text(words: str, at: tuple[str, str], kind: str, *, anchor: str = "middle", shift: float = 0) -> Markup:
    """Words at a point, ``shift`` pixels below it."""
    return tag(
        "text", {"x": at[0], "y": at[1], "dy": shift, "text-anchor": anchor, "class": kind}, escape(words)
    )
