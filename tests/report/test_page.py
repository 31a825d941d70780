from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from expunge.audit.forgetting import Forgotten
from expunge.audit.verdict import Outcome
from expunge.report.page import render
from expunge.report.run import AuditRun, read_run
from tests.report import hostile
from tests.report.made import Made, prompt_of, said_of, truth_of

SECRETS = [
    text for n in range(8) for text in (prompt_of(n), truth_of(n), f"witness {n}", f"family {n // 2}")
]
BUDGET = 2_000_000


class Elements(HTMLParser):
    """What a browser would see of a page: elements with their attributes, and the text outside scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def data_of(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    loaded: dict[str, object] = json.loads(found[1])
    return loaded


def test_masked_no_text_and_no_name_of_an_item_is_anywhere_in_the_file(run: AuditRun) -> None:
    page = render(run, reveal=False)
    assert [secret for secret in SECRETS if secret in page] == []
    for word in ("witness", "cellar"):
        assert word not in page.lower()


def test_revealed_every_text_is_in_the_file(run: AuditRun) -> None:
    page = render(run, reveal=True)
    assert [secret for secret in SECRETS if secret not in page] == []
    assert said_of(7, knows=False)[:6] in page


def test_the_first_screen_answers_the_four_questions(run: AuditRun) -> None:
    page = render(run, reveal=False)
    first = page[: page.index('id="recovery"')]
    for answer in (
        "6 questions and 2 texts in 4 groups, from takedown.jsonl",
        "target (SHA-256 hash-of-targ",
        "1 of 2 unlearned models gives the forgotten text back once quantized.",
        "95 % interval +72.0 to +78.0",
        "What was not tested",
        "Attacks",
    ):
        assert answer in first.replace("&#39;", "'")


def test_nothing_of_it_comes_from_elsewhere(run: AuditRun) -> None:
    page = render(run, reveal=False)
    for _, attributes in Elements(page).tags:
        for name in ("src", "href", "action", "data", "srcset", "style", "onclick", "onload", "onerror"):
            assert (attributes.get(name) or "#").startswith("#")
    (policy,) = [
        attributes["content"]
        for tag, attributes in Elements(page).tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "@import" not in page
    assert "url(" not in page
    assert len(page.encode()) < BUDGET


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    run = hostile.made().run(tmp_path)
    page = render(run, reveal=True)
    elements = Elements(page)
    assert sum(tag == "script" for tag, _ in elements.tags) == 2
    assert not any(tag == "img" for tag, _ in elements.tags)
    assert not any("onerror" in attributes for _, attributes in elements.tags)
    texts = data_of(page)["texts"]
    assert isinstance(texts, list)
    assert {text for text in hostile.TEXTS if text and len(text) < 1000} <= {
        text for text in texts if isinstance(text, str)
    }
    assert "{{ 7 * 7 }}" in json.dumps(texts)
    assert len(page.encode()) < BUDGET


@pytest.mark.parametrize("absent", ["sources.json", "record.json", "scores.parquet"])
def test_what_is_not_known_is_left_out(run: AuditRun, absent: str) -> None:
    (run.folder / absent).unlink()
    assert "fragile" in render(read_run(run.folder), reveal=False)


@pytest.mark.parametrize("knows", [{"target": (1.0, 1.0, 1.0)}, {"fragile": (0.25, 0.25, 1.0)}])
@pytest.mark.parametrize(
    "metrics", [("knowmem_forget", "utility", "privleak"), ("privleak",), ("utility",)]
)
def test_any_audit_has_a_page(
    tmp_path: Path, knows: dict[str, tuple[float, ...]], metrics: tuple[str, ...]
) -> None:
    page = render(Made(knows=knows, metrics=metrics).run(tmp_path), reveal=False)
    assert next(iter(knows)) in page


def test_every_chart_says_in_words_what_it_shows(run: AuditRun) -> None:
    drawn = [attributes for tag, attributes in Elements(render(run, reveal=False)).tags if tag == "svg"]
    charts = [each for each in drawn if "chart" in (each.get("class") or "")]
    assert charts
    assert all(each.get("aria-label") or each.get("aria-hidden") == "true" for each in charts)
    told = [each["aria-label"] for each in charts if each.get("aria-label")]
    assert any(text and "fragile 25.0 against 93.8" in text for text in told)
    assert any(text and "below 0.1 25 %; 0.1 to 1 50 %; 1 and more 25 %" in text for text in told)


BREAKS = "this format breaks the model itself: under it the target keeps 4 % of its utility."


def words_of(page: str) -> str:
    return " ".join(" ".join(Elements(page).words).split())


def test_a_card_answers_both_questions_and_says_what_is_left_of_utility(run: AuditRun) -> None:
    page = words_of(render(run, reveal=False))
    first = page[: page.index("What was not tested")]
    assert "Forgotten? yes Does it stay so? comes back (int4); stays forgotten (int8)" in first
    assert "Forgotten? yes Does it stay so? stays forgotten (int8, int4)" in first
    assert first.count("Still useful? 93.8 of 100, before 93.8") == 2


def test_what_was_never_forgotten_does_not_stay_forgotten(tmp_path: Path) -> None:
    outcomes = {(model, "full"): Outcome.FORGOT_IN_PART for model in ("fragile", "robust")}
    page = words_of(render(Made(forgotten=Forgotten.PARTLY, outcomes=outcomes).run(tmp_path), reveal=False))
    assert "Both unlearned models forgot only a part of what was to be forgotten." in page
    assert "Forgotten? partly Does it stay so? no worse than at full precision (int8, int4)" in page
    assert "stays forgotten" not in page


def test_a_condition_that_breaks_the_target_is_greyed_and_has_no_tick(tmp_path: Path) -> None:
    page = render(Made(broken={"int4": BREAKS}).run(tmp_path), reveal=False)
    elements = Elements(page)
    greyed = [tag for tag, attributes in elements.tags if attributes.get("class") == "broken"]
    assert greyed.count("tr") == 2  # one row of each unlearned model
    assert "th" in greyed
    assert words_of(page).count("breaks the target too") == 2
    assert "Does it stay so? stays forgotten (int8)" in words_of(page)
