"""The inspector's server on a free port, in a thread of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from expunge.inspector.job import bound, url_of
from expunge.inspector.models import GIB, ModelPool, open_registry
from expunge.inspector.server import application
from expunge.inspector.service import InspectorService

KEY = "the-key-of-this-test"
TOKENS = 8


def desk_of(*paths: Path, max_tokens: int = TOKENS) -> InspectorService:
    return InspectorService(open_registry(paths), ModelPool(GIB), max_tokens=max_tokens)


@contextmanager
def serving(service: InspectorService) -> Iterator[str]:
    """Its address, without the key."""
    with bound("127.0.0.1", 0) as own:
        app = application(service, key=KEY)
        server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, log_level="error", lifespan="off", ws="none")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [own]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield url_of(own)
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()
