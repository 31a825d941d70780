"""What puts a report on file: its case, an id, fingerprints, and what to do next."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from typing import TYPE_CHECKING

from expunge.audit.forgetting import Forgotten
from expunge.audit.run.plan import Role
from expunge.audit.saved import SUMMARY
from expunge.audit.verdict import Outcome
from expunge.report.numbers import short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.report.run import AuditRun
    from expunge.report.verdicts import VerdictCard


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFacts:
    """What whoever files a report knows of the case; each is left out of the page where it is empty.

    ``case``: its number or name. ``by``: who made the report. ``recipient``: whom it is for. ``basis``: the
    request or rule it answers to. ``note``: anything else.
    """

    case: str = ""
    by: str = ""
    recipient: str = ""
    basis: str = ""
    note: str = ""

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """Names and values, those that were given."""
        named = {
            "Case": self.case,
            "Prepared by": self.by,
            "Prepared for": self.recipient,
            "Basis": self.basis,
            "Note": self.note,
        }
        return tuple((name, value) for name, value in named.items() if value)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """Something to do after the audit, and the command for it (empty if there is none)."""

    text: str
    command: str = ""


def report_id(run: AuditRun) -> str:
    """Twelve digits that name the numbers of a report: of the SHA-256 of ``summary.json``."""
    path = run.folder / SUMMARY
    content = path.read_bytes() if path.is_file() else run.summary.model_dump_json().encode()
    return short(hashlib.sha256(content).hexdigest())


def moment(started: str) -> str:
    """``2026-11-21 07:25 UTC``; empty for what is no time."""
    try:
        at = datetime.fromisoformat(started)
    except ValueError:
        return ""
    return f"{at:%Y-%m-%d %H:%M} {at.tzname() or ''}".rstrip()


def fingerprints(run: AuditRun) -> list[tuple[str, str]]:
    """The whole SHA-256 of the forget file and of every model: what was judged, and on which texts."""
    split = run.sources.get("splits", {}).get("forget", {})
    file = (
        [(f"forget set ({PurePath(split['file']).name})", split["sha256"])] if split.get("sha256") else []
    )
    return file + [(model.name, model.hash) for model in run.checkpoints]


def next_steps(run: AuditRun, cards: Sequence[VerdictCard]) -> list[NextStep]:
    """What the verdicts ask for, the most urgent first, each once."""
    steps = [step for card in cards for step in _for_outcome(run, card)]
    best = next((card.model for card in cards if card.mark == "good"), None)
    if best is not None and steps:
        steps.insert(0, NextStep(text=f"{best} holds under every condition that was measured: prefer it."))
    if run.holder(Role.TARGET) is None:
        steps.append(
            NextStep(
                text="Compare with the model before unlearning: without it nothing says what it forgot.",
                command=_audit(run, "--target MODEL_BEFORE", best),
            )
        )
    if run.holder(Role.RETRAINED) is None:
        steps.append(
            NextStep(
                text="Compare with a model that was trained without the forget set: without one it is not "
                "known what a model that never saw the texts would answer.",
                command=_audit(run, "--retrained RETRAINED_MODEL", best),
            )
        )
    if not run.quantizers:
        steps.append(
            NextStep(
                text="Audit the model at the precision it is deployed at.",
                command=_audit(run, "-q int8 -q int4 -q nf4", best),
            )
        )
    if not run.attacks:
        steps.append(NextStep(text="Audit it under attack.", command=_audit(run, "--attack relearn", best)))
    return list(dict.fromkeys(steps))


def next_command(run: AuditRun) -> str:
    """The first command that the verdicts ask for; else the one that shows the models' answers."""
    from expunge.report.verdicts import headline

    commands = [step.command for step in next_steps(run, headline(run).cards) if step.command]
    return next(iter(commands), f"expunge inspect {shlex.quote(str(run.folder))}")


def _for_outcome(run: AuditRun, card: VerdictCard) -> list[NextStep]:
    """What one model's verdict asks for: a sentence, and what is set in the next unlearning."""
    asked = {
        Outcome.DID_NOT_FORGET: (f"Unlearn {card.model} further, and audit the result.", ""),
        Outcome.FORGOT_IN_PART: (f"Unlearn {card.model} further, and audit the result.", ""),
        Outcome.CAME_BACK: (
            f"Do not deploy {card.model} at {card.worst}: unlearn the target again, with weights in fp32.",
            "",
        ),
        Outcome.LEAKS: (
            f"Unlearn the target again with an adversary that perturbs it meanwhile: {card.model} leaks.",
            "--set adversary.name=latent",
        ),
        Outcome.UNUSABLE: (
            f"Unlearn the target again with a higher retain weight: {card.model} lost too much else.",
            "--set retain.weight=10",
        ),
    }
    if card.outcome in asked:
        text, settings = asked[card.outcome]
        return [NextStep(text=text, command=_unlearn(run, settings))]
    if card.outcome is Outcome.CANNOT_TELL and card.forgotten is not Forgotten.NO:
        return [NextStep(text=f"Measure {card.model} on more questions: these are too few to tell.")]
    return []


def _unlearn(run: AuditRun, more: str = "") -> str:
    target = run.holder(Role.TARGET)
    source = str(run.source(target).get("path", target)) if target else "MODEL"
    words = ["expunge unlearn", shlex.quote(source), f"--forget {_file(run, 'forget')}"]
    if "retain" in run.sources.get("splits", {}):
        words.append(f"--retain {_file(run, 'retain')}")
    return " ".join([*words, *([more] if more else []), "--output NEW_MODEL"])


def _audit(run: AuditRun, more: str, best: str | None) -> str:
    model = best or next((each.name for each in run.unlearned_checkpoints), "MODEL")
    source = shlex.quote(str(run.source(model).get("path", model)))
    target = run.holder(Role.TARGET)
    before = f" --target {shlex.quote(str(run.source(target).get('path', target)))}" if target else ""
    return f"expunge audit {source}{before} --forget {_file(run, 'forget')} {more} --output NEW_AUDIT"


def _file(run: AuditRun, split: str) -> str:
    known = run.sources.get("splits", {}).get(split, {})
    return shlex.quote(str(known.get("file", f"{split.upper()}.jsonl")))
