"""Who may ask: only a browser that was given the key; and what its pages may do: talk to us alone.

The page shows what was to be forgotten, and a port of this machine can be reached by everybody who has
an account on it, and by any web page its owner happens to open. The address that is printed carries a
key; the first visit turns it into a cookie that no other site can make a browser send.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
    """What the cookie is called: browsers send the cookies of every port of a machine to each of them."""
    return "expunge-" + hashlib.sha256(key.encode()).hexdigest()[:16]


class Guard:
    """Lets requests with the key pass, and puts the same headers on every answer."""

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
