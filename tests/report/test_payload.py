from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.report import items
from expunge.report import items as room
from expunge.report.items import embedded, payload, read_items
from expunge.report.run import AuditRun
from tests.report.made import Made, prompt_of, truth_of

METRIC, NAME, GROUP, PROMPT, TRUTH, VALUES, SAID, WHY = range(8)
FRAGILE_AT_INT4 = 2 * 3 + 2
"""Its cell: the third model, the third condition."""


def test_revealed_it_holds_every_text_and_number(run: AuditRun) -> None:
    data = payload(run, read_items(run), reveal=True)
    assert [metric["name"] for metric in data["metrics"]] == ["knowmem_forget", "utility"]
    item = data["items"][5]
    assert item[NAME:PROMPT] == ["witness 5", "family 2"]
    assert data["texts"][item[PROMPT]] == prompt_of(5)
    assert data["texts"][item[TRUTH]] == truth_of(5)
    assert data["texts"][item[SAID][FRAGILE_AT_INT4]] == ("", truth_of(5))
    assert item[VALUES] == [100, 100, 100, 0, 0, 0, 0, 0, 100, 0, 0, 0]


def test_masked_it_holds_numbers_and_shapes_alone(run: AuditRun) -> None:
    data = payload(run, read_items(run), reveal=False)
    item = data["items"][5]
    assert item[NAME:PROMPT] == ["forget 6", "group 3"]
    assert data["texts"][item[SAID][FRAGILE_AT_INT4]] == "######"
    assert set("".join(map(str, data["texts"]))) <= set("#.+")


def test_an_item_that_was_not_scored_says_why(tmp_path: Path) -> None:
    made = Made()
    run = made.run(tmp_path)
    items = read_items(run)
    items[0].values.clear()
    items[0].unscored[0] = "no words"
    data = payload(run, items, reveal=False)
    assert data["items"][0][VALUES] == [None] * 12
    assert data["texts"][data["items"][0][WHY]["0"]] == "no words"


def test_long_texts_are_cut_so_that_a_page_stays_light(
    run: AuditRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "TEXT_BUDGET", 200)
    monkeypatch.setattr(items, "CAPS", (1000, 5))
    data = payload(run, read_items(run), reveal=True)
    assert data["cap"] == 5
    assert data["texts"][data["items"][0][PROMPT]] == "Where… [31 more characters in the Parquet file]"


def test_too_many_items_leave_those_that_rose_least(run: AuditRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_NUMBERS", 12 * 2 * 6)
    data = payload(run, read_items(run), reveal=True)
    own = [item[NAME] for item in data["items"] if item[METRIC] == 0]
    assert own == [f"witness {number}" for number in range(2, 8)]  # 0 and 1 were known before
    assert data["left"] == 16 - 12


JSON = st.recursive(st.text() | st.integers() | st.none(), st.lists)


@given(JSON)
def test_embedded_json_reads_back_and_ends_no_element(value: Any) -> None:
    text = embedded(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")
