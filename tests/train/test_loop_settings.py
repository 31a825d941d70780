from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import TrainingArguments

from expunge.train.loop.settings import LoopSettings
from tests.train.trainers import Rates, trained

LR, STEPS = 1e-3, 20


def rates(tmp_path: Path, **settings: Any) -> list[float]:
    """The learning rate of each of 20 steps, relative to the peak."""
    seen = Rates()

    def objective(model: Any, _: Any) -> dict[str, torch.Tensor]:
        return {
            "norm": model.model.norm.weight.square().sum()
        }  # nothing to run: only the rate is looked at

    trained(tmp_path, callbacks=[seen], objective=objective, learning_rate=LR, epochs=10, **settings)
    assert len(seen.steps) == STEPS
    return [rate / LR for rate in seen.steps]


def test_a_constant_rate_is_constant(tmp_path: Path) -> None:
    assert rates(tmp_path) == [1.0] * STEPS


def test_warming_up_goes_evenly_from_nothing(tmp_path: Path) -> None:
    expected = [step / 5 for step in range(5)] + [1.0] * 15
    assert rates(tmp_path, warmup_steps=5) == pytest.approx(expected)


def test_a_linear_rate_ends_at_nothing(tmp_path: Path) -> None:
    assert rates(tmp_path, schedule="linear") == pytest.approx([1 - step / STEPS for step in range(STEPS)])


def test_a_cosine_after_warming_up(tmp_path: Path) -> None:
    falling = [0.5 * (1 + math.cos(math.pi * step / 16)) for step in range(16)]
    assert rates(tmp_path, schedule="cosine", warmup_steps=4) == pytest.approx(
        [0, 0.25, 0.5, 0.75, *falling]
    )


def test_stable_decay_holds_and_then_falls(tmp_path: Path) -> None:
    found = rates(tmp_path, schedule="stable_decay")
    assert found[:12] == [1.0] * 12  # 45 % of 20 steps are nine
    assert found[11:] == sorted(found[11:], reverse=True)
    assert found[-1] < 0.05


def arguments(**settings: Any) -> TrainingArguments:
    return LoopSettings(**settings).training_arguments(Path("out"), seed=3, examples=10)


def test_a_batch_is_made_of_its_pieces() -> None:
    made = arguments(batch_size=12, accumulation=3)
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == (4, 3)


def test_settings_arrive() -> None:
    made = arguments(learning_rate=2e-4, epochs=7, weight_decay=0.1, max_grad_norm=0.5, betas=(0.8, 0.9))
    assert (made.learning_rate, made.num_train_epochs, made.weight_decay) == (2e-4, 7, 0.1)
    assert (made.max_grad_norm, made.adam_beta1, made.adam_beta2, made.seed) == (0.5, 0.8, 0.9, 3)
    assert made.report_to == []
    assert not made.remove_unused_columns


def test_one_process_keeps_to_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    # Where there are several, transformers would wrap the model and split batches it cannot split.
    def four_devices(self: TrainingArguments) -> torch.device:
        self._n_gpu = 4
        return torch.device("cpu")

    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(four_devices))
    made = arguments(batch_size=8)
    assert made.n_gpu == 1
    assert made.train_batch_size == 8


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"batch_size": 8, "accumulation": 3}, "does not split into 3 equal pieces"),
        ({"learning_rate": -1e-5}, "greater than 0"),
        ({"learning_rate": math.inf}, "finite"),
        ({"betas": (0.9, 1.0)}, "less than 1"),
        ({"betas": (0.9,)}, "betas"),
        ({"epochs": 0}, "greater than 0"),
        ({"warmup_steps": -1}, "greater than or equal to 0"),
        ({"schedule": "polynomial"}, "schedule"),
        ({"precision": "fp16"}, "precision"),
        ({"learning_rat": 1e-5}, "learning_rat"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        LoopSettings(**settings)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        LoopSettings().epochs = 3
