"""An OpenAI-compatible server on loopback whose model is a function, and which can fail in every way."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

NAME = "tiny"
FAULTS = ("429", "500", "503", "slow", "cut", "malformed", "null", "empty", "list")


@dataclass
class FaultyServer:
    """``say`` maps the messages (or the prompt as one user message) to an answer.

    ``faults`` maps the number of a request, from 0, to what goes wrong with it. ``asked`` keeps the body of
    every answered request, ``headers`` those of the last one. ``scores`` makes the ``logprobs`` of an
    answer.
    """

    say: Callable[[list[dict[str, str]], dict[str, Any]], str]
    completions: bool = True
    chat: bool = True
    names: tuple[str, ...] = (NAME,)
    faults: dict[int, str] = field(default_factory=dict)
    answers_as: Callable[[int], str] = lambda number: NAME
    finish: str = "stop"
    scores: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    requests: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    def application(self) -> Starlette:
        routes = [Route("/v1/models", self._models)]
        if self.completions:
            routes.append(Route("/v1/completions", self._complete, methods=["POST"]))
        if self.chat:
            routes.append(Route("/v1/chat/completions", self._complete, methods=["POST"]))
        return Starlette(routes=routes)

    @property
    def questions(self) -> list[str]:
        """The canonical bodies of the requests that were answered, without those of the probe."""
        return [
            json.dumps(body, sort_keys=True) for body in self.asked if "1 + 1 =" not in json.dumps(body)
        ]

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"data": [{"id": name} for name in self.names]})

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.headers = dict(request.headers)
        number, self.requests = self.requests, self.requests + 1
        fault = self.faults.get(number)
        if fault is not None:
            return await self._fail(fault)
        self.asked.append(body)
        messages = body.get("messages") or [{"role": "user", "content": body["prompt"]}]
        text = self.say(messages, body)
        for end in body.get("stop", ()):
            text = text.split(end)[0]
        said: dict[str, Any] = {"message": {"content": text}} if "messages" in body else {"text": text}
        choice = {**said, "finish_reason": self.finish}
        if body.get("logprobs") and self.scores is not None:
            scored = self.scores(body)
            choice |= {"text": "".join(scored["tokens"]), "logprobs": scored}
        return JSONResponse({"model": self.answers_as(number), "choices": [choice]})

    async def _fail(self, fault: str) -> Response:
        if fault == "slow":
            await asyncio.sleep(0.5)
            return JSONResponse(
                {"model": NAME, "choices": [{"text": "late", "message": {"content": "late"}}]}
            )
        if fault == "cut":
            return Response(b'{"choices": [', headers={"content-length": "500"})
        bodies = {
            "malformed": b"<html>",
            "null": b'{"choices": [{"text": null}]}',
            "empty": b"",
            "list": b"[]",
        }
        if fault in bodies:
            return Response(bodies[fault])
        return Response(
            status_code=int(fault), headers={"retry-after": "0", "location": "http://example.org"}
        )


@contextmanager
def serving_model(server: FaultyServer) -> Iterator[str]:
    """Its base URL, ending in /v1."""
    with socket.create_server(("127.0.0.1", 0)) as own:
        uvicorn_server = uvicorn.Server(
            uvicorn.Config(
                server.application(), log_config=None, log_level="critical", lifespan="off", ws="none"
            )
        )
        thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [own]}, daemon=True)
        thread.start()
        while not uvicorn_server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{own.getsockname()[1]}/v1"
        uvicorn_server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()
