"""What the results show, as sentences made from them: what was measured, and no reasons for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.methods.results import FULL
from expunge.train.loop.stop import StopRule
from expunge.train.methods.in_turn import UnlearnInTurn
from expunge.train.run.recipe import Recipe, load_recipe

Row = Mapping[str, Any]

NAMED = 3
"""So many of a kind are named where only the largest are."""


def findings(results: Mapping[str, Any]) -> str:
    """One paragraph for each of the questions that readers bring to the table."""
    methods: Sequence[Row] = results["methods"]
    target, _ = results["landmarks"]
    lines = [_return(methods), _second_phrasing(methods), _membership(methods), _left(methods, target)]
    return "\n".join(f"- {line}" for line in lines)


def stops(results: Mapping[str, Any]) -> str:
    """For each method with a stop rule whether its runs reached it; what is not recorded is not guessed."""
    ruled = [(row, recipe_of(row)) for row in results["methods"]]
    ruled = [(row, recipe) for row, recipe in ruled if has_rule(recipe)]
    known = [row for row, _ in ruled if recorded(row)]
    lines = [f"{len(ruled)} of {len(results['methods'])} methods ran with a stop rule."]
    if len(known) < len(ruled):
        lines.append(
            f"For {len(ruled) - len(known)} it is unknown whether they reached it: their runs "
            "predate that field of the record."
        )
    lines += [_ran_out(row, recipe) for row, recipe in ruled if not recorded(row) and _steps(recipe)]
    lines.append(_against_the_audit(ruled))
    text = "\n".join(line for line in lines if line)
    return "\n\n".join([text, _table(known)]) if known else text


def recipe_of(row: Row) -> Recipe:
    """The recipe in force: with what was set for this world."""
    return load_recipe(row["model"], [each.format(data=".") for each in row["set"]])


def has_rule(recipe: Recipe) -> bool:
    """Whether a run of it may end before its last epoch."""
    names = ("stop", "stop_value", "stop_portion")
    return any(getattr(stage, name, None) is not None for stage in recipe.stages for name in names)


def recorded(row: Row) -> bool:
    """Whether every run says how its stop rule ended."""
    return all(run.get("stop") for run in row["runs"])


def reached(row: Row) -> int:
    """How many runs reached their rule, in every stage and part that has one."""
    return sum(all(rule["reached"] for rule in run["stop"]) for run in row["runs"])


def _table(rows: Sequence[Row]) -> str:
    lines = ["| recipe | runs that reached it | last values, by run |", "| --- | --- | --- |"]
    for row in rows:
        last = [_last(rule) for run in row["runs"] for rule in run["stop"]]
        lines.append(f"| `{row['model']}` | {reached(row)} of {len(row['runs'])} | {'; '.join(last)} |")
    return "\n".join(lines)


def _last(rule: Mapping[str, Any]) -> str:
    named = [f"{name} {rule['last'][name]:.3g} (≤ {most:.3g})" for name, most in rule["levels"].items()]
    if rule["floor"] is not None:
        named.append(f"utility {rule['last']['utility']:.3g} (≥ {rule['floor']:.3g})")
    return ", ".join(named)


def _steps(recipe: Recipe) -> int | None:
    """The most steps of a recipe whose every epoch is one step; None of all others."""
    (stage,) = recipe.stages if len(recipe.stages) == 1 else (None,)
    return stage.epochs if isinstance(stage, UnlearnInTurn) and stage.chunk is None else None


def _ran_out(row: Row, recipe: Recipe) -> str:
    most = _steps(recipe)
    if most is None or row["steps"] < most:
        return ""
    return (
        f"`{row['model']}` made {row['steps']:g} steps in the median run, one per epoch and as many as it "
        "has epochs: the rule did not end that run."
    )


def _against_the_audit(ruled: Sequence[tuple[Row, Recipe]]) -> str:
    """Where a rule and the audit ask for the same number, the audit's answer."""
    asked = [(row, level) for row, recipe in ruled if (level := _level(recipe)) is not None]
    over = [row for row, level in asked if _full(row, "knowmem_forget")["value"] > level]
    if not asked:
        return ""
    return (
        f"{len(asked)} of the rules require a KnowMem of the forget set of at most some level, which is "
        f"what the column *forget* measures: it is above that level for {len(over)} of them."
    )


def _level(recipe: Recipe) -> float | None:
    rules = [rule for stage in recipe.stages if isinstance(rule := getattr(stage, "stop", None), StopRule)]
    return next((rule.forget_at_most for rule in rules), None)


def _return(rows: Sequence[Row]) -> str:
    def rise(row: Row) -> Mapping[str, Any]:
        recovery: Mapping[str, Any] = row["cells"]["int4"]["knowmem_forget"]["recovery"]
        return recovery

    largest = sorted(rows, key=lambda row: -rise(row)["value"])[:NAMED]
    named = _joined(f"`{row['model']}` ({_with_interval(rise(row))})" for row in largest)
    return f"**Rounding to 4 bits**: KnowMem of the forget set rises most, in points, for {named}."


def _second_phrasing(rows: Sequence[Row]) -> str:
    apart = [
        row for row in rows if _apart(_full(row, "knowmem_forget"), _full(row, "paraphrase_questions"))
    ]
    named = _joined(
        f"`{row['model']}` ({_full(row, 'knowmem_forget')['value']:.0f} against "
        f"{_full(row, 'paraphrase_questions')['value']:.0f})"
        for row in apart
    )
    rest = f"; not for {named}" if apart else ""
    return (
        f"**Paraphrased questions**: their interval and that of the original wording overlap for "
        f"{len(rows) - len(apart)} of {len(rows)} methods{rest}."
    )


def _membership(rows: Sequence[Row]) -> str:
    known = [row for row in rows if _full(row, "privleak")["value"] is not None]
    near = sorted(known, key=lambda row: abs(_full(row, "privleak")["value"]))[:NAMED]
    low = sum(_full(row, "privleak")["value"] < -90 for row in known)
    named = _joined(
        f"`{row['model']}` ({_plain(_full(row, 'privleak')['value'])}; by world "
        f"{', '.join(_plain(value) for value in _full(row, 'privleak')['by_seed'])})"
        for row in near
    )
    bare = (
        " It has no interval here." if all(_full(row, "privleak")["low"] is None for row in known) else ""
    )
    return (
        f"**PrivLeak** is below −90 for {low} of {len(known)} methods. Nearest to 0, the value of the "
        f"retrained model, are {named}.{bare}"
    )


def _left(rows: Sequence[Row], target: Row) -> str:
    known = _full(target, "knowmem_forget")["value"]
    most = sorted(rows, key=lambda row: -_full(row, "knowmem_forget")["value"])
    left = [row for row in most if _full(row, "knowmem_forget")["value"] > known / 2]
    if not left:
        return f"**Every method** removes more than half of the target's KnowMem of {known:.0f}."
    named = _joined(f"`{row['model']}` ({_full(row, 'knowmem_forget')['value']:.0f})" for row in left)
    return f"**More than half** of the target's KnowMem of {known:.0f} remains with {named}."


def _full(row: Row, metric: str) -> Mapping[str, Any]:
    cell: Mapping[str, Any] = row["cells"][FULL][metric]
    return cell


def _apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if None in (one["low"], one["high"], other["low"], other["high"]):
        return False
    return bool(one["high"] < other["low"] or other["high"] < one["low"])


def _with_interval(cell: Mapping[str, Any]) -> str:
    if cell["low"] is None:
        return _plain(cell["value"])
    return f"{_plain(cell['value'])} [{_plain(cell['low'])}, {_plain(cell['high'])}]"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}".replace("-", "−")


def _joined(words: Iterable[str]) -> str:
    *first, last = [*words] or ["none"]
    return f"{', '.join(first)} and {last}" if first else last
