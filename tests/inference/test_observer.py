from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from expunge.corpus.tokenise import encode, encode_prompt
from expunge.inference import texts as reading
from expunge.inference.generation import cache as saying
from expunge.inference.observer import Observer, cut
from expunge.types import Example, Span
from tests.batches import full_logps, own
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

TOKENIZER = tiny_tokenizer(all_bytes=True)
PROMPTS = ["the rain in", "a", "the rain in the town is on", "words on the hill", "x y z"]
PAIRS = [Example(id=str(i), prompt=prompt, completion=" and then") for i, prompt in enumerate(PROMPTS)]
DOCUMENT = Example(id="doc", completion="the men went out in the rain and the wind was on the hill " * 3)


def observer(**settings: Any) -> Observer:
    model = tiny("llama", seed=3, vocab_size=BYTES_VOCAB)
    return Observer(model, TOKENIZER, **{"max_length": 64, **settings})


class Counting:
    """Counts what an observer asks its model for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts = 0
        self.sequences = 0
        greedy, predictions = saying.greedy, reading.predictions

        def counted_greedy(model: Any, prompts: Sequence[Any], **settings: Any) -> Any:
            self.prompts += len(prompts)
            return greedy(model, prompts, **settings)

        def counted_predictions(model: Any, batch: Any) -> Any:
            self.sequences += len(batch.input_ids_BT)
            return predictions(model, batch)

        monkeypatch.setattr(saying, "greedy", counted_greedy)
        monkeypatch.setattr(reading, "predictions", counted_predictions)


def expected_text(seer: Observer, prompt: str, new: int) -> str:
    """The continuation by transformers, decoded."""
    ids = encode_prompt(Example(id="p", prompt=prompt, completion=""), TOKENIZER)
    out = seer.model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=new, do_sample=False
    )
    return TOKENIZER.decode(out[0, len(ids) :], skip_special_tokens=True)


def test_continuations_are_transformers_own_in_the_order_asked() -> None:
    seer = observer()
    said = seer.greedy(PROMPTS, max_new_tokens=8)
    assert said == [expected_text(seer, prompt, 8) for prompt in PROMPTS]
    assert seer.greedy(PROMPTS[::-1], max_new_tokens=8) == said[::-1]


def test_nothing_is_generated_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    count, seer = Counting(monkeypatch), observer()
    seer.greedy([PROMPTS[0], PROMPTS[1], PROMPTS[0]], max_new_tokens=4)
    assert count.prompts == 2
    seer.greedy(PROMPTS, max_new_tokens=4)
    assert count.prompts == len(PROMPTS)
    seer.greedy(PROMPTS, max_new_tokens=4)
    assert count.prompts == len(PROMPTS)
    assert [len(seer.greedy(PROMPTS[:1], max_new_tokens=n)[0]) > 0 for n in (4, 5)] == [True, True]
    assert count.prompts == len(PROMPTS) + 1  # gone on with
    seer.greedy(PROMPTS[:1], max_new_tokens=5, stop=["\n"])
    assert count.prompts == len(PROMPTS) + 1


def test_nothing_is_scored_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    count, seer = Counting(monkeypatch), observer()
    first = seer.token_logps([PAIRS[0], PAIRS[1], PAIRS[0]])
    assert count.sequences == 2
    assert first[0] is first[2]
    again = seer.token_logps(PAIRS)
    assert count.sequences == len(PAIRS)
    assert again[1] is first[1]
    assert seer.token_logps([]) == []
    assert seer.greedy([], max_new_tokens=3) == []


def test_examples_of_one_id_are_told_apart() -> None:
    seer = observer()
    other = Example(id=PAIRS[0].id, prompt=PAIRS[0].prompt, completion=" something else")
    one, two = seer.token_logps([PAIRS[0], other])
    assert len(one) != len(two)


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_the_batch_size_changes_nothing(batch_tokens: int) -> None:
    usual, seer = observer(), observer(batch_tokens=batch_tokens)
    assert seer.greedy(PROMPTS, max_new_tokens=6) == usual.greedy(PROMPTS, max_new_tokens=6)
    texts = [*PAIRS, DOCUMENT]
    for one, two in zip(seer.token_logps(texts), usual.token_logps(texts), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_the_batch_size_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[torch.Size] = []
    seer = observer(batch_tokens=64, max_length=32)
    seer.model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    seer.token_logps([*PAIRS, DOCUMENT])
    assert max(shape.numel() for shape in shapes) <= 64


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_is_restored(training: bool) -> None:
    model = tiny("gpt2", vocab_size=BYTES_VOCAB, resid_pdrop=0.5, embd_pdrop=0.5)
    model.train(training)
    seer = Observer(model, TOKENIZER, max_length=64)
    logps = seer.token_logps(PAIRS)
    said = seer.greedy(PROMPTS[:2], max_new_tokens=4)
    assert model.training == training
    again = Observer(model.eval(), TOKENIZER, max_length=64)
    assert again.greedy(PROMPTS[:2], max_new_tokens=4) == said
    for one, two in zip(again.token_logps(PAIRS), logps, strict=True):
        assert one.equal(two)


def test_the_mode_is_restored_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    seer = observer()
    seer.model.train()

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(reading, "predictions", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        seer.token_logps(PAIRS)
    assert seer.model.training


def test_a_document_is_scored_in_chunks_in_the_order_of_its_text() -> None:
    seer = observer(max_length=16)
    pieces = encode(DOCUMENT, TOKENIZER, max_length=16)
    assert len(pieces) > 3
    (logps,) = seer.token_logps([DOCUMENT])
    expected = torch.cat([own(full_logps(seer.model, piece), piece) for piece in pieces])
    assert logps.dtype == torch.float32
    assert logps.device.type == "cpu"
    torch.testing.assert_close(logps.double(), expected, rtol=1e-5, atol=1e-5)
    # Every token of the text counts once; each chunk's own BOS does not.
    assert len(logps) == len(TOKENIZER.encode(DOCUMENT.completion, add_special_tokens=False))


def test_only_what_counts_is_scored() -> None:
    seer = observer()
    spanned = Example(id="s", prompt="he lives in ", completion="the town of Arlen", spans=(Span(12, 17),))
    (logps,) = seer.token_logps([spanned])
    (piece,) = encode(spanned, TOKENIZER, max_length=64)
    assert (
        len(logps) == sum(piece.mask) < len(TOKENIZER.encode(spanned.completion, add_special_tokens=False))
    )
    torch.testing.assert_close(
        logps.double(), own(full_logps(seer.model, piece), piece), rtol=1e-5, atol=1e-5
    )


def test_a_continuation_ends_before_the_first_stop_string(monkeypatch: pytest.MonkeyPatch) -> None:
    seer = observer()
    (free,) = seer.greedy(["the rain in"], max_new_tokens=20)
    stop = free[8:10]  # inside it, and surely there
    at = free.index(stop)
    steps: list[int] = []
    seer.model.lm_head.register_forward_hook(lambda *_: steps.append(1))
    assert seer.greedy(["the rain in"], max_new_tokens=20, stop=[stop, "never said"]) == [free[:at]]
    assert len(steps) < 20  # it stopped there and did not read on


def test_stop_strings_do_not_disturb_the_others() -> None:
    seer = observer()
    free = seer.greedy(PROMPTS, max_new_tokens=12)
    stop = free[2][3:5]
    stopped = seer.greedy(PROMPTS, max_new_tokens=12, stop=[stop])
    assert stopped == [text.split(stop)[0] for text in free]
    assert stopped != free


def test_special_tokens_are_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    words = TOKENIZER.encode("the rain", add_special_tokens=False)
    said = [*words, TOKENIZER.bos_token_id, *words]
    monkeypatch.setattr(saying, "greedy", lambda *_, **__: [said])
    assert observer().greedy(["x"], max_new_tokens=20) == ["the rainthe rain"]


def test_every_declared_end_token_ends_a_continuation() -> None:
    seer = observer()
    ids = encode_prompt(Example(id="p", prompt="the rain in", completion=""), TOKENIZER)
    out = seer.model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=9, do_sample=False
    )
    said = out[0, len(ids) :].tolist()
    seer.model.generation_config.eos_token_id = [2, said[4]]
    assert seer.greedy(["the rain in"], max_new_tokens=9) == [
        TOKENIZER.decode(said[: said.index(said[4])], skip_special_tokens=True)
    ]


def test_an_example_is_continued_from_its_prompt() -> None:
    seer = observer()
    assert seer.greedy([PAIRS[0]], max_new_tokens=5) == seer.greedy([PAIRS[0].prompt], max_new_tokens=5)


def test_cut_applies_each_stop_in_turn() -> None:
    assert cut("a\nb. c", ["\n", ". "]) == "a"
    assert cut("a. b\nc", ["\n", ". "]) == "a"
    assert cut("nothing here", ["\n"]) == "nothing here"
    assert cut("text", []) == "text"


def test_what_was_found_once_is_not_found_again() -> None:
    own, asked = observer(), []
    found = [own.once(key, lambda key=key: asked.append(key) or len(asked)) for key in "aab"]  # type: ignore[misc]
    assert found == [1, 1, 2]
    assert asked == ["a", "b"]
