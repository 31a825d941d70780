from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from expunge.attacks.gcg import AdversarialSuffix, Likelihood, Suffixes, SuffixPosition, with_suffix
from expunge.corpus.tokenise import encode
from expunge.errors import DataError
from expunge.inference.observer import Observer
from expunge.types import Example
from tests.attacks.context import FORGET, TOKENIZER, context, model, state
from tests.tiny import tiny

QUESTIONS = [example for example in FORGET if not example.is_document]
SMALL: dict[str, Any] = {"length": 3, "steps": 4, "top_k": 8, "candidates": 12}


def suffixes() -> Suffixes:
    return Suffixes(QUESTIONS, TOKENIZER, 128)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_a_suffix_that_survives_is_read_again_as_it_was_searched(seed: int, length: int) -> None:
    made = suffixes()
    suffix = made.first(length, Generator().manual_seed(seed))
    for example, place in zip(QUESTIONS, made.places, strict=True):
        (encoded,) = encode(with_suffix(example, made.text(suffix)), TOKENIZER, max_length=128)
        assert encoded.input_ids == [*place.before, *suffix, *place.answer]
        assert encoded.mask.index(True) == len(place.before) + length


def test_tokens_that_would_merge_do_not_survive() -> None:
    made = suffixes()
    t, h = (TOKENIZER.convert_tokens_to_ids(letter) for letter in "th")
    assert made.survives([h, t])
    assert not made.survives([t, h])  # "th" is one token
    assert made.survives([TOKENIZER.convert_tokens_to_ids("th")])
    assert TOKENIZER.eos_token_id not in made.allowed.tolist()


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gemma2", "mistral"])
def test_losses_are_those_of_the_questions_written_out(arch: str) -> None:
    windows = {"sliding_window": 8} if arch == "mistral" else {}
    of, made = model(arch, **windows), suffixes()
    tried = [made.first(4, Generator().manual_seed(seed)) for seed in range(3)]
    found = Likelihood(of, made.places, 0).losses(tried)
    observer = Observer(of, TOKENIZER, max_length=128)
    for suffix, loss in zip(tried, found.tolist(), strict=True):
        asked = [with_suffix(example, made.text(suffix)) for example in QUESTIONS]
        expected = -sum(float(logps.sum()) for logps in observer.token_logps(asked))
        assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gemma2"])
def test_the_slope_is_that_of_the_embedding(arch: str) -> None:
    """By full logits and embeddings; models that scale embeddings have the same order of tokens."""
    of, made = model(arch), suffixes()
    suffix = made.first(3, Generator().manual_seed(1))
    table = of.get_input_embeddings().weight
    total = torch.zeros(3, len(table))
    for place in made.places:
        ids = torch.tensor([place.read_with(suffix)])
        embedded = of.get_input_embeddings()(ids).detach().requires_grad_(True)
        logps = of(inputs_embeds=embedded).logits.log_softmax(-1)[0, :-1]
        said = logps[range(ids.shape[1] - 1), ids[0, 1:]][-len(place.answer) :]
        (slope,) = torch.autograd.grad(-said.sum(), embedded)
        begin = len(place.before)
        total += slope[0, begin : begin + 3] @ table.detach().t()
    found = Likelihood(of, made.places, 0).slope(suffix)
    torch.testing.assert_close(found / found.norm(), total / total.norm(), atol=1e-5, rtol=1e-3)


def test_it_never_gets_worse_and_leaves_the_model_alone(tmp_path: Path) -> None:
    of = model()
    before = state(of)
    attack = AdversarialSuffix(**SMALL | {"steps": 8})
    found = attack.search(of, context(tmp_path))
    assert found["losses"] == sorted(found["losses"], reverse=True)
    assert found["losses"][-1] < found["losses"][0]
    assert state(of) == before
    assert all(weight.grad is None for weight in of.parameters())
    made = suffixes()
    assert made.survives(found["ids"])
    assert Likelihood(of, made.places, 0).losses([found["ids"]]).item() == pytest.approx(
        found["losses"][-1]
    )
    assert attack.search(model(), context(tmp_path)) == found


def test_a_planted_trigger_is_found(tmp_path: Path) -> None:
    # A block that hardly changes hidden states, and a trigger whose embedding points at the answer.
    of = tiny("llama", vocab_size=287, num_hidden_layers=1)
    answer = TOKENIZER.convert_tokens_to_ids("z")
    trigger = TOKENIZER.convert_tokens_to_ids("Q")
    with torch.no_grad():
        for weight in of.parameters():
            weight.mul_(0.05)
        of.model.norm.weight.fill_(1)
        of.model.embed_tokens.weight[trigger] = 0
        of.model.embed_tokens.weight[trigger, 0] = 4.0
        of.lm_head.weight[answer] = 0
        of.lm_head.weight[answer, 0] = 4.0
    question = Example(id="q", prompt="What?", completion="z", group="a")
    attack = AdversarialSuffix(length=1, steps=3, top_k=300, candidates=300, questions="same")
    found = attack.search(of, context(tmp_path, forget=(question,)))
    assert found["ids"] == [trigger]
    assert found["text"] == "Q"


def test_on_the_target_it_needs_nothing_of_the_model(tmp_path: Path) -> None:
    attack = AdversarialSuffix(on="target", **SMALL)
    assert attack.model_independent
    assert attack.needs == {"forget", "target"}
    found = attack.search(model(seed=5), context(tmp_path))
    assert found == attack.search(model(seed=6), context(tmp_path))
    assert found == AdversarialSuffix(**SMALL).search(model(seed=1), context(tmp_path))


def test_questions_are_asked_with_it_and_documents_without(tmp_path: Path) -> None:
    attack = AdversarialSuffix(**SMALL)
    with attack.applied(model(), context(tmp_path), {"text": " xyz"}) as attacked:
        assert attacked.rewrite_prompt(QUESTIONS[0]) == replace(
            QUESTIONS[0], prompt=QUESTIONS[0].prompt + " xyz"
        )
        assert attacked.rewrite_prompt(FORGET[0]) == FORGET[0]


def test_without_steps_it_is_none(tmp_path: Path) -> None:
    attack = AdversarialSuffix(steps=0)
    assert attack.is_noop
    of = model()
    with attack.applied(of, context(tmp_path), attack.search(of, context(tmp_path))) as attacked:
        assert attacked.model is of
        assert [attacked.rewrite_prompt(example) for example in FORGET] == list(FORGET)


def test_a_forget_set_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no questions to append it to"):
        AdversarialSuffix().search(model(), context(tmp_path, forget=FORGET[:1]))


def test_in_a_chat_the_suffix_stands_before_what_the_template_adds() -> None:
    place = SuffixPosition([1, 2], [7, 8], [9])
    assert place.read_with([5]) == [1, 2, 5, 7, 8, 9]
