"""The items as compact JSON in the page, from which its script draws them row by row.

Masked, no text is in it, nor what an item or group is called: only numbers, and of each answer
which of its words are leaked.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from expunge.audit.plan import FULL
from expunge.report.numbers import digits_of
from expunge.report.pool import Revealed, pool_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.report.items import Item
    from expunge.report.pool import Pool, Shown
    from expunge.report.run import Run

MOST_NUMBERS = 400_000
"""Numbers a page carries; the items that rose least are left to the Parquet file."""


def payload(run: Run, items: Sequence[Item], *, reveal: bool) -> dict[str, Any]:
    """What the page's script needs."""
    width, models = 1 + len(run.grids), len(run.checkpoints)
    kept = _most_risen(items, width, models)
    pool = pool_for(kept, reveal=reveal)
    metrics = list(dict.fromkeys(item.metric for item in kept))
    texts: dict[Shown, int] = {}
    packed = [_packed(item, metrics.index(item.metric), width * models, pool, texts) for item in kept]
    return {
        "reveal": reveal,
        "models": [{"name": model.name, "role": model.role} for model in run.checkpoints],
        "transforms": [FULL.label, *run.grids],
        "metrics": [
            {
                "name": name,
                "title": run.metrics[name].title,
                "lower": run.metrics[name].lower_is_better,
                "digits": digits_of(run.metrics[name].scale),
            }
            for name in metrics
        ],
        "lead": run.lead,
        "left": len(items) - len(kept),
        "cap": pool.cap if isinstance(pool, Revealed) else 0,
        "items": packed,
        "texts": list(texts),
    }


def embedded(value: Any) -> Markup:
    """A value as JSON that cannot end the element it stands in, whatever its strings hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - escaped above, and read by JSON.parse alone


def _most_risen(items: Sequence[Item], width: int, models: int) -> list[Item]:
    """As many items as a page carries: the same number of each metric, those that rose most."""
    by_metric: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_metric[item.metric].append(item)
    if len(items) * width * models <= MOST_NUMBERS:
        return list(items)
    share = MOST_NUMBERS // (width * models * len(by_metric))
    starts = range(0, width * models, width)
    chosen = {
        id(item)
        for own in by_metric.values()
        for item in sorted(own, key=lambda item: -item.rise(starts, width))[:share]
    }
    return [item for item in items if id(item) in chosen]


def _packed(item: Item, metric: int, cells: int, pool: Pool, texts: dict[Shown, int]) -> list[Any]:
    """Metric, name, group, prompt, truth, then by cell: values, answers, reasons for no value."""

    def number(text: Shown) -> int:
        return texts.setdefault(text, len(texts)) if text else -1

    said = [
        number(pool.said(item.truth, item.said[cell])) if cell in item.said else -1 for cell in range(cells)
    ]
    return [
        metric,
        pool.name(item.split, item.item),
        pool.name("group", item.group) if item.group is not None else "",
        number(pool.text(item.prompt)),
        number(pool.text(item.truth)),
        [item.values.get(cell) for cell in range(cells)],
        said if item.said else [],
        {str(cell): number(reason) for cell, reason in item.unscored.items()},
    ]
