"""The inspector as people meet it: in a browser, by eye, by keyboard and by screen reader."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from expunge.inspector.service import GeneratedAnswer, Inquiry, InspectorService, ModelRef
from tests.browser.conftest import Open
from tests.browser.test_report import violations
from tests.inspector.conftest import NAMES, inspected, save
from tests.inspector.serving import KEY, desk_of, serving
from tests.report import hostile
from tests.report.made import Made, prompt_of, truth_of

ALL = [ModelRef("target"), ModelRef("retrained"), ModelRef("fragile"), ModelRef("fragile", "int4")]


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inspected(tmp_path_factory.mktemp("inspected"), Made(), NAMES)


@pytest.fixture(scope="module")
def service(audit: Path) -> InspectorService:
    return desk_of(audit)


@pytest.fixture(scope="module")
def address(service: InspectorService) -> Iterator[str]:
    with serving(service) as found:
        yield f"{found}/?key={KEY}"


def ask(page: Any, prompt: str, truth: str = "") -> None:
    page.locator("#precisions label").first.wait_for()
    page.locator("#prompt").fill(prompt)
    page.locator("#truth").fill(truth)
    page.get_by_role("button", name="Ask the models").click()
    answered(page)


def answered(page: Any) -> None:
    page.get_by_text(re.compile(r"answered in [\d.]+ s")).wait_for()


def said(page: Any) -> list[str]:
    """What the cards say; white space as HTML has it."""
    return [" ".join(each.split()) for each in page.locator(".card .said").all_text_contents()]


def words(row: list[GeneratedAnswer]) -> list[str]:
    return [" ".join(each.text.split()) or "(nothing)" for each in row]


def percent(p: float) -> str:
    if p >= 0.0995:
        return f"{int(100 * p + 0.5)} %"
    return f"{100 * p:.1f} %" if p >= 0.00095 else "< 0.1 %"


def test_everybody_can_read_it(visit: Open, address: str) -> None:
    page = visit(address).page
    page.locator("#list button").first.click()
    answered(page)
    page.locator("#erased summary").click()
    page.locator("#tensors tr").first.wait_for()
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    assert violations(page, only=["color-contrast"]) == []


def test_the_page_shows_the_answers_of_the_service(
    visit: Open, address: str, service: InspectorService
) -> None:
    page = visit(address).page
    page.locator("#list button", has_text="witness 3 ").click()
    answered(page)
    assert page.locator("#prompt").input_value() == prompt_of(3)
    row = list(service.answers(Inquiry(prompt_of(3), truth_of(3)), ALL))[-1]
    assert said(page) == words(row)
    looks = [each.look for each in row if each.look]
    shown = [
        [each.inner_text().split("\n")[-2:] for each in strip.locator("li").all()]
        for strip in page.locator(".strip").all()
    ]
    assert shown == [
        [[percent(seen.probability), f"rank {seen.rank:,}"] for seen in look.reading.strip]
        for look in looks
    ]
    layers = [
        [cell.inner_text().split("\n")[:2] for cell in line.locator("td").all()]
        for line in page.locator("#lens tbody tr").all()
    ]
    assert layers == [
        [[percent(seen.probability), f"rank {seen.rank:,}"] for seen in layer]
        for layer in looks[-1].reading.layers
    ]
    page.get_by_label("target · full precision").check(force=True)
    last = page.locator("#lens tbody tr").last.locator("td").first.inner_text().split("\n")[0]
    assert last == percent(looks[0].reading.strip[0].probability)


def test_leaked_words_are_marked(visit: Open, address: str, service: InspectorService) -> None:
    text = list(service.answers(Inquiry("who"), [ModelRef("target")]))[-1][0].text
    page = visit(address).page
    ask(page, "who", text)
    first = page.locator(".card").first
    assert re.findall(r"\w+", " ".join(first.locator("mark").all_inner_texts())) == re.findall(r"\w+", text)
    assert re.search(r"(\d+) of \1 words? of the true answer", first.inner_text())


def test_the_items_are_those_of_the_parquet_file(visit: Open, address: str, audit: Path) -> None:
    values: dict[str, dict[str, float]] = {}
    for row in pq.read_table(audit / "scores.parquet").to_pylist():
        if (row["model"], row["metric"]) == ("fragile", "knowmem_forget"):
            values.setdefault(row["item"], {})[row["condition"]] = row["value"]
    rises = {prompt_of(int(name.split()[1])): max(at.values()) - at["full"] for name, at in values.items()}
    page = visit(address).page
    page.locator("#list button").first.wait_for()
    lines = [line.inner_text().split("\n") for line in page.locator("#list button").all()]
    assert {prompt: rise for prompt, rise, _ in lines} == {
        prompt: f"+{rise:.1f}" if rise else "0.0" for prompt, rise in rises.items()
    }
    assert [rise for _, rise, _ in lines] == sorted((rise for _, rise, _ in lines), key=lambda n: -float(n))
    page.get_by_label("Find").fill("witness 5")
    page.get_by_text("1 item;").wait_for()
    assert page.locator("#list button").count() == 1


def test_what_the_grid_erased_is_what_the_engine_says(
    visit: Open, address: str, service: InspectorService
) -> None:
    page = visit(address).page
    page.locator("#precisions label").first.wait_for()
    page.locator("#erased summary").click()
    page.locator("#tensors tr").first.wait_for()
    shown = [line.locator("th, td.n").all_inner_texts() for line in page.locator("#tensors tbody tr").all()]
    assert shown[1:] == [
        [each.name, f"{each.weights:,}", f"{each.changed:,}", f"{each.undone:,}", percent(each.share)]
        for each in service.erased(ModelRef("fragile", "int4"))
    ]
    page.get_by_label("full", exact=True).check(force=True)
    page.get_by_text("Nothing is rounded at full precision").wait_for()


def test_it_is_worked_by_keyboard(visit: Open, address: str, service: InspectorService) -> None:
    page = visit(address).page
    page.locator("#list button").first.wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # skip to the prompt
    page.keyboard.type("the cat")
    page.keyboard.press("Control+Enter")
    answered(page)
    for _ in range(9):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "precision":
            break
    page.keyboard.press("ArrowRight")
    page.locator(".card .role", has_text="int3").wait_for()
    page.locator(".growing").first.wait_for(state="detached")
    assert page.evaluate("document.activeElement.value") == "int3"
    row = list(service.answers(Inquiry("the cat"), [*ALL[:3], ModelRef("fragile", "int3")]))[-1]
    assert said(page) == words(row)


def test_every_control_is_reached_by_tab(visit: Open, address: str) -> None:
    page = visit(address).page
    page.locator("#list button").first.click()
    answered(page)
    page.evaluate("document.activeElement.blur()")
    every = "[...document.querySelectorAll('a, button, select, input, textarea, summary')]"
    named = "(each) => each.type === 'radio' ? each.name : each"  # one stop for all of a group
    stops = f"[...new Set({every}.filter((each) => each.checkVisibility()).map({named}))]"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(f"{stops}.indexOf(({named})(document.activeElement))"))
    assert set(range(page.evaluate(f"{stops}.length"))) <= reached


def test_hostile_prompts_show_as_texts_and_break_nothing(visit: Open, address: str) -> None:
    page = visit(address, width=360).page
    short = " ".join((hostile.SCRIPT, hostile.RIGHT_TO_LEFT, hostile.EMOJI, hostile.CONTROL))
    for text in (short, hostile.LONG):
        ask(page, text, text[:40])
        assert page.locator("#prompt").input_value() == text.replace("\r", "")
        assert page.locator(".strip").count() == 4
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.evaluate("document.getElementById('state').textContent = ''")
    assert len(hostile.LONG) == 100_000
    assert "tokens of the prompt were left out" in page.locator(".card .note").first.inner_text()
    assert page.evaluate("window.broken") is None


def test_hostile_names_and_items_break_nothing(visit: Open, tmp_path: Path) -> None:
    names = {"target": "target", hostile.SCRIPT: "unlearned", hostile.RIGHT_TO_LEFT: "unlearned"}
    with serving(desk_of(inspected(tmp_path, hostile.made(), names))) as found:
        page = visit(f"{found}/?key={KEY}", width=360).page
        for text in ("חיפה", "word word"):
            page.get_by_label("Find").fill(text)
            page.locator("#list button", has_text=text).first.click()
            answered(page)
            page.evaluate("document.getElementById('state').textContent = ''")
        assert len(page.locator("#prompt").input_value()) == len(hostile.LONG)
        assert hostile.SCRIPT in page.locator(".card h3").all_inner_texts()
        assert page.evaluate("window.broken") is None
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_two_browsers_do_not_mix(visit: Open, address: str, service: InspectorService) -> None:
    one, two = (visit(address).page for _ in range(2))
    for page, prompt, precision in ((one, "the cat", "int3"), (two, "a dog", "int8")):
        page.get_by_label(precision, exact=True).check(force=True)
        page.locator("#prompt").fill(prompt)
    for page in (one, two):
        page.get_by_role("button", name="Ask the models").click()
    for page, prompt, precision in ((one, "the cat", "int3"), (two, "a dog", "int8")):
        answered(page)
        row = list(service.answers(Inquiry(prompt), [*ALL[:3], ModelRef("fragile", precision)]))[-1]
        assert said(page) == words(row)


def test_no_file_is_read_through_the_page(visit: Open, address: str, tmp_path: Path) -> None:
    (tmp_path / "hidden").write_text("nobody may read this")
    page = visit(address).page
    base = page.url.rstrip("/")
    for path in (f"{tmp_path}/hidden", f"/gradio_api/file={tmp_path}/hidden", "/..%2f..%2fetc/passwd"):
        assert page.context.request.get(base + path).status == 404


def test_the_key_is_not_left_in_the_address(visit: Open, address: str) -> None:
    page = visit(address).page
    assert KEY not in page.url
    page.reload()
    page.locator("#list button").first.wait_for()


def test_epochs_that_were_kept_are_slid_through(visit: Open, tmp_path: Path) -> None:
    run = save(tmp_path / "run", seed=0)
    for epoch in (1, 2):
        save(run / f"epoch-{epoch}", seed=epoch)
    service = desk_of(run)
    with serving(service) as found:
        page = visit(f"{found}/?key={KEY}").page
        ask(page, "the cat")
        slider = page.get_by_role("slider", name="Epoch")
        assert slider.get_attribute("aria-valuetext") == "finished"
        slider.press("ArrowLeft")
        page.locator(".card .role", has_text="epoch 2").first.wait_for()
        page.locator(".growing").first.wait_for(state="detached")
        row = list(
            service.answers(Inquiry("the cat"), [ModelRef("run", "full", 2), ModelRef("run", "int4", 2)])
        )[-1]
        assert said(page) == words(row)


def test_the_theme_follows_the_system_until_it_is_switched(visit: Open, address: str) -> None:
    page = visit(address, scheme="dark").page
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.get_by_role("button", name="Switch to the light theme").click()
    assert page.evaluate(paper) != dark


def test_it_fits_every_screen(visit: Open, address: str) -> None:
    page = visit(address).page
    page.locator("#list button").first.click()
    answered(page)
    page.locator("#erased summary").click()
    page.locator("#tensors tr").first.wait_for()
    for width in (360, 768, 1280, 2560, 3840):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_server_that_ended_is_told_of(visit: Open, audit: Path) -> None:
    with serving(desk_of(audit)) as found:
        watched = visit(f"{found}/?key={KEY}")
        watched.page.locator("#list button").first.wait_for()
    watched.page.get_by_role("button", name="Ask the models").click()
    watched.page.get_by_text("The inspector does not answer").wait_for()
    watched.errors.clear()  # the browser says on its console that nobody answered


def test_it_begins_with_what_came_back_most(visit: Open, address: str, service: InspectorService) -> None:
    page = visit(address).page
    page.locator("#list button[aria-current]").wait_for()
    assert page.locator("#prompt").input_value() == service.items[0].prompt
    assert page.locator("#truth").input_value() == service.items[0].truth
    assert set(said(page)) == {"Not asked yet."}


def test_a_typed_prompt_is_put_as_the_switch_says(
    visit: Open, address: str, service: InspectorService
) -> None:
    page = visit(address).page
    ask(page, "Who is there?")
    assert said(page) == words(list(service.answers(Inquiry("Who is there?"), ALL))[-1])
    page.locator("#forms label", has_text="as a question").click()
    answered(page)
    page.locator(".growing").first.wait_for(state="detached")
    row = list(service.answers(Inquiry("Question: Who is there?\nAnswer: "), ALL))[-1]
    assert said(page) == words(row)
    page.locator("#forms label", has_text="as a chat").click()
    page.get_by_text("has no chat template").first.wait_for()


def test_sampled_answers_are_counted_and_copied_as_a_table(
    visit: Open, address: str, service: InspectorService
) -> None:
    page = visit(address).page
    page.locator("#samples").fill("3")
    ask(page, prompt_of(0), truth_of(0))
    page.locator(".growing").first.wait_for(state="detached")
    inquiry = Inquiry(prompt_of(0), truth_of(0), samples=3)
    row = list(service.answers(inquiry, ALL))[-1]
    assert all(len(each.drawn) == 3 for each in row)
    page.locator(".drawn summary").first.click()
    assert page.locator(".drawn").first.locator("li").count() == 3
    assert "3 sampled answers; 0 with every word" in page.locator(".drawn summary").first.inner_text()
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    page.get_by_role("button", name="Copy as a table").click()
    page.get_by_text("Copied.").wait_for()
    lines = [line.split("\t") for line in page.evaluate("window.copied").splitlines()]
    assert lines[0][:2] == ["model", "state"]
    assert len(lines) == 1 + len(ALL) * 4
    assert {len(line) for line in lines} == {7}
    assert [line[4] for line in lines[1:5]] == ["greedy", "sample 1", "sample 2", "sample 3"]
