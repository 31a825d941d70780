"""The demo's audit in a few lines: what came back, what held, and whether the weights foretold it."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from expunge.audit.plan import Role
from expunge.audit.summary import Summary
from expunge.audit.verdict import Outcome

LOST, KEPT = "red", "green"


def tell(summary: Summary) -> RenderableType:
    """The diagnostics beside the outcomes, and a sentence for each unlearned model."""
    return Group(_foretold(summary), *_sentences(summary))


def _foretold(summary: Summary) -> Table:
    table = Table(
        title="Share of the update each grid lets through; below 0.5 foretells a return → what happened",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    labels = [column.label for column in summary.transforms if column.label != "full"]
    for heading in ("", *labels):
        table.add_column(heading)
    found = {(remark.model, remark.transform): remark.content for remark in summary.diagnostics}
    for model in _unlearned(summary):
        cells = [_cell(summary, model, label, found.get((model, label), {})) for label in labels]
        table.add_row(model, *cells)
    return table


def _cell(summary: Summary, model: str, label: str, content: dict[str, object]) -> Text:
    total = content.get("total")
    share = total.get("surviving") if isinstance(total, dict) else None
    verdict = summary.verdict(model, label)
    if not isinstance(share, float) or verdict is None:
        return Text("-")
    came_back = verdict.outcome is Outcome.CAME_BACK
    return Text(f"{share:.2f} → {verdict.outcome.value}", style=LOST if came_back else KEPT)


def _sentences(summary: Summary) -> list[Text]:
    lines = []
    for model in _unlearned(summary):
        recoveries = [
            (cell.recovery.value, cell)
            for cell in summary.cells
            if cell.model == model and cell.metric == "knowmem_forget" and cell.recovery is not None
        ]
        known = [(value, cell) for value, cell in recoveries if value is not None]
        if not known:
            continue
        worst, cell = max(known, key=lambda pair: pair[0])
        full = summary.cell(model, "full", "knowmem_forget").value.value or 0.0
        came_back = any(
            row.verdict.outcome is Outcome.CAME_BACK for row in summary.verdicts if row.model == model
        )
        lines.append(
            Text(
                f"{model}: knows {full:.0f} of 100 at full precision, "
                f"{full + worst:.0f} at worst ({cell.transform}).",
                style=LOST if came_back else KEPT,
            )
        )
    return lines


def _unlearned(summary: Summary) -> list[str]:
    return [model.name for model in summary.models if model.role is Role.UNLEARNED]
