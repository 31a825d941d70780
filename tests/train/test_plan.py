from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from expunge.corpus.batching import ForgetRetainPair, collate_pairs
from expunge.corpus.tokenise import Encoded
from expunge.inference.reference import Key, cache_reference
from expunge.model.resources import GIB
from expunge.train.methods.unlearn import Unlearn
from expunge.train.objective.pair import PairObjective
from expunge.train.run.plan import (
    Device,
    PeakTracker,
    Workload,
    simulate,
    smaller_settings,
)

CPU = Device(is_gpu=False, memory=8 * GIB)
WORK = Workload(forget_length=64, retain_length=64, cached_logps=100, cached_states=1000)
SETTINGS: dict[str, Any] = {"forget": {"name": "npo"}, "retain": {"name": "klr"}, "batch_size": 4}


def config(layers: int = 3, **changes: Any) -> LlamaConfig:
    sizes = {"vocab_size": 1500, "hidden_size": 192, "intermediate_size": 512, "num_attention_heads": 4}
    return LlamaConfig(num_hidden_layers=layers, tie_word_embeddings=False, **(sizes | changes))


def stage(**changes: Any) -> Unlearn:
    return Unlearn(**(SETTINGS | changes))


def weights_of(of: LlamaConfig) -> int:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return sum(weight.numel() for weight in AutoModelForCausalLM.from_config(of).parameters())


def tracked_step(chosen: Unlearn) -> int:
    """The peak of real steps, as the stage takes them, on real tensors: cache, logits in pieces, AdamW."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config(), dtype=torch.float32).train()
    if chosen.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    text = Encoded([5] * 64, [False] + [True] * 63, "text")
    cached = cache_reference(
        model,
        logps_of=[(Key("forget", i), text) for i in range(4)],
        states_of=[(Key("retain", i), text) for i in range(4)],
        pad_id=0,
        head_may_change=True,
    )
    batch = collate_pairs([ForgetRetainPair(text, text, i, i) for i in range(4)], pad_id=0)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    objective = PairObjective(chosen.forget, chosen.retain, cached)
    tracker = PeakTracker()
    tracker.track_external(model, cached.frozen_head)
    with tracker:
        for _ in range(2):
            sum(objective(model, batch).values()).backward()
            optimizer.step()
            optimizer.zero_grad()
    return max(tracker._peak_mem.values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_simulated_peak_is_that_of_a_real_step(checkpointing: bool) -> None:
    chosen = stage(gradient_checkpointing=checkpointing)
    simulated = simulate(chosen, config(), WORK, CPU).peak
    assert simulated == pytest.approx(tracked_step(chosen), rel=0.1)


def test_weights_and_moments_are_their_number_times_their_bytes() -> None:
    count = weights_of(config())
    plan = simulate(stage(accumulation=4), config(), WORK, CPU)
    assert plan.parts["weights"] == pytest.approx(4 * count, rel=1e-3)
    assert plan.parts["gradients"] == pytest.approx(4 * count, rel=1e-3)  # pieces are added up
    assert plan.parts["optimizer states"] == pytest.approx(8 * count, rel=0.15)
    assert plan.parts["frozen copies"] == 4 * 1500 * 192
    assert plan.on_disk == 100 * 4 + 1000 * 192 * 4
    assert simulate(stage(reference_dtype="bf16"), config(), WORK, CPU).on_disk == 400 + 1000 * 192 * 2


@pytest.mark.slow
def test_a_deep_model_is_continued_from_two_depths(monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.train.run import plan as module

    whole = config(layers=9)
    monkeypatch.setattr(module, "DEPTHS", (9, 9))
    exact = simulate(stage(), whole, WORK, CPU)
    monkeypatch.setattr(module, "DEPTHS", (4, 6))
    assert simulate(stage(), whole, WORK, CPU).peak == pytest.approx(exact.peak, rel=0.01)


@pytest.mark.slow
def test_each_setting_needs_less_than_those_before_it() -> None:
    plans = [simulate(stage(), config(), WORK, CPU).peak]
    written = []
    for settings, made in smaller_settings(stage()):
        written.append(settings[-1])
        plans.append(simulate(made, config(), WORK, Device(is_gpu=True, memory=1)).peak)
    assert written == [
        "accumulation=4",
        "gradient_checkpointing=true",
        "optimizer=adamw_8bit",
        "scope={name: lora}",
        "max_length=512",
    ]
    assert plans[-2] < plans[0] / 2
    assert plans[1] > plans[2] > plans[3] > plans[4]


def test_an_adversary_that_needs_float32_keeps_it() -> None:
    adversary = {"name": "sam", "rho": 0.05}
    made = [settings for settings, _ in smaller_settings(stage(adversary=adversary))]
    assert not any("precision" in each for settings in made for each in settings)
