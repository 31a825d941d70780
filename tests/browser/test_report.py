"""The report as people meet it: in a browser, by eye, by keyboard and by screen reader."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from expunge.report.job import ReportJob
from expunge.report.numbers import number
from tests.browser.conftest import Open
from tests.report import hostile
from tests.report.made import LABELS, Made, truth_of

AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
LARGE = 5_000
SECONDS, BYTES = 2.0, 10_000_000


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Made(items=48).write(tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def masked(audit: Path) -> Path:
    return ReportJob(runs=(audit,), output=audit / "masked.html").run()


@pytest.fixture(scope="module")
def revealed(audit: Path) -> Path:
    return ReportJob(runs=(audit,), output=audit / "revealed.html", reveal=True).run()


@pytest.fixture(scope="module")
def two(audit: Path) -> Path:
    return ReportJob(runs=(audit, audit), output=audit / "two.html").run()


def violations(page: Any, *, only: list[str] = AXE_TAGS) -> list[str]:
    """What axe finds wrong, by the rules or tags in ``only``."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    options = {"runOnly": only, "resultTypes": ["violations"]}
    found = axe.Axe().run(page, options=options).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found]


@pytest.mark.parametrize(("kind", "scheme"), [("masked", "light"), ("revealed", "dark"), ("two", "light")])
def test_everybody_can_read_it(visit: Open, kind: str, scheme: str, request: pytest.FixtureRequest) -> None:
    page = visit(request.getfixturevalue(kind), scheme=scheme).page
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    if kind != "two":
        page.locator("#table .open").first.click()
    assert violations(page) == []


def test_the_numbers_are_those_of_the_parquet_file(visit: Open, audit: Path, masked: Path) -> None:
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in pq.read_table(audit / "scores.parquet").to_pylist():
        if row["value"] is not None:
            values[row["metric"], row["model"], row["condition"]].append(row["value"])
    page = visit(masked).page
    for metric in ("knowmem_forget", "utility"):
        table = page.locator(f'table[data-metric="{metric}"]')
        shown = {
            (line.locator("th").inner_text(), label): cell
            for line in table.locator("tbody tr").all()
            for label, cell in zip(LABELS, line.locator("td b").all_inner_texts(), strict=True)
        }
        assert shown == {
            (model, label): number(sum(own) / len(own), scale="0-100")
            for (name, model, label), own in values.items()
            if name == metric
        }


def test_each_item_has_the_numbers_of_the_parquet_file(visit: Open, audit: Path, revealed: Path) -> None:
    rows = pq.read_table(audit / "scores.parquet").to_pylist()
    wanted = {
        (row["item"], row["condition"]): number(row["value"])
        for row in rows
        if row["model"] == "fragile" and row["metric"] == "knowmem_forget"
    }
    page = visit(revealed).page
    shown: dict[tuple[str, str], str] = {}
    while True:
        for line in page.locator("#table tbody tr").all():
            name = line.locator("th").inner_text()
            shown |= {(name, label): text for label, text in zip(LABELS, numbers(line), strict=True)}
        if page.get_by_role("button", name="Next").is_disabled():
            break
        page.get_by_role("button", name="Next").click()
    assert shown == wanted


def numbers(line: Any) -> list[str]:
    """What a row says of each precision; the last number is the rise."""
    found: list[str] = line.locator("td.n").all_inner_texts()[:-1]
    return found


def test_items_are_sorted_found_and_opened_by_keyboard(visit: Open, revealed: Path) -> None:
    page = visit(revealed).page
    first = page.locator("#table tbody tr th").first
    assert page.locator("#table [aria-sort]").inner_text() == "Largest rise ↓"
    page.locator('[data-sort="name"]').focus()
    page.keyboard.press("Enter")
    assert first.inner_text() == "witness 0"
    page.keyboard.press("Enter")  # the focus stayed on the heading
    assert first.inner_text() == "witness 47"
    assert page.locator("#table [aria-sort]").get_attribute("aria-sort") == "descending"
    page.get_by_label("Find in prompts").fill("house 30")
    assert page.locator("#table tbody tr").count() == 1
    assert page.get_by_role("status").inner_text() == "1 to 1 of 1 items"
    page.locator("#table .open").first.press("Enter")
    assert page.locator("#table .open").first.get_attribute("aria-expanded") == "true"
    answers = page.locator(".answers mark").all_inner_texts()
    assert answers.count(truth_of(30)) == 2  # the target's at every precision, the fragile one's at int4
    page.get_by_label("Find in prompts").fill("nothing like it")
    assert page.get_by_role("status").inner_text() == "No item fits."


def test_every_control_is_reached_by_tab(visit: Open, masked: Path) -> None:
    page = visit(masked).page
    reached = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        name = "[...document.querySelectorAll('a, button, select, input, summary, [tabindex]')]"
        at = page.evaluate(f"{name}.indexOf(document.activeElement)")
        if at in reached:
            break
        reached.add(at)
    wanted = "(each) => !each.disabled && each.checkVisibility()"
    every = page.evaluate(f"{name}.map((each, at) => ({wanted})(each) ? at : -1).filter((at) => at >= 0)")
    assert set(every) <= reached


def test_the_theme_follows_the_system_until_it_is_switched(visit: Open, masked: Path) -> None:
    page = visit(masked, scheme="dark").page
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.get_by_role("button", name="Switch to the light theme").click()
    light = page.evaluate(paper)
    assert light != dark
    page.emulate_media(color_scheme="light")
    assert page.evaluate(paper) == light


@pytest.mark.parametrize("kind", ["masked", "revealed", "two"])
def test_it_fits_every_screen(visit: Open, kind: str, request: pytest.FixtureRequest) -> None:
    page = visit(request.getfixturevalue(kind)).page
    for width in (360, 768, 1280, 2560, 3840):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_first_screen_has_the_verdict_and_what_was_not_tested(visit: Open, masked: Path) -> None:
    page = visit(masked).page
    for words in (
        "1 of 2 unlearned models",
        "95 % interval",
        "Asked to forget",
        "Not tested",
        "stays forgotten",
    ):
        box = page.get_by_text(words).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 800, words


def test_on_paper_all_but_the_engineers_part_is_unfolded_and_black_on_white(
    visit: Open, masked: Path
) -> None:
    page = visit(masked, width=688, scheme="dark").page
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    folded = "[...document.querySelectorAll('details:not(.engineers, [open])')]"
    assert page.evaluate(f"{folded}.length") == 0
    assert not page.locator(".engineers").first.is_visible()
    assert page.get_by_text("are in the HTML file only").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") == 688
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.evaluate("[...document.querySelectorAll('details')].every((each) => each.open)")


def test_a_telephone_shows_the_numbers_of_each_item_and_every_name_of_the_chart(
    visit: Open, masked: Path
) -> None:
    page = visit(masked, width=360).page
    cell = page.locator("#table tbody tr td.n").first.bounding_box()
    assert cell is not None
    assert cell["x"] + cell["width"] <= 360
    assert not page.locator("#table td.words").first.is_visible()
    boxes = [each.bounding_box() for each in page.locator("#trade .name").all()]
    assert len(boxes) == 4
    for one, other in combinations(boxes, 2):
        assert one is not None
        assert other is not None
        apart_x = one["x"] + one["width"] <= other["x"] or other["x"] + other["width"] <= one["x"]
        apart_y = one["y"] + one["height"] <= other["y"] or other["y"] + other["height"] <= one["y"]
        assert apart_x or apart_y


def test_hostile_texts_show_as_texts_and_break_nothing(visit: Open, tmp_path: Path) -> None:
    hostile.made().write(tmp_path)
    page = visit(ReportJob(runs=(tmp_path,), reveal=True).run(), width=360).page
    text = page.locator("#table").inner_text()
    assert hostile.EMOJI in text
    assert "מי גר בחיפה?" in text
    page.get_by_label("Find in prompts").fill("onerror")
    page.locator("#table .open").first.click()
    assert hostile.SCRIPT in page.locator("#table").inner_text()
    page.get_by_label("Find in prompts").fill("word word")
    page.locator("#table .open").first.click()
    page.get_by_role("button", name="Show 96,000 more characters").first.click()
    assert len(page.locator(".whole").first.inner_text()) == len(hostile.LONG)
    assert page.evaluate("window.broken") is None
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_five_thousand_items_open_at_once(visit: Open, tmp_path: Path) -> None:
    path = ReportJob(
        runs=(Made(items=LARGE, metrics=("knowmem_forget",)).write(tmp_path),), reveal=True
    ).run()
    assert path.stat().st_size < BYTES
    page = visit(path).page
    page.locator("#table tbody tr").first.wait_for()
    # The browser's own clock: what other tests do to this machine meanwhile is not the page's doing.
    timing = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    assert page.evaluate(timing) / 1000 < SECONDS
    assert "of 5000 items" in page.get_by_role("status").inner_text()
