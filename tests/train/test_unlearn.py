from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.errors import DataError, ExpungeError, RecipeError, ScopeViolationError
from expunge.inference.observer import Observer
from expunge.train.loop.callbacks import Heartbeat
from expunge.train.methods import training_stage
from expunge.train.methods import unlearn as module
from expunge.train.methods.unlearn import Unlearn
from expunge.train.objective import reference as references
from expunge.train.run.state import Corpus, State
from tests.batches import full_logps, own
from tests.train.runs import CORPUS, FORGET, RETAIN, SCOPES, TOKENIZER, UNLEARN, model
from tests.train.trainers import Gradients


def stage(**settings: Any) -> Unlearn:
    values = {"epochs": 2, **settings}
    return Unlearn(**{key: value for key, value in {**UNLEARN, **values}.items() if key != "name"})


def state_for(folder: Path, *, arch: str = "llama", corpus: Corpus = CORPUS, **overrides: Any) -> State:
    return State(model=model(arch, **overrides), tokenizer=TOKENIZER, corpus=corpus, workdir=folder)


def ran(folder: Path, *, arch: str = "llama", overrides: Any = None, **settings: Any) -> State:
    return stage(**settings).run(state_for(folder, arch=arch, **(overrides or {})))


def weights(state: State) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in state.model.named_parameters()}


def changed(state: State, *, arch: str = "llama") -> set[str]:
    before = dict(model(arch).named_parameters())
    return {name for name, weight in weights(state).items() if not weight.equal(before[name])}


def logp(of: Any, example: Any) -> float:
    return Observer(of, TOKENIZER, max_length=128).token_logps([example])[0].mean().item()


def test_the_forget_set_becomes_less_likely_and_the_retain_set_does_not(tmp_path: Path) -> None:
    before, after = model(), ran(tmp_path, epochs=8, learning_rate=3e-3, retain="gdr").model
    assert all(logp(after, example) < logp(before, example) - 0.5 for example in FORGET)
    assert sum(logp(after, example) - logp(before, example) for example in RETAIN) > 0


@pytest.mark.parametrize("scope", SCOPES)
def test_bytes_outside_the_scope_are_those_of_the_source(scope: str, tmp_path: Path) -> None:
    state = ran(tmp_path, scope=SCOPES[scope], weight_decay=0.1)
    (facts,) = state.facts
    total = sum(weight.numel() for weight in model().parameters())
    if scope == "lora":
        assert facts["weights_that_may_change"] == facts["weights"] - total > 0
        assert all(".lora_" in name for name in facts["tensors_that_may_change"])
        assert all("_proj" in name for name in changed(state))
        return
    assert facts["weights"] == total
    assert changed(state) == set(facts["tensors_that_may_change"])
    assert (facts["weights_that_may_change"] == total) == (scope == "all")
    before = dict(model().named_parameters())
    moved = sum(int((weight != before[name]).sum()) for name, weight in weights(state).items())
    assert 0 < moved <= facts["weights_that_may_change"]


def test_selecting_everything_another_way_is_the_base_method_byte_for_byte(tmp_path: Path) -> None:
    base = weights(ran(tmp_path / "1"))
    other = weights(ran(tmp_path / "2", scope={"name": "regex", "pattern": ""}))
    assert all(weight.equal(other[name]) for name, weight in base.items())


def test_a_salient_tensor_gets_the_forget_gradient_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Gradients()
    monkeypatch.setattr(training_stage, "Heartbeat", lambda: seen)
    settings = {
        "forget": "ga",
        "retain": {"name": "gdr", "weight": 3.0},
        "batch_size": 5,
        "max_grad_norm": 1e9,
    }
    state = ran(tmp_path, epochs=1, scope=SCOPES["tensor"], **settings)
    data = stage(**settings)._encode(state)
    pairs = list(module.PairSampler(len(data.forget), len(data.retain), seed=0))
    fresh = model()
    total = torch.zeros((), dtype=torch.float64)
    for f, r in pairs:
        total = total + own(full_logps(fresh, data.forget[f]), data.forget[f]).mean() / len(pairs)
        total = total - 3 * own(full_logps(fresh, data.retain[r]), data.retain[r]).mean() / len(pairs)
    total.backward()
    (step,) = seen.steps
    assert step.keys() == set(state.facts[0]["tensors_that_may_change"])
    for name, grad in step.items():
        torch.testing.assert_close(grad, fresh.get_parameter(name).grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("retain", ["klr", {"name": "klr", "direction": "reverse"}])
@pytest.mark.parametrize("scope", ["all", "row"])
def test_cache_and_copy_take_the_same_way(scope: str, retain: Any, tmp_path: Path) -> None:
    settings = {"scope": SCOPES[scope], "retain": retain, "learning_rate": 1e-4}
    cached = ran(tmp_path / "1", **settings)
    copied = ran(tmp_path / "2", reference="copy", **settings)
    assert (cached.facts[0]["reference"], copied.facts[0]["reference"]) == (
        "CachedReference",
        "LiveReference",
    )
    for name, weight in weights(cached).items():
        torch.testing.assert_close(weight, weights(copied)[name], rtol=0, atol=5e-6)


def test_adapters_off_cache_and_copy_take_the_same_way(tmp_path: Path) -> None:
    settings = {"scope": {"name": "lora", "rank": 2}, "learning_rate": 1e-3}
    off, cached, copied = (
        ran(tmp_path / kind, reference=kind, **settings) for kind in ("adapter_off", "cache", "copy")
    )
    assert cached.facts[0]["reference_bytes"] > 0
    assert off.facts[0]["reference_bytes"] is None
    for name, weight in weights(off).items():
        for other in (cached, copied):
            torch.testing.assert_close(weight, weights(other)[name], rtol=0, atol=2e-5)


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_the_first_step_starts_at_the_reference(arch: str, tmp_path: Path) -> None:
    facts = ran(tmp_path, arch=arch, epochs=1, batch_size=5, forget={"name": "npo", "beta": 0.3}).facts[0]
    (first,) = facts["history"]
    assert first["loss_forget"] == pytest.approx(2 / 0.3 * math.log(2), rel=1e-5)
    assert first["loss_retain"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("arch", "scope", "overrides", "expected"),
    [
        ("llama", {"name": "all"}, {}, True),
        ("llama", {"name": "regex", "pattern": "layers"}, {}, False),
        ("llama", {"name": "regex", "pattern": "lm_head"}, {}, True),
        ("llama", {"name": "regex", "pattern": "embed_tokens"}, {}, False),
        ("llama", {"name": "regex", "pattern": "embed_tokens"}, {"tie_word_embeddings": True}, True),
        ("phi", {"name": "regex", "pattern": r"lm_head\.bias"}, {}, True),
    ],
)
def test_the_head_is_copied_only_when_it_may_change(
    arch: str, scope: Any, overrides: Any, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, original = [], references.cache_reference
    monkeypatch.setattr(
        references, "cache_reference", lambda *a, **k: (made.append(original(*a, **k)), made[-1])[1]
    )
    state = ran(tmp_path, arch=arch, scope=scope, overrides=overrides, epochs=1)
    (reference,) = made
    assert (reference.frozen_head is not state.model.get_output_embeddings()) == expected
    before = model(arch, **overrides).get_output_embeddings()
    for name, weight in reference.frozen_head.named_parameters():
        assert weight.equal(before.get_parameter(name)), name


def test_only_what_a_loss_needs_is_looked_up(tmp_path: Path) -> None:
    hidden = model().config.hidden_size
    data = stage()._encode(state_for(tmp_path))
    states = 4 * hidden * sum(sum(one.mask) for one in data.retain)
    logps = 4 * sum(sum(one.mask) for one in data.forget)

    def size(folder: str, **settings: Any) -> Any:
        return ran(tmp_path / folder, epochs=1, **settings).facts[0]["reference_bytes"]

    assert size("1", forget="ga", retain="gdr") is None
    assert size("2", forget="npo", retain=None) == logps
    assert size("3", forget="ga", retain="klr") == states
    assert size("4", forget="npo", retain="klr") == logps + states


def test_bfloat16_weights_stay_on_their_grid(tmp_path: Path) -> None:
    for precision in ("bf16", "bf16_stochastic"):
        after = weights(ran(tmp_path / precision, precision=precision))
        assert all(weight.float().equal(weight.bfloat16().float()) for weight in after.values())


def test_without_a_retain_loss_the_retain_set_is_not_needed(tmp_path: Path) -> None:
    alone = Corpus(forget=FORGET)
    state = stage(forget="ga", retain=None, epochs=1).run(state_for(tmp_path, corpus=alone))
    assert state.facts[0]["history"][0].keys() >= {"loss", "loss_forget"}
    assert "loss_retain" not in state.facts[0]["history"][0]
    with pytest.raises(DataError, match=r"no retain set: .*\(klr\) needs retain examples.*--retain"):
        stage().check(alone)


def test_a_scope_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="matches no parameter"):
        ran(tmp_path, scope={"name": "regex", "pattern": "no_such_layer"})


def test_adapters_off_without_adapters_is_refused() -> None:
    with pytest.raises(ValueError, match="needs adapters to switch off"):
        stage(reference="adapter_off")


def test_a_weight_changed_outside_the_scope_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Meddler(Heartbeat):
        def on_step_end(self, *_: Any, model: Any, **__: Any) -> None:
            with torch.no_grad():
                model.model.norm.weight[3] += 1e-6

    monkeypatch.setattr(training_stage, "Heartbeat", Meddler)
    with pytest.raises(ScopeViolationError):
        ran(tmp_path, scope=SCOPES["tensor"], epochs=1)


def test_a_text_longer_than_the_limit_is_refused_and_not_cut(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match="never cut silently"):
        ran(tmp_path, max_length=16)


def cached_in(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made, original = [], references.cache_reference
    monkeypatch.setattr(
        references, "cache_reference", lambda *a, **k: (made.append(original(*a, **k)), made[-1])[1]
    )
    return made


@pytest.mark.parametrize(("max_steps", "pairs"), [(1, 2), (2, 4), (3, 5), (4, 7), (100, 10), (None, 10)])
def test_only_the_pairs_of_the_steps_are_cached(
    max_steps: int | None, pairs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 5 forget texts in batches of 2 are 3 steps an epoch, the last of one pair; 2 epochs are 10 pairs.
    made = cached_in(monkeypatch)
    settings = stage(max_steps=max_steps, batch_size=2)
    data = settings._encode(state_for(tmp_path))
    assert len(data.forget) == 5
    assert settings.examples_over(5) == pairs
    state = ran(tmp_path, max_steps=max_steps, batch_size=2)
    (reference,) = made
    sampler = module.PairSampler(5, len(data.retain), seed=0)
    assert sorted(key.place for key in reference.token_logps) == sampler.forget_seen(pairs)
    assert sorted(key.place for key in reference.hidden) == sampler.retain_seen(pairs)
    assert len(reference.token_logps) == min(pairs, 5)
    assert state.facts[0]["steps"] == min(max_steps or 6, 6)


def test_the_cache_lies_in_the_runs_folder_and_goes_with_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cached_in(monkeypatch)
    ran(tmp_path, epochs=1, reference_dtype="bf16")
    (reference,) = made
    assert reference.hidden.path == tmp_path / "reference" / "hidden"
    assert not (tmp_path / "reference").exists()
