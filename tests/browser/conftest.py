"""Pages in headless Chromium, watched: what they say on the console and what they ask of the network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """Where this machine's Chromium lies, if it has one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Watched:
    """A page, and everything that went wrong on it."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


Open = Callable[..., Watched]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = chromium()
    if path is None:
        pytest.skip(f"no Chromium on this machine (looked for {', '.join(NAMES)})")
    # As root, and in most containers, Chromium's own sandbox cannot start.
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []
    with api.sync_playwright() as started:
        found = started.chromium.launch(executable_path=path, args=alone)
        yield found
        found.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Opens a file, or an address, in a context of its own.

    Nothing may be said on the console, nor asked of any other place.
    """
    opened: list[tuple[Watched, Any]] = []

    def go(place: Path | str, *, width: int = 1280, height: int = 800, scheme: Any = "light") -> Watched:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        watched = Watched(context.new_page())
        watched.page.on("console", lambda message: watched.errors.append(message.text))
        watched.page.on("pageerror", lambda error: watched.errors.append(str(error)))
        watched.page.on("request", lambda request: watched.requests.append(request.url))
        opened.append((watched, context))
        watched.page.goto(place.as_uri() if isinstance(place, Path) else place)
        return watched

    yield go
    with suppress(IndexError):
        for watched, context in opened:
            own, *others = watched.requests
            # A file stands alone; a page that is served asks who served it.
            served = own.startswith("http:")
            asked = [url for url in others if not (served and urlsplit(url)[:2] == urlsplit(own)[:2])]
            context.close()
            assert watched.errors == []
            assert asked == []
