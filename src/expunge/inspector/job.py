"""The inspector as it is asked for: open the shelf, bind the port, serve until interrupted."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

from expunge.errors import MissingExtraError, OutputError
from expunge.inspector.models import GIB, ModelPool, open_registry
from expunge.inspector.service import InspectorService
from expunge.model.resources import best_device

if TYPE_CHECKING:
    from collections.abc import Callable

HOST, PORT = "127.0.0.1", 7861
SHARE = 0.5
"""Of the memory that is free, what models may take unless told otherwise."""
GOODBYE_SECONDS = 1


@dataclass(frozen=True, kw_only=True)
class InspectJob:
    """A page on the models of some runs. ``budget``: GiB that models in memory may take together.

    ``port`` 0 takes any that is free; ``browser`` opens the page where there is a screen to show it.
    """

    paths: tuple[Path, ...]
    host: str = HOST
    port: int = PORT
    budget: float | None = None
    browser: bool = True

    def run(self, tell: Callable[[str], None]) -> None:
        """Serve until interrupted; ``tell`` is given the address.

        Raises:
            DataError: the folders hold nothing to inspect.
            MissingExtraError: the extra ``inspect`` is not installed.
            ModelError: a folder is not there, or holds a checkpoint that cannot be read.
            OutputError: the port is taken, or the address is not one of this machine's.
        """
        uvicorn = _library()
        from expunge.inspector.server import application

        desk = InspectorService(open_registry(self.paths), ModelPool(self.bytes))
        key = secrets.token_urlsafe(24)
        with bound(self.host, self.port) as listening:
            address = f"{url_of(listening)}/?key={key}"
            config = uvicorn.Config(
                application(desk, key=key),
                log_level="error",
                log_config=None,  # it would close the handlers of everybody else
                access_log=False,
                server_header=False,
                ws="none",
                lifespan="off",
                timeout_graceful_shutdown=GOODBYE_SECONDS,
            )
            tell(address)
            if self.browser and has_screen():
                webbrowser.open(address)
            try:
                uvicorn.Server(config).run(sockets=[listening])
            except KeyboardInterrupt:  # how one leaves
                return

    @property
    def bytes(self) -> int:
        """The budget in bytes; by default a share of what is free where models are computed."""
        if self.budget is not None:
            return int(self.budget * GIB)
        free = psutil.virtual_memory().available
        if best_device().type == "cuda":
            free, _ = torch.cuda.mem_get_info()
        return int(free * SHARE)


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        OutputError: the port is taken, or the address is not one of this machine's.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OutputError(
            f"cannot serve at {host}, port {port}",
            why=f"{error.strerror or error}.",
            fix="Choose another with --port (0 takes any that is free), or another --host.",
        ) from error


def url_of(listening: socket.socket) -> str:
    """Where a browser finds the socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def has_screen() -> bool:
    """Whether a browser that opens would be seen: a text browser would take the terminal away."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _library() -> Any:
    try:
        import starlette  # noqa: F401 - the server is made of both
        import uvicorn
    except ImportError as error:
        raise MissingExtraError("the inspector", extra="inspect") from error
    return uvicorn
