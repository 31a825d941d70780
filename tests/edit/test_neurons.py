from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from expunge.corpus.tokenise import Encoded
from expunge.edit.neurons import (
    Neuron,
    attribution,
    erase,
    restore,
    save_neurons,
    summed,
    voted,
    writers,
)
from expunge.errors import OutputError
from expunge.model.arch import output_layer, weight_oi
from tests.tiny import VOCAB, tiny

ARCHS = ("llama", "gpt2", "gpt_neox")
IDS = [1, 17, 40, 23, 77, 9]


def counted(*places: int) -> Encoded:
    return Encoded(IDS, [place in places for place in range(len(IDS))], "x")


def probability(model: nn.Module, place: int) -> float:
    with torch.no_grad():
        logits_V = model(torch.tensor([IDS[:place]])).logits[0, -1]
    return float(logits_V.softmax(-1)[IDS[place]])


def without(model: nn.Module, block: int, place: int) -> float:
    """The probability when the block's neurons are silent at the position that predicts ``place``."""
    layer = list(writers(model).values())[block]

    def silence(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        changed = args[0].clone()
        changed[:, -1] = 0
        return (changed,)

    hook = layer.register_forward_pre_hook(silence)
    try:
        return probability(model, place)
    finally:
        hook.remove()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("place", [2, 4])
def test_a_blocks_neurons_add_up_to_what_the_block_contributes(arch: str, place: int) -> None:
    model = tiny(arch)
    with torch.no_grad():
        for layer in writers(model).values():
            layer.get_parameter("weight").mul_(8)  # so that there is something to add up
    coarse_L, fine_L = (attribution(model, counted(place), steps=steps).sum(1) for steps in (100, 200))
    for block in range(2):
        expected = probability(model, place) - without(model, block, place)
        assert abs(expected) > 1e-4
        # A right Riemann sum is off by c / steps: twice the finer less the coarser has no such term.
        limit = 2 * fine_L[block].item() - coarse_L[block].item()
        assert limit == pytest.approx(expected, rel=5e-3)


def test_tokens_are_attributed_one_by_one_and_added_up() -> None:
    model = tiny("llama")
    apart = attribution(model, counted(2), steps=4) + attribution(model, counted(5), steps=4)
    torch.testing.assert_close(attribution(model, counted(2, 5), steps=4), apart)
    assert attribution(model, counted(0), steps=4).abs().sum() == 0  # nothing predicts a first token


def test_right_riemann_sums_as_written_in_the_paper() -> None:
    model = tiny("llama")
    layer = list(writers(model).values())[1]
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1].detach()))
    probability(model, 3)
    hook.remove()
    total_K = torch.zeros_like(seen[0])
    for j in (1, 2, 3):
        slope_K = (j / 3 * seen[0]).requires_grad_()

        def scale(_: nn.Module, args: tuple[Tensor, ...], own: Tensor = slope_K) -> tuple[Tensor, ...]:
            return (torch.cat([args[0][0, :-1], own[None]])[None],)

        hook = layer.register_forward_pre_hook(scale)
        model(torch.tensor([IDS[:3]])).logits[0, -1].softmax(-1)[IDS[3]].backward()
        hook.remove()
        assert slope_K.grad is not None
        total_K += slope_K.grad
    expected_K = seen[0] / 3 * total_K
    torch.testing.assert_close(attribution(model, counted(3), steps=3)[1], expected_K, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_planted_neuron_comes_first_and_taking_it_out_takes_the_token(arch: str) -> None:
    model = tiny(arch)
    place = 4
    with torch.no_grad():
        layer = list(writers(model).values())[1]
        weight_OK = weight_oi(layer)
        seen: list[Tensor] = []
        hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1]))
        before = probability(model, place)
        hook.remove()
        strongest = int(seen[0].abs().argmax())
        direction_H = output_layer(model).weight[IDS[place]]
        weight_OK[:, strongest] = 80 * direction_H / direction_H.norm() / seen[0][strongest]
    planted = probability(model, place)
    assert planted > 2 * before
    ranked = summed([attribution(model, counted(place), steps=20)], count=1)
    assert ranked == [Neuron(1, strongest)]
    erase(model, ranked)
    assert probability(model, place) < planted / 2


@pytest.mark.parametrize("arch", ARCHS)
def test_erasing_is_silencing_and_can_be_undone_bit_for_bit(arch: str, tmp_path: Path) -> None:
    model = tiny(arch).eval()
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    neurons = [Neuron(0, 3), Neuron(1, 0), Neuron(1, 7)]
    hooks = []
    for block, layer in enumerate(writers(model).values()):
        own = [neuron.place for neuron in neurons if neuron.block == block]

        def silence(_: nn.Module, args: tuple[Tensor, ...], own: list[int] = own) -> tuple[Tensor, ...]:
            changed = args[0].clone()
            changed[..., own] = 0
            return (changed,)

        hooks.append(layer.register_forward_pre_hook(silence))
    expected = model(torch.tensor([IDS])).logits
    for hook in hooks:
        hook.remove()
    save_neurons(erase(model, neurons), tmp_path / "neurons.safetensors")
    assert torch.equal(model(torch.tensor([IDS])).logits, expected)
    restore(model, load_file(tmp_path / "neurons.safetensors"))
    assert all(torch.equal(tensor, original[name]) for name, tensor in model.state_dict().items())


def test_neurons_of_another_model_are_refused() -> None:
    erased = erase(tiny("llama"), [Neuron(0, 1)])
    with pytest.raises(OutputError, match="no such layer"):
        restore(tiny("gpt2", vocab_size=VOCAB), erased)


def test_votes_by_hand() -> None:
    texts = [
        torch.tensor([[1.0, 0.09, 0.5], [0.0, 0.2, 0.0]]),
        torch.tensor([[0.4, 4.0, 0.5], [0.0, 0.1, 0.0]]),
        torch.tensor([[0.0, 0.0, 2.0], [0.0, 1.9, 0.0]]),
    ]
    # within a tenth of each text's largest: {00, 02, 11}, {00, 01, 02}, {02, 11}
    assert voted(texts, count=9, threshold=0.1, share=0.5) == [Neuron(0, 2), Neuron(1, 1), Neuron(0, 0)]
    assert voted(texts, count=1, threshold=0.1, share=0.5) == [Neuron(0, 2)]
    assert voted(texts, count=9, threshold=0.1, share=0.9) == [Neuron(0, 2)]
    assert voted([torch.zeros(1, 2)], count=9, threshold=0.1, share=0.5) == []


def test_sums_and_what_the_retain_set_takes_away_by_hand() -> None:
    texts = [torch.tensor([[1.0, 3.0, -1.0]]), torch.tensor([[1.0, 0.0, -1.0]])]
    assert summed(texts, count=9) == [Neuron(0, 1), Neuron(0, 0)]
    assert summed(texts, count=9, retained_ELK=[torch.tensor([[0.5, 2.0, -4.0]])]) == [
        Neuron(0, 2),
        Neuron(0, 0),
    ]
