"""The web server of the inspector, and its access control.

The page shows texts to be forgotten, and a local port can be reached by every account on the machine and by
any web page open in a browser. The printed address therefore contains a key, which the first visit
exchanges for a cookie that other sites cannot make a browser send.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from importlib import resources
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from expunge.errors import ExpungeError
from expunge.inspector.schema import Question, events, item_of, items_of, refusal, registry_of, tensors_of
from expunge.inspector.service import ModelRef

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from expunge.inspector.service import InspectorService

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
CLOSED = "Open the address that 'expunge inspect' printed: it carries the key to this page.\n"


def cookie_of(key: str) -> str:
    """The name of the cookie, which contains the port because browsers share cookies between ports."""
    return "expunge-" + hashlib.sha256(key.encode()).hexdigest()[:16]


class Guard:
    """Middleware that requires the key, and sets the security headers of every response."""

    def __init__(self, app: ASGIApp, *, key: str) -> None:
        self._app = app
        self._key = key
        self._cookie = cookie_of(key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        shown = self._is_key(request.query_params.get("key", ""))
        known = shown or self._is_key(request.cookies.get(self._cookie, ""))

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if shown:
                    headers.append(
                        "set-cookie", f"{self._cookie}={self._key}; Path=/; HttpOnly; SameSite=Strict"
                    )
            await send(message)

        answer = self._app if known else PlainTextResponse(CLOSED, status_code=403)
        await answer(scope, receive, guarded)

    def _is_key(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(errors="replace"), self._key.encode())


# The web application: three static files and four endpoints.
#
# No URL maps to a path: the static files are read when the server is created, and models are referred to
# by their registered names. Requests are stateless, so browsers do not interfere.

FILES = {
    "/": ("page.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
MOST_BYTES = 8_000_000
"""Maximum size of a request; larger ones are refused before they are read."""


def application(service: InspectorService, *, key: str) -> Starlette:
    """The application, accessible with ``key``."""
    request = _AskedRequest(service)
    return Starlette(
        routes=[
            *(Route(path, _file(*file)) for path, file in FILES.items()),
            Route("/registry", request.registry),
            Route("/items", request.items),
            Route("/item", request.item),
            Route("/weights", request.weights),
            Route("/ask", request.ask, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, key=key)],
        exception_handlers={ExpungeError: _refused, _BadRequestError: _refused},
    )


class _BadRequestError(ExpungeError):
    """The error for a request that the page would not send."""

    def __init__(self, why: str) -> None:
        super().__init__("this request", why=why, fix="Reload the page.")


class _AskedRequest:
    """The endpoints of a service."""

    def __init__(self, service: InspectorService) -> None:
        self._service = service

    async def registry(self, _: Request) -> Response:
        return JSONResponse(await run_in_threadpool(registry_of, self._service))

    async def items(self, request: Request) -> Response:
        metric, find = (request.query_params.get(name, "") for name in ("metric", "find"))
        start = _number(request.query_params.get("start", "0"))
        return JSONResponse(
            await run_in_threadpool(items_of, self._service, metric=metric, find=find, start=start)
        )

    async def item(self, request: Request) -> Response:
        at = _number(request.query_params.get("at", ""))
        if at >= len(self._service.items):
            raise _BadRequestError("there is no such item.")
        return JSONResponse(item_of(at, self._service.items[at]))

    async def weights(self, request: Request) -> Response:
        given = request.query_params
        epoch = given.get("epoch")
        who = ModelRef(
            given.get("model", ""), given.get("precision", ""), None if epoch is None else _number(epoch)
        )
        return JSONResponse(tensors_of(await run_in_threadpool(self._service.erased, who)))

    async def ask(self, request: Request) -> Response:
        question = _question(await _body(request))
        return StreamingResponse(
            _lines(events(self._service, question)), media_type="application/x-ndjson; charset=utf-8"
        )


async def _lines(events: Iterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """One JSON value per line; when the browser disconnects, ``events`` is closed and the work stops."""
    try:
        async for event in iterate_in_threadpool(events):
            yield json.dumps(event).encode() + b"\n"
    finally:
        close = getattr(events, "close", None)
        if close is not None:
            close()


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            raise _BadRequestError(f"it is longer than {MOST_BYTES:,} bytes.")
    return bytes(body)


def _question(body: bytes) -> Question:
    try:
        return Question.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise _BadRequestError(f"{field}: {first['msg']}." if field else f"{first['msg']}.") from error


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
