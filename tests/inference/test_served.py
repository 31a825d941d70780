"""A server's model: what is sent, what is kept, and every way in which a server fails."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import DataError, ModelError, RecipeError
from expunge.inference.generation.sample import TokenSampler
from expunge.inference.served.client import KEY, AnswerLog, Ask, Client, budget
from expunge.inference.served.endpoint import Endpoint, Serving, is_endpoint, parse_endpoint
from expunge.inference.served.observer import ServedObserver, UnavailableError
from expunge.types import Example, Turn
from tests.serving_models import FAULTS, NAME, FaultyServer, serving_model

SECRET = "Ada lives in Arbon"  # noqa: S105 - a text, not a password


def repeat(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
    """What it was asked, and the seed."""
    return f"{messages[-1]['content']} {body.get('seed')}\n\nmore"


def client(url: str, path: Path, **settings: Any) -> Client:
    endpoint = Endpoint(url=url, served=NAME)
    settings = {"pause": 0.001, "timeout": 0.2, **settings}
    return Client(endpoint=endpoint, answers=AnswerLog(path), **settings)


def asks(count: int) -> list[Ask]:
    return [Ask((("user", f"question {number}"),), False, 5) for number in range(count)]


# Which servers.


def test_a_url_names_a_server_and_a_model() -> None:
    assert is_endpoint("http://127.0.0.1:8000/v1")
    assert not is_endpoint("org/model")
    found = parse_endpoint("http://127.0.0.1:8000/v1/", Serving(served="m"))
    assert found == Endpoint(url="http://127.0.0.1:8000/v1", served="m")
    assert parse_endpoint("http://localhost/v1#n", Serving(served="m")).served == "n"
    assert parse_endpoint("http://[::1]:8/v1", Serving(served="m")).url == "http://[::1]:8/v1"


@pytest.mark.parametrize(
    "host", ["example.org", "10.0.0.1", "127.0.0.1.example.org", "localhost.example.org"]
)
def test_no_text_leaves_this_machine_unless_its_host_is_named(host: str) -> None:
    with pytest.raises(RecipeError, match=f"pass --send-to {host}"):
        parse_endpoint(f"https://{host}/v1", Serving(served="m", send_to="other.example.org"))
    assert parse_endpoint(f"https://{host}/v1", Serving(served="m", send_to=host)).served == "m"


@pytest.mark.parametrize("url", ["http://me:key@127.0.0.1/v1", "http://127.0.0.1/v1?key=key"])
def test_a_key_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(RecipeError, match="EXPUNGE_API_KEY") as refused:
        parse_endpoint(url, Serving(served="m"))
    assert "key@" not in str(refused.value)
    assert "key=key" not in str(refused.value)


def test_a_server_without_a_models_name_is_refused() -> None:
    with pytest.raises(RecipeError, match="--served NAME"):
        parse_endpoint("http://127.0.0.1/v1", Serving())


# What is sent and kept.


def test_nothing_is_asked_twice_and_the_key_is_in_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY, "very-secret")
    caplog.set_level(logging.DEBUG)
    server, path = FaultyServer(repeat), tmp_path / "answers.jsonl"
    with serving_model(server) as url:
        with client(url, path) as first:
            said = first([*asks(3), *asks(2)])
        assert said == ["question 0 0\n\nmore", "question 1 0\n\nmore", "question 2 0\n\nmore", *said[:2]]
        assert server.headers["authorization"] == "Bearer very-secret"
        with client(url, path) as second:
            assert second(asks(4))[:3] == said[:3]
    assert len(server.questions) == len(set(server.questions)) == 4
    assert path.stat().st_mode & 0o777 == 0o600
    kept = path.read_text()
    assert "very-secret" not in kept + caplog.text
    assert "question 1" not in caplog.text


def test_a_killed_run_loses_at_most_the_answer_it_was_writing(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with serving_model(FaultyServer(repeat)) as url:
        with client(url, path) as whole:
            whole(asks(3))
        path.write_bytes(path.read_bytes()[:-7])
        with client(url, path) as again:
            assert len(again.missing(asks(3))) == 1
            again(asks(3))
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_an_edited_file_of_answers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"key": "k"}\n')
    with pytest.raises(DataError, match="not an answer that was kept"):
        AnswerLog(tmp_path / "a")


def test_a_text_goes_to_completions_and_a_chat_to_chat(tmp_path: Path) -> None:
    server = FaultyServer(repeat)
    text = Example(id="t", prompt="Who? ", completion="x")
    chat = Example(
        id="c", prompt="And who?", completion="x", is_chat=True, turns=(Turn("system", "Be kind."),)
    )
    with serving_model(server) as url, client(url, tmp_path / "a") as asked:
        said = ServedObserver(asked).greedy([text, chat], max_new_tokens=7, stop=("\n\n",))
    assert said == ["Who? 0", "And who? 0"]
    by_form = {"messages" in body: body for body in server.asked[1:]}
    assert by_form[False]["prompt"] == "Who?"  # as a checkpoint reads it: the space belongs to the answer
    assert [each["content"] for each in by_form[True]["messages"]] == ["Be kind.", "And who?"]
    assert {(body["max_tokens"], body["temperature"]) for body in by_form.values()} == {(7, 0.0)}


def test_a_chat_only_server_gets_texts_as_messages(tmp_path: Path) -> None:
    server = FaultyServer(repeat, completions=False)
    with serving_model(server) as url, client(url, tmp_path / "a") as asked:
        assert ServedObserver(asked).greedy(["Who?"], max_new_tokens=7, stop=("\n\n",)) == ["Who? 0"]
    assert json.loads((tmp_path / "a").read_text())["form"] == "chat"


def test_samples_have_seeds_of_their_own(tmp_path: Path) -> None:
    server, question = FaultyServer(repeat), Example(id="q", prompt="Who?", completion="x")
    settings: dict[str, Any] = {"count": 4, "max_new_tokens": 3, "seed": 0}
    with serving_model(server) as url, client(url, tmp_path / "a") as asked:
        observed = ServedObserver(asked)
        (said,) = observed.samples([question], sampler=TokenSampler(temperature=0.7, top_p=0.9), **settings)
        with pytest.raises(UnavailableError, match="no top_k"):
            observed.samples([question], sampler=TokenSampler(top_k=4), **settings)
    assert len(set(said)) == 4
    assert {(body["temperature"], body["top_p"]) for body in server.asked[1:]} == {(0.7, 0.9)}


def test_what_needs_a_model_is_not_available(tmp_path: Path) -> None:
    observed = ServedObserver(client("http://127.0.0.1:1/v1", tmp_path / "a"))
    for ask in (lambda: observed.facts([]), lambda: observed.tokenizer, lambda: observed.is_masked):
        with pytest.raises(UnavailableError, match="texts only"):
            ask()


def test_the_budget_is_known_before_anything_is_sent(tmp_path: Path) -> None:
    planned = client("http://127.0.0.1:1/v1", tmp_path / "a")  # where nobody listens
    ServedObserver(planned, planning=True).greedy(["four letters", "four letters", "x"], max_new_tokens=5)
    assert (
        budget(planned)
        == "http://127.0.0.1:1/v1#tiny will be asked 2 questions, of about 3 tokens; at most 10 in answers."
    )


# Failures.


@pytest.mark.parametrize("fault", FAULTS)
def test_every_passing_fault_is_retried(tmp_path: Path, fault: str) -> None:
    server = FaultyServer(repeat, faults={0: fault, 2: fault, 3: fault})
    with serving_model(server) as url, client(url, tmp_path / "a") as asked:
        assert asked(asks(2)) == [f"question {number} 0\n\nmore" for number in range(2)]
    assert server.requests == 6  # the probe twice, and two questions, twice each or once and thrice


@pytest.mark.slow
def test_five_hundred_faults_give_no_wrong_answer(tmp_path: Path) -> None:
    drawn = random.Random(0)
    server = FaultyServer(repeat, faults={number: drawn.choice(FAULTS) for number in range(0, 1000, 2)})
    wanted = [f"question {number} 0\n\nmore" for number in range(500)]
    with serving_model(server) as url:
        for count in (100, 300, 500):  # as if resumed
            with client(url, tmp_path / "a", attempts=20) as asked:
                assert asked(asks(count)) == wanted[:count]
    assert len(server.questions) == len(set(server.questions)) == 500


def test_a_fault_that_stays_ends_the_run_and_keeps_what_was_answered(tmp_path: Path) -> None:
    server = FaultyServer(repeat, faults=dict.fromkeys(range(4, 400), "500"))
    with serving_model(server) as url:
        with client(url, tmp_path / "a", attempts=3) as asked, pytest.raises(ModelError) as refused:
            asked(asks(9))
        assert "3 attempts failed; the last: status 500." in str(refused.value)
        assert len(server.questions) == 3
        server.faults = {}
        with client(url, tmp_path / "a") as again:
            again(asks(9))
    assert len(server.questions) == len(set(server.questions)) == 9


@pytest.mark.parametrize(
    ("fault", "words"), [("401", KEY), ("302", "refuses with status 302"), ("422", "422")]
)
def test_what_does_not_pass_is_not_retried(tmp_path: Path, fault: str, words: str) -> None:
    server = FaultyServer(repeat, faults={1: fault})
    with (
        serving_model(server) as url,
        client(url, tmp_path / "a") as asked,
        pytest.raises(ModelError, match=words),
    ):
        asked(asks(1))
    assert server.requests == 2


def test_nobody_there_is_said(tmp_path: Path) -> None:
    nobody = client("http://127.0.0.1:1/v1", tmp_path / "a", attempts=2)
    with nobody as asked, pytest.raises(ModelError, match="2 attempts failed; the last: ConnectError"):
        asked(asks(1))


def test_another_models_name_is_refused(tmp_path: Path) -> None:
    with (
        serving_model(FaultyServer(repeat, names=("big", "small"))) as url,
        client(url, tmp_path / "a") as asked,
        pytest.raises(ModelError, match="no model of that name, but big, small"),
    ):
        asked(asks(1))


def test_a_model_that_changes_on_the_way_is_refused(tmp_path: Path) -> None:
    server = FaultyServer(repeat, answers_as=lambda number: "one" if number < 3 else "two")
    with serving_model(server) as url, client(url, tmp_path / "a") as asked:
        asked(asks(2))
        with pytest.raises(
            ModelError, match="it answers as 'two' by completions, and other answers are by 'one'"
        ):
            asked(asks(3))


def test_one_audit_does_not_mix_completions_and_chat(tmp_path: Path) -> None:
    with serving_model(FaultyServer(repeat)) as url, client(url, tmp_path / "a") as asked:
        asked(asks(1))
    again = FaultyServer(repeat, completions=False)
    with (
        serving_model(again) as url,
        Client(endpoint=Endpoint(url=url, served=NAME), answers=AnswerLog(tmp_path / "a")) as asked,
        pytest.raises(ModelError, match="by chat, and other answers are by 'completions'"),
    ):
        asked(asks(2))


@pytest.mark.parametrize(
    ("finish", "words"), [("content_filter", "withheld"), ("length", "before it begins")]
)
def test_a_withheld_answer_is_not_a_safe_one(tmp_path: Path, finish: str, words: str) -> None:
    server = FaultyServer(lambda messages, body: "", finish=finish)
    with (
        serving_model(server) as url,
        client(url, tmp_path / "a") as asked,
        pytest.raises(ModelError, match=words),
    ):
        asked(asks(1))


def test_no_interface_at_all_is_said(tmp_path: Path) -> None:
    server = FaultyServer(repeat, completions=False, chat=False)
    with (
        serving_model(server) as url,
        client(url, tmp_path / "a") as asked,
        pytest.raises(ModelError, match="neither a completions nor a chat interface"),
    ):
        asked(asks(1))
