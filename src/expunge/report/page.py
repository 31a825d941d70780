"""The report as one HTML file: no network, nothing beside it, whatever the texts in it hold."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from itertools import groupby
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

import expunge
from expunge.audit.blocks import calibrations
from expunge.audit.run.plan import FULL
from expunge.audit.statistics.significance import RULE
from expunge.audit.verdict import Outcome
from expunge.report import facts
from expunge.report.charts.arrows import Landmarks, arrows, landmarks, strip
from expunge.report.charts.buckets import buckets, histogram
from expunge.report.charts.curves import NAMES, curves, polyline
from expunge.report.charts.leak import DRAWS, leak_curves, polylines
from expunge.report.charts.scatter import scatter
from expunge.report.filing import CaseFacts, fingerprints, next_steps, report_id
from expunge.report.heat import heat_maps
from expunge.report.items import embedded, payload, read_items
from expunge.report.not_tested import not_tested, unmeasured
from expunge.report.numbers import GLOSSARY, NOTHING, interval, number, thousands
from expunge.report.verdicts import Headline, cell_word, headline
from expunge.report.versus import side_by_side

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expunge.report.charts.arrows import Arrow
    from expunge.report.run import AuditRun


BACK = (Outcome.CAME_BACK, Outcome.LEAKS)
"""Outcomes that an orange arrow stands for."""


def render(run: AuditRun, *, reveal: bool, case: CaseFacts | None = None) -> str:
    """The page of one run; without ``reveal`` no text of any item is in it."""
    items = read_items(run)
    head = headline(run)
    style, script = _asset("style.css"), _asset("report.js")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            policy=policy(style, script),
            style=Markup(style),  # noqa: S704 - ours
            script=Markup(script),  # noqa: S704 - ours
            version=expunge.__version__,
            run=run,
            head=head,
            reveal=reveal,
            asked=facts.asked(run, items),
            case=(case or CaseFacts()).rows,
            report_id=report_id(run),
            fingerprints=fingerprints(run),
            steps=next_steps(run, head.cards),
            formats=[(column.label, column.title) for column in run.summary.conditions if column.title],
            rule=RULE,
            gaps=not_tested(run),
            missing=unmeasured(run),
            maps=heat_maps(run),
            level=f"{100 * run.summary.bootstrap.get('level', 0.95):g} %",
            data=embedded(payload(run, items, reveal=reveal)),
            glossary=GLOSSARY,
            **_charts(run, head),
            **_provenance(run),
        )
    )


def render_two(first: AuditRun, second: AuditRun) -> str:
    """The page of two runs side by side; no text of any item is in it."""
    style, script = _asset("style.css"), _asset("report.js")
    return (
        _environment()
        .get_template("versus.html.j2")
        .render(
            policy=policy(style, script),
            style=Markup(style),  # noqa: S704 - ours
            script=Markup(script),  # noqa: S704 - ours
            version=expunge.__version__,
            **side_by_side(first, second),
        )
    )


def policy(style: str, script: str) -> str:
    """A content security policy that lets this style and this script run, and nothing load at all."""
    sources = "; ".join(
        f"{name} '{_sha256(text)}'" for name, text in (("style-src", style), ("script-src", script))
    )
    return f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'"


def _charts(run: AuditRun, head: Headline) -> dict[str, Any]:
    trade = scatter(run)
    found: dict[str, Any] = {
        "trade": trade,
        "useful": run.metrics[run.utility] if run.utility else None,
        "buckets": list(_buckets(run)),
        "curves": list(_curves(run)),
        "leaks": [(label, own, polylines(own)) for label, own in leak_curves(run)],
        "most_draws": f"{DRAWS[-1]:,}",
        "strips": {},
        "lead": run.metrics[run.lead] if run.lead else None,
        "arrows": [],
        "marks": None,
    }
    edges = next((each.edges for each in buckets(run) if each.edges), (0.0,))
    found |= {"bucket_low": f"{edges[0]:g}", "bucket_high": f"{edges[-1]:g}"}
    if run.lead is None:
        return found
    marks, scale = landmarks(run, run.lead), run.metrics[run.lead].scale
    rows = [_row(run, arrow, marks, scale) for arrow in arrows(run, run.lead)]
    return found | {
        "strips": {
            card.model: strip(
                landmarks(run, card.metric), card.full, card.there, came_back=card.outcome in BACK
            )
            for card in head.cards
            if card.metric is not None
        },
        "arrows": [(name, list(own)) for name, own in groupby(rows, key=lambda row: row["model"])],
        "marks": marks,
        "marks_target": number(marks.target, scale=scale),
        "marks_control": number(marks.control, scale=scale),
        "marks_low": f"{marks.low:g}",
        "marks_high": f"{marks.high:g}",
    }


def _row(run: AuditRun, arrow: Arrow, marks: Landmarks, scale: str) -> dict[str, Any]:
    word, mark = cell_word(run, arrow.model, arrow.condition)
    change = arrow.recovery.value if arrow.recovery else None
    return {
        "model": arrow.model,
        "condition": arrow.condition,
        "strip": strip(marks, arrow.full, arrow.there, came_back=arrow.came_back),
        "full": number(arrow.full.value, scale=scale),
        "there": number(arrow.there.value, scale=scale),
        "change": number(change, scale=scale, sign=True),
        "interval": interval(arrow.recovery, scale=scale, sign=True),
        "hot": arrow.came_back,
        "broken": arrow.condition in run.broken,
        "word": word,
        "mark": mark,
    }


def _buckets(run: AuditRun) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for model, own in groupby(buckets(run), key=lambda each: each.model):
        yield (
            model,
            [
                {
                    "about": each,
                    "kept": NOTHING if each.surviving is None else f"{each.surviving:.2f}",
                    "drawing": histogram(each),
                }
                for each in own
            ],
        )


def _curves(run: AuditRun) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for model, own in groupby(curves(run), key=lambda each: each.model):
        yield (
            model,
            [
                {
                    "name": NAMES.get(each.name, each.name),
                    "drawing": polyline(each),
                    "first": f"{each.values[0]:.3g}",
                    "last": f"{each.values[-1]:.3g}",
                    "epochs": f"{each.epochs[-1]:g}",
                }
                for each in own
            ],
        )


def _provenance(run: AuditRun) -> dict[str, Any]:
    origins = facts.origins(run)
    commands = [origin.command for origin in origins] + [facts.command(run.record)]
    return {
        "origins": origins,
        "commands": list(dict.fromkeys(command for command in commands if command)),
        "costs": facts.costs(run),
        "settings": facts.settings(run),
        "versions": facts.versions(run),
        "coverage": list(_coverage(run)),
        "calibrations": calibrations(run.summary),
    }


def _coverage(run: AuditRun) -> Iterator[dict[str, Any]]:
    """What each condition did to the first model it was applied to: all of an audit are alike in shape."""
    first = {remark.condition: remark.content for remark in reversed(run.summary.coverage)}
    for label in run.labels:
        for group in first.get(label, ()) if label != FULL.label else ():
            yield {"label": label, **group, "weights": thousands(group["weights"])}


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("expunge.report")
    return jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _asset(name: str) -> str:
    return resources.files("expunge.report").joinpath("templates", name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
