"""Echoed log-probabilities: what they are worth, and that they are the model's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.inference.generation.sample import TokenSampler
from expunge.inference.observer import Observer
from expunge.inference.served.client import AnswerLog, Client
from expunge.inference.served.echo import NO_ECHO, PROBE, UNCHECKED, UNTRUE, Scored, completion_logps
from expunge.inference.served.endpoint import Endpoint
from expunge.inference.served.observer import ONLY_ANSWERS, ServedObserver, UnavailableError
from expunge.metrics import metrics
from expunge.metrics.probes import Probes
from expunge.types import Example, Span
from tests.metrics.fakes import document, question
from tests.serving_models import NAME, FaultyServer, serving_model
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

TOKENIZER = tiny_tokenizer(all_bytes=True)
LETTERS = [token for token in range(BYTES_VOCAB) if TOKENIZER.decode([token]).strip(" ").isalpha()]
Scores = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def observer() -> Observer:
    return Observer(tiny("llama", vocab_size=BYTES_VOCAB), TOKENIZER, max_length=256)


@torch.no_grad()
def scores_of(seen: Observer, *, shift: int = 0) -> Scores:
    """As vLLM gives them; with a shift of 1 as llama-cpp-python's server does."""

    def logps_of(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            logits = seen.model(torch.tensor([ids])).logits[0]
        return torch.as_tensor(logits.log_softmax(-1))

    def scores(body: dict[str, Any]) -> dict[str, Any]:
        ids = TOKENIZER(body["prompt"])["input_ids"]
        read = len(ids)
        generator = torch.Generator().manual_seed(body.get("seed", 0))
        for _ in range(body["max_tokens"]):
            p_V = logps_of(ids)[-1].exp()[LETTERS]
            ids = [*ids, LETTERS[int(torch.multinomial(p_V, 1, generator=generator))]]
        logp_TV = logps_of(ids)
        values = [None, *(float(logp_TV[at - 1, token]) for at, token in enumerate(ids) if at)]
        if body.get("echo"):
            values = [*values[shift:], *values[:shift]]
            return {"tokens": [TOKENIZER.decode([each]) for each in ids], "token_logprobs": values}
        drawn = [TOKENIZER.decode([each]) for each in ids[read:]]
        return {"tokens": drawn, "token_logprobs": values[read:]}

    return scores


def nothing(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
    return "x"


def client(url: str, folder: Path) -> Client:
    endpoint = Endpoint(url=url, served=NAME)
    return Client(endpoint=endpoint, answers=AnswerLog(folder / "answers"), pause=0.001)


ASKED = (
    question("q", "who?", "in the town"),
    Example(id="s", prompt="Who? ", completion="Ann, born 1970", spans=(Span(0, 3), Span(10, 14))),
)


def test_leakage_of_a_server_is_that_of_its_checkpoint(observer: Observer, tmp_path: Path) -> None:
    metric, probes = metrics.build("leak_at_k"), Probes(forget=(*ASKED, document("d", "in the town")))
    server = FaultyServer(nothing, scores=scores_of(observer))
    with serving_model(server) as url, client(url, tmp_path) as asked:
        found = metric.measure(ServedObserver(asked), probes)["forget"]
        again = metric.measure(ServedObserver(client(url, tmp_path)), probes)["forget"]
    assert again == found  # from the answers that were kept, without a server
    expected = metric.measure(observer, probes)["forget"]
    for one, other in zip(found[:2], expected, strict=False):
        assert one.detail["tokens"] == other.detail["tokens"]
        assert float(one.detail["log_p"]) == pytest.approx(float(other.detail["log_p"]), rel=1e-5)
    assert found[2].unscored == ONLY_ANSWERS


@pytest.mark.parametrize("shift", [1, -1])
def test_shifted_values_are_found_out_before_a_text_is_sent(
    observer: Observer, tmp_path: Path, shift: int
) -> None:
    server = FaultyServer(nothing, scores=scores_of(observer, shift=shift))
    with serving_model(server) as url, client(url, tmp_path) as asked:
        assert asked.no_echo == UNTRUE
        with pytest.raises(UnavailableError, match="shifted by one token"):
            ServedObserver(asked).text_logps(ASKED)
    assert all(PROBE in body["prompt"] or body["prompt"] == "1 + 1 =" for body in server.asked)


def test_values_that_cannot_tell_a_shift_are_not_believed(tmp_path: Path) -> None:
    def same(body: dict[str, Any]) -> dict[str, Any]:
        tokens = [*body["prompt"], "a"] if body.get("echo") else ["a"] * body["max_tokens"]
        return {"tokens": tokens, "token_logprobs": [-1.0] * len(tokens)}

    with serving_model(FaultyServer(nothing, scores=same)) as url, client(url, tmp_path) as asked:
        assert asked.no_echo == UNCHECKED


@pytest.mark.parametrize("scores", [None, lambda body: {"tokens": ["a"]}, lambda body: {"tokens": 1}])
def test_a_server_without_echo_is_asked_for_texts_only(tmp_path: Path, scores: Scores | None) -> None:
    def without_tokens(body: dict[str, Any]) -> dict[str, Any]:
        return {"tokens": ["a"], "token_logprobs": None}

    server = FaultyServer(nothing, scores=None if scores is None else without_tokens)
    with serving_model(server) as url, client(url, tmp_path) as asked:
        assert asked.no_echo == NO_ECHO


def test_a_chat_only_server_has_none(tmp_path: Path) -> None:
    with serving_model(FaultyServer(nothing, completions=False)) as url, client(url, tmp_path) as asked:
        assert asked.no_echo == NO_ECHO


def test_another_sampler_is_not_to_be_had(tmp_path: Path) -> None:
    observed = ServedObserver(client("http://127.0.0.1:1/v1", tmp_path))
    with pytest.raises(UnavailableError, match="temperature 1"):
        observed.text_logps(ASKED, sampler=TokenSampler(top_p=0.9))


# The tokens of an answer, by hand.


def tokens(*pairs: tuple[str, float | None]) -> Scored:
    return Scored([token for token, _ in pairs], [value for _, value in pairs])


def test_which_tokens_are_the_answers() -> None:
    who = Example(id="q", prompt="Who? ", completion="Ann Roe", spans=(Span(4, 7),))
    echoed = tokens(
        ("<s>", None), ("Who", -1.0), ("?", -2.0), (" Ann", -3.0), (" R", -4.0), ("oe", -5.0), ("!", -6.0)
    )
    found = completion_logps(echoed, who)
    assert not isinstance(found, str)
    assert found.logp_n.tolist() == [-3, -4, -5]
    assert found.sensitive_n.tolist() == [False, True, True]
    # A token with characters of both belongs to the answer.
    found = completion_logps(tokens(("Who", None), ("? A", -1.0), ("nn Roe", -2.0), ("!", 0.0)), who)
    assert not isinstance(found, str)
    assert found.logp_n.tolist() == [-1, -2]


@pytest.mark.parametrize(
    ("echoed", "why"),
    [
        (tokens(("Who?", None), ("Ann", -1.0)), "do not spell the text"),
        (tokens(("Who? Ann", None), (" Roe!", -1.0)), "goes beyond the text"),
        (tokens(("Who? ", -1.0), ("Ann Roe", None)), "no log-probability of a token"),
    ],
)
def test_what_cannot_be_told_is_no_score(echoed: Scored, why: str) -> None:
    found = completion_logps(echoed, Example(id="q", prompt="Who? ", completion="Ann Roe"))
    assert isinstance(found, str)
    assert why in found


def test_a_token_that_cannot_be_is_no_missing_value() -> None:
    found = completion_logps(
        tokens(("a", None), ("b", -math.inf)), Example(id="q", prompt="a", completion="b")
    )
    assert not isinstance(found, str)
    assert found.logp_n.tolist() == [-math.inf]
