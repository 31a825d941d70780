"""Audits under attack: what must hold whatever the attack."""

from __future__ import annotations

import gc
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from expunge.attacks import parse_attack
from expunge.audit.judge import AttackEvidence, judge_attack
from expunge.audit.run.grid import Audit
from expunge.audit.run.plan import AuditPlan, ModelSource, Role, every_condition
from expunge.audit.saved import read_record
from expunge.audit.statistics.bootstrap import Conclusion, Estimate
from expunge.audit.summary import AuditSummary
from expunge.audit.table import render
from expunge.audit.verdict import Outcome
from expunge.condition import Kind
from expunge.errors import DataError, RecipeError
from expunge.metrics.memorisation import ExactMemorisation
from expunge.metrics.probability import Probability
from expunge.metrics.probes import Probes
from expunge.model.load import hash_model
from expunge.quant import parse_quantizer
from tests.train.runs import FORGET as ONE_PERSON
from tests.train.runs import RETAIN, TOKENIZER, model

FORGET = tuple(replace(each, group=f"g{number % 4}") for number, each in enumerate(ONE_PERSON))
SEEDS = {"target": 0, "retrained": 1, "unlearned": 2}
SMALL = {
    "relearn": "relearn:steps=2,rank=0,learning_rate=1e-3",
    "benign": "relearn:on=benign,steps=2,rank=2",
    "gcg": "gcg:steps=1,length=2,candidates=4,top_k=4",
    "transfer": "gcg:on=target,steps=1,length=2,candidates=4,top_k=4",
    "ablate": "ablate",
    "in_context": "in_context:count=1",
}
IDLE = ("relearn:on=benign,steps=0", "gcg:steps=0")


@pytest.fixture(autouse=True, scope="module")
def frozen_garbage() -> Iterator[None]:
    """Garbage is collected after every attack; leave the libraries out of it."""
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def label(text: str) -> str:
    """The column of an attack as it was typed."""
    return parse_attack(text).label


class Shelf:
    """Tiny models by name, and how often each was loaded."""

    def __init__(self, **seeds: int) -> None:
        self.seeds = SEEDS | seeds
        self.loaded: list[str] = []
        self.models: list[nn.Module] = []

    def source(self, name: str) -> ModelSource:
        def load() -> tuple[nn.Module, Any]:
            self.loaded.append(name)
            self.models.append(model(seed=self.seeds[name]))
            return self.models[-1], TOKENIZER

        return ModelSource(name=name, role=Role(name), hash=f"seed {self.seeds[name]}", load=load)

    def plan(self, *attacks: str, quantizers: tuple[str, ...] = (), **settings: Any) -> AuditPlan:
        known: dict[str, Any] = {
            "models": tuple(map(self.source, SEEDS)),
            "metrics": (Probability(), ExactMemorisation()),
            "probes": Probes(forget=FORGET, retain=RETAIN),
            "conditions": every_condition(
                [parse_quantizer(text) for text in quantizers], [parse_attack(text) for text in attacks]
            ),
            "forget": FORGET,
            "retain": RETAIN,
            "resamples": 200,
            "max_length": 256,
        }
        return AuditPlan(**(known | settings))


def silent(*_: Any) -> None:
    """Ignore progress."""


def carried_out(plan: AuditPlan, folder: Path, tell: Callable[..., None] = silent) -> AuditSummary:
    return Audit(plan=plan, folder=folder).run(progress=tell)


def test_an_attack_without_a_budget_is_none(tmp_path: Path) -> None:
    summary = carried_out(Shelf().plan(*IDLE), tmp_path)
    cells = [cell for cell in summary.cells if cell.condition in IDLE]
    assert len(cells) == len(IDLE) * 2 * 3
    for cell in cells:
        assert cell.value == cell.baseline
        assert cell.recovery is not None
        assert cell.recovery.value == 0
        full = summary.cell(cell.model, "full", cell.metric)
        if cell.model != "retrained" and cell.value.n == full.value.n:
            assert cell.excess is not None
            assert full.excess is not None
            assert cell.excess.value == full.excess.value


@pytest.fixture(scope="module")
def as_target(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shelf, AuditSummary]:
    """Every attack where the unlearned model is the target."""
    shelf = Shelf(unlearned=0)
    return shelf, carried_out(shelf.plan(*SMALL.values()), tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def as_control(tmp_path_factory: pytest.TempPathFactory) -> AuditSummary:
    """Every attack where the unlearned model is the retrained one."""
    return carried_out(Shelf(unlearned=1).plan(*SMALL.values()), tmp_path_factory.mktemp("control"))


@pytest.mark.parametrize("attack", SMALL.values(), ids=list(SMALL))
def test_the_target_is_recovered(attack: str, as_target: tuple[Shelf, AuditSummary]) -> None:
    regained = as_target[1].cell("unlearned", label(attack), "probability").regained
    assert regained is not None
    assert regained.value == pytest.approx(1)


@pytest.mark.parametrize("attack", SMALL.values(), ids=list(SMALL))
def test_the_control_leaks_nothing(attack: str, as_control: AuditSummary) -> None:
    for metric in ("probability", "exact_memorisation"):
        leak = as_control.cell("unlearned", label(attack), metric).excess
        assert leak is not None
        assert leak.value == 0


def test_weights_are_what_they_were(as_target: tuple[Shelf, AuditSummary]) -> None:
    shelf, _ = as_target
    for name, used in zip(shelf.loaded, shelf.models, strict=True):
        assert hash_model(used) == hash_model(model(seed=shelf.seeds[name]))


def test_of_a_half_that_is_known_the_other_is_asked_about(as_target: tuple[Shelf, AuditSummary]) -> None:
    shelf, summary = as_target
    known, asked = shelf.plan(SMALL["relearn"]).knowledge(parse_attack(SMALL["relearn"]))
    assert known
    assert {each.group for each in known}.isdisjoint(each.group for each in asked)
    half = summary.cell("unlearned", label(SMALL["relearn"]), "probability")
    whole = summary.cell("unlearned", label(SMALL["benign"]), "probability")
    assert half.baseline is not None
    assert (half.baseline.n, half.value.n) == (len(asked), len(asked))
    assert whole.value.n == len(FORGET)


def test_a_finished_audit_loads_nothing_and_one_that_was_stopped_goes_on(tmp_path: Path) -> None:
    texts = (SMALL["gcg"], SMALL["transfer"])

    def stop(done: int, total: int, what: str) -> None:
        if what.startswith(f"retrained · {label(SMALL['transfer'])} · probability"):
            raise KeyboardInterrupt

    stopped = Shelf()
    with pytest.raises(KeyboardInterrupt):
        carried_out(stopped.plan(*texts), tmp_path / "a", stop)
    again = Shelf()
    summary = carried_out(again.plan(*texts), tmp_path / "a")
    assert again.loaded == ["retrained", "unlearned"]  # the suffix found on the target was kept
    straight = carried_out(Shelf().plan(*texts), tmp_path / "b")
    assert summary == straight
    finished = Shelf()
    assert carried_out(finished.plan(*texts), tmp_path / "a") == summary
    assert finished.loaded == []


@pytest.mark.parametrize("suffix", ["parquet", "json"])
def test_a_damaged_file_of_an_attack_is_made_again(tmp_path: Path, suffix: str) -> None:
    attack = SMALL["in_context"]
    first = carried_out(Shelf().plan(attack), tmp_path)
    for path in sorted((tmp_path / "cells").glob(f"*.{suffix}")):
        path.write_bytes(path.read_bytes()[:-20])
    again = carried_out(Shelf().plan(attack), tmp_path)
    assert again == first
    record = read_record(tmp_path / "record.json")
    assert record["measured_again"]
    assert all(f".{suffix})" in name for name in record["measured_again"])
    shelf = Shelf()
    carried_out(shelf.plan(attack), tmp_path)
    assert shelf.loaded == []


def test_a_suffix_found_on_the_target_serves_for_all(as_target: tuple[Shelf, AuditSummary]) -> None:
    suffixes = [
        remark.content for remark in as_target[1].attacks if remark.condition == label(SMALL["transfer"])
    ]
    assert len(suffixes) == len(SEEDS)
    assert suffixes[0] == suffixes[1] == suffixes[2]
    assert suffixes[0]["text"]


def excess(conclusion: Conclusion | None, value: float) -> dict[str, Estimate]:
    return {"probability": Estimate(value, n=9, conclusion=conclusion)}


@pytest.mark.parametrize(
    ("evidence", "outcome", "reason"),
    [
        (
            AttackEvidence(excess=excess(Conclusion.DIFFERS, 0.3), gain={}),
            Outcome.LEAKS,
            r"\+0.30 points above",
        ),
        (AttackEvidence(excess=excess(Conclusion.DIFFERS, -0.3), gain={}), Outcome.NO_LEAK, "below it"),
        (AttackEvidence(excess=excess(Conclusion.SAME, 0.0), gain={}), Outcome.NO_LEAK, "no more than"),
        (AttackEvidence(excess=excess(None, 0.2), gain={}), Outcome.CANNOT_TELL, "9 items are not enough"),
        (  # a metric on few items that shows no leak does not outweigh one that is open
            AttackEvidence(
                excess={
                    "verbmem": Estimate(-2.1, n=4, conclusion=Conclusion.SAME),
                    "knowmem_forget": Estimate(6.8, n=14, conclusion=Conclusion.CANNOT_TELL),
                },
                gain={},
            ),
            Outcome.CANNOT_TELL,
            "knowmem_forget is .6.8 points above the retrained model: 14 items are not enough",
        ),
        (
            AttackEvidence(
                excess={
                    "verbmem": Estimate(-2.1, n=9, conclusion=Conclusion.SAME),
                    "knowmem_forget": Estimate(None, n=0, reason="no questions"),
                },
                gain={},
            ),
            Outcome.NO_LEAK,
            "on verbmem it scores no more",
        ),
        (
            AttackEvidence(excess=excess(Conclusion.DIFFERS, 0.3), gain={}, utility_kept=0.5),
            Outcome.CANNOT_TELL,
            "breaks the model",
        ),
        (
            AttackEvidence(excess=excess(Conclusion.SAME, 0.0), gain={}, control_utility_kept=0.5),
            Outcome.CANNOT_TELL,
            "breaks the retrained model",
        ),
        (
            AttackEvidence(excess={}, gain=excess(Conclusion.DIFFERS, 0.3)),
            Outcome.CANNOT_TELL,
            "without a retrained model",
        ),
        (AttackEvidence(excess={}, gain={}), Outcome.CANNOT_TELL, "nothing was measured"),
    ],
)
def test_verdicts(evidence: AttackEvidence, outcome: Outcome, reason: str) -> None:
    verdict = judge_attack(evidence)
    assert verdict.outcome is outcome
    assert re.search(reason, verdict.reason)


def test_a_leak_on_one_metric_is_a_leak() -> None:
    both = {
        **excess(Conclusion.SAME, 0.0),
        "knowmem_forget": Estimate(12.0, n=9, conclusion=Conclusion.DIFFERS),
    }
    assert judge_attack(AttackEvidence(excess=both, gain={})).outcome is Outcome.LEAKS


def test_without_a_control_there_is_a_gain_and_no_leak(tmp_path: Path) -> None:
    shelf = Shelf()
    plan = shelf.plan(SMALL["relearn"], models=(shelf.source("target"), shelf.source("unlearned")))
    summary = carried_out(plan, tmp_path)
    cell = summary.cell("unlearned", label(SMALL["relearn"]), "probability")
    assert (cell.excess, cell.regained) == (None, None)
    assert cell.recovery is not None
    assert cell.recovery.value is not None
    verdict = summary.verdict("unlearned", label(SMALL["relearn"]))
    assert verdict is not None
    assert verdict.outcome is Outcome.CANNOT_TELL


def test_an_attack_on_a_quantized_model_is_a_column_of_its_own(tmp_path: Path) -> None:
    attack = SMALL["relearn"]
    shelf = Shelf()
    summary = carried_out(shelf.plan(attack, quantizers=("int3-tensor",)), tmp_path / "chain")
    assert [(column.label, column.kind) for column in summary.conditions] == [
        ("full", Kind.FULL_PRECISION),
        ("int3-tensor", Kind.QUANTIZER),
        (label(attack), Kind.ATTACK),
        (f"int3-tensor+{label(attack)}", Kind.ATTACK),
    ]
    assert summary.conditions[-1].parts == ("int3-tensor", label(attack))
    # It is what the attack does to the rounded model, and not to the model or to nothing.
    values = {
        column.label: summary.cell("unlearned", column.label, "probability").value.value
        for column in summary.conditions
    }
    assert len(set(values.values())) == 4
    for name, used in zip(shelf.loaded, shelf.models, strict=True):
        assert hash_model(used) == hash_model(model(seed=shelf.seeds[name]))


def test_a_chain_equals_an_attack_on_a_model_saved_rounded(tmp_path: Path) -> None:
    attack = SMALL["relearn"]
    chained = carried_out(Shelf().plan(attack, quantizers=("int4",)), tmp_path / "chain")

    def rounded(name: str) -> ModelSource:
        def load() -> tuple[nn.Module, Any]:
            plain = model(seed=SEEDS[name])
            with torch.no_grad(), parse_quantizer("int4").applied(plain):
                state = {key: value.clone() for key, value in plain.state_dict().items()}
            plain.load_state_dict(state)
            return plain, TOKENIZER

        return ModelSource(name=name, role=Role(name), hash=f"rounded {name}", load=load)

    alone = carried_out(Shelf().plan(attack, models=tuple(map(rounded, SEEDS))), tmp_path / "alone")
    for name in SEEDS:
        on_quantized = chained.cell(name, f"int4+{label(attack)}", "probability").value
        assert on_quantized.value == pytest.approx(
            alone.cell(name, label(attack), "probability").value.value
        )


def test_the_table_names_every_model_and_fits(as_control: AuditSummary) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render(as_control, width=100))
    text = console.export_text()
    assert f"{label(SMALL['benign'])} · probability" in text
    for name in SEEDS:
        assert name in text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("relern", r"attack 'relern': .*Did you mean 'relearn'"),
        ("relearn:step=3", r"step: .*Did you mean 'steps'"),
        ("relearn:steps", "not a list of settings"),
        ("relearn:steps=-1", "steps: input should be greater than or equal to 0"),
        ("ablate:reference=nobody", "reference: input should be 'target' or 'retain'"),
    ],
)
def test_an_attack_that_makes_no_sense_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        parse_attack(text)


def test_what_an_attack_lacks_is_refused_before_a_model_is_loaded() -> None:
    shelf = Shelf()
    with pytest.raises(DataError, match=r"needs retain examples.*--retain"):
        shelf.plan(SMALL["benign"], retain=())
    with pytest.raises(DataError, match="no other half"):
        shelf.plan("relearn", forget=ONE_PERSON)
    with pytest.raises(RecipeError, match=r"without the target.*--target"):
        shelf.plan("ablate", models=(shelf.source("unlearned"),))
    assert shelf.loaded == []
