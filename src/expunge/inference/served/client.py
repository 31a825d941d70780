"""Ask a model that a server offers (OpenAI-compatible): retries, and a file of answers.

Every answer is appended to a file as soon as it arrives, so that nothing is asked twice. The file holds
answers and the hashes of requests, never a request or a key. Messages name no text and no header.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from expunge.condition import no_report
from expunge.errors import DataError, MissingExtraError, ModelError
from expunge.inference.served.echo import DRAWN, NO_ECHO, PROBE, TRIES, EchoCheck, Scored
from expunge.inference.served.endpoint import Endpoint
from expunge.parsing import load_json
from expunge.record import hash_json

KEY = "EXPUNGE_API_KEY"
"""The environment variable with the server's key."""
AT_ONCE = 8
"""Requests under way at the same time."""
MOST_STOPS = 4
"""Stop strings that the interface takes; a reply is cut here in any case."""
BUSY = (408, 409, 425, 429)
"""Statuses after which asking again may help, beside all from 500 on."""
NOT_IMPLEMENTED = 501
LONGEST_WAIT = 60.0
"""Seconds waited between two attempts at most, whatever the server says."""
CHARACTERS_PER_TOKEN = 4
"""A rough mean, for the budget alone."""
ECHO = {"echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 1.0}
"""One token more than the text: some servers take 0 to mean as many as there is room for."""
TURNS = "turns"
"""How a chat is asked, whatever the form of other questions: as its turns."""


class FailedAttemptError(Exception):
    """An attempt that may succeed when repeated; ``wait``: the seconds that the server asked for."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = min(wait, LONGEST_WAIT)


class Ask(NamedTuple):
    """One request: messages as (role, content); ``number`` tells the samples of one question apart.

    An echo asks for the log-probabilities of its one message; its answer is JSON for ``echoed``.
    """

    messages: tuple[tuple[str, str], ...]
    is_chat: bool
    tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    number: int = 0
    is_echo: bool = False


class AnswerLog:
    """Answers by request, appended to a file that survives whatever ends the program."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()
        whole = path.read_bytes() if path.exists() else b""
        whole = whole[: whole.rfind(b"\n") + 1]  # what was cut off is asked again
        try:
            for row in map(load_json, whole.splitlines()):
                self.known[row["key"]] = {name: str(row[name]) for name in ("text", "model", "form")}
        except (ValueError, RecursionError, LookupError, TypeError) as error:
            raise DataError(
                f"{path} cannot be read",
                why="a line of it is not an answer that was kept.",
                fix="Remove it: the server is asked again.",
            ) from error
        self._size = len(whole)

    def add(self, key: str, *, text: str, model: str, form: str) -> str | None:
        """Keep one answer.

        Unless the model that gave it, or the way it was asked, is not that of the others: then theirs.
        """
        facts = {"text": text, "model": model, "form": form}
        line = json.dumps({"key": key, **facts}).encode() + b"\n"
        with self._lock:
            for name, others in (("model", ()), ("form", (TURNS,))):
                before = {row[name] for row in self.known.values()} - {facts[name], *others}
                if before and facts[name] not in others:
                    return before.pop()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                file.truncate(self._size)
                file.seek(self._size)
                file.write(line)
            self._size += len(line)
            self.known[key] = facts
        return None


@dataclass(kw_only=True)
class Client:
    """A server's model; nothing is sent before the first answer is needed.

    ``attempts`` a request is made at most so often; ``pause`` is the first wait in seconds, which doubles.
    """

    endpoint: Endpoint
    answers: AnswerLog
    timeout: float = 120.0
    attempts: int = 6
    pause: float = 0.5
    report: Callable[[str], None] = no_report
    planned: list[Ask] = field(default_factory=list)
    _http: Any = None
    _stopped: threading.Event = field(default_factory=threading.Event)
    _has_completions: bool | None = None

    def __enter__(self) -> Client:
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("auditing a server", extra="served") from error
        key = os.environ.get(KEY)
        self._http = httpx.Client(
            timeout=httpx.Timeout(self.timeout, connect=min(10.0, self.timeout)),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=AT_ONCE),
            trust_env=False,  # no proxy sees what is asked
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def key(self, ask: Ask) -> str:
        """What an answer is kept under."""
        return hash_json([str(self.endpoint), *ask])

    def missing(self, asks: Sequence[Ask]) -> list[Ask]:
        """Those without an answer, each once."""
        return [ask for ask in dict.fromkeys(asks) if self.key(ask) not in self.answers.known]

    def __call__(self, asks: Sequence[Ask]) -> list[str]:
        """The answer to each request; those that are not known are asked at once, a few at a time."""
        new = self.missing(asks)
        if new:
            self._probe()
            with ThreadPoolExecutor(AT_ONCE) as pool:
                waiting = [pool.submit(self._ask, ask) for ask in new]
                try:
                    for count, done in enumerate(as_completed(waiting), 1):
                        done.result()
                        self.report(f"{count} of {len(new)} answers")
                except BaseException:
                    self._stopped.set()  # nobody waits for another attempt
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        return [self.answers.known[self.key(ask)]["text"] for ask in asks]

    def _probe(self) -> None:
        """Find out what the server takes, with a text of ours."""
        if self._has_completions is not None:
            return
        listed = self._attempts("GET", "models", None)
        names = [each.get("id") for each in (listed or {"data": ()})["data"] if isinstance(each, dict)]
        if names and self.endpoint.served not in names:
            raise self._error(
                f"it has no model of that name, but {', '.join(map(str, names[:5]))}.",
                "Pass one of these as --served NAME.",
            )
        body = {"model": self.endpoint.served, "max_tokens": 1, "temperature": 0}
        text = self._attempts("POST", "completions", {**body, "prompt": "1 + 1 ="})
        self._has_completions = text is not None
        if (
            text is None
            and self._attempts(
                "POST", "chat/completions", {**body, "messages": [{"role": "user", "content": "1 + 1 ="}]}
            )
            is None
        ):
            raise self._error(
                "there is neither a completions nor a chat interface for this model.",
                "Check the URL: it ends as a rule in /v1.",
            )

    @cached_property
    def no_echo(self) -> str | None:
        """Why log-probabilities that the server echoes are not used; ``None`` if they are."""
        self._probe()
        if not self._has_completions:
            return NO_ECHO
        check, body = EchoCheck(), {"model": self.endpoint.served, "temperature": 1.0, "logprobs": 1}
        for seed in range(TRIES):
            own = {**body, "prompt": PROBE, "max_tokens": DRAWN, "seed": seed}
            drawn = self._attempts("POST", "completions", own, may_refuse=True)
            if drawn is None or not drawn["logprobs"]:
                return NO_ECHO
            again = {**body, **ECHO, "prompt": PROBE + drawn["text"]}
            echoed = self._attempts("POST", "completions", again, may_refuse=True)
            if echoed is None or not echoed["logprobs"]:
                return NO_ECHO
            try:
                check.add(Scored.of(drawn["logprobs"]), Scored.of(echoed["logprobs"]))
            except (TypeError, ValueError, KeyError):
                return NO_ECHO
            if check.is_enough:
                break
        return check.verdict()

    def _ask(self, ask: Ask) -> None:
        body: dict[str, Any] = {
            "model": self.endpoint.served,
            "max_tokens": ask.tokens,
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "seed": ask.seed,
        }
        if 0 < len(ask.stop) <= MOST_STOPS:
            body["stop"] = list(ask.stop)
        as_text = self._has_completions and not ask.is_chat
        if ask.is_echo:
            answer = self._attempts("POST", "completions", {**body, **ECHO, "prompt": ask.messages[0][1]})
        elif as_text:
            ((_, content),) = ask.messages
            answer = self._attempts("POST", "completions", {**body, "prompt": content})
        else:
            messages = [{"role": role, "content": content} for role, content in ask.messages]
            answer = self._attempts("POST", "chat/completions", {**body, "messages": messages})
        if answer is None:
            raise self._error(
                "it has no interface for these questions, or no longer this model.",
                "Audit a completions interface with questions that are not chats.",
            )
        if answer["finish_reason"] == "content_filter":
            raise self._error(
                "a filter of the server withheld an answer, and what was withheld is not safe.",
                "Audit the model without the filter.",
            )
        if ask.is_echo:
            answer["text"] = json.dumps(answer["logprobs"])
        if not answer["text"] and answer["finish_reason"] == "length":
            raise self._error(
                "an answer ends before it begins: its tokens went elsewhere, into reasoning for example.",
                "Let the metric ask for more: --metric NAME:max_new_tokens=1000.",
            )
        form = TURNS if ask.is_chat or ask.is_echo else "completions" if as_text else "chat"
        before = self.answers.add(self.key(ask), text=answer["text"], model=answer["model"], form=form)
        if before is not None:
            raise self._error(
                f"it answers as {answer['model']!r} by {form}, and other answers are by {before!r}.",
                "One audit is of one model, asked in one way: use another --output.",
            )

    def _attempts(
        self, method: str, path: str, body: Mapping[str, Any] | None, *, may_refuse: bool = False
    ) -> dict[str, Any] | None:
        """What the server answers, asked again when that may help; ``None`` where it has no such path.

        ``may_refuse``: also where it does not take such a request.
        """
        from tenacity import (
            RetryCallState,
            Retrying,
            retry_if_exception_type,
            sleep_using_event,
            stop_after_attempt,
            stop_when_event_set,
        )

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.wait if isinstance(error, FailedAttemptError) else 0.0
            return max(asked, min(LONGEST_WAIT, self.pause * 2.0 ** (state.attempt_number - 1)))

        retrying = Retrying(
            stop=stop_after_attempt(self.attempts) | stop_when_event_set(self._stopped),
            sleep=sleep_using_event(self._stopped),
            wait=wait,
            retry=retry_if_exception_type(FailedAttemptError),
            reraise=True,
        )
        try:
            return retrying(self._once, method, path, body, may_refuse=may_refuse)
        except FailedAttemptError as error:
            raise self._error(
                f"{self.attempts} attempts failed; the last: {error}.",
                "See to the server and repeat the command: no answer is lost or asked again.",
            ) from None

    def _once(
        self, method: str, path: str, body: Mapping[str, Any] | None, *, may_refuse: bool
    ) -> dict[str, Any] | None:
        import httpx

        try:
            reply = self._http.request(method, f"{self.endpoint.url}/{path}", json=body)
        except httpx.TransportError as error:
            raise FailedAttemptError(type(error).__name__) from None
        except httpx.HTTPError as error:  # a body that cannot be decoded
            raise FailedAttemptError(type(error).__name__) from None
        status = reply.status_code
        if status in BUSY or (status >= 500 and status != NOT_IMPLEMENTED):
            raise FailedAttemptError(f"status {status}", _seconds(reply.headers.get("retry-after", "")))
        if status in (404, 405, NOT_IMPLEMENTED) or (may_refuse and status in (400, 422)):
            return None
        if status != 200:
            raise self._error(f"it refuses with status {status}.", _ADVICE.get(status, "See its log."))
        try:
            found = load_json(reply.content)
            return _listed(found) if path == "models" else _read(found)
        except (ValueError, RecursionError, LookupError, TypeError):
            raise FailedAttemptError("an answer that is not of the agreed form") from None

    def _error(self, why: str, fix: str) -> ModelError:
        return ModelError(f"the server {self.endpoint}", why=why, fix=fix)


_ADVICE = {
    401: f"Put its key into the environment variable {KEY}.",
    403: f"Put a key that may use this model into the environment variable {KEY}.",
}


def _seconds(header: str) -> float:
    """A ``Retry-After`` in seconds; a date counts as none."""
    return float(header) if header.isdecimal() else 0.0


def _listed(found: Any) -> dict[str, Any]:
    """The models that a server lists, none where it does so in another form."""
    data = found.get("data") if isinstance(found, dict) else None
    return {"data": data if isinstance(data, list) else []}


def _read(found: Any) -> dict[str, Any]:
    """Text, reason of the end and model of an answer."""
    choice = found["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    reason = choice.get("finish_reason")
    if not isinstance(text, str) and reason != "content_filter":
        raise TypeError("no text")
    facts = {"finish_reason": reason, "model": str(found.get("model", ""))}
    return {"text": text, "logprobs": choice.get("logprobs"), **facts}


def budget(client: Client) -> str:
    """What the planned requests come to, in words; empty if every answer is known."""
    new = client.missing(client.planned)
    if not new:
        return ""
    characters = sum(len(content) for ask in new for _, content in ask.messages)
    most = sum(ask.tokens for ask in new)
    return (
        f"{client.endpoint} will be asked {len(new):,} questions, of about "
        f"{characters // CHARACTERS_PER_TOKEN:,} tokens; at most {most:,} in answers."
    )
