"""Audits under attack: what must hold whatever the attack."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from expunge.audit.attacked import Assault
from expunge.audit.attacked_parts import AttackPlan, parse_attack
from expunge.audit.attacked_results import AttackRow, AttackSummary
from expunge.audit.attacked_table import attack_tables
from expunge.audit.plan import AuditPlan, ModelSource, Role
from expunge.audit.saved import read_record
from expunge.audit.stats import Conclusion, Estimate
from expunge.errors import DataError, RecipeError
from expunge.metrics.memorisation_accuracy import ExactMemorisation
from expunge.metrics.probability import Probability
from expunge.metrics.probes import Probes
from expunge.model.load import hash_model
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

    def plan(self, *attacks: str, **settings: Any) -> AttackPlan:
        known: dict[str, Any] = {
            "models": tuple(map(self.source, SEEDS)),
            "metrics": (Probability(), ExactMemorisation()),
            "probes": Probes(forget=FORGET, retain=RETAIN),
            "resamples": 200,
            "max_length": 256,
        }
        audit = AuditPlan(**(known | settings))
        chosen = {text: parse_attack(text) for text in attacks}
        return AttackPlan(audit=audit, attacks=chosen, forget=FORGET, retain=RETAIN)


def silent(*_: Any) -> None:
    """Nobody watches."""


def carried_out(plan: AttackPlan, folder: Path, tell: Callable[..., None] = silent) -> AttackSummary:
    return Assault(plan, folder, tell).run()


def test_an_attack_without_a_budget_is_none(tmp_path: Path) -> None:
    summary = carried_out(Shelf().plan(*IDLE), tmp_path)
    assert len(summary.rows) == len(IDLE) * 2 * 3
    for row in summary.rows:
        assert row.after == row.before
        assert row.gain.value == 0
        if row.role is not Role.RETRAINED:
            assert row.leak is not None
            assert row.leak_before is not None
            assert row.leak.value == row.leak_before.value


@pytest.fixture(scope="module")
def as_target(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shelf, AttackSummary]:
    """Every attack where the unlearned model is the target."""
    shelf = Shelf(unlearned=0)
    return shelf, carried_out(shelf.plan(*SMALL.values()), tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def as_control(tmp_path_factory: pytest.TempPathFactory) -> AttackSummary:
    """Every attack where the unlearned model is the retrained one."""
    return carried_out(Shelf(unlearned=1).plan(*SMALL.values()), tmp_path_factory.mktemp("control"))


@pytest.mark.parametrize("attack", SMALL.values(), ids=list(SMALL))
def test_the_target_is_recovered(attack: str, as_target: tuple[Shelf, AttackSummary]) -> None:
    recovery = as_target[1].row(attack, "probability", "unlearned").recovery
    assert recovery is not None
    assert recovery.value == pytest.approx(1)


@pytest.mark.parametrize("attack", SMALL.values(), ids=list(SMALL))
def test_the_control_leaks_nothing(attack: str, as_control: AttackSummary) -> None:
    for metric in ("probability", "exact_memorisation"):
        leak = as_control.row(attack, metric, "unlearned").leak
        assert leak is not None
        assert leak.value == 0


def test_weights_are_what_they_were(as_target: tuple[Shelf, AttackSummary]) -> None:
    shelf, _ = as_target
    for name, used in zip(shelf.loaded, shelf.models, strict=True):
        assert hash_model(used) == hash_model(model(seed=shelf.seeds[name]))


def test_of_a_half_that_is_known_the_other_is_asked_about(as_target: tuple[Shelf, AttackSummary]) -> None:
    shelf, summary = as_target
    known, asked = shelf.plan(SMALL["relearn"]).halves(SMALL["relearn"])
    assert known
    assert {each.group for each in known}.isdisjoint(each.group for each in asked)
    half = summary.row(SMALL["relearn"], "probability", "unlearned")
    whole = summary.row(SMALL["benign"], "probability", "unlearned")
    assert (half.before.n, half.after.n) == (len(asked), len(asked))
    assert whole.after.n == len(FORGET)


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
    assert all(f".{suffix})" in each for each in record["measured_again"])
    shelf = Shelf()
    carried_out(shelf.plan(attack), tmp_path)
    assert shelf.loaded == []


def test_a_finished_audit_loads_nothing_and_one_that_was_stopped_goes_on(tmp_path: Path) -> None:
    texts = (SMALL["gcg"], SMALL["transfer"])

    def stop(done: int, total: int, what: str) -> None:
        if what.startswith(f"retrained · {SMALL['transfer']} · probability"):
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


def test_a_suffix_found_on_the_target_serves_for_all(as_target: tuple[Shelf, AttackSummary]) -> None:
    found = as_target[1].found[SMALL["transfer"]]
    assert found["target"] == found["retrained"] == found["unlearned"]
    assert found["target"]["text"]


def test_verdicts() -> None:
    def row(told: Conclusion | None, value: float, **settings: Any) -> str:
        number = Estimate(value, conclusion=told)
        plain = Estimate(0.5)
        return AttackRow(
            attack="a",
            metric="m",
            model="u",
            role=Role.UNLEARNED,
            before=plain,
            after=plain,
            gain=number,
            **{"leak": number} | settings,
        ).verdict

    assert row(Conclusion.DIFFERS, 0.3) == "leaks"
    assert row(Conclusion.DIFFERS, -0.3) == "below control"
    assert row(Conclusion.SAME, 0.0) == "no leak"
    assert row(Conclusion.CANNOT_TELL, 0.2) == "cannot tell"
    assert row(None, 0.2) == "cannot tell"
    assert row(Conclusion.DIFFERS, 0.3, valid=False) == "broken by it"
    assert row(Conclusion.SAME, 0.0, valid=True, valid_control=False) == "control broken"
    assert row(Conclusion.DIFFERS, 0.3, leak=None) == "rises"
    assert row(Conclusion.SAME, 0.0, leak=None) == "no rise"


def test_without_a_control_there_is_a_gain_and_no_leak(tmp_path: Path) -> None:
    shelf = Shelf()
    plan = shelf.plan(SMALL["relearn"], models=(shelf.source("target"), shelf.source("unlearned")))
    row = carried_out(plan, tmp_path).row(SMALL["relearn"], "probability", "unlearned")
    assert (row.leak, row.recovery) == (None, None)
    assert row.gain.value is not None


def test_the_table_names_every_model_and_fits(as_control: AttackSummary) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(attack_tables(as_control))
    text = console.export_text()
    assert f"{SMALL['benign']} · probability" in text
    for name in SEEDS:
        assert name in text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("relern", r"attack 'relern': .*Did you mean 'relearn'"),
        ("relearn:step=3", r"step: .*Did you mean 'steps'"),
        ("relearn:steps", "no list of settings"),
        ("relearn:steps=-1", "steps: input should be greater than or equal to 0"),
        ("ablate:reference=nobody", "reference: input should be 'target' or 'retain'"),
    ],
)
def test_an_attack_that_makes_no_sense_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        parse_attack(text)


def test_what_an_attack_lacks_is_refused_before_a_model_is_loaded() -> None:
    shelf = Shelf()
    plan = shelf.plan(SMALL["benign"])
    with pytest.raises(DataError, match=r"examples that are to be kept.*--retain"):
        replace(plan, retain=())
    with pytest.raises(DataError, match="no other half"):
        replace(plan, attacks={"relearn": parse_attack("relearn")}, forget=ONE_PERSON)
    without = shelf.plan(SMALL["benign"], models=(shelf.source("unlearned"),))
    with pytest.raises(RecipeError, match=r"without the target.*--target"):
        _ = without.target
    assert shelf.loaded == []
