from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from expunge.edit.task_vector import (
    AdapterInterpolation,
    TensorDelta,
    WeightDelta,
    WholeInterpolation,
    every,
    keep,
    kept,
    stored,
)
from expunge.errors import ModelError
from expunge.model.load import hash_model
from tests.tiny import tiny, with_lora

TARGETS = ["q_proj", "down_proj"]


def between(before: nn.Module, after: nn.Module) -> WeightDelta:
    return WeightDelta.between(every(before), every(after))


def states(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def farthest(model: nn.Module, other: dict[str, torch.Tensor]) -> float:
    return max(
        float((weight.detach() - other[name]).abs().max()) for name, weight in model.named_parameters()
    )


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gemma"])  # gpt2: transposed and tied; gemma: tied
def test_the_difference_takes_one_model_to_the_other_and_back(arch: str) -> None:
    first, second = tiny(arch, seed=0), tiny(arch, seed=1)
    start, end = states(first), states(second)
    delta = between(tiny(arch, seed=0), second)
    delta.apply(first)
    assert farthest(first, end) < 1e-7
    (-delta).apply(first)
    assert farthest(first, start) < 1e-7


def test_nothing_is_subtracted_bit_for_bit() -> None:
    model, other = tiny("llama"), tiny("llama", seed=1)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = -0.0  # adding a zero would make it +0.0
    before = hash_model(model)
    between(tiny("llama"), other).scaled(0.0).apply(model)
    assert hash_model(model) == before
    itself = between(model, model)
    assert all(not part.read().any() for part in itself.parts.values())


def test_a_tied_weight_is_changed_once() -> None:
    model = tiny("llama", tie_word_embeddings=True)
    before = model.model.embed_tokens.weight.detach().clone()
    moved = tiny("llama", tie_word_embeddings=True)
    with torch.no_grad():
        moved.model.embed_tokens.weight += 1.0
    between(tiny("llama", tie_word_embeddings=True), moved).scaled(-1.0).apply(model)
    assert torch.allclose(model.lm_head.weight, before - 1.0, atol=1e-6)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@given(
    factors=st.tuples(*[st.floats(-3, 3, width=32)] * 2),
    values=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=4),
)
@settings(max_examples=30, deadline=None)
def test_vectors_add_and_scale_like_vectors(factors: tuple[float, float], values: list[float]) -> None:
    tensor = torch.tensor(values)
    one = WeightDelta({"a": TensorDelta((len(values),), lambda: tensor)})
    two = WeightDelta(
        {"a": TensorDelta((len(values),), lambda: 2 * tensor), "b": TensorDelta((1,), lambda: tensor[:1])}
    )
    a, b = factors
    total = one.scaled(a) + two.scaled(b)
    found = total.parts["a"].read() if "a" in total.parts else torch.zeros_like(tensor)
    torch.testing.assert_close(found, tensor * (a + 2 * b), rtol=1e-5, atol=1e-5)
    assert ("b" in total.parts) == (b != 0)


def test_a_step_back_along_one_step_of_descent_is_one_step_of_ascent() -> None:
    # L = |Wx - y|² / 2: descending once by η gives Δ = -η ∇L, so θ - λΔ = θ + λη ∇L.
    torch.manual_seed(0)
    eta, factor = 0.05, 3.0
    inputs, wanted = torch.randn(8, 32), torch.randn(8, 48)

    def stepped(size: float) -> Any:
        model = tiny("llama")
        layer = model.model.layers[0].mlp.up_proj
        (((layer(inputs) - wanted) ** 2).sum() / 2).backward()
        with torch.no_grad():
            layer.weight -= size * layer.weight.grad
        return model

    result = tiny("llama")
    between(tiny("llama"), stepped(eta)).scaled(-factor).apply(result)
    ascended = stepped(-factor * eta).model.layers[0].mlp.up_proj.weight
    torch.testing.assert_close(result.model.layers[0].mlp.up_proj.weight, ascended, rtol=1e-5, atol=1e-5)


def test_checkpoints_are_subtracted_from_their_files(tmp_path: Path) -> None:
    first, second = tiny("gpt2", seed=0), tiny("gpt2", seed=1)
    for name, model in (("a", first), ("b", second)):
        model.save_pretrained(tmp_path / name)
    delta = WeightDelta.between(stored(tmp_path / "a"), stored(tmp_path / "b"))
    result = tiny("gpt2", seed=0)
    delta.apply(result)
    assert farthest(result, states(second)) < 1e-7


def test_in_bf16_the_sum_is_rounded_once() -> None:
    model, moved = tiny("llama").bfloat16(), tiny("llama").bfloat16().float()
    with torch.no_grad():
        for weight in moved.parameters():
            weight.add_(1e-6)
    wanted = {name: weight.float() + 1e-6 * 300 for name, weight in model.named_parameters()}
    between(tiny("llama").bfloat16(), moved).scaled(300.0).apply(model)
    for name, weight in model.named_parameters():
        error = (weight.float() - wanted[name]).abs()
        assert bool((error <= wanted[name].abs() * 2**-8 + 1e-5).all())


def test_adapters_scaled_merged_and_subtracted_agree(tmp_path: Path) -> None:
    adapted = with_lora(tiny("llama"), TARGETS)
    with torch.no_grad():
        for weight in adapted.parameters():
            weight.requires_grad_(False)
    adapted.save_pretrained(tmp_path / "adapter")
    explicit = tiny("llama")
    WeightDelta.of_adapter(tmp_path / "adapter").scaled(-0.7).apply(explicit)
    line = AdapterInterpolation(adapted)
    line.at(5.0)  # a line has no memory of where it was
    line.at(-0.7)
    merged = adapted.merge_and_unload()
    assert farthest(merged, states(explicit)) < 1e-5
    assert farthest(merged, states(tiny("llama"))) > 1e-3


def test_adapters_scaled_by_nothing_are_the_base_bit_for_bit() -> None:
    adapted = with_lora(tiny("llama"), TARGETS)
    line = AdapterInterpolation(adapted)
    line.at(-0.7)
    line.at(0.0)
    merged = adapted.merge_and_unload()
    plain = states(tiny("llama"))
    assert all(torch.equal(weight, plain[name]) for name, weight in merged.named_parameters())


def test_an_adapter_taken_off_is_what_peft_makes_of_a_negative_weight(tmp_path: Path) -> None:
    adapted = with_lora(tiny("llama"), TARGETS)
    adapted.save_pretrained(tmp_path / "adapter")
    explicit = tiny("llama")
    WeightDelta.of_adapter(tmp_path / "adapter").scaled(-0.7).apply(explicit)
    adapted.add_weighted_adapter(["default"], [-0.7], "negated", combination_type="linear")
    adapted.set_adapter("negated")
    merged = adapted.merge_and_unload(adapter_names=["negated"])
    assert farthest(merged, states(explicit)) < 1e-5


def test_scaling_both_factors_would_not_negate() -> None:
    adapted = with_lora(tiny("llama"), TARGETS)
    plain = states(with_lora(tiny("llama"), TARGETS).merge_and_unload())
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if ".lora_" in name:
                weight.neg_()
    assert farthest(adapted.merge_and_unload(), plain) == 0.0


def test_a_line_starts_from_the_same_model_every_time(tmp_path: Path) -> None:
    model, after = tiny("gpt2", seed=0), tiny("gpt2", seed=1)
    keep(model, tmp_path / "before")
    keep(after, tmp_path / "after")
    assert kept(tmp_path / "before").keys() == every(model).keys()
    before = hash_model(model)
    line = WholeInterpolation(model, tmp_path / "before", tmp_path / "after")
    line.at(-0.3)
    half = hash_model(model)
    line.at(1.0)
    assert farthest(model, states(after)) < 1e-7
    line.at(-0.3)
    assert hash_model(model) == half
    line.at(0.0)
    assert hash_model(model) == before


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not of one model"):
        between(tiny("llama"), tiny("gpt2"))
    delta = between(tiny("llama"), tiny("llama", seed=1))
    small = tiny("llama", vocab_size=64)
    before = hash_model(small)
    with pytest.raises(ModelError, match=r"is .* here and .* there"):
        delta.apply(small)
    assert hash_model(small) == before
    with pytest.raises(ModelError, match="no tensor"):
        delta.apply(tiny("gpt2"))
    adapted = with_lora(tiny("llama"), TARGETS)
    adapted.save_pretrained(tmp_path)
    config = (tmp_path / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(config.replace('"use_dora": false', '"use_dora": true'))
    with pytest.raises(ModelError, match="use_dora"):
        WeightDelta.of_adapter(tmp_path)
