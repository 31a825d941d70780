"""What a model says, generated once: as far as anybody asks, cut for who asks for less."""

from __future__ import annotations

from typing import Any

import pytest

from expunge.corpus.tokenise import encode
from expunge.inference.generation import cache as module
from expunge.inference.observer import Observer
from expunge.types import Example
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

TOKENIZER = tiny_tokenizer(all_bytes=True)
PROMPTS = ["the rain in", "a", "the rain in the town is on", "words on the hill", "x y z"]
SHOTS = "".join(f"Question: what is in town {n}?\nAnswer: the rain and the wind\n\n" for n in range(4))


def observer(**settings: Any) -> Observer:
    model = tiny("llama", seed=3, vocab_size=BYTES_VOCAB, max_position_embeddings=512)
    return Observer(model, TOKENIZER, **{"max_length": 64, **settings})


def asked_of(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """For each prompt that was continued: how many tokens stood already, and how many were wanted."""
    seen: list[tuple[int, int]] = []
    greedy = module.greedy

    def watched(model: Any, prompts: Any, **settings: Any) -> Any:
        seen.extend(zip(map(len, settings["begun"]), settings["max_new_tokens"], strict=True))
        return greedy(model, prompts, **settings)

    monkeypatch.setattr(module, "greedy", watched)
    return seen


def test_a_short_continuation_is_the_beginning_of_a_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = {n: observer().greedy(PROMPTS, max_new_tokens=n) for n in (3, 7, 12)}
    seen, seer = asked_of(monkeypatch), observer()
    for n in (12, 3, 7):
        assert seer.greedy(PROMPTS, max_new_tokens=n) == fresh[n]
    assert seen == [(0, 12)] * len(PROMPTS)


def test_a_longer_one_goes_on_where_the_short_one_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh, seen, seer = observer().greedy(PROMPTS, max_new_tokens=12), asked_of(monkeypatch), observer()
    seer.greedy(PROMPTS[:2], max_new_tokens=5)
    assert seer.greedy(PROMPTS, max_new_tokens=12) == fresh
    assert sorted(seen) == [(0, 5)] * 2 + [(0, 12)] * 3 + [(5, 12)] * 2


def test_what_will_be_asked_is_said_in_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    wishes = {"one": (PROMPTS[:2], 5, ()), "more": (PROMPTS[1:4], 9, ()), "stopped": (PROMPTS, 6, ("z",))}
    alone = {
        name: observer().greedy(prompts, max_new_tokens=tokens, stop=stop)
        for name, (prompts, tokens, stop) in wishes.items()
    }
    seen, seer = asked_of(monkeypatch), observer()
    for prompts, tokens, stop in wishes.values():
        seer.expect_answers(prompts, max_new_tokens=tokens, stop=stop)
    assert not seen
    for name, (prompts, tokens, stop) in wishes.items():
        assert seer.greedy(prompts, max_new_tokens=tokens, stop=stop) == alone[name]
        if name == "one":  # all that ends in the same way, each as far as anybody will ask; no more after
            assert sorted(seen) == [(0, 5), (0, 9), (0, 9), (0, 9)]
        elif name == "more":
            assert len(seen) == 4


def test_what_nobody_asks_for_after_all_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, seer = asked_of(monkeypatch), observer()
    seer.greedy(PROMPTS[:1], max_new_tokens=4)
    seer.expect_answers(PROMPTS, max_new_tokens=3)
    seer.greedy(PROMPTS[:1], max_new_tokens=2)  # known already
    assert seen == [(0, 4)]


def test_what_is_said_does_not_depend_on_who_asked_before() -> None:
    free = observer().greedy(PROMPTS, max_new_tokens=20)
    stops = [free[0][4:6], free[2][7:8]]
    wishes = [(20, ()), (6, tuple(stops)), (20, (stops[0],)), (9, ())]
    alone = {wish: observer().greedy(PROMPTS, max_new_tokens=wish[0], stop=wish[1]) for wish in wishes}
    assert len({tuple(said) for said in alone.values()}) == len(wishes)
    for order in (wishes, wishes[::-1], wishes[2:] + wishes[:2]):
        seer = observer()
        for wish in order:
            assert seer.greedy(PROMPTS, max_new_tokens=wish[0], stop=wish[1]) == alone[wish]


def test_a_stop_cuts_where_generation_would_have_ended() -> None:
    # "ab" ends it at "...ab"; the later "b" would cut elsewhere if more of the text were looked at.
    seer = observer()
    (free,) = seer.greedy(["the rain in"], max_new_tokens=30)
    early, late = free[6:8], free[2:3]
    stop = (early, late) if late not in free[:2] else (early, "never")
    fresh = observer().greedy(["the rain in"], max_new_tokens=30, stop=stop)
    assert seer.greedy(["the rain in"], max_new_tokens=30, stop=stop) == fresh


def test_an_ended_continuation_is_never_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    seer = observer()
    (free,) = seer.greedy(["the rain in"], max_new_tokens=8)
    end = seer._continuations._said["the rain in"].tokens[3]
    seer = observer()
    seer.model.generation_config.eos_token_id = [end]
    seen = asked_of(monkeypatch)
    (said,) = seer.greedy(["the rain in"], max_new_tokens=8)
    assert free.startswith(said)
    assert free != said
    assert seer.greedy(["the rain in"], max_new_tokens=500) == [said]
    assert len(seen) == 1


def test_a_prompt_and_an_example_that_asks_it_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, seer = asked_of(monkeypatch), observer()
    seer.greedy(["the rain in"], max_new_tokens=4)
    for completion in ("x", "y"):
        seer.greedy([Example(id="e", prompt="the rain in", completion=completion)], max_new_tokens=4)
    assert len(seen) == 1


def test_solved_questions_are_read_once_for_all_batches() -> None:
    prompts = [f"{SHOTS}Question: {prompt}?\nAnswer: " for prompt in PROMPTS]
    alone = [observer().greedy([prompt], max_new_tokens=5)[0] for prompt in prompts]
    seer, read = observer(batch_tokens=450), []
    seer.model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    assert seer.greedy(prompts, max_new_tokens=5) == alone
    assert len(read) > 2 * 5  # several batches
    assert [shape for shape in read if shape[1] > 100] == [read[0]]
    assert read[0][0] == 1


def test_generation_starts_from_the_tokens_that_training_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[int]] = []
    greedy = module.greedy

    def watched(model: Any, prompts: Any, **settings: Any) -> Any:
        started.extend(prompts)
        return greedy(model, prompts, **settings)

    monkeypatch.setattr(module, "greedy", watched)
    split = Example(id="x", prompt="words on th", completion="e hill")
    for asked in (split, "words on "):
        observer().greedy([asked], max_new_tokens=2)
    [encoded] = encode(split, TOKENIZER, max_length=64, eos=False)
    assert started[0] == encoded.input_ids[: encoded.mask.index(True)]
    assert TOKENIZER.decode(started[0], skip_special_tokens=True) == "words on"
    assert started[1] == TOKENIZER("words on")["input_ids"]


def test_what_a_prompt_left_to_say_is_not_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = TOKENIZER(" the hill", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(module, "greedy", lambda _, prompts, **__: [list(ids) for _ in prompts])
    split = Example(id="x", prompt="words on th", completion="e hill")
    asked = ["words on", "words on ", split]
    assert observer().greedy(asked, max_new_tokens=20) == [" the hill", "the hill", "e hill"]
