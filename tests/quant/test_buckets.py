"""Bucket theory: what a grid erases of an update, what survives, and why the two are not the same."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from expunge.errors import ModelError
from expunge.model.arch import linear_layers
from expunge.model.load import hash_model
from expunge.quant import parse_quantizer
from expunge.quant.buckets import SHIFT_EDGES, BucketCounts, compare, diagnose, predict
from expunge.quant.rtn import RTN
from tests.tiny import tiny, with_lora

INT4 = RTN(bits=4)
LR = 1e-5


def buckets(before: Tensor, after: Tensor, name: str = "int4", limit: float | None = None) -> BucketCounts:
    return compare("w", before, after, parse_quantizer(name), movable_limit=limit).buckets


def uniform(rows: int, columns: int) -> Tensor:
    """Weights spread evenly over [-7, 7] with the ends present, so that D is exactly 1."""
    weight = (torch.rand(rows, columns, generator=torch.Generator().manual_seed(0)) * 2 - 1) * 6.9
    weight[:, 0], weight[:, 1] = 7.0, -7.0
    return weight


def adamw_like(weight: Tensor, *, bf16: bool, lr: float = LR, steps: int = 100) -> Tensor:
    """Steps of about ``lr`` in a direction of each weight's own, in bf16 or in float32 weights."""
    generator = torch.Generator().manual_seed(1)
    drift = torch.randn(weight.shape, generator=generator) / 2
    weight = weight.clone()
    for _ in range(steps):
        noise = torch.randn(weight.shape, generator=generator) * 0.7
        weight -= lr * (drift + noise).clamp(-1.5, 1.5)
        if bf16:
            weight = weight.bfloat16().float()
    return weight


@pytest.fixture(scope="module")
def normal() -> Tensor:
    """Weights as a language model has them: normal, sigma .02, on the bf16 grid."""
    return (torch.randn(64, 512, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16().float()


def test_a_small_step_stays_in_its_bucket_and_a_larger_one_crosses() -> None:
    before = torch.tensor([[7.0, 0.3, 0.3]])
    result = buckets(before, before + torch.tensor([[0.0, 0.1, 0.3]]))
    assert (result.weights, result.changed, result.same, result.erased) == (3, 2, 2, 1)
    assert result.same_share == pytest.approx(2 / 3)
    assert result.erased_share == 0.5
    # Q moves by (0, 0, 1) while w moves by (0, .1, .3).
    assert result.surviving == pytest.approx(0.3 / (0.1**2 + 0.3**2), rel=1e-5)


def test_no_change_means_full_overlap_and_nothing_to_predict() -> None:
    weight = torch.randn(3, 5)
    result = buckets(weight, weight.clone())
    assert result.same_share == result.same_on_target_share == 1.0
    assert result.surviving is result.surviving_error is result.erased_share is None
    assert predict(result.surviving) is None


@pytest.mark.parametrize("step", [0.01, 0.1, 0.5])
def test_uniform_weights_cross_with_odds_of_the_step_over_the_bucket(step: float) -> None:
    before = uniform(40, 1000)
    after = before.clone()
    after[:, 2:] += step
    after.clamp_(max=7.0)
    result = buckets(before, after)
    crossed = 1 - result.same_share
    n = result.weights
    assert crossed == pytest.approx(step, abs=3 * (step * (1 - step) / n) ** 0.5 + 2 * 2 / 1000)


def test_an_update_on_weights_anywhere_survives_though_most_of_it_is_erased() -> None:
    before = uniform(40, 1000)
    signs = torch.randint(0, 2, before.shape, generator=torch.Generator().manual_seed(2)) * 2 - 1
    signs[:, :2] = 0
    result = buckets(before, before + 0.02 * signs)
    assert result.erased_share is not None
    assert result.erased_share > 0.97
    assert result.surviving is not None
    assert result.surviving_error is not None
    assert abs(result.surviving - 1) < 4 * result.surviving_error < 0.2
    assert predict(result.surviving) == "holds"


def test_the_same_update_on_tiny_weights_only_is_erased() -> None:
    before = uniform(40, 1000)
    tiny_ones = before.abs() < 0.45
    result = buckets(before, before + 0.02 * tiny_ones, limit=0.45)
    assert result.erased_share == 1.0
    assert result.surviving == 0.0
    assert result.movable_in_zero_share == 1.0
    assert result.movable == int(tiny_ones.sum())
    assert predict(result.surviving) == "comes back"


def test_the_error_of_the_surviving_share_is_what_chance_gives() -> None:
    found = []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        before = torch.rand(1, 400, generator=generator) * 13 - 6.5
        before[0, 0] = 7.0
        update = (torch.rand(1, 400, generator=generator) - 0.5) * 0.6
        update[0, 0] = 0.0
        result = buckets(before, (before + update).clamp(-7, 7))
        found.append((result.surviving, result.surviving_error))
    shares, errors = torch.tensor(found, dtype=torch.float64).unbind(1)
    assert shares.mean().item() == pytest.approx(1.0, abs=4 * errors.mean().item() / 200**0.5)
    assert shares.std().item() == pytest.approx(errors.mean().item(), rel=0.2)


@pytest.mark.parametrize(
    ("quantizer", "bf16", "prediction"),
    [
        ("int4", True, "comes back"),
        ("int3", True, "comes back"),
        ("int4-tensor", True, "comes back"),
        ("int8", True, "holds"),
        ("int4", False, "holds"),
        ("int3", False, "holds"),
        ("int8", False, "holds"),
    ],
)
def test_bf16_unlearning_comes_back_and_fp32_unlearning_holds(
    normal: Tensor, quantizer: str, bf16: bool, prediction: str
) -> None:
    after = adamw_like(normal, bf16=bf16)
    assert predict(buckets(normal, after, quantizer).surviving) == prediction


def test_a_large_learning_rate_escapes_the_zero_bucket(normal: Tensor) -> None:
    after = adamw_like(normal, bf16=True, lr=1e-4)
    assert predict(buckets(normal, after).surviving) == "holds"


def test_nothing_above_the_movable_limit_moves_in_bf16(normal: Tensor) -> None:
    after = (normal - LR).bfloat16().float()
    # 2^-8 itself has a closer neighbour below it than above, and moves.
    outside = normal.abs() > 2.0**-8
    assert torch.equal(after[outside], normal[outside])
    inside = (normal.abs() < 2.0**-8) & (normal != 0)
    assert (after[inside] != normal[inside]).double().mean() > 0.99


def test_the_critical_learning_rate_is_half_the_median_step_over_256(normal: Tensor) -> None:
    result = buckets(normal, normal)
    half = (normal.abs().amax(1) / 7 / 2).median().item()
    assert result.half_step == pytest.approx(half)
    assert result.critical_lr == pytest.approx(half / 256)
    assert result.critical_lr is not None
    assert 1e-5 < result.critical_lr < 1e-4


def test_a_moved_scale_counts_on_ones_own_and_not_on_the_targets() -> None:
    before = torch.tensor([[7.0, 1.0, 3.0]])
    after = torch.tensor([[14.0, 2.0, 6.0]])
    result = buckets(before, after)
    assert result.same == 3
    assert result.same_on_target == 1
    assert result.surviving == pytest.approx(1.0)
    grown = buckets(before, torch.tensor([[7.0, 1.0, 3.4]]))
    assert (grown.same, grown.same_on_target) == (3, 3)


def test_shifts_are_counted_in_steps_of_the_target() -> None:
    before = torch.tensor([[7.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    update = torch.tensor([[0.0, 0.00005, 0.05, 0.5, 0.7, 3.0]])
    result = buckets(before, before + update)
    assert len(SHIFT_EDGES) + 1 == 9
    assert result.shifts == (1, 0, 0, 0, 1, 0, 0, 2, 1)


def test_a_block_of_zeros_that_comes_alive() -> None:
    result = buckets(torch.zeros(1, 4), torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
    assert (result.changed, result.same, result.same_on_target, result.erased) == (1, 3, 3, 0)
    assert result.surviving == 1.0
    assert result.shifts == (0,) * 8 + (1,)


@pytest.mark.parametrize("name", ["fp4", "nf4"])
def test_code_books_tell_the_surviving_share_and_no_steps(name: str, normal: Tensor) -> None:
    pytest.importorskip("bitsandbytes")
    holds = buckets(normal, adamw_like(normal, bf16=False), name, limit=2.0**-8)
    assert holds.surviving is not None
    assert predict(holds.surviving) == "holds"
    assert holds.same_share < 1
    assert holds.movable is not None
    assert holds.same_on_target is holds.shifts is holds.half_step is holds.critical_lr is None
    assert holds.surviving_error is holds.same_on_target_share is None


def perturbed(arch: str, **settings: float) -> torch.nn.Module:
    model = tiny(arch)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            size = settings.get("blocks" if name.startswith("model.layers") else "rest", 0.0)
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return model


def test_diagnose_pools_the_tensors() -> None:
    target, unlearned = tiny("llama"), perturbed("llama", blocks=0.01)
    before = hash_model(unlearned)
    report = diagnose(target, unlearned, RTN(group_size=20), lr=LR, precision="bf16")
    assert hash_model(unlearned) == before
    names = [f"{name}.weight" for name in linear_layers(target)]
    assert [tensor.name for tensor in report.tensors] == names
    total = report.total
    assert total.weights == sum(layer.weight.numel() for layer in linear_layers(target).values())
    for field in ("changed", "same", "same_on_target", "erased", "movable", "movable_in_zero"):
        assert getattr(total, field) == sum(getattr(tensor, field) for tensor in report.tensors)
    assert total.surviving == pytest.approx(
        sum(t.kept for t in report.tensors) / sum(t.moved for t in report.tensors)
    )
    assert total.shifts is not None
    assert sum(total.shifts) == total.changed
    assert total.movable_share == pytest.approx(0.03, abs=0.02)
    assert total.movable_in_zero_share == 1.0
    assert report.quantizer == "int4-g20"


def test_movable_weights_need_a_precision_and_in_bf16_a_learning_rate() -> None:
    target, unlearned = tiny("llama"), perturbed("llama", blocks=0.01)
    assert diagnose(target, unlearned, INT4).total.movable is None
    assert diagnose(target, unlearned, INT4, lr=LR).total.movable_share is None
    assert diagnose(target, unlearned, INT4, precision="bf16").total.movable_in_zero_share is None
    for precision in ("fp32", "bf16_stochastic"):
        assert diagnose(target, unlearned, INT4, precision=precision).total.movable_share == 1.0
    weights = torch.cat([layer.weight.flatten() for layer in linear_layers(target).values()])
    expected = (weights.abs() < 2.0**-8).double().mean().item()
    assert diagnose(target, unlearned, INT4, lr=LR, precision="bf16").total.movable_share == expected


def test_changes_outside_the_quantized_tensors_are_accounted_for() -> None:
    target = tiny("llama")
    assert diagnose(target, perturbed("llama", blocks=0.01), INT4).untouched is not None
    only_inside = diagnose(target, perturbed("llama", rest=0.01), INT4)
    assert only_inside.untouched == 1.0
    assert only_inside.total.surviving is None
    both = diagnose(target, perturbed("llama", rest=0.01, blocks=0.01), INT4).untouched
    assert both is not None
    assert 0.2 < both < 0.5
    nothing = diagnose(target, tiny("llama"), INT4)
    assert nothing.untouched is None
    assert nothing.to_dict()["prediction"] is None


def test_rows_are_output_rows_in_gpt2_too() -> None:
    target, unlearned = tiny("gpt2"), perturbed("gpt2", rest=0.02)
    report = diagnose(target, unlearned, INT4)
    layer = target.transformer.h[0].mlp.c_fc.weight.detach().t()
    after = unlearned.get_submodule("transformer.h.0.mlp.c_fc").weight.detach().t()
    found = next(tensor for tensor in report.tensors if "h.0.mlp.c_fc" in tensor.name)
    assert found == compare(found.name, layer.contiguous(), after.contiguous(), INT4).buckets


def test_half_precision_pairs_and_mixed_pairs() -> None:
    target, unlearned = tiny("llama").bfloat16(), perturbed("llama", blocks=0.01)
    mixed = diagnose(target, unlearned, INT4).total
    assert mixed.surviving == pytest.approx(1.0, abs=0.2)
    assert diagnose(target, target, INT4).total.same_share == 1.0


def test_a_merged_adapter_is_paired_with_the_model_under_it() -> None:
    target = tiny("llama")
    adapted = with_lora(tiny("llama"), ["q_proj"])
    with pytest.raises(ModelError, match="Merge first"):
        diagnose(target, adapted, INT4)
    adapted.merge_adapter()
    report = diagnose(target, adapted, INT4)
    assert {tensor.name for tensor in report.tensors if tensor.changed} == {
        f"model.layers.{number}.self_attn.q_proj.weight" for number in range(2)
    }
    assert report.untouched == 0.0


def test_models_that_are_no_pair_are_refused() -> None:
    with pytest.raises(ModelError, match=r"not a pair.*has another shape"):
        diagnose(tiny("llama"), tiny("llama", intermediate_size=40), INT4)
    with pytest.raises(ModelError, match=r"not a pair"):
        diagnose(tiny("llama"), tiny("llama", num_hidden_layers=1), INT4)
    broken = tiny("llama")
    with torch.no_grad():
        broken.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"lm_head\.weight is not finite"):
        diagnose(tiny("llama"), broken, INT4)


def test_what_a_format_leaves_alone_is_not_counted_as_quantized() -> None:
    pytest.importorskip("torchao")
    target, unlearned = tiny("llama"), perturbed("llama", blocks=0.01)
    report = diagnose(target, unlearned, parse_quantizer("ao-int4-g32"))
    assert len(report.tensors) == 12  # down_proj has 48 inputs
    assert not any("down_proj" in tensor.name for tensor in report.tensors)
    assert report.untouched is not None
    assert 0.05 < report.untouched < 0.3
    nothing = diagnose(target, unlearned, parse_quantizer("ao-int4-g128"))
    assert nothing.tensors == ()
    assert nothing.untouched == 1.0
    json.dumps(nothing.to_dict(), allow_nan=False)


def test_the_report_is_json() -> None:
    report = diagnose(tiny("llama"), perturbed("llama", blocks=0.01), INT4, lr=LR, precision="bf16")
    read = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert read["total"]["surviving"] == report.total.surviving
    assert read["total"]["movable_in_zero_share"] == 1.0
    assert read["prediction"] == "holds"
    assert read["shift_edges"] == list(SHIFT_EDGES)
    assert len(read["tensors"]) == 14


def test_the_threshold_is_the_callers_to_set() -> None:
    assert predict(0.49) == "comes back"
    assert predict(0.5) == "holds"
    assert predict(0.5, threshold=0.8) == "comes back"
