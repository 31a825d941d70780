"""The inspector's web server: three files of ours, four questions, and nothing else.

No address leads to a file of this machine: the files are read by name when the server is made, and a
model is asked for by the name the shelf knows it by. Nothing is kept between requests, so browsers
cannot mix.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from expunge.errors import ExpungeError
from expunge.inspector.desk import Who
from expunge.inspector.guard import Guard
from expunge.inspector.wire import Question, events, item_of, items_of, refusal, shelf_of, tensors_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request

    from expunge.inspector.desk import Desk

FILES = {
    "/": ("page.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
MOST_BYTES = 8_000_000
"""Of a question; more is refused before it is read."""


def application(desk: Desk, *, key: str) -> Starlette:
    """The page and what it asks, for those who know ``key``."""
    asked = _Asked(desk)
    return Starlette(
        routes=[
            *(Route(path, _file(*file)) for path, file in FILES.items()),
            Route("/shelf", asked.shelf),
            Route("/items", asked.items),
            Route("/item", asked.item),
            Route("/weights", asked.weights),
            Route("/ask", asked.ask, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, key=key)],
        exception_handlers={ExpungeError: _refused, _BadRequestError: _refused},
    )


class _BadRequestError(ExpungeError):
    """A request that the page would not send."""

    def __init__(self, why: str) -> None:
        super().__init__("this request", why=why, fix="Reload the page.")


class _Asked:
    """What can be asked of a desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def shelf(self, _: Request) -> Response:
        return JSONResponse(await run_in_threadpool(shelf_of, self._desk))

    async def items(self, request: Request) -> Response:
        metric, find = (request.query_params.get(name, "") for name in ("metric", "find"))
        start = _number(request.query_params.get("start", "0"))
        return JSONResponse(
            await run_in_threadpool(items_of, self._desk, metric=metric, find=find, start=start)
        )

    async def item(self, request: Request) -> Response:
        at = _number(request.query_params.get("at", ""))
        if at >= len(self._desk.items):
            raise _BadRequestError("there is no such item.")
        return JSONResponse(item_of(at, self._desk.items[at]))

    async def weights(self, request: Request) -> Response:
        given = request.query_params
        epoch = given.get("epoch")
        who = Who(
            given.get("model", ""), given.get("precision", ""), None if epoch is None else _number(epoch)
        )
        return JSONResponse(tensors_of(await run_in_threadpool(self._desk.erased, who)))

    async def ask(self, request: Request) -> Response:
        question = _question(await _body(request))
        return StreamingResponse(
            _lines(events(self._desk, question)), media_type="application/x-ndjson; charset=utf-8"
        )


async def _lines(told: Iterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """One JSON value per line; a browser that leaves closes ``told``, and with it the work."""
    try:
        async for event in iterate_in_threadpool(told):
            yield json.dumps(event).encode() + b"\n"
    finally:
        close = getattr(told, "close", None)
        if close is not None:
            close()


async def _body(request: Request) -> bytes:
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > MOST_BYTES:
            raise _BadRequestError(f"it is longer than {MOST_BYTES:,} bytes.")
    return bytes(found)


def _question(body: bytes) -> Question:
    try:
        return Question.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise _BadRequestError(f"{place}: {first['msg']}." if place else f"{first['msg']}.") from error


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise _BadRequestError(f"{text[:40]!r} is no number.")
    return int(text)


async def _refused(_: Request, error: Exception) -> Response:
    if not isinstance(error, ExpungeError):
        raise error
    return JSONResponse({"refused": refusal(error)}, status_code=400)


def _file(name: str, kind: str) -> Any:
    content = resources.files("expunge.inspector").joinpath("templates", name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, media_type=f"{kind}; charset=utf-8")

    return answer
