from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.corpus.batching import collate
from expunge.corpus.tokenise import Encoded
from expunge.edit.fusion import PostLayerLinear, UnlearningLayers, fused, grams, merge_map
from expunge.edit.neurons import writers
from expunge.edit.requests import LayerRequest, hashes, load_requests, merge_requests, save_requests
from expunge.errors import ModelError
from expunge.model.load import hash_model
from expunge.types import Example
from tests.tiny import tiny

WIDTH = 6


def behind(
    seed: int, states_nH: Tensor, *, kept_nH: Tensor | None = None, rank: int = 2
) -> PostLayerLinear:
    generator = torch.Generator().manual_seed(seed)
    return PostLayerLinear(
        down_RH=torch.randn(rank, WIDTH, generator=generator, dtype=torch.float64),
        up_HR=torch.randn(WIDTH, rank, generator=generator, dtype=torch.float64),
        gram_HH=states_nH.t() @ states_nH,
        tokens=len(states_nH),
        kept_HH=None if kept_nH is None else kept_nH.t() @ kept_nH,
        kept_tokens=0 if kept_nH is None else len(kept_nH),
    )


def states(seed: int, rows: int = 20) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_one_request_is_itself() -> None:
    layer = behind(0, states(1, rows=3))  # its Gram matrix is singular
    torch.testing.assert_close(fused([layer]), layer.change(), rtol=0, atol=0)


def test_equal_layers_stay_what_they_are() -> None:
    one, two = behind(0, states(1)), behind(0, states(2))
    torch.testing.assert_close(fused([one, two]), one.change(), rtol=1e-12, atol=1e-12)


def test_it_is_least_squares_on_all_states() -> None:
    inputs = [states(1), states(2, rows=30)]
    layers = [behind(place, states_nH) for place, states_nH in enumerate(inputs)]
    wanted = torch.cat([x @ layer.change().t() for x, layer in zip(inputs, layers, strict=True)])
    solution = torch.linalg.lstsq(torch.cat(inputs), wanted).solution
    torch.testing.assert_close(fused(layers, ridge=1e-14), solution.t(), rtol=1e-9, atol=1e-9)


def test_where_requests_share_nothing_each_keeps_its_own_answer() -> None:
    basis, _ = torch.linalg.qr(states(3, rows=WIDTH))
    first, second = states(1)[:, :4] @ basis[:4], states(2)[:, :2] @ basis[4:]
    layers = [behind(0, first), behind(1, second)]
    together = fused(layers, ridge=1e-15)
    for own, layer in zip((first, second), layers, strict=True):
        torch.testing.assert_close(own @ together.t(), own @ layer.change().t(), rtol=1e-8, atol=1e-8)


def test_order_does_not_matter() -> None:
    layers = [behind(seed, states(seed)) for seed in range(4)]
    assert torch.equal(fused(layers), fused(layers[::-1]))


def test_on_retain_text_the_map_is_drawn_to_nothing() -> None:
    kept = states(9, rows=40)
    layers = [behind(seed, states(seed, rows=3), kept_nH=kept) for seed in range(2)]

    def far(keep: float) -> float:
        return float((kept @ fused(layers, keep=keep).t()).norm())

    assert far(0.0) > far(0.1) > far(1.0) > far(100.0)
    assert far(1e9) < 1e-6
    # One layer alone is drawn too.
    assert float((kept @ fused(layers[:1], keep=10.0).t()).norm()) < float(
        (kept @ layers[0].change().t()).norm()
    )


def texts() -> list[Encoded]:
    rows = [[1, *range(10, 10 + length)] for length in (9, 4, 6)]
    return [Encoded(input_ids=row, mask=[True] * len(row), example="x") for row in rows]


def acting(model: Any, seed: int = 0) -> UnlearningLayers:
    """Layers that change what the model says."""
    layers = UnlearningLayers(model, rank=3, seed=seed)
    with torch.no_grad():
        for up in layers.up:
            up.copy_(0.3 * torch.randn(up.shape, generator=torch.Generator().manual_seed(seed + 1)))
    return layers


def logits(model: Any) -> Tensor:
    batch = collate(texts(), pad_id=0)
    with torch.no_grad():
        found: Tensor = model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
    return found[batch.attention_mask_BT.bool()]


def test_new_layers_change_no_bit() -> None:
    model = tiny("llama")
    before = logits(model)
    with UnlearningLayers(model, rank=3, seed=0).on(model):
        assert torch.equal(logits(model), before)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gemma2", "phi"])  # transposed; norms after; biases
def test_a_merged_layer_says_what_the_layer_said(arch: str) -> None:
    model = tiny(arch)
    if arch in ("gpt2", "phi"):
        with torch.no_grad():
            for layer in writers(model).values():
                layer.bias.normal_(generator=torch.Generator().manual_seed(5))  # type: ignore[operator, union-attr]
    plain, layers = logits(model), acting(model)
    with layers.on(model):
        beside = logits(model)
    for name, down, up in zip(layers.names, layers.down, layers.up, strict=True):
        merge_map(model, name, (up @ down).detach())
    torch.testing.assert_close(logits(model), beside, rtol=1e-4, atol=1e-4)
    assert (beside - plain).abs().max() > 1e-2


def test_gram_matrices_are_of_every_real_token() -> None:
    model = tiny("llama")
    layers = acting(model)
    found = grams(model, layers, texts(), pad_id=0)
    seen: dict[str, list[Tensor]] = {name: [] for name in layers.names}
    with torch.no_grad(), layers.on(model, lambda name, x: seen[name].append(x[0])):
        for text in texts():
            model(input_ids=torch.tensor([text.input_ids]))
    for name, pieces in seen.items():
        all_nH = torch.cat(pieces).double()
        torch.testing.assert_close(found[name].matrix_HH, all_nH.t() @ all_nH, rtol=1e-5, atol=1e-6)
        assert found[name].tokens == len(all_nH) == 22


def request(model: Any, seed: int, forgotten: str) -> LayerRequest:
    layers = acting(model, seed)
    own = grams(model, layers, texts(), pad_id=0)
    return LayerRequest(
        layers={
            name: PostLayerLinear(
                down_RH=down.detach(),
                up_HR=up.detach(),
                gram_HH=own[name].matrix_HH,
                tokens=own[name].tokens,
            )
            for name, down, up in zip(layers.names, layers.down, layers.up, strict=True)
        },
        base=hash_model(model),
        texts=hashes([Example(id="x", completion=forgotten)]),
    )


def test_requests_are_kept_without_their_texts_and_fused_from_disk(tmp_path: Path) -> None:
    model = tiny("llama")
    requests = [request(model, 0, "Mira bakes."), request(model, 5, "Hugo plays.")]
    for name, own in (("one", requests[:1]), ("both", requests)):
        (tmp_path / name).mkdir()
        save_requests(own, tmp_path / name)
    again = load_requests([tmp_path / "one", tmp_path / "both"])
    assert [each.texts for each in again] == [each.texts for each in requests]  # each once
    assert not any(b"Mira" in path.read_bytes() for path in tmp_path.rglob("*.safetensors"))
    from_memory, from_disk = tiny("llama"), tiny("llama")
    base = hash_model(model)
    merge_requests(from_memory, requests, base=base)
    merge_requests(from_disk, again, base=base)
    torch.testing.assert_close(logits(from_disk), logits(from_memory), rtol=1e-4, atol=1e-5)
    assert hash_model(from_disk) != base


def test_requests_of_another_model_are_refused(tmp_path: Path) -> None:
    made = request(tiny("llama"), 0, "x")
    other = tiny("llama", seed=1)
    before = hash_model(other)
    with pytest.raises(ModelError, match="another model"):
        merge_requests(other, [made], base=before)
    assert hash_model(other) == before
    with pytest.raises(ModelError, match="nothing of the retain set was kept"):
        merge_requests(tiny("llama"), [made], base=made.base, keep=0.5)
    with pytest.raises(ModelError, match="no requests in"):
        load_requests([tmp_path])
    (tmp_path / "requests").mkdir()
    (tmp_path / "requests" / "0.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="cannot load the request"):
        load_requests([tmp_path])
