"""The verdict in words for people who read nothing else: one sentence for the run, one card per model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.audit.forgetting import Durability, Forgotten
from expunge.audit.run.plan import FULL, Role
from expunge.audit.saved import SCORES, SOURCES, SUMMARY
from expunge.audit.verdict import Outcome
from expunge.report.numbers import NOTHING, interval, number, plural

if TYPE_CHECKING:
    from expunge.audit.statistics.bootstrap import Estimate
    from expunge.audit.summary import CellSummary
    from expunge.report.run import AuditRun

SEVERITY = (
    Outcome.DID_NOT_FORGET,
    Outcome.CAME_BACK,
    Outcome.LEAKS,
    Outcome.FORGOT_IN_PART,
    Outcome.UNUSABLE,
    Outcome.CANNOT_TELL,
    Outcome.NO_LEAK,
    Outcome.HELD,
    Outcome.FORGOT,
)
"""The worst first: a model is as good as the worst that was found of it."""
PERCENT = "0-100"
EXPLAINED = (
    *(Outcome.DID_NOT_FORGET, Outcome.LEAKS, Outcome.FORGOT_IN_PART),
    *(Outcome.UNUSABLE, Outcome.CANNOT_TELL),
)
"""Outcomes that a rise of what is known does not explain: the verdict's own reason does."""
NEXT_TO_NOTHING = 0.05
"""Points that are shown as 0.0."""
SHOWS = {
    SUMMARY: "verdicts, numbers and intervals",
    SCORES: "single items",
    SOURCES: "where models and texts came from",
}
WORDS = {
    Outcome.DID_NOT_FORGET: ("not forgotten", "bad"),
    Outcome.CAME_BACK: ("comes back", "bad"),
    Outcome.LEAKS: ("leaks under attack", "bad"),
    Outcome.FORGOT_IN_PART: ("partly forgotten", "warn"),
    Outcome.UNUSABLE: ("no longer usable", "warn"),
    Outcome.CANNOT_TELL: ("cannot tell", "open"),
    Outcome.NO_LEAK: (Durability.NO_LEAK.value, "good"),
    Outcome.HELD: (Durability.STAYS_FORGOTTEN.value, "good"),
    Outcome.FORGOT: ("forgotten", "good"),
}
"""What each outcome is called, and its mark: every mark has a sign of its own, not a colour alone."""
NO_WORSE = (Durability.NO_WORSE.value, "open")
"""The same of an outcome ``held`` where the model did not forget, or is above the retrained one."""
ANSWERS = {
    Forgotten.YES: "good",
    Forgotten.PARTLY: "warn",
    Forgotten.NO: "bad",
    Forgotten.CANNOT_TELL: "open",
}
"""The mark of each answer to the first question."""
WORST = (
    *(Durability.NOT_FORGOTTEN, Durability.COMES_BACK, Durability.LEAKS, Durability.UNUSABLE),
    *(Durability.CANNOT_TELL, Durability.NO_WORSE, Durability.NO_LEAK, Durability.STAYS_FORGOTTEN),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictCard:
    """One unlearned model: both answers, its outcome, where it was worst, and how much it knows there.

    ``forgotten`` answers the first question, ``stays`` the second one, by condition; ``useful`` is what the
    model is still good for, in words (empty if that was not measured).
    """

    model: str
    outcome: Outcome
    sentence: str
    metric: str | None
    full: Estimate | None
    worst: str
    there: Estimate | None
    forgotten: Forgotten
    stays: str
    useful: str
    word: str
    mark: str

    @property
    def answer_mark(self) -> str:
        """The mark of the first answer."""
        return ANSWERS[self.forgotten]


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The run in one sentence, how sure it is, and a card per unlearned model."""

    verdict: str
    certainty: str
    mark: str
    warnings: tuple[str, ...]
    cards: tuple[VerdictCard, ...]

    @property
    def came_back(self) -> bool:
        """Whether any card's arrow stands for a return."""
        return any(each.outcome in (Outcome.CAME_BACK, Outcome.LEAKS) for each in self.cards)


def headline(run: AuditRun) -> Headline:
    """The verdict on a whole run."""
    cards = tuple(card(run, model.name) for model in run.judged)
    if not cards:
        return Headline(
            verdict="No unlearned model was audited.",
            certainty="The audit measured a target or a control alone: there is nothing to judge.",
            mark="open",
            warnings=edited(run),
            cards=(),
        )
    worst = min(cards, key=lambda each: (SEVERITY.index(each.outcome), each.mark == "good"))
    return Headline(
        verdict=_overall(run, cards, worst),
        certainty=_certainty(worst, cards),
        mark=worst.mark,
        warnings=edited(run),
        cards=cards,
    )


def edited(run: AuditRun) -> tuple[str, ...]:
    """One sentence for each file of the audit that was changed after the audit wrote it."""
    return tuple(
        f"{name} was changed after the audit wrote it: what is shown of {SHOWS.get(name, 'it')} is not "
        "what was measured. Repeat the audit's command to write it anew."
        for name in run.edited
    )


def card(run: AuditRun, model: str) -> VerdictCard:
    """The verdict on one model: the worst over all conditions, and where the most came back.

    What breaks the target itself proves nothing, and is left out.
    """
    labels = [label for label in run.labels if label not in run.broken]
    verdicts = {label: run.summary.verdict(model, label) for label in labels}
    known = {label: verdict for label, verdict in verdicts.items() if verdict is not None}
    outcome = min(
        (each.outcome for each in known.values()), key=SEVERITY.index, default=Outcome.CANNOT_TELL
    )
    places = [label for label, verdict in known.items() if verdict.outcome is outcome] or labels
    metric = _telling(run, model, places) if outcome is Outcome.CAME_BACK else run.lead
    cells = {label: run.cell(model, label, metric) for label in labels} if metric else {}
    came_back = outcome is Outcome.CAME_BACK
    worst = max(places, key=lambda label: _rise(cells.get(label), against_target=came_back))
    if outcome is Outcome.DID_NOT_FORGET and FULL.label in places:
        worst = FULL.label
    there = cells.get(worst)
    sentence = _sentence(run, outcome, cells, worst)
    if worst in known and (
        outcome in EXPLAINED or (came_back and there is not None and not _is_plain_rise(run, there))
    ):
        place = "at full precision" if worst == FULL.label else f"at {worst}"
        sentence += f" Why the verdict {place}: {run.titled(known[worst].reason)}"
    if run.broken:
        labels_broken = ", ".join(label for label in run.labels if label in run.broken)
        sentence += f" Nothing can be told at {labels_broken}: there the target itself is broken."
    answer = run.summary.forgotten(model)
    word, mark = _word(run, model, outcome, labels)
    return VerdictCard(
        model=model,
        outcome=outcome,
        sentence=sentence,
        forgotten=Forgotten.CANNOT_TELL if answer is None else answer.answer,
        stays=stays(run, model, labels),
        useful=useful(run, model),
        word=word,
        mark=mark,
        metric=metric,
        full=cells[FULL.label].value if cells else None,
        worst=worst,
        there=there.value if there else None,
    )


def _word(run: AuditRun, model: str, outcome: Outcome, labels: list[str]) -> tuple[str, str]:
    """The outcome in plain words and its mark: good, bad, warn or open."""
    found = {run.summary.stays(model, label) for label in labels}
    if outcome in (Outcome.HELD, Outcome.NO_LEAK) and Durability.NO_WORSE in found:
        return NO_WORSE
    return WORDS[outcome]


def cell_word(run: AuditRun, model: str, label: str) -> tuple[str, str]:
    """What a verdict under one condition is called, and its mark."""
    verdict = run.summary.verdict(model, label)
    return (NOTHING, "open") if verdict is None else _word(run, model, verdict.outcome, [label])


def stays(run: AuditRun, model: str, labels: list[str]) -> str:
    """The second answer, the worst first: ``comes back (int4); stays forgotten (int8, fp4)``."""
    by_answer = {
        answer: [label for label in labels if run.summary.stays(model, label) is answer] for answer in WORST
    }
    told = [f"{answer} ({', '.join(where)})" for answer, where in by_answer.items() if where]
    return "; ".join(told) or "not tested"


def useful(run: AuditRun, model: str) -> str:
    """``84.0 of 100, before 96.0``; empty if utility was not measured."""
    if run.utility is None:
        return ""
    scale = run.metrics[run.utility].scale
    value = run.cell(model, FULL.label, run.utility).value.value
    target = run.holder(Role.TARGET)
    before = None if target is None else run.cell(target, FULL.label, run.utility).value.value
    of = f" of {scale.partition('-')[2]}" if scale in (PERCENT, "0-1") else ""
    then = "" if before is None else f", before {number(before, scale=scale)}"
    return "" if value is None else f"{number(value, scale=scale)}{of}{then}"


def _telling(run: AuditRun, model: str, places: list[str]) -> str | None:
    """The metric that rose by the most times what counts as recovery; the lead one if it rose enough."""
    risen = {
        name: max(_rise(run.cell(model, label, name), against_target=True) for label in places) / least
        for name, least in run.points.items()
    }
    if run.lead is None or risen.get(run.lead, 0.0) >= 1 or not risen:
        return run.lead
    return max(risen, key=lambda name: risen[name])


def _overall(run: AuditRun, cards: tuple[VerdictCard, ...], worst: VerdictCard) -> str:
    same = sum((each.outcome, each.mark) == (worst.outcome, worst.mark) for each in cards)
    tested = _tested(run)
    if len(cards) == 1:
        who, verb = "The unlearned model", "s"
    elif same == len(cards):
        who, verb = ("Both" if same == 2 else f"All {same}") + " unlearned models", ""
    else:
        who, verb = f"{same} of {len(cards)} unlearned models", "s" if same == 1 else ""
    forgot = "forgot, but " if worst.forgotten is Forgotten.YES else ""
    sentences = {
        Outcome.DID_NOT_FORGET: _still_known(run, cards, f"{who} still", verb),
        Outcome.CAME_BACK: f"{who} give{verb} the forgotten text back once quantized.",
        Outcome.LEAKS: f"{who} give{verb} forgotten text back under attack.",
        Outcome.FORGOT_IN_PART: f"{who} forgot only a part of what was to be forgotten.",
        Outcome.UNUSABLE: f"{who} {forgot}lost too much else to be of use.",
        Outcome.CANNOT_TELL: _open(run, cards, who),
        Outcome.NO_LEAK: f"{who} forgot, and no attack brought it back {tested}.",
        Outcome.HELD: f"{who} forgot, and nothing came back {tested}.",
        Outcome.FORGOT: f"{who} forgot at full precision. {_why_full_alone(run)}",
    }
    if worst.word == NO_WORSE[0]:
        return f"{who} forgot at full precision, and know{verb} no more {tested}."
    return sentences[worst.outcome]


def _still_known(run: AuditRun, cards: tuple[VerdictCard, ...], who: str, verb: str) -> str:
    """Without a target and a control, what is certain: the answers given word for word."""
    counted = _counted(run, cards)
    if counted:
        return f"{who} give{verb} the forgotten text: {counted}."
    return f"{who} know{verb} what was to be forgotten."


def _open(run: AuditRun, cards: tuple[VerdictCard, ...], who: str) -> str:
    counted = _counted(run, cards)
    if counted:
        return f"{who} gives {counted}; whether it ever gave the others is not known."
    return f"{who} cannot be judged: the measurements leave it open."


def _counted(run: AuditRun, cards: tuple[VerdictCard, ...]) -> str:
    """Of one model without a target, how many answers it gives word for word; empty if there are none."""
    row = run.summary.forgotten(cards[0].model)
    if len(cards) > 1 or run.holder(Role.TARGET) is not None or row is None or not row.word_for_word:
        return ""
    return f"{row.word_for_word} of {row.asked} answers word for word"


def _tested(run: AuditRun) -> str:
    """What a model was measured under, but for what breaks the target itself."""
    precisions = sum(label not in run.broken for label in run.quantizers)
    attacks = sum(label not in run.broken for label in run.attacks)
    parts = [
        *([f"at {plural(precisions, 'reduced precision')}"] if precisions or not attacks else []),
        *([f"under {plural(attacks, 'attack')}"] if attacks else []),
    ]
    return " and ".join(parts)


def _why_full_alone(run: AuditRun) -> str:
    if run.grids:
        return "Nothing else could be tested: what was tried breaks the target itself."
    return "No reduced precision was tested."


def _certainty(worst: VerdictCard, cards: tuple[VerdictCard, ...]) -> str:
    others = [each for each in cards if each.outcome is not worst.outcome]
    held = sum(each.mark == "good" for each in others)
    rest = ""
    if others and held == len(others):
        rest = f" The other {held} hold." if held > 1 else " The other one holds."
    return f"{worst.model}: {worst.sentence}{rest}"


def _answers(run: AuditRun, model: str) -> str:
    """How many answers a model gives word for word at full precision; empty where none were counted."""
    row = run.summary.forgotten(model)
    if row is None or row.word_for_word is None or not row.asked:
        return ""
    beside = ""
    if row.word_for_word_retrained is not None:
        beside = f" ({run.holder(Role.RETRAINED)}: {row.word_for_word_retrained})"
    return f"gives {row.word_for_word} of {row.asked} answers word for word{beside} and "


def _sentence(run: AuditRun, outcome: Outcome, cells: dict[str, CellSummary], worst: str) -> str:
    """What the lead metric says: at full precision, where it is worst, and how sure the difference is."""
    full, there = cells.get(FULL.label), cells.get(worst)
    if full is None or there is None or full.value.value is None:
        return "nothing was measured of the forget set."
    metric = run.metrics[full.metric]
    scale = metric.scale
    level = f"{100 * run.summary.bootstrap.get('level', 0.95):g} % interval"
    knows = _answers(run, full.model) + _knows(full.value, scale)
    if metric.name != run.lead:
        knows += f" on “{metric.title or metric.name}”"
    if worst == FULL.label or there.recovery is None or there.recovery.value is None:
        sure = interval(full.value, scale=scale)
        return f"it {knows} at full precision" + (f" ({level} {sure})." if sure else ".")
    change = there.recovery
    sure = interval(change, scale=scale, sign=True)
    rise = f"{number(change.value, scale=scale, sign=True)} points" + (f", {level} {sure}" if sure else "")
    if outcome is Outcome.CAME_BACK:
        back = number(there.value.value, scale=scale)
        return f"it {knows} at full precision and {back} at {worst} ({rise})."
    if change.value is not None and change.value < NEXT_TO_NOTHING:
        most = max((high for high in map(_high, cells.values()) if high is not None), default=None)
        limit = (
            f" ({level} up to {number(most, scale=scale, sign=True)} points)" if most is not None else ""
        )
        place = {"attack": "under any attack", "condition": "under any condition"}
        where = place.get(_kind(run), "at any reduced precision")
        return f"it {knows} at full precision, and no more {where}{limit}."
    article = "an" if _kind(run) == "attack" else "a"
    return f"it {knows} at full precision; the most {article} {_kind(run)} adds is {rise} ({worst})."


def _kind(run: AuditRun) -> str:
    """What the conditions of an audit are, in one word or two."""
    if run.attacks and run.quantizers:
        return "condition"
    return "attack" if run.attacks else "reduced precision"


def _knows(value: Estimate, scale: str) -> str:
    shown = number(value.value, scale=scale)
    return f"knows {shown} of 100" if scale == PERCENT else f"scores {shown}"


def _high(cell: CellSummary) -> float | None:
    return cell.recovery.high if cell.recovery is not None else None


def _rise(cell: CellSummary | None, *, against_target: bool = False) -> float:
    """The points a cell has over full precision; counted against the target too, if that is more."""
    if cell is None:
        return float("-inf")
    rises = (cell.recovery, cell.recovery_against_target if against_target else None)
    return max(
        (rise.value for rise in rises if rise is not None and rise.value is not None), default=float("-inf")
    )


def _is_plain_rise(run: AuditRun, cell: CellSummary) -> bool:
    """Whether points over full precision alone show a return, so that they explain it."""
    rise = cell.recovery
    if rise is None or rise.value is None or rise.low is None:
        return False
    return rise.value >= run.points.get(cell.metric, 0.0) and rise.low > 0
