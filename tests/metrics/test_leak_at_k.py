"""Leakage under sampling: by hand, against independent formulas, and against what is really sampled."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from transformers import TopKLogitsWarper, TopPLogitsWarper

from expunge.corpus.tokenise import encode, encode_prompt
from expunge.errors import RecipeError
from expunge.inference.generation.sample import PLAIN, TokenSampler, sample_answers
from expunge.inference.observer import Observer
from expunge.metrics import metrics
from expunge.metrics.leak_at_k import at_least_once, expected_best, upper_limit
from expunge.metrics.probes import Probes
from expunge.types import Example, Span
from tests.metrics.fakes import document, question
from tests.tiny import tiny, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
SAMPLERS = [
    PLAIN,
    TokenSampler(temperature=0.7, top_p=0.9),
    TokenSampler(temperature=1.3, top_k=20),
    TokenSampler(top_k=30, top_p=0.8),
]


def observer(*, sharper: float = 1.0) -> Observer:
    model = tiny("llama")
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(sharper)
    return Observer(model, TOKENIZER, max_length=256)


def measured(seen: Any, *examples: Example, name: str = "leak_at_k", **settings: Any) -> list[Any]:
    metric = metrics.build({"name": name, **settings})
    return list(metric.measure(seen, Probes(forget=examples))["forget"])


# Chances by hand.


def test_at_least_once_by_hand() -> None:
    assert at_least_once(math.log(0.5), 3) == pytest.approx(0.875)  # 1 - 1/8
    assert at_least_once(math.log(0.01), 100) == pytest.approx(1 - 0.99**100)
    assert at_least_once(0.0, 1) == 1.0
    assert at_least_once(-math.inf, 10**9) == 0.0
    assert at_least_once(1e-9, 5) == 1.0  # rounding above 0


@given(st.floats(-690, -1e-9), st.integers(1, 10**6))
def test_at_least_once_is_exact_where_p_is_tiny_or_near_one(log_p: float, draws: int) -> None:
    with localcontext() as context:
        context.prec = 700
        expected = float(1 - (1 - Decimal(log_p).exp()) ** draws)
    assert at_least_once(log_p, draws) == pytest.approx(expected, rel=1e-12)


def test_a_sampler_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()
    # top_p 0.8: 0.5 + 0.25 is less, so the third token stays too.
    assert TokenSampler(top_p=0.8)(logits).softmax(-1)[0].tolist() == pytest.approx(
        [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0.0]
    )
    # Halved temperature squares: 25, 6.25, 2.25, 1 of 34.5; the two likeliest: 4 to 1.
    assert TokenSampler(temperature=0.5, top_k=2)(logits).softmax(-1)[0].tolist() == pytest.approx(
        [0.8, 0.2, 0, 0]
    )
    assert TokenSampler(top_p=1e-9)(logits).softmax(-1)[0].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("top_k", [0, 7])
def test_a_sampler_draws_from_what_transformers_draws_from(top_k: int, top_p: float) -> None:
    logits = torch.randn(40, 60, generator=torch.Generator().manual_seed(0)) * 3
    expected = logits / 0.7
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)  # type: ignore[arg-type]
    expected = TopPLogitsWarper(top_p)(None, expected)  # type: ignore[arg-type]
    found = TokenSampler(temperature=0.7, top_k=top_k, top_p=top_p)(logits)
    torch.testing.assert_close(found.softmax(-1), expected.softmax(-1))


# The probability of a text from one forward pass.


def answer_tokens(asked: Example) -> list[int]:
    (piece,) = encode(asked, TOKENIZER, max_length=256, eos=False)
    return [token for token, counts in zip(piece.input_ids, piece.mask, strict=True) if counts]


@torch.no_grad()
def plainly(seen: Observer, asked: Example, sampler: TokenSampler) -> float:
    """log p_z of an answer, token by token, each from a forward pass of its own."""
    ids = encode_prompt(asked, TOKENIZER)
    total = 0.0
    for token in answer_tokens(asked):
        p = (seen.model(torch.tensor([ids])).logits[0, -1] / sampler.temperature).softmax(-1)
        order = p.argsort(descending=True).tolist()
        kept = order[: sampler.top_k or len(order)]
        whole = sum(float(p[each]) for each in kept)
        nucleus, mass = [], 0.0
        for each in kept:
            if mass < sampler.top_p:
                nucleus.append(each)
            mass += float(p[each]) / whole
        share = sum(float(p[each]) for each in nucleus)
        total += math.log(float(p[token]) / share) if token in nucleus else -math.inf
        ids.append(token)
    return total


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_p_z_is_the_product_over_the_samplers_tokens(sampler: TokenSampler) -> None:
    seen = observer(sharper=4)
    asked = [question(f"q{n}", f"who is {n}?", answer) for n, answer in enumerate(["in", "the rain", "a"])]
    settings = {name: getattr(sampler, name) for name in ("temperature", "top_k", "top_p")}
    for each, score in zip(asked, measured(seen, *asked, k=5, **settings), strict=True):
        log_p = plainly(seen, each, sampler)
        assert float(score.detail["log_p"]) == pytest.approx(log_p, rel=1e-4)
        assert score.value == pytest.approx(100 * (1 - (1 - math.exp(log_p)) ** 5), rel=1e-3)


def test_what_counts_of_a_text() -> None:
    seen = observer()
    text = "the rain in the town is on and on "
    span = Example(id="s", prompt="who? ", completion="it is the men", spans=(Span(10, 13),))
    facts = {
        one.id: seen.facts([one])[0] for one in (document("d", text), span, question("q", "who?", "men"))
    }

    def log_p(example: Example, **settings: Any) -> float:
        (score,) = measured(seen, example, **settings)
        return float(score.detail["log_p"])

    logp_n = facts["d"].logp_n
    assert log_p(document("d", text), prefix_tokens=3, suffix_tokens=4) == pytest.approx(
        float(logp_n[3:7].sum())
    )
    half = len(logp_n) // 2
    assert log_p(document("d", text)) == pytest.approx(float(logp_n[half:].sum()))
    assert log_p(span) == pytest.approx(float(facts["s"].logp_n[facts["s"].sensitive_n].sum()))
    answer = facts["q"]
    assert answer.ending == 1
    assert log_p(question("q", "who?", "men")) == pytest.approx(float(answer.logp_n[:-1].sum()))


def test_extractable_is_the_share_of_texts_that_n_draws_give() -> None:
    seen = observer()
    asked = [question("likely", "who?", "a"), question("not", "who?", "the rain in the town is on and on")]
    (likely, unlikely) = measured(seen, *asked, name="extractable", n=2000, p=0.9)
    assert (likely.value, unlikely.value) == (100.0, 0.0)
    # ceil(log(1 - p) / log(1 - p_z)) draws are the first that are enough.
    enough = math.ceil(math.log(0.1) / math.log1p(-math.exp(float(likely.detail["log_p"]))))
    for n, value in ((enough - 1, 0.0), (enough, 100.0)):
        assert measured(seen, asked[0], name="extractable", n=n, p=0.9)[0].value == value


def test_a_token_outside_the_nucleus_makes_it_zero_and_not_a_missing_score() -> None:
    (score,) = measured(observer(), question("q", "who?", "zebra"), top_p=0.001, k=10**6)
    assert (score.value, score.detail["log_p"]) == (0.0, "-inf")


def test_the_models_own_sampler_takes_no_second_pass() -> None:
    seen = observer()
    asked = question("q", "who?", "men")
    assert seen.facts([asked], sampler=TokenSampler())[0] is seen.facts([asked])[0]


def test_near_verbatim_is_leak_at_k_at_distance_zero_and_more_beyond() -> None:
    seen, asked = (
        observer(),
        [question("q", "who?", "in the town"), document("d", "the rain in the town is on")],
    )
    exact = [score.value for score in measured(seen, *asked, k=10**6)]
    near = [score.value for score in measured(seen, *asked, name="near_verbatim", k=10**6, distance=0)]
    assert near == pytest.approx(exact, rel=1e-3)
    beyond = [score.value for score in measured(seen, *asked, name="near_verbatim", k=10**6, distance=1)]
    assert all(more > less for more, less in zip(beyond, near, strict=True))
    (score,) = measured(seen, question("q", "who?", "a"), name="near_verbatim", distance=3)
    assert "no more than 3 tokens" in str(score.unscored)


# Against real samples. The answers are ones that this model gives in 2 to 50 % of the draws.

SAYS = [("who?", "mm"), ("who?", "mT"), ("the rain", "m)"), ("who is 1?", " isM")]


def hits(seen: Observer, asked: Example, sampler: TokenSampler, *, draws: int) -> int:
    answer, prompt = answer_tokens(asked), encode_prompt(asked, TOKENIZER)
    # No end tokens: what follows the answer does not matter.
    said = sample_answers(
        seen.model, [prompt] * draws, new_tokens=len(answer), eos_ids=[], pad_id=0, sampler=sampler, seed=7
    )
    return sum(one == answer for one in said)


def agrees(seen: Observer, asked: Example, sampler: TokenSampler, *, draws: int) -> bool:
    """Whether the exact chance is inside the 99.9 % Clopper-Pearson interval of so many samples."""
    settings = {name: getattr(sampler, name) for name in ("temperature", "top_k", "top_p")}
    (score,) = measured(seen, asked, k=1, **settings)
    interval = binomtest(hits(seen, asked, sampler, draws=draws), draws).proportion_ci(0.999)
    return bool(interval.low <= score.value / 100 <= interval.high)


def test_real_samples_agree() -> None:
    seen, asked = observer(sharper=4), Example(id="q", prompt="who?", completion="mm")
    assert agrees(seen, asked, SAMPLERS[1], draws=2000)
    # Samples of another temperature do not: the test can fail.
    settings = {"temperature": 1.0, "top_p": 0.9, "k": 1}
    (score,) = measured(seen, asked, **settings)
    interval = binomtest(hits(seen, asked, SAMPLERS[1], draws=500), 500).proportion_ci(0.999)
    assert not interval.low <= score.value / 100 <= interval.high


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_ten_thousand_samples_agree(temperature: float, top_p: float) -> None:
    seen, sampler = observer(sharper=4), TokenSampler(temperature=temperature, top_p=top_p)
    for number, (prompt, answer) in enumerate(SAYS):
        asked = Example(id=f"{number}", prompt=prompt, completion=answer)
        assert agrees(seen, asked, sampler, draws=10_000)


def test_a_checkpoints_generation_config_does_not_change_what_is_drawn() -> None:
    model = tiny("llama")
    settings: dict[str, Any] = {"new_tokens": 12, "eos_ids": [], "pad_id": 0, "seed": 3}
    expected = sample_answers(model, [[5, 6]], **settings)
    model.generation_config.repetition_penalty = 50.0
    model.generation_config.no_repeat_ngram_size = 1
    assert sample_answers(model, [[5, 6]], **settings) == expected
    assert model.generation_config.repetition_penalty == 50.0


# Leak@k from counts.


@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_expected_best_is_the_mean_over_all_choices(k: int) -> None:
    scores = [0.1, 0.9, 0.9, 0.0, 0.4, 1.0]
    choices = [max(choice) for choice in combinations(scores, k)]
    assert expected_best(scores, k) == pytest.approx(sum(choices) / len(choices))


def test_leak_at_k_of_counts_is_the_published_formula() -> None:
    for hits in range(9):
        expected = 1 - math.comb(8 - hits, 3) / math.comb(8, 3)
        assert expected_best([1.0] * hits + [0.0] * (8 - hits), 3) == pytest.approx(expected)


def test_upper_limits_by_hand() -> None:
    assert upper_limit([0.0] * 59, 1, alpha=0.05) == pytest.approx(1 - 0.05 ** (1 / 59))  # 4.95 %
    assert upper_limit([1.0] * 5, 3, alpha=0.05) == 1.0
    # Exact: with the limit as its chance, 2 hits or fewer in 10 have probability alpha.
    limit = upper_limit([1.0] * 2 + [0.0] * 8, 1, alpha=0.05)
    tail = sum(math.comb(10, hits) * limit**hits * (1 - limit) ** (10 - hits) for hits in range(3))
    assert tail == pytest.approx(0.05)
    # Graded: eps = sqrt(ln 20 / 4) = 0.865; below 0.5 none of 2, above it both: 0.5 + 0.5 (1 - 0.135).
    assert upper_limit([0.5, 0.5], 1, alpha=0.05) == pytest.approx(0.5 + 0.5 * math.sqrt(math.log(20) / 4))


class Sampled:
    """Replies by question id."""

    context = None

    def __init__(self, **replies: list[str]) -> None:
        self.replies = replies

    def samples(self, questions: list[Example], **asked: Any) -> list[list[str]]:
        return [self.replies[each.id] for each in questions]


def sampled(seen: Any, *asked: Example, **settings: Any) -> list[Any]:
    return measured(seen, *asked, name="sampled_leak_at_k", **settings)


def test_sampled_answers_that_hold_the_key() -> None:
    asked = question("q", "who?", "Jane Roe")
    said = ["It is jane roe.", "Jane", "nobody", "JANE ROE"]
    (score,) = sampled(Sampled(q=said), asked, samples=4, k=2)
    assert score.value == pytest.approx(100 * (1 - 1 / 6))  # 2 of 4: C(2, 2) / C(4, 2)
    assert score.detail["worst"] == "It is jane roe."
    (score,) = sampled(Sampled(q=said), asked, samples=4, k=1, judge="rouge")
    assert score.value == pytest.approx(100 * (1 + 0.5 + 0 + 1) / 4)
    (score,) = sampled(Sampled(q=["no"] * 4), asked, samples=4, k=1, report="upper_limit")
    assert score.value == pytest.approx(100 * (1 - 0.05**0.25))


def test_any_sensitive_span_is_a_leak() -> None:
    asked = Example(id="q", prompt="who?", completion="Ann, born 1970", spans=(Span(0, 3), Span(10, 14)))
    (score,) = sampled(Sampled(q=["in 1970", "no"]), asked, samples=2, k=1)
    assert score.value == 50.0


def test_empty_replies_are_never_counted_as_safe() -> None:
    asked = question("q", "who?", "Ann")
    (score,) = sampled(Sampled(q=["Ann", "", " ", "no"]), asked, samples=4, k=2)
    assert score.value == pytest.approx(100.0)  # of the two that say something both are drawn
    (score,) = sampled(Sampled(q=["", "", " ", "no"]), asked, samples=4, k=2)
    assert score.value is None
    assert score.unscored == "3 of 4 samples are empty: 1 are left to judge, and leak@2 needs 2"


def test_nothing_to_look_for_is_no_zero() -> None:
    (score,) = sampled(Sampled(q=["?"]), question("q", "who?", "?!"), samples=1, k=1)
    assert "no letter or digit" in str(score.unscored)
    (score,) = sampled(Sampled(q=["?"]), question("q", "who?", "?!"), samples=1, k=1, judge="rouge")
    assert "no Latin letter" in str(score.unscored)


def test_more_draws_than_samples_are_refused() -> None:
    with pytest.raises(RecipeError, match="leak@9 needs 9 samples or more, not 8"):
        metrics.build({"name": "sampled_leak_at_k", "k": 9, "samples": 8})


def test_samples_depend_on_the_question_and_the_seed_only() -> None:
    seen, first, second = observer(), question("a", "who?", "men"), question("b", "who?", "men")
    settings: dict[str, Any] = {"count": 3, "max_new_tokens": 5, "sampler": PLAIN}
    together = seen.samples([first, second], seed=0, **settings)
    assert together[1] == seen.samples([second], seed=0, **settings)[0]
    assert together[0] != together[1]
    assert together[0] != seen.samples([first], seed=1, **settings)[0]


def test_a_prompt_that_leaves_no_room_has_no_score() -> None:
    (score,) = sampled(observer(), question("q", "word " * 300, "men"), samples=2, k=1)
    assert "do not fit" in str(score.unscored)
