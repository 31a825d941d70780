"""Rotary positions that depend on a text's length: the same number alone and in company.

The right value is what a freshly loaded model of plain transformers gives for one text in a batch of one,
without padding and without a cache.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import GenerationConfig

from expunge.corpus.batching import collate
from expunge.corpus.tokenise import Encoded, encode
from expunge.inference.forward import compute_token_view
from expunge.inference.generation.generate import greedy
from expunge.inference.generation.sample import TokenSampler, sample_answers
from expunge.inference.observer import BranchPoint, Observer
from expunge.model.load import load_model
from expunge.model.rope import rope_boundary, separate_rope_lengths
from expunge.shards.ensemble import Ensemble
from expunge.types import Example
from tests.batches import tokens
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

BOUNDARY = 24
TOKENIZER = tiny_tokenizer(all_bytes=True)


def rope(rope_type: str, **settings: Any) -> dict[str, Any]:
    return {"rope_type": rope_type, "rope_theta": 10000.0, **settings}


DYNAMIC = {"max_position_embeddings": BOUNDARY, "rope_parameters": rope("dynamic", factor=8.0)}
LONGROPE = rope(
    "longrope",
    short_factor=[1.0] * 4,
    long_factor=[2.0, 6.0, 14.0, 30.0],
    factor=8.0,
    original_max_position_embeddings=BOUNDARY,
)
DEPENDENT: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-dynamic": ("llama", DYNAMIC),
    "llama-longrope": ("llama", {"rope_parameters": LONGROPE}),
    "phi3-longrope": (
        "phi3",
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": BOUNDARY},
    ),
    "qwen2-dynamic": ("qwen2", DYNAMIC),
    "mistral-dynamic": ("mistral", DYNAMIC | {"sliding_window": None}),
    "gpt_neox-dynamic": (
        "gpt_neox",
        DYNAMIC | {"rope_parameters": rope("dynamic", factor=8.0, partial_rotary_factor=1.0)},
    ),
    "phi-dynamic": (
        "phi",
        DYNAMIC | {"rope_parameters": rope("dynamic", factor=8.0, partial_rotary_factor=1.0)},
    ),
    "gemma-dynamic": ("gemma", DYNAMIC),
    "gemma3-both": (
        "gemma3_text",
        {
            "max_position_embeddings": BOUNDARY,
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 64,
            "rope_parameters": {
                "sliding_attention": rope("default"),
                "full_attention": rope("dynamic", factor=8.0),
            },
        },
    ),
    "granite-longrope": ("granite", {"rope_parameters": LONGROPE}),
}
FIXED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-linear": ("llama", {"rope_parameters": rope("linear", factor=4.0)}),
    "qwen2-yarn": (
        "qwen2",
        {"rope_parameters": rope("yarn", factor=4.0, original_max_position_embeddings=BOUNDARY)},
    ),
    "llama-llama3": (
        "llama",
        {
            "rope_parameters": rope(
                "llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=BOUNDARY,
            )
        },
    ),
    "gpt_neox": ("gpt_neox", {}),
    "gpt2": ("gpt2", {}),
}
ALL = DEPENDENT | FIXED
LENGTHS = (10, BOUNDARY - 1, BOUNDARY, BOUNDARY + 1, 40, 61)
ROWS = [tokens(length, seed=length) for length in LENGTHS]


def build(kind: str) -> Any:
    arch, settings = ALL[kind]
    return tiny(arch, seed=5, vocab_size=BYTES_VOCAB, initializer_range=0.3, **settings)


@torch.no_grad()
def alone(model: Any, ids: list[int]) -> torch.Tensor:
    """The logits [T, V] of one text, by a model that has read nothing before."""
    fresh = copy.deepcopy(model)
    logits_TV: torch.Tensor = fresh(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits_TV


def alone_logps(model: Any, ids: list[int]) -> torch.Tensor:
    logps_TV = alone(model, ids)[:-1].log_softmax(-1)
    return logps_TV.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def whole(ids: list[int]) -> Encoded:
    return Encoded(ids, [False, *[True] * (len(ids) - 1)], "text")


@pytest.mark.parametrize("kind", DEPENDENT)
def test_transformers_itself_lets_the_longest_row_decide(kind: str) -> None:
    """Without this there would be nothing to do, and the tests below could not fail."""
    model = build(kind)
    batch = collate([whole(row) for row in ROWS], pad_id=0)
    logits = model(batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False).logits
    assert (logits[0, :10] - alone(build(kind), ROWS[0])).abs().max() > 0.01


@pytest.mark.parametrize("kind", ALL)
def test_a_training_batch_reads_each_row_as_if_alone(kind: str) -> None:
    plain, model = build(kind), build(kind)
    separate_rope_lengths(model)
    separate_rope_lengths(model)  # again: nothing changes
    for rows in (ROWS, ROWS[::-1], [ROWS[2], ROWS[5]]):
        view = compute_token_view(model, collate([whole(row) for row in rows], pad_id=0))
        for logps_T, row in zip(view.logps, rows, strict=True):
            torch.testing.assert_close(logps_T[1 : len(row)], alone_logps(plain, row), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama-dynamic", "phi3-longrope", "gemma3-both"])
def test_gradients_are_the_sum_of_those_of_each_row(kind: str) -> None:
    plain, model = build(kind), build(kind)
    separate_rope_lengths(model)
    view = compute_token_view(model, collate([whole(row) for row in ROWS], pad_id=0))
    view.logps[view.mask].sum().backward()
    for row in ROWS:
        fresh = copy.deepcopy(plain)
        logps_TV = fresh(input_ids=torch.tensor([row]), use_cache=False).logits[0, :-1].log_softmax(-1)
        logps_TV.gather(1, torch.tensor(row[1:])[:, None]).sum().backward()
        for name, weight in fresh.named_parameters():
            kept = plain.get_parameter(name)
            kept.grad = weight.grad if kept.grad is None else kept.grad + weight.grad
    for name, weight in model.named_parameters():
        expected = plain.get_parameter(name).grad
        torch.testing.assert_close(
            weight.grad, expected, atol=2e-4 * float(expected.abs().max()), rtol=1e-3
        )


SHOTS = "the men went out in the rain "
EXAMPLES = [
    Example(id="short", prompt="where? ", completion="on a hill"),
    # Enough of them that what they share would be read apart.
    *(
        Example(id=f"shots{n}", prompt=SHOTS * 2, completion=f" {chr(97 + n)}" + " on" * n)
        for n in range(14)
    ),
    *(Example(id=f"few{n}", prompt=SHOTS, completion="ab" * n) for n in (1, 3)),
    Example(id="document", completion=SHOTS * 4),
]


@pytest.mark.parametrize("kind", ALL)
def test_an_audit_reads_each_text_as_if_alone(kind: str) -> None:
    plain, observed = build(kind), Observer(build(kind), TOKENIZER, max_length=64)
    for examples in (EXAMPLES, EXAMPLES[::-1]):
        for example, logp_n in zip(examples, observed.token_logps(examples), strict=True):
            pieces = encode(example, TOKENIZER, max_length=64)
            own = [alone_logps(plain, piece.input_ids)[torch.tensor(piece.mask[1:])] for piece in pieces]
            torch.testing.assert_close(logp_n, torch.cat(own), atol=2e-5, rtol=1e-5)


def continuation(plain: Any, prompt: list[int], new: int, eos: int | None = None) -> list[int]:
    """What transformers goes on with, read alone and whole for every token."""
    asked = GenerationConfig(
        do_sample=False, max_new_tokens=new, use_cache=False, eos_token_id=eos, pad_token_id=0
    )
    ids, fresh = torch.tensor([prompt]), copy.deepcopy(plain)
    said = fresh.generate(ids, attention_mask=torch.ones_like(ids), generation_config=asked)
    answer: list[int] = said[0, len(prompt) :].tolist()
    return answer[: answer.index(eos)] if eos in answer else answer


@pytest.mark.parametrize("kind", [*DEPENDENT, "qwen2-yarn", "llama-llama3"])
def test_a_batch_is_continued_across_the_boundary_as_each_prompt_alone(kind: str) -> None:
    plain, model = build(kind), build(kind)
    separate_rope_lengths(model)
    opening = tokens(8, seed=1)
    prompts = [*ROWS[1:5], *(opening + tokens(n, seed=n) for n in (2, 9, 20))]
    limits = [12, 9, 3, 1, 20, 10, 4]
    expected = [continuation(plain, prompt, new) for prompt, new in zip(prompts, limits, strict=True)]
    answers = greedy(model, prompts, max_new_tokens=limits, eos_ids=frozenset(), is_done=lambda _: False)
    assert answers == expected
    begun = [answer[: len(answer) // 2] for answer in expected]
    answers = greedy(
        model, prompts, max_new_tokens=limits, eos_ids=frozenset(), is_done=lambda _: False, begun=begun
    )
    assert answers == expected


@pytest.mark.parametrize("kind", ["llama-dynamic", "phi3-longrope"])
def test_rows_end_before_at_and_behind_the_boundary(kind: str) -> None:
    plain, model = build(kind), build(kind)
    separate_rope_lengths(model)
    prompts = [tokens(n, seed=n) for n in (14, 18, 20, 24, 26)]
    free = [continuation(plain, prompt, 10) for prompt in prompts]
    for end in {free[row][step] for row, step in ((0, 4), (1, 6), (2, 4), (2, 5), (3, 1), (4, 9))}:
        ended = greedy(model, prompts, max_new_tokens=10, eos_ids=frozenset([end]), is_done=lambda _: False)
        assert ended == [answer[: answer.index(end)] if end in answer else answer for answer in free]
        done = greedy(
            model,
            prompts,
            max_new_tokens=10,
            eos_ids=frozenset(),
            is_done=lambda answer, last=end: answer[-1] == last,
        )
        assert done == [answer[: answer.index(end) + 1] if end in answer else answer for answer in free]


@pytest.mark.parametrize("kind", ["llama-dynamic", "phi3-longrope"])
def test_a_text_is_gone_on_with_from_inside_as_from_its_beginning_alone(kind: str) -> None:
    plain, observed = build(kind), Observer(build(kind), TOKENIZER, max_length=64)
    (piece,) = encode(EXAMPLES[-1], TOKENIZER, max_length=64)[:1]
    places = (3, 15, 22, 23, 40)
    said = observed.forks([BranchPoint(EXAMPLES[-1], at, 6) for at in places])
    counted = [place for place, counts in enumerate(piece.mask) if counts]
    for at, answer in zip(places, said, strict=True):
        eos = TOKENIZER.eos_token_id
        assert answer == continuation(plain, piece.input_ids[: counted[at]], 6, eos)


def test_boundaries() -> None:
    assert {kind: rope_boundary(build(kind)) for kind in ALL} == {
        kind: BOUNDARY if kind in DEPENDENT else None for kind in ALL
    }


def test_only_length_dependent_models_carry_hooks() -> None:
    for kind in ALL:
        model = build(kind)
        separate_rope_lengths(model)
        hooked = [module for module in model.modules() if module._forward_hooks]
        assert bool(hooked) == (kind in DEPENDENT)


@pytest.mark.parametrize("kind", ["llama-dynamic", "phi3-longrope"])
def test_sampled_answers_and_those_of_shards_cross_the_boundary_too(kind: str) -> None:
    plain, model = build(kind), build(kind)
    separate_rope_lengths(model)
    prompts = [tokens(n, seed=n) for n in (18, 24, 30)]
    expected = [continuation(plain, prompt, 12) for prompt in prompts]
    sure = sample_answers(
        model, prompts, new_tokens=12, eos_ids=[], pad_id=0, sampler=TokenSampler(temperature=1e-4)
    )
    assert sure == expected
    ensemble = Ensemble(model, TOKENIZER, [dict(model.named_parameters())], [0])
    together = ensemble.generate(prompts, max_new_tokens=12, eos_ids=frozenset(), by="probability")
    assert together == expected


def test_a_loaded_model_reads_rows_apart(tmp_path: Path) -> None:
    plain = build("phi3-longrope")
    plain.save_pretrained(tmp_path)
    view = compute_token_view(load_model(tmp_path), collate([whole(row) for row in ROWS], pad_id=0))
    torch.testing.assert_close(view.logps[0, 1:10], alone_logps(plain, ROWS[0]), atol=2e-5, rtol=1e-5)


def test_a_copy_of_a_model_works_on_its_own() -> None:
    model = build("llama-dynamic")
    separate_rope_lengths(model)
    view = compute_token_view(copy.deepcopy(model), collate([whole(row) for row in ROWS], pad_id=0))
    torch.testing.assert_close(
        view.logps[0, 1:10], alone_logps(build("llama-dynamic"), ROWS[0]), atol=2e-5, rtol=1e-5
    )
