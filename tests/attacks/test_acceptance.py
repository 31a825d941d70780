"""Is a leak told from what anybody would learn, and does LAU hold under its own attack?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from expunge.adversary import AdversaryBatch, Step
from expunge.adversary.latent import LatentAttack
from expunge.attacks import parse_attack
from expunge.audit.run.grid import Audit
from expunge.audit.run.plan import AuditPlan, Role
from expunge.audit.summary import AuditSummary
from expunge.audit.verdict import Outcome
from expunge.corpus.batching import collate
from expunge.corpus.tokenise import encode_all
from expunge.inference.forward import compute_token_view
from expunge.metrics.memorisation import ExactMemorisation
from expunge.metrics.probability import Probability
from expunge.metrics.probes import Probes
from tests.attacks.world import World

pytestmark = pytest.mark.slow

RATE = "rank=0,learning_rate=3e-4,batch_size=28"
BENIGN = f"relearn:on=benign,steps=20,{RATE}"
SPLIT = f"relearn:on=split,steps=20,{RATE}"
NPO = {"forget": {"name": "npo", "beta": 0.1}}
LATENT = {"adversary": {"name": "latent", "layer": 2, "radius": 1.0}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def methods(world: World) -> dict[str, nn.Module]:
    return {
        "npo": world.unlearned("npo", **NPO),
        "adv_npo": world.unlearned("adv_npo", **NPO, **LATENT),
        "log1mp": world.unlearned("log1mp", forget="log1mp"),
    }


def column(attack: str) -> str:
    return parse_attack(attack).label


def attacked(world: World, methods: dict[str, nn.Module], folder: Path) -> AuditSummary:
    audit = AuditPlan(
        models=(
            world.source("target", Role.TARGET, world.target),
            world.source("retrained", Role.RETRAINED, world.retrained),
            *(world.source(name, Role.UNLEARNED, model) for name, model in methods.items()),
        ),
        metrics=(Probability(), ExactMemorisation()),
        probes=Probes(forget=world.sports(world.forgotten), retain=world.sports(world.kept)),
        max_length=32,
        conditions=tuple(parse_attack(text) for text in (BENIGN, SPLIT)),
        forget=world.sports(world.forgotten),
        retain=world.sports(world.kept),
    )
    return Audit(plan=audit, folder=folder).run()


def test_what_anybody_would_learn_is_no_leak(
    world: World, methods: dict[str, nn.Module], tmp_path: Path
) -> None:
    summary = attacked(world, methods, tmp_path)

    def leak(attack: str, name: str) -> float:
        excess = summary.cell(name, column(attack), "probability").excess
        assert excess is not None
        assert excess.value is not None
        return excess.value

    # Training on others' sports lifts what was suppressed, and no further than the control knows it.
    for name in ("npo", "log1mp"):
        cell = summary.cell(name, column(BENIGN), "exact_memorisation")
        assert cell.recovery is not None
        assert cell.recovery.value is not None
        assert cell.recovery.value > 0.1
        assert leak(BENIGN, name) < 0.1
        verdict = summary.verdict(name, column(BENIGN))
        assert verdict is not None
        assert verdict.outcome is not Outcome.LEAKS
    # Training on half of the forgotten brings the other half back where it was only suppressed.
    assert leak(SPLIT, "log1mp") > leak(SPLIT, "npo") + 0.1
    assert leak(BENIGN, "target") > 0.1
    target = summary.cell("target", column(BENIGN), "exact_memorisation")
    assert target.regained is not None
    assert target.regained.value == 1


def known(model: nn.Module, world: World, radius: float) -> tuple[float, float]:
    """Accuracy and mean probability of the forgotten sports under a latent attack on block 1."""
    texts = encode_all(world.sports(world.forgotten), world.tokenizer, max_length=32)
    batch = collate(texts, pad_id=0)
    step = Step(model=model, pieces=[AdversaryBatch(batch=batch, loss=lambda: torch.zeros(()))], rows={})
    attack = LatentAttack(layer=1, radius=radius, steps=10, random_start=False)
    answer = batch.attention_mask_BT.sum(-1) - 2  # before the end token
    rows = torch.arange(len(answer))
    with attack.prepare(step)(step.pieces[0]):
        said = compute_token_view(model, batch).logps[rows, answer].detach().exp()
        likeliest = (
            model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT)
            .logits[rows, answer - 1]
            .argmax(-1)
        )
    right = likeliest == batch.input_ids_BT[rows, answer]
    return right.float().mean().item(), said.mean().item()


def test_forgetting_under_the_attack_holds_under_it(world: World, methods: dict[str, nn.Module]) -> None:
    radii = (0.0, 0.25, 0.5, 1.0, 2.0)
    models: dict[str, Any] = {"target": world.target, "retrained": world.retrained, **methods}
    found = {name: [known(model, world, radius) for radius in radii] for name, model in models.items()}
    assert [accuracy for accuracy, _ in found["target"]] == [1.0] * len(radii)
    rise = {name: values[-1][1] - values[0][1] for name, values in found.items()}
    assert rise["retrained"] > 0.2  # an attack this strong elicits what was never known
    assert rise["npo"] > 0.2
    assert rise["adv_npo"] < 0.1
