"""Unlearning where facts are looked up against unlearning where they are spoken, at a matched budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from torch import nn

from expunge.inference.observer import Observer
from expunge.metrics.multiple_choice import CandidateAccuracy
from expunge.metrics.probe_latent import LatentProbe
from expunge.metrics.probes import Probes
from expunge.scope import scopes
from expunge.scope.facts import LocaliserInputs, read_facts
from expunge.scope.localiser import chosen_by
from expunge.types import Example
from tests.attacks.world import SPORTS, World
from tests.scope.people import unused

pytestmark = pytest.mark.slow

SEEDS = (0, 1, 2)
MECHANISTIC: dict[str, Any] = {
    "forget": "log1mp",
    "retain": {"name": "gdr", "weight": 0.2},  # a forget weight of 5
    "learning_rate": 1e-3,
    "epochs": 200,
}


@dataclass(frozen=True)
class Left:
    """What a model still knows of the forgotten: as it was asked, otherwise, among the four, and inside."""

    asked: float
    otherwise: float
    candidates: float
    probe: float
    kept: float


@torch.no_grad()
def probability(model: nn.Module, world: World, examples: Sequence[Example]) -> float:
    """Of the answers, among all words."""
    facts = read_facts(examples, world.tokenizer, max_length=32)
    return mean(
        float(model(input_ids=torch.tensor([fact.prompt])).logits[0, -1].softmax(-1)[fact.answer[0]])
        for fact in facts
    )


def otherwise(world: World, names: Sequence[str]) -> list[Example]:
    return [each for each in world.others(names) if each.completion.strip() in SPORTS]


def left(model: nn.Module, world: World) -> Left:
    wrong = [
        Example(
            id=each.id,
            prompt=each.prompt,
            completion=each.completion,
            wrong=tuple(f" {sport}" for sport in SPORTS if sport != each.completion.strip()),
            group=each.group,
        )
        for each in world.sports(world.forgotten)
    ]
    probes = Probes(forget=tuple(wrong), retain=world.sports(world.kept))
    observed = Observer(model, world.tokenizer, max_length=32)
    candidates, probe = (
        metric.point_estimate(metric.measure(observed, probes))
        for metric in (CandidateAccuracy(), LatentProbe(at="subject"))
    )
    assert candidates is not None
    assert probe is not None
    return Left(
        probability(model, world, world.sports(world.forgotten)),
        probability(model, world, otherwise(world, world.forgotten)),
        candidates,
        probe,
        probability(model, world, world.texts(world.kept)),
    )


def trained(world: World, name: str, blocks: Sequence[int]) -> Left:
    pattern = rf"layers\.({'|'.join(map(str, blocks))})\.mlp\."
    scope = {"name": "regex", "pattern": pattern}
    return left(world.unlearned(name, scope=scope, **MECHANISTIC), world)


def test_early_mlps_forget_what_late_ones_only_stop_saying(tmp_path: Path) -> None:
    found: dict[str, list[Left]] = {"target": [], "early": [], "late": [], "retrained": []}
    for seed in SEEDS:
        world = World(tmp_path / str(seed), seed=seed)
        shown = LocaliserInputs(
            forget=world.sports(world.forgotten),
            retain=world.sports(world.kept),
            tokenizer=world.tokenizer,
            saliency=unused,
            max_length=32,
        )
        chosen = chosen_by(scopes.build("probe"), world.target, shown).facts
        early = [place for place, part in enumerate(chosen["parts"]) if part["chosen"]]
        print(seed, early, [round(value, 2) for value in chosen["accuracy"]], flush=True)
        assert early in ([0], [0, 1])
        late = [3, 2][: len(early)]  # as many, of one size
        found["target"].append(left(world.target, world))
        found["retrained"].append(left(world.retrained, world))
        found["early"].append(trained(world, "early", early))
        found["late"].append(trained(world, "late", late))
        for name, runs in found.items():
            print(name, runs[-1], flush=True)

    def of(name: str, what: str) -> float:
        return mean(getattr(run, what) for run in found[name])

    assert of("target", "otherwise") > 0.95
    assert max(of("early", "asked"), of("late", "asked")) < 0.05
    # Measured: early keeps .983, late .896 (.776 in one world): what late leaves is no price of sparing.
    assert of("early", "kept") > 0.9
    assert of("early", "kept") > of("late", "kept")
    # Measured: .065 against .089 when asked otherwise, .36 against .64 by a probe of the hidden states.
    assert of("early", "otherwise") < of("late", "otherwise")
    assert of("early", "probe") < of("late", "probe")
