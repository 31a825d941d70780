"""A model that a server offers: where it is, its name there, and whether texts may be sent to it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from expunge.errors import RecipeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How servers are asked.

    ``served``: the model's name there; ``send_to``: the one host beyond this machine to which texts may be
    sent; ``max_requests``: the most requests to one server.
    """

    served: str | None = None
    send_to: str | None = None
    max_requests: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """The base URL of an OpenAI-compatible interface (``http://127.0.0.1:8000/v1``), and a model's name."""

    url: str
    served: str

    def __str__(self) -> str:
        return f"{self.url}#{self.served}"


def is_endpoint(path: str) -> bool:
    """Whether a model is named by a URL, and not by a folder or a name on the Hub."""
    return path.lower().startswith(("http://", "https://"))


def parse_endpoint(text: str, serving: Serving) -> Endpoint:
    """``URL`` or ``URL#NAME``.

    Raises:
        RecipeError: it names no model, it holds a password or a query, or texts may not be sent there.
    """
    parts = urlsplit(text)
    host, served = parts.hostname or "", parts.fragment or serving.served
    if parts.username or parts.password or parts.query:
        raise RecipeError(
            f"a server at {host}",
            why="its URL holds a user, a password or a query, which every record would show.",
            fix="Put the key into the environment variable EXPUNGE_API_KEY, and only the base URL here.",
        )
    if not host or not served:
        raise RecipeError(
            f"the server {text}",
            why="nothing says which of its models is meant.",
            fix="Pass --served NAME, or write URL#NAME; the server lists its names under URL/models.",
        )
    if not (_is_this_machine(host) or host == serving.send_to):
        raise RecipeError(
            f"the server {host}",
            why="it is not this machine: questions, and so what the forget set is about, would leave it.",
            fix=f"If that is allowed, pass --send-to {host}.",
        )
    return Endpoint(url=f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", served=served)


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
