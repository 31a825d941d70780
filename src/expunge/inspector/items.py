"""The items of an audit: what was asked, the true answer, and how much of it came back."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from expunge.audit.plan import FULL, Role
from expunge.audit.saved import SCORES
from expunge.audit.store import read_long
from expunge.audit.summary import read_summary
from expunge.inspector.shelf import SUMMARY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Item(NamedTuple):
    """One question or beginning of a text; ``rise`` in points of ``metric``, at its worst.

    ``model`` is the unlearned model that gave most of it back, ``precision`` where; ``full`` is the same
    model's value at full precision.
    """

    name: str
    metric: str
    prompt: str
    truth: str
    full: float
    rise: float
    model: str
    precision: str


def read_items(audits: Sequence[Path]) -> list[Item]:
    """All items with a text, the one of which most came back first."""
    found = [item for audit in audits for item in _of(audit)]
    return sorted(found, key=lambda item: -item.rise)


def truths(items: Sequence[Item]) -> dict[str, str]:
    """The true answer to each prompt, by the prompt."""
    return {item.prompt: item.truth for item in reversed(items)}


def _of(audit: Path) -> list[Item]:
    metrics = {each.name for each in read_summary(audit / SUMMARY).metrics if each.lower_is_better}
    values: dict[tuple[str, str, str], dict[str, float]] = {}
    texts: dict[tuple[str, str], tuple[str, str]] = {}
    for row in read_long(audit / SCORES):
        if row["metric"] not in metrics or row["role"] != Role.UNLEARNED or row["value"] is None:
            continue
        texts.setdefault((row["metric"], row["item"]), _texts(row["detail"]))
        place = row["metric"], row["item"], row["model"]
        values.setdefault(place, {})[row["transform"]] = row["value"]
    best: dict[tuple[str, str], Item] = {}
    for (metric, name, model), at in values.items():
        prompt, truth = texts[metric, name]
        if not (prompt and truth) or FULL.label not in at:
            continue
        precision = max(at, key=lambda label: at[label])  # the first the audit tried, of several
        rise = at[precision] - at[FULL.label]
        item = Item(name, metric, prompt, truth, at[FULL.label], rise, model, precision)
        if (metric, name) not in best or best[metric, name].rise < rise:
            best[metric, name] = item
    return list(best.values())


def _texts(detail: Mapping[str, str]) -> tuple[str, str]:
    return detail.get("prompt") or detail.get("question") or "", detail.get("truth") or ""
