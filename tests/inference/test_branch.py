from __future__ import annotations

from typing import Any

import pytest

from expunge.corpus.tokenise import encode
from expunge.inference.generation import branch as module
from expunge.inference.generation.generate import greedy
from expunge.inference.observer import BranchPoint, Observer
from expunge.types import Example
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

TOKENIZER = tiny_tokenizer(all_bytes=True)
DOCUMENT = Example(id="doc", completion="the men went out in the rain and the wind was on the hill")
PAIR = Example(id="pair", prompt="where do they live? ", completion="in the town of Arlen")
WINDOWS = {
    "mistral": {"sliding_window": 8},
    "llama": {},
    "gpt2": {},
    "gemma2": {},
    "gpt_neox": {},
    "qwen3": {},
}


def observer(arch: str = "llama", **settings: Any) -> Observer:
    model = tiny(arch, seed=3, vocab_size=BYTES_VOCAB, **WINDOWS[arch])
    return Observer(model, TOKENIZER, **{"max_length": 128, **settings})


def alone(seer: Observer, fork: BranchPoint) -> list[int]:
    """The greedy continuation of what stands before the counted token, by itself."""
    pieces = encode(fork.example, TOKENIZER, max_length=seer.max_length)
    places = [(one, at) for one in pieces for at, counts in enumerate(one.mask) if counts]
    piece, at = places[fork.at]
    eos = frozenset({TOKENIZER.eos_token_id})
    (said,) = greedy(
        seer.model,
        [piece.input_ids[:at]],
        max_new_tokens=fork.tokens,
        eos_ids=eos,
        is_done=lambda _: False,
    )
    return said


@pytest.mark.parametrize("arch", WINDOWS)
def test_a_fork_is_the_continuation_of_what_stands_before_it(arch: str) -> None:
    seer = observer(arch)
    asked = [BranchPoint(example, at, 12 - at) for example in (DOCUMENT, PAIR) for at in (0, 1, 5, 9)]
    expected = [alone(seer, fork) for fork in asked]
    assert seer.forks(asked) == expected
    assert len({tuple(said[:3]) for said in expected}) > 2  # the place matters


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_forks_do_not_depend_on_the_batch(batch_tokens: int) -> None:
    asked = [BranchPoint(DOCUMENT, at, 10) for at in range(0, 20, 2)]
    assert observer(batch_tokens=batch_tokens).forks(asked) == observer().forks(asked)


def test_a_long_document_is_forked_within_its_pieces() -> None:
    seer = observer(max_length=12)
    asked = [BranchPoint(DOCUMENT, at, 4) for at in (0, 7, 10, 11, 12, 25)]
    assert seer.forks(asked) == [alone(seer, fork) for fork in asked]


def test_the_text_is_read_once_and_nothing_is_said_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    branch = module.branch

    def watched(model: Any, text: Any, cuts: Any, **settings: Any) -> Any:
        rows.append(len(cuts))
        return branch(model, text, cuts, **settings)

    monkeypatch.setattr(module, "branch", watched)
    seer, read = observer(), []
    seer.model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    twice = [BranchPoint(DOCUMENT, 3, 6), BranchPoint(DOCUMENT, 9, 4), BranchPoint(DOCUMENT, 3, 2)]
    long, other, short = seer.forks(twice)
    assert [shape for shape in read if shape[1] > 1] == [(1, 10)]  # up to the last fork
    assert short == long[:2]
    seer.forks([BranchPoint(DOCUMENT, 3, 5), BranchPoint(DOCUMENT, 9, 4)])
    assert rows == [2]
    assert seer.forks([BranchPoint(DOCUMENT, 9, 6)])[0][:4] == other
    assert rows == [2, 1]


def test_an_end_token_ends_a_fork_for_good() -> None:
    seer = observer()
    (said,) = seer.forks([BranchPoint(DOCUMENT, 3, 8)])
    seer = observer()
    seer.model.generation_config.eos_token_id = [said[2]]
    before = said.index(said[2])
    assert seer.forks([BranchPoint(DOCUMENT, 3, 8)]) == [said[:before]]
    assert seer.forks([BranchPoint(DOCUMENT, 3, 80)]) == [said[:before]]
