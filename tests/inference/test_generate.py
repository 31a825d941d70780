from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from expunge.inference.generation import decode
from expunge.inference.generation.generate import greedy, shared_prefix
from tests.batches import tokens
from tests.tiny import ARCHITECTURES, tiny

NEW = 6
NO_PREFIX = [tokens(n, seed=n) for n in (5, 17, 9, 3)]
OPENING = tokens(11, seed=99)
WITH_PREFIX = [OPENING + tokens(n, seed=n) for n in (14, 2, 7, 1)]
EQUAL = [[*OPENING, token] for token in (20, 30, 40)]
PROMPTS = {"ragged": NO_PREFIX[:3], "shared": WITH_PREFIX[:3]}
WINDOWS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 8},
    "gemma2": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "qwen2": {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 0},
    "phi3": {"sliding_window": 8},
}


def one_by_one(
    model: Any, prompts: list[list[int]], *, eos: int | None = None, new: int = NEW
) -> list[list[int]]:
    """What transformers continues each prompt with, read alone."""
    model.generation_config.eos_token_id = eos
    return [
        model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        for prompt in prompts
    ]


def ours(
    model: nn.Module, prompts: list[list[int]], *, eos: frozenset[int] = frozenset(), **stop: Any
) -> Any:
    return greedy(
        model, prompts, max_new_tokens=NEW, eos_ids=eos, is_done=stop.get("is_done", lambda _: False)
    )


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_batch_continues_as_each_prompt_alone_does(arch: str, prompts: list[list[int]]) -> None:
    model = tiny(arch, seed=3)
    expected = one_by_one(model, prompts)
    assert len({tuple(answer) for answer in expected}) > 1  # the prompts matter
    assert ours(model, prompts) == expected


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("arch", WINDOWS)
def test_prompts_longer_than_a_sliding_window(arch: str, prompts: list[list[int]]) -> None:
    model = tiny(arch, seed=3, **WINDOWS[arch])
    expected = one_by_one(model, prompts)
    assert ours(model, prompts) == expected
    assert ours(tiny(arch, seed=3), prompts) != expected  # the window matters


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gemma3_text", "mistral"])
def test_the_end_token_ends_a_row_and_shrinks_the_batch(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(arch, seed=3, **WINDOWS.get(arch, {}))
    prompts = NO_PREFIX + WITH_PREFIX
    free = one_by_one(model, prompts)
    # The token most rows come to say, at different steps, so that rows end one after the other.
    said = [token for answer in free for token in answer[1:]]
    eos = max(set(said), key=lambda token: sum(token in answer[1:] for answer in free))
    ending = [answer[: answer.index(eos)] if eos in answer else answer for answer in free]
    assert sum(len(answer) < NEW for answer in ending) >= 2
    assert any(len(answer) == NEW for answer in ending)
    widths: list[int] = []
    step = decode._said
    monkeypatch.setattr(decode, "COMPACT_BELOW", 1.0)
    monkeypatch.setattr(
        decode,
        "_said",
        lambda model, now, tried: (widths.append(len(now.ids_BS)), step(model, now, tried))[1],
    )
    assert ours(model, prompts, eos=frozenset({eos})) == ending
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < len(prompts)
    with_end = [
        [token for token in answer if token not in (eos, 0)]
        for answer in one_by_one(model, prompts, eos=eos)
    ]
    assert with_end == ending


def test_a_row_that_is_done_stops_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama", seed=3)
    free = one_by_one(model, NO_PREFIX)
    stop_at = {tuple(free[0][:1]), tuple(free[1][:4]), tuple(free[3][:2])}
    for share in (0.0, 0.6, 1.0):  # never, as it comes, at once: dropping rows changes nothing
        monkeypatch.setattr(decode, "COMPACT_BELOW", share)
        answers = ours(model, NO_PREFIX, is_done=lambda said: tuple(said) in stop_at)
        assert answers == [free[0][:1], free[1][:4], free[2], free[3][:2]]


def test_generation_stops_when_every_row_has_ended() -> None:
    model, steps = tiny("llama", seed=3), []
    model.lm_head.register_forward_hook(lambda *_: steps.append(1))
    ours(model, NO_PREFIX, is_done=lambda said: len(said) == 2)
    assert len(steps) == 2


def test_a_shared_prefix_is_read_once() -> None:
    model, read = tiny("llama", seed=3), []
    model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    ours(model, WITH_PREFIX)
    assert read[0] == (1, len(OPENING))
    assert read[1] == (4, 14)


def test_an_answer_does_not_depend_on_the_batch() -> None:
    llama = tiny("llama", seed=3)
    prompts = NO_PREFIX + WITH_PREFIX + EQUAL
    expected = one_by_one(llama, prompts)
    for size in (1, 2, 3, len(prompts)):
        answers = [ours(llama, prompts[i : i + size]) for i in range(0, len(prompts), size)]
        assert [answer for group in answers for answer in group] == expected
    assert ours(llama, EQUAL) == expected[-len(EQUAL) :]  # all but the last token shared


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=5))
def test_the_shared_prefix_is_shared_and_leaves_every_prompt_a_token(prompts: list[list[int]]) -> None:
    prefix = shared_prefix(prompts)
    assert all(prompt[: len(prefix)] == prefix and len(prompt) > len(prefix) for prompt in prompts)
    if len(prompts) > 1:  # and it is the longest such
        longer = len(prefix) + 1
        assert len({tuple(prompt[:longer]) for prompt in prompts}) > 1 or min(map(len, prompts)) == longer


def test_one_prompt_shares_nothing() -> None:
    assert shared_prefix([[1, 2, 3]]) == []
