from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from expunge.corpus.batching import collate
from expunge.corpus.tokenise import encode
from expunge.errors import DataError, TrainingError
from expunge.inference.backbone import predictions
from expunge.inference.reference import Key, LiveReference, cache_reference
from expunge.model.arch import head_logits
from expunge.model.load import hash_model, load_model
from expunge.scope.selection import Selection
from expunge.train.loop.adapter_training import AdapterTraining, divergence, trained_adapter
from expunge.train.loop.settings import LoopSettings
from expunge.train.methods import kga
from expunge.train.methods.gap import (
    GapClosed,
    GapObjective,
    Gaps,
    MultiRetainDataset,
    MultiRetainSampler,
    collate_multi_retain,
)
from expunge.train.methods.kga import KnowledgeGap
from expunge.train.run.state import Corpus
from tests.scope import people
from tests.train.runs import CORPUS, FORGET, HOLDOUT, RETAIN, TOKENIZER, model, recipe, run

SMALL: dict[str, Any] = {
    "name": "kga",
    "learning_rate": 1e-3,
    "epochs": 2,
    "batch_size": 3,
    "max_length": 128,
    "teaching": {"rank": 2, "learning_rate": 1e-3, "epochs": 3},
}


def encoded(examples: Any) -> list[Any]:
    return [one for example in examples for one in encode(example, TOKENIZER, max_length=128)]


@torch.no_grad()
def kl_by_hand(p: nn.Module, q: nn.Module, texts: list[Any]) -> torch.Tensor:
    """KL(p ‖ q) of each text, mean over its counted tokens, from whole logits."""
    found = []
    for text in texts:
        batch = collate([text], pad_id=0)
        logp, logq = (
            head_logits(each, predictions(each, batch).hidden_NH).log_softmax(-1) for each in (p, q)
        )
        found.append((logp.exp() * (logp - logq)).sum(-1).mean())
    return torch.stack(found)


def objective(other: nn.Module, before: nn.Module, *, wanted: float, weight: float = 1.0) -> GapObjective:
    return GapObjective(
        wanted=wanted,
        learnt=LiveReference(other, adapters_off=False),
        before=LiveReference(before, adapters_off=False),
        weight=weight,
        several=2,
    )


def piece(forget: list[Any], retain: list[Any], ids: tuple[int, ...]) -> Any:
    data = MultiRetainDataset(forget, retain)
    return collate_multi_retain([data[i, (0, 1)] for i in ids], pad_id=0)


FORGET_TEXTS, RETAIN_TEXTS = encoded(FORGET), encoded(RETAIN)


@pytest.mark.parametrize("wanted", [0.0, 100.0])
def test_the_loss_is_the_distance_between_two_gaps(wanted: float) -> None:
    own, other, before = model(), model(seed=1), model(seed=2)
    batch = piece(FORGET_TEXTS, RETAIN_TEXTS, (0, 1, 2))
    terms = objective(other, before, wanted=wanted, weight=3.0)(own, batch)
    terms = {name: term.detach() for name, term in terms.items()}
    gap = kl_by_hand(own, other, FORGET_TEXTS[:3]).mean()
    kept = kl_by_hand(own, before, RETAIN_TEXTS[:2]).mean()
    assert float(terms["gap"]) / 3 == pytest.approx(abs(float(gap) - wanted), rel=1e-5)
    assert float(terms["retain"]) / 3 == pytest.approx(3.0 * float(kept), rel=1e-5)


def test_below_the_wanted_gap_it_pushes_away_and_above_it_pulls_back() -> None:
    own, other = model(), model(seed=1)
    batch = piece(FORGET_TEXTS, RETAIN_TEXTS, (0, 1))

    def slope(wanted: float) -> torch.Tensor:
        own.zero_grad()
        objective(other, own, wanted=wanted)(own, batch)["gap"].backward()
        return own.lm_head.weight.grad.clone()  # type: ignore[union-attr]

    torch.testing.assert_close(slope(0.0), -slope(100.0))
    assert slope(0.0).abs().max() > 0


def test_at_the_start_nothing_of_the_retain_set_has_moved() -> None:
    own = model()
    batch = piece(FORGET_TEXTS, RETAIN_TEXTS, (0,))
    kept = objective(model(seed=1), model(), wanted=0.5)(own, batch)["retain"]
    assert float(kept.detach()) == pytest.approx(0.0, abs=1e-6)


def test_a_model_that_learnt_nothing_gives_no_slope() -> None:
    own = model()
    objective(model(), own, wanted=1.0)(own, piece(FORGET_TEXTS, RETAIN_TEXTS, (0, 1)))["gap"].backward()
    assert float(own.lm_head.weight.grad.abs().max()) < 1e-6  # type: ignore[union-attr]


def test_a_step_in_pieces_is_the_same_step() -> None:
    # The pieces' own gaps lie on both sides of the wanted one, the step's on one: only the sum decides.
    own, other = model(), model(seed=1)
    gaps = kl_by_hand(own, other, FORGET_TEXTS)
    low, high = int(gaps.argmin()), int(gaps.argmax())
    wanted = float(gaps[low] + (gaps[high] - gaps[low]) / 4)

    def slope(*pieces: tuple[int, ...]) -> torch.Tensor:
        own.zero_grad()
        loss, batches = objective(other, own, wanted=wanted), []
        batches = [piece(FORGET_TEXTS, RETAIN_TEXTS, ids) for ids in pieces]
        loss.begin(own, batches, 0, 1)
        for batch in batches:
            torch.stack(list(loss(own, batch).values())).sum().backward()
        return own.lm_head.weight.grad.clone()  # type: ignore[union-attr]

    torch.testing.assert_close(slope((low,), (high,)), slope((low, high)), rtol=1e-4, atol=1e-6)


def test_a_gap_does_not_depend_on_padding() -> None:
    own, other = model(), model(seed=1)
    loss = objective(other, own, wanted=0.0)
    long = max(range(len(FORGET_TEXTS)), key=lambda place: len(FORGET_TEXTS[place].input_ids))
    short = min(range(len(FORGET_TEXTS)), key=lambda place: len(FORGET_TEXTS[place].input_ids))
    together = loss.gaps(own, collate([FORGET_TEXTS[short], FORGET_TEXTS[long]], pad_id=0), [])
    alone = loss.gaps(own, collate([FORGET_TEXTS[short]], pad_id=0), [])
    torch.testing.assert_close(together[0], alone[0], rtol=1e-5, atol=1e-6)


def test_a_small_model_is_taken_off_without_a_trace_and_need_not_be_taught_twice(tmp_path: Path) -> None:
    base, plain = model(), model()
    before = hash_model(base)
    loop = LoopSettings(batch_size=3, max_length=128)
    kind: dict[str, Any] = {"folder": tmp_path, "seed": 0, "pad_id": 0}
    with trained_adapter(
        base, FORGET_TEXTS, AdapterTraining(rank=2, learning_rate=1e-3), loop, **kind
    ) as adapted:
        first = divergence(adapted, FORGET_TEXTS, pad_id=0)
        by_hand = float(kl_by_hand(plain, adapted, FORGET_TEXTS).mean())
    assert first == pytest.approx(by_hand, rel=1e-4)
    assert first > 1e-3
    assert hash_model(base) == before
    assert not any(".lora_" in name for name, _ in base.named_parameters())
    with trained_adapter(base, [], AdapterTraining(rank=2, learning_rate=1e-3), loop, **kind) as adapted:
        assert divergence(adapted, FORGET_TEXTS, pad_id=0) == first


def test_every_retain_text_is_seen_before_any_is_seen_twice() -> None:
    sampler = MultiRetainSampler(4, 6, several=3, seed=0)
    drawn = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        items = list(sampler)
        assert sorted(forget for forget, _ in items) == [0, 1, 2, 3]
        assert {len(retain) for _, retain in items} == {3}
        drawn += [index for _, retain in items for index in retain]
    for start in range(0, len(drawn), 6):
        assert sorted(drawn[start : start + 6]) == list(range(6))
    assert sampler.retain_seen(4) == list(range(6))
    assert sampler.retain_seen(1) == sorted(drawn[:3])


def test_gaps_that_cannot_be_aligned_are_refused() -> None:
    Gaps(new=2.0, forget=0.1).check()
    with pytest.raises(TrainingError, match="taught its model nothing"):
        Gaps(new=2.0, forget=0.0).check()
    with pytest.raises(TrainingError, match="as familiar to the model"):
        Gaps(new=0.0, forget=0.1).check()


def test_it_needs_what_the_model_never_saw() -> None:
    stage = KnowledgeGap()
    assert stage.needs == {"retain", "holdout"}
    stage.check(CORPUS)
    with pytest.raises(DataError, match="no holdout set"):
        stage.check(Corpus(forget=FORGET, retain=RETAIN))
    with pytest.raises(DataError, match="no retain set"):
        stage.check(Corpus(forget=FORGET, holdout=HOLDOUT))


def test_a_target_that_knows_the_holdout_as_well_is_refused(tmp_path: Path) -> None:
    known = replace(CORPUS, holdout=tuple(replace(each, id=f"h{each.id}") for each in FORGET[:1]))
    with pytest.raises(TrainingError, match="as familiar to the model"):
        run(recipe({**SMALL, "retain_weight": 1.0}), tmp_path / "out", corpus=known)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "scope",
    [
        {"name": "regex", "pattern": r"layers\.1\.mlp"},
        {"name": "lora", "rank": 2},
        {"name": "saliency", "percentile": 70, "granularity": "row"},
        {"name": "random", "count": 1},
        {"name": "regex", "pattern": "lm_head"},  # the head of the other models must not move with it
    ],
    ids=lambda scope: scope["name"] + scope.get("pattern", ""),
)
def test_it_stays_inside_its_scope(scope: dict[str, Any], tmp_path: Path) -> None:
    record = run(recipe({**SMALL, "scope": scope}), tmp_path / "out")["stages"][0]
    assert record["gap_new"] > record["gap_forget_before"] > 0
    assert record["steps"] == 4
    first = record["gap_new"] - record["gap_forget_before"]
    assert min(entry["loss_gap"] for entry in record["history"]) < first
    before = dict(model().named_parameters())
    found = load_model(tmp_path / "out").named_parameters()
    changed = {name for name, weight in found if not torch.equal(weight, before[name])}
    assert changed
    assert changed <= set(record["tensors_that_may_change"]) or scope["name"] == "lora"
    if scope["name"] == "regex":
        assert all("layers.1.mlp" in name or "lm_head" in name for name in changed)


def test_under_a_localiser_only_what_it_found_moves(tmp_path: Path) -> None:
    asked = Corpus(forget=people.FORGET, retain=people.RETAIN, holdout=HOLDOUT)
    scope = {"name": "probe", "modules": "sublayers", "count": 1}
    record = run(recipe({**SMALL, "scope": scope}), tmp_path / "out", corpus=asked)["stages"][0]
    (part,) = (part["name"] for part in record["scope"]["parts"] if part["chosen"])
    before = dict(model().named_parameters())
    found = load_model(tmp_path / "out").named_parameters()
    changed = {name for name, weight in found if not torch.equal(weight, before[name])}
    assert changed == set(record["tensors_that_may_change"])
    assert len(changed) < len(before) / 2, part


def test_a_head_that_may_change_is_copied_for_the_other_model() -> None:
    own = model(tie_word_embeddings=True)
    known = cache_reference(own, logps_of=(), states_of=(), pad_id=0, head_may_change=False)
    embeddings = Selection({"model.embed_tokens.weight": None})  # tied to the head
    apart = kga._apart(known, own, embeddings).frozen_head
    assert apart.weight is not own.lm_head.weight
    assert torch.equal(apart.weight, own.lm_head.weight)
    elsewhere = Selection({"model.norm.weight": None})
    assert kga._apart(known, own, elsewhere).frozen_head is own.lm_head


def test_it_ends_when_the_gap_is_small_enough(tmp_path: Path) -> None:
    chosen = {**SMALL, "epochs": 5, "stop_portion": 0.999}
    record = run(recipe(chosen), tmp_path / "out")["stages"][0]
    assert record["steps"] < 10
    first = record["gap_new"] - record["gap_forget_before"]
    assert abs(record["gap_history"][-1]) <= 0.999 * first
    assert record["stop"]["reached"]
    assert record["stop"]["levels"] == {"gap": pytest.approx(0.999 * first)}
    assert record["stop"]["last"]["gap"] == abs(record["gap_history"][-1])
    far = run(recipe(SMALL | {"epochs": 1, "stop_value": 1e-9}), tmp_path / "far")["stages"][0]
    assert (far["stop"]["reached"], far["stop"]["last"]["epoch"]) == (False, 1.0)
    assert KnowledgeGap(stop_value=0.5, stop_portion=0.1)._limit(2.0) == 0.5
    assert KnowledgeGap(stop_value=0.1, stop_portion=0.1)._limit(2.0) == pytest.approx(0.2)
    assert KnowledgeGap()._limit(2.0) is None


def test_the_gap_is_measured_on_the_whole_forget_set() -> None:
    own, other = model(), model(seed=1)
    cached = cache_reference(
        other,
        logps_of=(),
        states_of=((Key("forget", place), one) for place, one in enumerate(FORGET_TEXTS)),
        pad_id=0,
        head_may_change=False,
    )
    loss = replace(objective(other, own, wanted=0.25), learnt=cached)
    measure = GapClosed(loss, FORGET_TEXTS, limit=1.0, batch_size=2, pad_id=0)
    by_hand = float(kl_by_hand(own, other, FORGET_TEXTS).mean()) - 0.25
    assert measure.gap(own) == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("part", ["teaching", "training"])
def test_a_killed_run_ends_with_the_same_bytes(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(recipe(SMALL), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(kga, *_death(part))
        with pytest.raises(KeyboardInterrupt):
            run(recipe(SMALL), tmp_path / "killed")
    assert run(recipe(SMALL), tmp_path / "killed")["result_sha256"] == whole["result_sha256"]


def _death(part: str) -> tuple[str, Any]:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if part == "teaching":
        return "cache_reference", die  # both models were taught
    return "merged", die  # the last epoch was trained and not saved
