"""The models of an audit that servers offer: what they are asked, and what cannot be had of them."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from expunge.audit.store import CellScores
from expunge.condition import FULL
from expunge.errors import RecipeError
from expunge.inference.served.client import AnswerLog, Client, budget
from expunge.inference.served.observer import TEXTS_ONLY, ServedObserver, UnavailableError
from expunge.metrics.base import not_applicable
from expunge.metrics.control_relative import ControlRelativeMetric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from expunge.audit.run.cells import CellSpec
    from expunge.audit.run.grid import Audit
    from expunge.audit.run.plan import ModelSource
    from expunge.inference.served.endpoint import Endpoint
    from expunge.metrics.base import Measured

AS_SERVED = "a served model is measured as it is served: its weights cannot be changed from here"


def budgets(audit: Audit, max_requests: int | None) -> Iterator[str]:
    """What each server will be asked, in words, before anything is.

    Raises:
        RecipeError: there are more requests than allowed.
    """
    served = (part for part in audit.missing() if part.source.endpoint is not None)
    for _, group in groupby(served, key=lambda part: part.source.name):
        parts = list(group)
        client = _planned(audit, parts)
        words, count = budget(client), len(client.missing(client.planned))
        if max_requests is not None and count > max_requests:
            raise RecipeError(
                f"{count:,} requests to {client.endpoint}",
                why=f"--max-requests allows {max_requests:,}.",
                fix="Raise it, ask fewer questions (--max-items) or name fewer metrics (--metric).",
            )
        if words:
            yield words


def measure(audit: Audit, parts: Sequence[CellSpec], report: Callable[[str], None]) -> None:
    """Ask all questions of a server's model together, then score the answers metric by metric."""
    with _planned(audit, parts) as client:
        name = parts[0].source.name
        client.report = lambda what: report(f"{name} · {what}")
        client([ask for ask in client.planned if not ask.is_echo])  # echoes are checked first
        observed = ServedObserver(client)
        for part in parts:
            report(str(part))
            audit.store.write(part.facts, CellScores(_measured(audit, part, observed), []))


def _planned(audit: Audit, parts: Sequence[CellSpec]) -> Client:
    """A client that knows all that the metrics will ask."""
    client = Client(endpoint=_endpoint(parts[0].source), answers=_answers(audit, parts[0].source))
    observed = ServedObserver(client, planning=True)
    for part in parts:
        _measured(audit, part, observed)
    return client


def _endpoint(source: ModelSource) -> Endpoint:
    if source.endpoint is None:
        raise LookupError(source.name)
    return source.endpoint


def _answers(audit: Audit, source: ModelSource) -> AnswerLog:
    return AnswerLog(audit.store.folder / f"answers-{source.hash[:32]}.jsonl")


def _measured(audit: Audit, part: CellSpec, observed: ServedObserver) -> Measured:
    metric = audit.plan.named_metrics[part.name]
    split = next(iter(metric.needs_splits), "forget")
    if part.condition.label != FULL.label:
        return not_applicable(split, AS_SERVED)
    if isinstance(metric, ControlRelativeMetric):
        return not_applicable(split, TEXTS_ONLY)
    try:
        return metric.measure(observed, audit.plan.probes)
    except UnavailableError as missing:
        return not_applicable(split, str(missing))
