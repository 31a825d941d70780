from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from expunge.corpus.batching import collate
from expunge.corpus.tokenise import Encoded
from expunge.errors import ModelError
from expunge.inference.forward import compute_token_view
from expunge.inference.observer import Observer
from expunge.inference.reference import as_scores, generic_scores
from expunge.model.arch import blocks
from expunge.model.contrast import ContrastModel, contrasted
from expunge.model.load import hash_model, load_model, load_tokenizer, save_model
from expunge.quant import parse_quantizer
from expunge.types import Example
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

ARCHS = ("llama", "gpt2", "gemma2", "mistral", "gpt_neox")  # tied, soft-capped, with a window, fused
WINDOWED = {"mistral": {"sliding_window": 6}}
IDS = torch.tensor([[1, 17, 40, 23, 77, 9], [1, 90, 4, 5, 6, 30]])


def pair(arch: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    more = WINDOWED.get(arch, {})
    return tiny(arch, seed=0, **more), tiny(arch, seed=1, **more)


def both(arch: str = "llama", alpha: float = 1.5, scores: str = "logps") -> ContrastModel:
    return contrasted(*pair(arch), alpha=alpha, scores=scores)  # type: ignore[arg-type]


@torch.no_grad()
def logits(model: PreTrainedModel, ids: Tensor = IDS) -> Tensor:
    return model(ids).logits


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("scores", ["logps", "logits"])
def test_the_paper_s_equation_of_two_models(arch: str, scores: str) -> None:
    base, reinforced = (as_scores(logits(model), scores) for model in pair(arch))  # type: ignore[arg-type]
    expected = generic_scores(base, reinforced, alpha=1.5)
    found = logits(both(arch, scores=scores))
    torch.testing.assert_close(found.softmax(-1), expected.softmax(-1), rtol=1e-5, atol=1e-6)


def test_logits_worked_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    model = both(alpha=5.0, scores="logits")
    said = {id(model.base): torch.tensor([2.0, 1.0, 0.0]), id(model.reinforced): torch.tensor([3.0, 0, 0])}
    monkeypatch.setattr("expunge.model.contrast.output_head", lambda member: lambda _: said[id(member)])
    assert model.contrast(torch.zeros(2)).tolist() == [-3.0, 1.0, 0.0]
    model.contrast.scores = "logps"
    # log(e²/(e²+e+1)) = -.40761 and log(e³/(e³+2)) = -.09493: .31268 is held back five times.
    assert model.contrast(torch.zeros(2)).tolist() == pytest.approx([2 - 5 * 0.31268, 1, 0], abs=1e-4)


@pytest.mark.parametrize("arch", ARCHS)
def test_without_alpha_it_is_the_base_bit_for_bit(arch: str) -> None:
    base, _ = pair(arch)
    assert torch.equal(logits(both(arch, alpha=0.0)), logits(base))
    half = contrasted(*(model.bfloat16() for model in pair(arch)), alpha=0.0)
    assert torch.equal(logits(half), logits(base.bfloat16()))
    assert torch.equal(logits(contrasted(*[tiny(arch)] * 2, alpha=7.0)), logits(tiny(arch)))


def test_what_reinforcement_did_not_raise_stays_bit_for_bit_and_all_else_falls() -> None:
    base, reinforced = pair("llama")
    before = logits(base)
    raised = logits(reinforced).log_softmax(-1) > before.log_softmax(-1)
    after = logits(both())
    assert raised.any()
    assert torch.equal(after[~raised], before[~raised])
    assert bool((after[raised] < before[raised]).all())


@pytest.mark.parametrize("arch", ARCHS)
def test_the_cache_changes_nothing(arch: str) -> None:
    """Each model reads its own half: given the whole, the second would count every token twice."""
    model = both(arch)
    cache = DynamicCache(config=model.config)
    steps = []
    with torch.no_grad():
        for start, end in ((0, 3), (3, 4), (4, 6)):
            steps.append(model(IDS[:, start:end], past_key_values=cache, use_cache=True).logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), logits(model), rtol=1e-4, atol=1e-5)
    assert cache.get_seq_length() == 6
    said = [
        model.generate(IDS, max_new_tokens=12, do_sample=False, use_cache=use, eos_token_id=None)
        for use in (True, False)
    ]
    assert torch.equal(*said)
    step = IDS
    for _ in range(12):
        step = torch.cat([step, logits(model, step)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(said[0], step)


def test_generate_pads_on_the_left_as_for_any_model() -> None:
    model = both()
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), IDS], dim=1)
    mask = (torch.arange(9) >= 3).long().expand(2, -1)
    said = model.generate(padded, attention_mask=mask, max_new_tokens=8, do_sample=False, eos_token_id=None)
    plain = model.generate(IDS, max_new_tokens=8, do_sample=False, eos_token_id=None)
    assert torch.equal(said[:, 9:], plain[:, 6:])


@pytest.mark.parametrize("arch", ARCHS)
def test_it_is_saved_and_loaded_like_any_model(arch: str, tmp_path: Path) -> None:
    more = {"vocab_size": BYTES_VOCAB}
    model = contrasted(tiny(arch, **more), tiny(arch, seed=1, **more), alpha=2.5, scores="logits")
    expected = logits(model)
    save_model(model, tiny_tokenizer(all_bytes=True), tmp_path / "both")
    loaded = load_model(tmp_path / "both")
    assert isinstance(loaded, ContrastModel)
    assert (loaded.config.alpha, loaded.config.scores) == (2.5, "logits")
    assert torch.equal(logits(loaded), expected)
    assert hash_model(loaded) == hash_model(model)
    load_tokenizer(tmp_path / "both", model=loaded)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gemma2"])
def test_an_audit_sees_the_predictions_of_both_together(arch: str) -> None:
    model = both(arch)
    batch = collate([Encoded([1, 17, 40, 23], [False, True, True, True], "a")], pad_id=0)
    found = compute_token_view(model, batch).logps[0, 1:]
    ids = batch.input_ids_BT
    expected = logits(model, ids).log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_an_observer_generates_what_generate_does() -> None:
    tokenizer = tiny_tokenizer(all_bytes=True)
    more = {"vocab_size": BYTES_VOCAB}
    model = contrasted(tiny("llama", **more), tiny("llama", seed=1, **more), alpha=1.0)
    observer = Observer(model, tokenizer, max_length=64)
    prompts = ["Who is Mira?", "Where does she live? And who is with her there?"]
    said = observer.greedy(prompts, max_new_tokens=6)
    for prompt, text in zip(prompts, said, strict=True):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        plain = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
        assert text == tokenizer.decode(plain, skip_special_tokens=True)
    (logp,) = observer.token_logps([Example(id="a", prompt="Who?", completion=" Mira")])
    assert bool((logp < 0).all())


@pytest.mark.parametrize("name", ["int4", "nf4"])
def test_rounding_both_is_holding_one_rounded_model_against_the_other(name: str) -> None:
    quantizer = parse_quantizer(name)
    rounded = both()
    with (
        quantizer.applied(rounded) as applied,
        quantizer.applied(pair("llama")[0]) as base,
        quantizer.applied(pair("llama")[1]) as reinforced,
    ):
        apart = contrasted(base.model, reinforced.model, alpha=1.5)  # type: ignore[arg-type]
        assert torch.equal(logits(rounded), logits(apart))
        assert not torch.equal(logits(rounded), logits(both()))
        assert {tensor.name for tensor in applied.coverage if tensor.how} == {
            f"{part}.{tensor.name}"
            for part in ("base", "reinforced")
            for tensor in base.coverage
            if tensor.how
        }
    assert torch.equal(logits(rounded), logits(both()))


def test_what_cannot_be_put_together_or_taken_apart_is_refused() -> None:
    with pytest.raises(ModelError, match="not of one model"):
        contrasted(tiny("llama"), tiny("llama", vocab_size=64), alpha=1.0)
    with pytest.raises(ModelError, match="configurations differ"):
        contrasted(tiny("llama"), tiny("llama", rms_norm_eps=1e-2), alpha=1.0)
    with pytest.raises(ModelError, match=r"two checkpoints that answer as one.*each of the two"):
        blocks(both())


def test_the_two_are_held_and_not_copied() -> None:
    base, reinforced = pair("llama")
    model = contrasted(base, reinforced, alpha=1.0)
    own = {weight.data_ptr() for weight in model.parameters()}
    assert own == {weight.data_ptr() for one in (base, reinforced) for weight in one.parameters()}
    assert len(list(model.named_parameters())) == len(own)
