"""Calibration text: packed in a seeded order, written by the model itself, and known by its hash."""

from __future__ import annotations

import pytest
import torch

from expunge.errors import DataError, ModelError, RecipeError
from expunge.quant.awq import AWQ
from expunge.quant.calibration import Calibration, CalibrationSource, sample_texts
from expunge.types import Example
from tests.tiny import BOS, EOS, tiny, tiny_tokenizer

TEXTS = tuple(Example(id=str(n), completion=f"Text {n} says what text {n} says.") for n in range(20))


def packed(**settings: object) -> Calibration:
    source = CalibrationSource(**{"name": "retain", "texts": TEXTS, **settings})  # type: ignore[arg-type]
    return source.tokens(tiny("llama"), tiny_tokenizer())


def test_texts_are_packed_without_padding_each_with_its_opening() -> None:
    calibration = packed(samples=3, length=40)
    assert calibration.ids_NT.shape == (3, 40)
    assert calibration.ids_NT.dtype == torch.int64
    flat = calibration.ids_NT.flatten().tolist()
    assert flat[0] == BOS
    assert 2 <= flat.count(BOS) < 20
    decoded = tiny_tokenizer().decode(flat)
    assert decoded.count("says.") >= 2
    assert str(calibration) == "3 x 40 tokens of retain, seed 0"


def test_there_are_as_many_sequences_as_the_text_holds() -> None:
    many = packed(samples=10_000, length=40)
    assert 5 < len(many.ids_NT) < 100
    one = packed(samples=4, length=100_000)
    assert one.ids_NT.shape[0] == 1
    assert one.ids_NT.shape[1] // 40 == len(many.ids_NT)
    with pytest.raises(DataError, match="fewer than two tokens"):
        packed(length=1)


def test_the_order_is_drawn_by_the_seed() -> None:
    assert torch.equal(packed(seed=1).ids_NT, packed(seed=1).ids_NT)
    assert not torch.equal(packed(seed=1, samples=1).ids_NT, packed(seed=2, samples=1).ids_NT)


def test_learned_positions_limit_the_length() -> None:
    source = CalibrationSource(name="retain", texts=TEXTS * 20, samples=2, length=300)
    assert source.tokens(tiny("gpt2"), tiny_tokenizer()).ids_NT.shape[1] == 256
    assert source.tokens(tiny("llama"), tiny_tokenizer()).ids_NT.shape[1] == 300


def test_facts_tell_sources_apart() -> None:
    base = CalibrationSource(name="retain", texts=TEXTS)
    others = [
        CalibrationSource(name="forget", texts=TEXTS),
        CalibrationSource(name="retain", texts=TEXTS[1:]),
        CalibrationSource(name="retain", texts=TEXTS, samples=5),
        CalibrationSource(name="retain", texts=TEXTS, length=5),
        CalibrationSource(name="retain", texts=TEXTS, seed=5),
    ]
    assert all(other.facts != base.facts for other in others)
    assert CalibrationSource(name="retain", texts=TEXTS).facts == base.facts
    assert packed(seed=1).to_dict() != packed(seed=2).to_dict()


def test_a_model_writes_its_own_text() -> None:
    model = tiny("llama")
    source = CalibrationSource(samples=5, length=12, seed=3)
    calibration = source.tokens(model, tiny_tokenizer())
    assert calibration.ids_NT.shape == (5, 12)
    assert (calibration.ids_NT[:, 0] == BOS).all()
    assert torch.equal(calibration.ids_NT, source.tokens(model, tiny_tokenizer()).ids_NT)
    assert not torch.equal(
        calibration.ids_NT, source.tokens(tiny("llama", seed=1), tiny_tokenizer()).ids_NT
    )
    assert not torch.equal(calibration.ids_NT[0], calibration.ids_NT[1])
    without_bos = source.tokens(model, tiny_tokenizer(adds_bos=False))
    assert (without_bos.ids_NT[:, 0] == EOS).all() or (without_bos.ids_NT[:, 0] == BOS).all()


def test_what_it_writes_is_drawn_from_its_own_distribution() -> None:
    """First tokens after BOS against the exact probabilities, by a chi-squared bound."""
    model = tiny("llama", vocab_size=6, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    with torch.no_grad():
        expected = model(torch.tensor([[1]])).logits[0, -1].softmax(-1) * 2000
    drawn = sample_texts(model, [1], count=2000, length=2, seed=0)[:, 1].bincount(minlength=6)
    assert ((drawn - expected).square() / expected).sum() < 20.5  # 5 degrees of freedom, p = 0.001


def test_an_empty_opening_starts_anywhere() -> None:
    starts = sample_texts(tiny("llama"), [], count=40, length=1, seed=0)
    assert starts.shape == (40, 1)
    assert len(starts.unique()) > 10


def test_a_broken_model_cannot_write() -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight[0] = float("nan")
    with pytest.raises(ModelError, match="its predictions are not finite"):
        sample_texts(model, [BOS], count=2, length=4, seed=0)


def test_a_calibrated_quantizer_needs_text() -> None:
    with pytest.raises(RecipeError, match=r"awq4 without calibration text.*--calibrate self"):
        AWQ().packed(tiny("llama"))
