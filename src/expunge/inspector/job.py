"""The inspector as a job: register the models, bind the port, serve until interrupted."""

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
"""Default share of the free memory for models."""
GOODBYE_SECONDS = 1


@dataclass(frozen=True, kw_only=True)
class InspectJob:
    """A page on the models of some runs. ``budget``: GiB of memory for all loaded models.

    ``port`` 0 picks a free one; ``browser`` opens the page if there is a display.
    """

    paths: tuple[Path, ...]
    host: str = HOST
    port: int = PORT
    budget: float | None = None
    browser: bool = True

    def run(self, report: Callable[[str], None]) -> None:
        """Serve until interrupted; ``report`` is called with the address.

        Raises:
            DataError: the folders hold nothing to inspect.
            MissingExtraError: the extra ``inspect`` is not installed.
            ModelError: a folder is not there, or holds a checkpoint that cannot be read.
            OutputError: the port is taken, or the address is not one of this machine's.
        """
        uvicorn = _library()
        from expunge.inspector.server import application

        service = InspectorService(open_registry(self.paths), ModelPool(self.bytes))
        key = secrets.token_urlsafe(24)
        with bound(self.host, self.port) as listening:
            address = f"{url_of(listening)}/?key={key}"
            config = uvicorn.Config(
                application(service, key=key),
                log_level="error",
                log_config=None,  # it would close the handlers of other libraries
                access_log=False,
                server_header=False,
                ws="none",
                lifespan="off",
                timeout_graceful_shutdown=GOODBYE_SECONDS,
            )
            report(address)
            if self.browser and has_screen():
                webbrowser.open(address)
            try:
                uvicorn.Server(config).run(sockets=[listening])
            except KeyboardInterrupt:  # the regular way to stop
                return

    @property
    def bytes(self) -> int:
        """The budget in bytes; by default a share of the free memory of the device."""
        if self.budget is not None:
            return int(self.budget * GIB)
        free = psutil.virtual_memory().available
        if best_device().type == "cuda":
            free, _ = torch.cuda.mem_get_info()
        return int(free * SHARE)


def bound(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        OutputError: the port is taken, or the address is not one of this machine's.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OutputError(
            f"cannot serve at {host}, port {port}",
            why=f"{error.strerror or error}.",
            fix="Choose another with --port (0 picks a free one), or another --host.",
        ) from error


def url_of(listening: socket.socket) -> str:
    """The URL of the socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def has_screen() -> bool:
    """Whether a graphical browser can be opened; a text browser would take over the terminal."""
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
