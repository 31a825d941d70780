"""The inspector over HTTP: what is told, and what nobody gets."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest

from expunge.inspector.server import HEADERS, MOST_BYTES, cookie_of
from expunge.inspector.service import Inquiry, InspectorService, ModelRef
from tests.inspector.serving import KEY, desk_of, serving
from tests.report.made import prompt_of, truth_of

HIDDEN = "nobody may read this"


class Got(NamedTuple):
    """What the server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


class Caller(NamedTuple):
    """Asks a server; paths are sent as they are, dots and all."""

    address: str

    def __call__(
        self, path: str, body: Any = None, *, key: str | None = KEY, method: str | None = None
    ) -> Got:
        place = urlsplit(self.address)
        wire = http.client.HTTPConnection(str(place.hostname), place.port, timeout=20)
        cookie = {} if key is None else {"cookie": f"{self.cookie}={key}"}
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        wire.request(method or ("GET" if body is None else "POST"), path, sent, cookie)
        answer = wire.getresponse()
        got = Got(
            answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        )
        wire.close()
        return got

    @property
    def cookie(self) -> str:
        return cookie_of(KEY)


@pytest.fixture(scope="module")
def service(audit: Path) -> InspectorService:
    return desk_of(audit)


@pytest.fixture(scope="module")
def call(service: InspectorService) -> Iterator[Caller]:
    with serving(service) as address:
        yield Caller(address)


def whole(lines: list[Any]) -> dict[int, str]:
    """The last words of each place."""
    return {each["place"]: "".join(each["said"]) for each in lines if each.get("whole")}


def test_the_key_opens_the_page_and_stays_as_a_cookie(call: Caller) -> None:
    first = call(f"/?key={KEY}", key=None)
    assert first.status == 200
    cookie, *rules = first.headers["set-cookie"].split("; ")
    assert cookie == f"{call.cookie}={KEY}"
    assert {"HttpOnly", "SameSite=Strict"} <= set(rules)
    assert call("/").status == 200
    assert b"set-cookie" not in call("/").headers


@pytest.mark.parametrize(
    "path", ["/", "/registry", "/items", "/style.css", "/page.js", "/?key=wrong", "/?key=%C3%A9"]
)
def test_without_the_key_nothing_is_told(call: Caller, path: str) -> None:
    for key in (None, "", "wrong"):
        got = call(path, key=key)
        assert (got.status, b"expunge inspect" in got.body, len(got.body) < 200) == (403, True, True)
    assert call("/ask", {"prompt": "who", "asked": [{"model": "target"}]}, key=None).status == 403


def test_every_answer_forbids_everything_but_ourselves(call: Caller) -> None:
    for path, key in (("/", KEY), ("/registry", KEY), ("/", None), ("/nowhere", KEY)):
        headers = call(path, key=key).headers
        assert {name: headers[name] for name in HEADERS} == HEADERS


def test_our_files_name_no_other_place() -> None:
    folder = Path(__file__).parents[2] / "src" / "expunge" / "inspector" / "templates"
    for name in ("page.html", "style.css", "page.js"):
        text = (folder / name).read_text()
        assert "//" not in text.replace("// ", ""), name  # comments aside
        assert "innerHTML" not in text


@pytest.mark.parametrize(
    "path",
    [
        "{file}",
        "/{file}",
        "/file={file}",
        "/gradio_api/file={file}",
        "/static/{up}{file}",
        "/{up}{file}",
        "/{dots}{file}",
        "/{up}{up}etc/passwd",
        "/page.js/{up}{file}",
        "/style.css%00{file}",
        "/item?at={file}",
        "/weights?model={file}&precision=int4",
        "/weights?model=fragile&precision={file}",
        "/weights?model=fragile&precision=int4&epoch=../1",
    ],
)
def test_no_path_leads_to_a_file(call: Caller, tmp_path: Path, path: str) -> None:
    file = tmp_path / "secret.txt"
    file.write_text(HIDDEN)
    got = call(path.format(file=file, up="../" * 9, dots="%2e%2e%2f" * 9))
    assert got.status in (400, 404)
    assert HIDDEN.encode() not in got.body
    assert b"root:" not in got.body


def test_a_model_that_was_not_given_is_not_opened(
    call: Caller, service: InspectorService, tmp_path: Path
) -> None:
    held = service.pool.held
    for name in (str(tmp_path), "../target", "", "/"):
        got = call("/ask", {"prompt": "who", "asked": [{"model": name}]})
        assert ["not named on the command line" in each.get("note", "") for each in got.lines] == [
            False,
            True,
            False,
        ]
    assert service.pool.held == held


def test_no_path_of_this_machine_is_told(call: Caller, audit: Path) -> None:
    for path in ("/", "/registry", "/items?metric=knowmem_forget", "/item?at=0", "/nowhere"):
        assert str(audit.parent).encode() not in call(path).body


def test_the_shelf_is_told(call: Caller, service: InspectorService) -> None:
    registry = call("/registry").json
    assert [(each["name"], each["role"]) for each in registry["models"]] == [
        ("target", "target"),
        ("retrained", "retrained"),
        ("fragile", "unlearned"),
    ]
    assert registry["precisions"] == service.precisions
    assert [each["name"] for each in registry["metrics"]] == ["knowmem_forget"]


def test_the_items_are_those_of_the_parquet_file(call: Caller, audit: Path) -> None:
    values: dict[str, dict[str, float]] = {}
    for row in pq.read_table(audit / "scores.parquet").to_pylist():
        if (row["model"], row["metric"]) == ("fragile", "knowmem_forget"):
            values.setdefault(row["item"], {})[row["condition"]] = row["value"]
    told = call("/items?metric=knowmem_forget").json
    assert told["count"] == len(values)
    assert told["risen"] == sum(max(each.values()) > each["full"] for each in values.values())
    rises = {each["name"]: (each["full"], each["rise"]) for each in told["items"]}
    assert rises == {name: (at["full"], max(at.values()) - at["full"]) for name, at in values.items()}


def test_items_are_found_by_their_text(call: Caller) -> None:
    (found,) = call("/items?metric=knowmem_forget&find=WITNESS%203%20").json["items"]
    assert found["name"] == "witness 3"
    item = call(f"/item?at={found['at']}").json
    assert (item["prompt"], item["truth"]) == (prompt_of(3), truth_of(3))
    assert call("/items?metric=knowmem_forget&find=nothing").json["count"] == 0
    assert call("/items?metric=other").json["items"] == []


def test_answers_and_readings_are_the_engines(call: Caller, service: InspectorService) -> None:
    who = [ModelRef("target"), ModelRef("fragile", "int4")]
    asked = [{"model": "target"}, {"model": "fragile", "precision": "int4"}]
    lines = call("/ask", {"prompt": prompt_of(1), "asked": asked}).lines
    assert lines[0] == {"truth": truth_of(1), "words": 6}  # an item's prompt brings its true answer
    assert lines[-1] == {"over": True}
    row = list(service.answers(Inquiry(prompt_of(1), truth_of(1)), who))[-1]
    assert whole(lines) == {place: each.text for place, each in enumerate(row)}
    told = {each["place"]: each["look"] for each in lines if each.get("look")}
    for place, each in enumerate(row):
        assert each.look is not None
        layers = each.look.reading.layers
        assert told[place]["tokens"] == each.look.tokens
        assert [[cell[:2] for cell in layer] for layer in told[place]["layers"]] == [
            [[seen.probability, seen.rank] for seen in layer] for layer in layers
        ]


def test_leaked_words_are_marked(call: Caller, service: InspectorService) -> None:
    (said,) = list(service.answers(Inquiry("who"), [ModelRef("target")]))[-1]
    lines = call("/ask", {"prompt": "who", "truth": said.text, "asked": [{"model": "target"}]}).lines
    last = next(each for each in lines if each.get("whole"))
    parts, words = last["said"], len(re.findall(r"\w+", said.text))
    assert last["leaked"] == lines[0]["words"] == words
    assert "".join(parts) == said.text
    assert re.findall(r"\w+", "".join(parts[1::2])) == re.findall(r"\w+", said.text)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b'{"prompt": "a", "asked": []}',
        b'{"prompt": 1, "asked": [{"model": "target"}]}',
        b'{"prompt": "\\ud800", "asked": [{"model": "target"}]}',
        b'{"prompt": "a", "asked": [{"model": "target", "path": "/"}]}',
        json.dumps({"prompt": "a" * 1_000_001, "asked": [{"model": "target"}]}).encode(),
        json.dumps({"prompt": "a", "asked": [{"model": "target"}] * 99}).encode(),
        b" " * (MOST_BYTES + 1),
    ],
    ids=lambda body: str(body[:40]),
)
def test_a_question_that_is_none_is_refused(call: Caller, body: bytes) -> None:
    got = call("/ask", body, method="POST")
    assert got.status == 400
    assert set(got.json) == {"refused"}
    assert len(got.body) < 400


def test_only_what_there_is_can_be_done(call: Caller) -> None:
    assert call("/ask").status == 405
    assert call("/registry", b"", method="DELETE").status == 405
    assert call("/item?at=99999").status == 400
    assert call("/items?start=-1").status == 400


def test_browsers_at_once_do_not_mix(call: Caller) -> None:
    precisions = ["full", "int3", "int4", "int8"]

    def ask(precision: str) -> dict[int, str]:
        asked = [{"model": "fragile", "precision": precision}]
        return whole(call("/ask", {"prompt": "the cat", "asked": asked}).lines)

    alone = {each: ask(each) for each in precisions}
    assert len({each[0] for each in alone.values()}) > 1
    found: dict[int, dict[int, str]] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: ask(precisions[n % 4])})) for n in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == {n: alone[precisions[n % 4]] for n in range(8)}


def test_a_browser_that_leaves_holds_nothing_up(call: Caller) -> None:
    place = urlsplit(call.address)
    body = json.dumps({"prompt": "who", "asked": [{"model": "target"}] * 16}).encode()
    lines = [
        "POST /ask HTTP/1.1",
        "host: x",
        f"cookie: {call.cookie}={KEY}",
        f"content-length: {len(body)}",
    ]
    head = "\r\n".join([*lines, "", ""])
    for _ in range(5):
        with socket.create_connection((str(place.hostname), place.port)) as wire:
            wire.sendall(head.encode() + body)
            assert wire.recv(20).startswith(b"HTTP/1.1 200")
    assert whole(call("/ask", {"prompt": "who", "asked": [{"model": "target"}]}).lines)
