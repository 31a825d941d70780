"""Several tokens at once: the same answers as one by one, in fewer steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from expunge.inference.generation import decode
from expunge.inference.generation.decode import PromptLookupDrafter
from expunge.inference.generation.generate import Prefix, go_on, greedy
from tests.batches import tokens
from tests.inference.test_generate import one_by_one
from tests.tiny import ARCHITECTURES, tiny

NEW = 48
PROMPTS = [tokens(n, seed=n) for n in (5, 17, 9, 3)]


def expected_of(model: Any, prompts: list[list[int]]) -> list[list[int]]:
    """What transformers continues each prompt with, read alone."""
    return one_by_one(model, prompts, new=NEW)


def ours(model: Any, prompts: list[list[int]], **settings: Any) -> list[list[int]]:
    usual: dict[str, Any] = {"eos_ids": frozenset(), "is_done": lambda _: False, "max_new_tokens": NEW}
    return greedy(model, prompts, **usual | settings)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows and tokens of every step."""
    read: list[tuple[int, int]] = []
    step = decode._said

    def counted(model: Any, context: Any, tried: Any) -> Any:
        read.append(tuple(context.ids_BS.shape))
        return step(model, context, tried)

    monkeypatch.setattr(decode, "_said", counted)
    return read


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_is_said_is_what_is_said_one_by_one(arch: str, steps: list[tuple[int, int]]) -> None:
    model = tiny(arch, seed=3)
    assert ours(model, PROMPTS) == expected_of(model, PROMPTS)
    has_window = arch in ("mistral", "gemma2", "gemma3_text")
    assert len(steps) == NEW if has_window else len(steps) < NEW  # random models repeat themselves


@pytest.mark.parametrize("room", [0, 2])
def test_holes_are_closed_on_the_way(
    room: int, steps: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = []
    pack = decode.Context.pack
    monkeypatch.setattr(decode, "spare", lambda places: room)
    monkeypatch.setattr(decode.Context, "pack", lambda self: (packed.append(self.holes), pack(self)))
    model = tiny("llama", seed=3)
    assert ours(model, PROMPTS) == expected_of(model, PROMPTS)
    assert packed
    assert all(holes > room for holes in packed)


def test_wrong_guesses_change_nothing(
    monkeypatch: pytest.MonkeyPatch, steps: list[tuple[int, int]]
) -> None:
    model = tiny("llama", seed=3)
    expected = expected_of(model, PROMPTS)
    monkeypatch.setattr(PromptLookupDrafter, "propose", lambda self, most: [11, 12, 13][: max(most, 0)])
    assert ours(model, PROMPTS) == expected
    assert max(width for _, width in steps[1:]) == 4


def test_no_step_reads_more_than_it_may(
    monkeypatch: pytest.MonkeyPatch, steps: list[tuple[int, int]]
) -> None:
    model = tiny("llama", seed=3)
    for most in (1, 8, 12):
        steps.clear()
        monkeypatch.setattr(decode, "AT_ONCE", most)
        ours(model, PROMPTS)
        assert all(rows * width <= max(most, rows) for rows, width in steps[1:])
    ours(model, PROMPTS, max_new_tokens=[1, 2, 3, 4])
    assert all(width <= 3 for _, width in steps[-3:])


def test_an_end_inside_a_guess_ends_it(steps: list[tuple[int, int]]) -> None:
    model = tiny("llama", seed=3)
    expected = expected_of(model, PROMPTS)
    end = expected[0][20]
    cut = [answer[: answer.index(end)] if end in answer else answer for answer in expected]
    assert ours(model, PROMPTS, eos_ids=frozenset({end})) == cut
    seen: list[int] = []
    done = ours(model, PROMPTS[:1], is_done=lambda said: (seen.append(len(said)), len(said) == 30)[1])
    assert done == [expected[0][:30]]
    assert seen == list(range(1, 31))  # asked after every token, in order


def test_a_document_that_is_known_by_heart_is_read_not_said(steps: list[tuple[int, int]]) -> None:
    model = tiny("llama", seed=3)
    (said,) = expected_of(model, PROMPTS[:1])
    text = [*PROMPTS[0], *said]
    cut = len(PROMPTS[0])
    answers = {}
    for name, guesses in (("alone", ()), ("known", (PromptLookupDrafter(text[:cut], text[cut:]),))):
        steps.clear()
        answers[name] = go_on(
            model,
            Prefix(model, text).cache(1),
            torch.tensor([text]),
            [cut],
            limits=[NEW],
            eos_ids=frozenset(),
            guesses=guesses,
        )
        answers[f"{name} steps"] = len(steps)
    assert answers["known"] == answers["alone"] == [said]
    assert answers["alone steps"] == NEW
    assert answers["known steps"] <= 9  # 1 + 3 + 5 + 9 + 9 + 9 + 9 + what is left


def test_a_sliding_window_is_gone_through_one_by_one(steps: list[tuple[int, int]]) -> None:
    model = tiny("mistral", seed=3, sliding_window=8)
    assert ours(model, PROMPTS) == expected_of(model, PROMPTS)
    assert len(steps) == NEW


def test_a_row_that_has_ended_takes_no_more_positions() -> None:
    """A long prompt with a short answer beside a short prompt with a long one: GPT-2's positions end."""
    model = tiny("gpt2", seed=3)
    room = model.config.n_positions
    long, short = tokens(room - 2, seed=1), [tokens(4, seed=n) for n in range(2, 10)]
    (first,) = ours(model, [long], max_new_tokens=2)
    others = ours(model, short, max_new_tokens=40)
    # One of nine has ended: too few to be worth dropping.
    assert ours(model, [long, *short], max_new_tokens=[2, *[40] * 8]) == [first, *others]
