"""The items of an audit: the prompt, the true answer, and how much of it came back."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.audit.run.diagnose import Checkpoint, compared, weights_of
from expunge.audit.run.plan import FULL, Role
from expunge.audit.saved import SCORES
from expunge.audit.store import read_long
from expunge.audit.summary import read_summary
from expunge.errors import ModelError
from expunge.inspector.models import SUMMARY
from expunge.quant import parse_quantizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class InspectorItem(NamedTuple):
    """One question or beginning of a text; ``rise`` in points of ``metric``, at its worst.

    ``model`` is the unlearned model that recovered most of it, at ``precision``; ``full`` is the same
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


def read_items(audits: Sequence[Path]) -> list[InspectorItem]:
    """All items with a text, sorted by how much came back."""
    items = [item for audit in audits for item in _item_of(audit)]
    return sorted(items, key=lambda item: -item.rise)


def truths(items: Sequence[InspectorItem]) -> dict[str, str]:
    """The true answer to each prompt, by the prompt."""
    return {item.prompt: item.truth for item in reversed(items)}


def _item_of(audit: Path) -> list[InspectorItem]:
    metrics = {block.name for block in read_summary(audit / SUMMARY).metrics if block.lower_is_better}
    values: dict[tuple[str, str, str], dict[str, float]] = {}
    texts: dict[tuple[str, str], tuple[str, str]] = {}
    for row in read_long(audit / SCORES):
        if row["metric"] not in metrics or row["role"] != Role.UNLEARNED or row["value"] is None:
            continue
        texts.setdefault((row["metric"], row["item"]), _texts(row["detail"]))
        key = row["metric"], row["item"], row["model"]
        values.setdefault(key, {})[row["condition"]] = row["value"]
    best: dict[tuple[str, str], InspectorItem] = {}
    for (metric, name, model), at in values.items():
        prompt, truth = texts[metric, name]
        if not (prompt and truth) or FULL.label not in at:
            continue
        precision = max(at, key=lambda label: at[label])  # the first the audit tried, of several
        rise = at[precision] - at[FULL.label]
        item = InspectorItem(name, metric, prompt, truth, at[FULL.label], rise, model, precision)
        if (metric, name) not in best or best[metric, name].rise < rise:
            best[metric, name] = item
    return list(best.values())


def _texts(detail: Mapping[str, str]) -> tuple[str, str]:
    return detail.get("prompt") or detail.get("question") or "", detail.get("truth") or ""


# The part of an unlearning update that a quantizer erased, by tensor.


class Erased(NamedTuple):
    """One tensor: its weights, those unlearning changed, and those of them that rounding undid."""

    name: str
    weights: int
    changed: int
    undone: int

    @property
    def share(self) -> float:
        """The share of the changed weights that round to the target's code."""
        return self.undone / self.changed if self.changed else 0.0


def erased(audits: Sequence[Path], model: str, precision: str) -> list[Erased]:
    """Every tensor of an unlearned model under a quantizer; empty if no audit has diagnostics of it."""
    for audit in audits:
        for remark in read_summary(audit / SUMMARY).diagnostics:
            if (remark.model, remark.condition) == (model, precision) and "tensors" in remark.content:
                return [_erased_of(tensor) for tensor in remark.content["tensors"]]
    return []


@lru_cache(maxsize=32)
def measured(target: Path, model: Path, precision: str) -> list[Erased]:
    """The same, read from the files of both models now, one tensor at a time.

    Raises:
        ModelError: the two do not consist of the same tensors, or cannot be read.
        RecipeError: the precision is not known.
    """
    before, after = (weights_of(Checkpoint(str(path))) for path in (target, model))
    comparison = compared(before, after, parse_quantizer(precision), model)
    if "tensors" not in comparison:
        raise ModelError(
            f"the weights of {model.name}",
            why=f"{comparison.get('why_not', 'nothing to compare')}",
            fix="Inspect it together with the checkpoint its unlearning started from.",
        )
    return [_erased_of(tensor) for tensor in comparison["tensors"]]


def _erased_of(tensor: Mapping[str, Any]) -> Erased:
    return Erased(
        str(tensor["name"]), int(tensor["weights"]), int(tensor["changed"]), int(tensor["erased"])
    )
