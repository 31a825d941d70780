"""The report's numbers as LaTeX tables (booktabs), as papers print them."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

import expunge
from expunge.audit.run.plan import FULL, Role
from expunge.errors import printable
from expunge.report.numbers import NOTHING, number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from expunge.audit.summary import MetricBlock, ModelRow
    from expunge.report.run import AuditRun

SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": "$-$",
    "–": "--",
    "\n": " ",
}
ARROWS = {True: r" $\downarrow$", False: r" $\uparrow$", None: ""}
ABOUT = (
    "Mean $\\pm$ standard deviation over seeds where there are several, else the value and its 95\\,\\% "
    "interval over items. Bold: the best of the unlearned models by the direction of the arrow."
)


def to_latex(run: AuditRun) -> str:
    """Models by metrics with a block for each condition, then the parts of metrics that have some."""
    lines = [
        f"% Written by expunge {expunge.__version__}. Needs \\usepackage{{booktabs}} and [T1]{{fontenc}}.",
        *_table(_numbers(run), columns="l" + "r" * len(_measured(run)), caption=ABOUT),
    ]
    for metric in _measured(run):
        parts = _parts(run, metric)
        if parts:
            about = f"{escaped(metric.title or metric.name)} at full precision, by part."
            lines += ["", *_table(parts, columns="l" + "r" * len(_rows(run)), caption=about)]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return "".join(SPECIAL.get(character, character) for character in printable(text))


def _table(rows: Iterable[str], *, columns: str, caption: str) -> Iterator[str]:
    yield from (r"\begin{table}", r"\centering", rf"\caption{{{caption}}}")
    yield from (rf"\begin{{tabular}}{{{columns}}}", r"\toprule")
    yield from rows
    yield from (r"\bottomrule", r"\end{tabular}", r"\end{table}")


def _measured(run: AuditRun) -> list[MetricBlock]:
    return [metric for name, metric in run.metrics.items() if run.is_measured(name)]


def _rows(run: AuditRun) -> list[ModelRow]:
    """Every model and recipe; the single seeds of a recipe are inside its row."""
    return [model for model in run.models if model.seed_of is None]


def _numbers(run: AuditRun) -> Iterator[str]:
    metrics = _measured(run)
    heads = [escaped(metric.name) + ARROWS[metric.lower_is_better] for metric in metrics]
    yield _row(["", *heads])
    for label in run.labels:
        yield r"\midrule"
        name = "full precision" if label == FULL.label else label
        yield rf"\multicolumn{{{len(metrics) + 1}}}{{l}}{{\emph{{{escaped(name)}}}}} \\"
        best = {metric.name: _best(run, label, metric) for metric in metrics}
        for model in _rows(run):
            cells = [
                _cell(run, model, label, metric, is_best=model.name in best[metric.name])
                for metric in metrics
            ]
            yield _row([escaped(model.name), *cells])


def _best(run: AuditRun, label: str, metric: MetricBlock) -> set[str]:
    """The unlearned models with the best value as it is printed; none where there is nothing to choose."""
    if metric.lower_is_better is None:
        return set()
    values = {
        model.name: round(value, 6)
        for model in _rows(run)
        if model.role is Role.UNLEARNED
        and (value := run.cell(model.name, label, metric.name).value.value) is not None
    }
    if len(values) < 2:
        return set()
    extreme = (min if metric.lower_is_better else max)(values.values())
    return {name for name, value in values.items() if math.isclose(value, extreme)}


def _cell(run: AuditRun, model: ModelRow, label: str, metric: MetricBlock, *, is_best: bool) -> str:
    estimate = run.cell(model.name, label, metric.name).value
    if estimate.value is None:
        return escaped(NOTHING)
    value = _number(estimate.value, metric)
    shown = rf"\textbf{{{value}}}" if is_best else value
    seeds = [run.cell(seed, label, metric.name).value.value for seed in model.seeds]
    known = [each for each in seeds if each is not None]
    if len(known) > 1:
        return rf"{shown} $\pm$ {_number(statistics.stdev(known), metric)}"
    if estimate.low is None or estimate.high is None:
        return shown
    ends = ", ".join(_number(end, metric) for end in (estimate.low, estimate.high))
    return rf"{shown} {{\scriptsize [{ends}]}}"


def _parts(run: AuditRun, metric: MetricBlock) -> Iterable[str]:
    """The mean score of each split at full precision; empty for a metric of one split."""
    means = {
        model.name: run.cell(model.name, FULL.label, metric.name).value.means or {} for model in _rows(run)
    }
    names = list(dict.fromkeys(name for parts in means.values() for name in parts))
    if not names:
        return []
    head = _row(["", *(escaped(model.name) for model in _rows(run))])
    rows = [
        _row([escaped(name), *(_part(means[model.name].get(name)) for model in _rows(run))])
        for name in names
    ]
    return [head, r"\midrule", *rows]


def _part(value: float | None) -> str:
    return escaped(NOTHING) if value is None else escaped(f"{value:.3f}")


def _number(value: float, metric: MetricBlock) -> str:
    return escaped(number(value, scale=metric.scale))


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
