"""``expunge inspect`` from the command line to the port."""

from __future__ import annotations

import builtins
import http.client
import re
import socket
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import uvicorn

from expunge.errors import MissingExtraError
from expunge.inspector import job
from expunge.inspector.job import InspectJob, bound, url_of
from tests.cli.conftest import expunge


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[uvicorn.Config]:
    """What would have been served, until its user pressed Ctrl+C."""
    found: list[uvicorn.Config] = []

    def run(self: uvicorn.Server, sockets: Any = None) -> None:
        found.append(self.config)
        assert sockets[0].getsockname()[0] == "127.0.0.1"
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", run)
    return found


def test_the_address_is_printed_with_a_new_key_each_time(audit: Path, served: list[uvicorn.Config]) -> None:
    said = [expunge("inspect", audit, "--port", "0", "--no-browser") for _ in range(2)]
    keys = [re.search(r"http://127\.0\.0\.1:\d+/\?key=([\w-]{32})", each.out) for each in said]
    assert [each.code for each in said] == [0, 0]
    assert all(keys)
    assert len({each[1] for each in keys if each}) == len(served) == 2


def test_the_page_opens_where_there_is_a_screen(
    audit: Path, served: list[uvicorn.Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(job.webbrowser, "open", opened.append)
    for screen in (False, True):
        monkeypatch.setattr(job, "has_screen", lambda screen=screen: screen)
        InspectJob(paths=(audit,), port=0).run(lambda _: None)
    assert len(opened) == 1
    assert "?key=" in opened[0]


def test_a_taken_port_is_refused(audit: Path, served: list[uvicorn.Config]) -> None:
    with bound("127.0.0.1", 0) as own:
        said = expunge("inspect", audit, "--port", own.getsockname()[1], "--no-browser")
    assert said.code == 2
    assert "--port" in said.plain
    assert served == []


def test_other_machines_are_warned_of(audit: Path) -> None:
    said = expunge("inspect", audit, "--host", "192.0.2.1", "--no-browser")  # no address of anybody
    assert "anyone with the key can read the texts" in said.err
    assert said.code == 2


def test_nothing_to_inspect_is_refused(tmp_path: Path, served: list[uvicorn.Config]) -> None:
    assert expunge("inspect", tmp_path, "--no-browser").code == 2
    assert served == []


def test_the_budget_is_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()._replace(available=8 << 30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(job, "best_device", lambda: torch.device("cpu"))
    assert InspectJob(paths=()).bytes == 4 << 30
    assert InspectJob(paths=(), budget=1.5).bytes == 3 << 29


def test_the_missing_extra_is_named(audit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "uvicorn":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r"expunge\[inspect\]"):
        InspectJob(paths=(audit,)).run(lambda _: None)


def test_addresses_are_those_of_browsers() -> None:
    with bound("127.0.0.1", 0) as own:
        assert url_of(own) == f"http://127.0.0.1:{own.getsockname()[1]}"
        assert http.client.HTTPConnection(url_of(own).removeprefix("http://")).port == own.getsockname()[1]
    if socket.has_ipv6 and sys.platform == "linux" and Path("/proc/net/if_inet6").read_text():
        with bound("::1", 0) as own:
            assert url_of(own).startswith("http://[::1]:")
