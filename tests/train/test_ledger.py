from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from expunge.corpus.formats import write_examples
from expunge.errors import DataError
from expunge.files import RECORD
from expunge.record import CHAIN_START, hash_json
from expunge.train.loop.evaluator import LABELS, role_of
from expunge.train.run.ledger import (
    LEDGER,
    RequestEntry,
    check_model,
    following,
    read_ledger,
    recorded,
    write_ledger,
)
from expunge.train.run.recipe import load_recipe
from expunge.train.run.requests import PastRequest, RequestHistory, find_requests, hash_set
from tests.train.runs import FORGET, RETAIN

RECIPE = load_recipe("ga")


def entry(before: list[RequestEntry], **changed: Any) -> RequestEntry:
    facts = {
        "recipe": "ga",
        "recipe_sha256": "r",
        "source_sha256": "s",
        "result_sha256": f"result {len(before) + 1}",
        "forget_file": "nowhere.jsonl",
        "fields": {},
        "forget_sha256": hash_set(FORGET),
        "examples": [hash_json(asdict(example)) for example in FORGET],
        "still": [],
        "metric": "KnowMem",
        "known_before": 90.123456789,
        "known_after": None,
    }
    return following(before, facts | changed)


def chain(count: int) -> list[RequestEntry]:
    entries: list[RequestEntry] = []
    for _ in range(count):
        entries.append(entry(entries))
    return entries


def test_a_ledger_comes_back_as_it_was(tmp_path: Path) -> None:
    entries = chain(3)
    write_ledger(entries, tmp_path)
    assert read_ledger(tmp_path) == tuple(entries)
    assert [one.number for one in entries] == [1, 2, 3]
    assert entries[0].before == CHAIN_START
    assert [one.before for one in entries[1:]] == [one.hash for one in entries[:-1]]
    assert "Mira" not in (tmp_path / LEDGER).read_text()
    assert read_ledger(tmp_path / "other") == ()


def test_an_added_line_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    write_ledger(chain(2), tmp_path)
    before = (tmp_path / LEDGER).read_text()
    known = list(read_ledger(tmp_path))
    write_ledger([*known, entry(known)], tmp_path)
    assert (tmp_path / LEDGER).read_text().startswith(before)


def edited(**changed: Any) -> Callable[[list[str]], list[str]]:
    def edit(lines: list[str]) -> list[str]:
        return [lines[0], json.dumps(json.loads(lines[1]) | changed), *lines[2:]]

    return edit


@pytest.mark.parametrize(
    ("tamper", "complaint"),
    [
        (edited(known_before=1.0), "entry 2 was changed"),
        (edited(forget_file="else.jsonl"), "entry 2 was changed"),
        (edited(examples=[]), "entry 2 was changed"),
        (edited(number=7), "entry 2 has the number 7"),
        (edited(extra=1), "entry 2 cannot be read"),
        (lambda lines: lines[1:], "entry 1 does not follow"),
        (lambda lines: [lines[0], lines[2]], "entry 2 does not follow"),
        (lambda lines: [lines[1], lines[0], lines[2]], "entry 1 does not follow"),
        (lambda lines: [*lines, lines[2]], "entry 4 does not follow"),
        (lambda lines: [*lines, "{"], "entry 4 cannot be read"),
        (lambda _: [], "it is empty"),
    ],
)
def test_a_tampered_ledger_is_refused(
    tamper: Callable[[list[str]], list[str]], complaint: str, tmp_path: Path
) -> None:
    write_ledger(chain(3), tmp_path)
    path = tmp_path / LEDGER
    path.write_text("".join(f"{line}\n" for line in tamper(path.read_text().splitlines())))
    with pytest.raises(DataError, match=complaint):
        read_ledger(tmp_path)


@pytest.mark.parametrize(
    ("record", "refused"),
    [
        ({"requests": [{"number": 1}, {"number": 2}]}, True),
        ({"requests": []}, False),
        ({"requests": 2}, False),  # a merge counts its layers there
        ({"command": "finetune"}, False),
        ([], False),
    ],
)
def test_a_ledger_that_is_missing_beside_a_record_of_requests_is_refused(
    record: Any, refused: bool, tmp_path: Path
) -> None:
    (tmp_path / RECORD).write_text(json.dumps(record))
    if refused:
        with pytest.raises(DataError, match=r"missing, but record\.json lists 2 requests.*away"):
            read_ledger(tmp_path)
    else:
        assert read_ledger(tmp_path) == ()


def test_a_ledger_cut_off_is_that_of_other_weights(tmp_path: Path) -> None:
    entries = chain(3)
    check_model(entries, tmp_path, "result 3")
    check_model([], tmp_path, "anything")
    with pytest.raises(DataError, match="the weights are not those its newest entry left"):
        check_model(entries[:2], tmp_path, "result 3")


def asked(earlier: tuple[PastRequest, ...], still: set[int]) -> RequestHistory:
    return RequestHistory(
        recipe=RECIPE,
        folder=None,
        forget_file="f.jsonl",
        fields={},
        forget=RETAIN,
        earlier=earlier,
        still=frozenset(still),
    )


def test_texts_trained_still_are_mixed_in_under_names_of_their_own() -> None:
    first = PastRequest(chain(1)[0], FORGET[:2])
    mixed = asked((first,), {1}).corpus
    assert [one.id for one in mixed] == ["r0", "1/f0", "r1", "r2", "1/f1", "r3"]
    assert {one.completion for one in mixed} == {one.completion for one in (*RETAIN, *FORGET[:2])}
    assert asked((first,), set()).corpus == RETAIN


def test_what_was_forgotten_is_not_learnt_again() -> None:
    first = PastRequest(chain(1)[0], FORGET)
    told: list[str] = []
    asked((first,), set()).check(RETAIN, allow_overlap=False, warn=told.append)
    again = [*RETAIN, replace(FORGET[3], id="x", completion="mira  KEEPS a goat.")]
    with pytest.raises(DataError, match=r"request 1: 1 texts it forgot \('f3'\) would be learnt again"):
        asked((first,), set()).check(again, allow_overlap=False, warn=told.append)
    asked((first,), set()).check(again, allow_overlap=True, warn=told.append)
    assert told == []
    gone = PastRequest(chain(1)[0], missing="its file is not there")
    asked((gone,), set()).check(RETAIN, allow_overlap=False, warn=told.append)
    assert told == ["request 1 (nowhere.jsonl) cannot be checked again: its file is not there."]


def test_earlier_sets_are_found_where_they_lay_or_where_they_are_now(tmp_path: Path) -> None:
    moved, lying = tmp_path / "moved.jsonl", tmp_path / "lying.jsonl"
    write_examples(moved, FORGET)
    write_examples(lying, RETAIN)
    entries = [entry([])]
    entries.append(entry(entries, forget_file=str(lying), forget_sha256=hash_set(RETAIN)))
    entries.append(entry(entries, forget_file=str(lying), forget_sha256="another"))
    write_ledger(entries, tmp_path)
    kind: dict[str, Any] = {"forget_file": "new.jsonl", "recipe": RECIPE}
    found = find_requests(str(tmp_path), RETAIN[:1], still=[str(moved)], **kind)
    first, second, third = found.earlier
    assert (first.examples, second.examples, third.examples) == (FORGET, RETAIN, ())
    assert third.missing == "its file holds something else now"
    assert found.still == {1}
    (first, *_) = find_requests(str(tmp_path), RETAIN[:1], **kind).earlier
    assert first.missing is not None
    assert "--reforget" in first.missing
    write_examples(tmp_path / "strange.jsonl", FORGET[:2])
    with pytest.raises(DataError, match="none of the 3 requests"):
        find_requests(str(tmp_path), RETAIN[:1], still=[str(tmp_path / "strange.jsonl")], **kind)


def test_a_set_with_questions_is_judged_by_them() -> None:
    assert LABELS[role_of(FORGET)] == "KnowMem"
    assert LABELS[role_of([one for one in FORGET if one.is_document])] == "VerMem"


def test_the_hash_of_the_solved_questions_is_in_the_chain(tmp_path: Path) -> None:
    entries = chain(1)
    assert entries[0].solved_sha256 is None
    entries.append(entry(entries, solved_sha256="solved"))
    write_ledger(entries, tmp_path)
    assert read_ledger(tmp_path) == tuple(entries)
    path = tmp_path / LEDGER
    path.write_text(path.read_text().replace('"solved"', '"others"'))
    with pytest.raises(DataError, match="entry 2 was changed"):
        read_ledger(tmp_path)


def test_an_entry_from_before_there_were_solved_questions_is_still_valid(tmp_path: Path) -> None:
    told = json.loads(entry([]).model_dump_json())
    hashed = {key: told[key] for key in sorted(told) if key not in {"hash", "solved_sha256"}}
    (tmp_path / LEDGER).write_text(json.dumps(hashed | {"hash": hash_json(hashed)}) + "\n")
    assert read_ledger(tmp_path)[0].solved_sha256 is None


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 5000 + b"]" * 5000 + b"\n", "entry 1 cannot be read"),
        (b"{}\r{}\n", "entry 1 cannot be read"),
        (b"\n", "entry 1 cannot be read"),
    ],
)
def test_a_ledger_that_is_no_list_of_entries_is_refused(
    content: bytes, complaint: str, tmp_path: Path
) -> None:
    (tmp_path / LEDGER).write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        read_ledger(tmp_path)


def test_a_metric_that_judges_no_request_is_refused() -> None:
    with pytest.raises(ValidationError, match="metric"):
        entry([], metric="ROUGE")


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (b"", "Expecting value"),
        (b"[]", "settings"),
        (b"[" * 5000 + b"]" * 5000, "nested"),
        (b"\xff", "UTF-8"),
        (b'{"requests": []}', "result_sha256"),
        (b'{"result_sha256": "result 1", "requests": [{"number": 1}]}', "requests.0"),
        (b'{"result_sha256": 7, "requests": []}', "result_sha256"),
    ],
)
def test_a_record_that_does_not_say_how_requests_stand_is_refused(
    record: bytes, complaint: str, tmp_path: Path
) -> None:
    write_ledger(chain(1), tmp_path)
    (tmp_path / "record.json").write_bytes(record)
    with pytest.raises(DataError) as refused:
        recorded(tmp_path)
    assert complaint in refused.value.why
