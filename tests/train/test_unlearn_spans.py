"""Selective forgetting: spans go, what stands beside them is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.corpus.tokenise import completion_tokens, encode
from expunge.errors import DataError, ModelError
from expunge.files import write_json
from expunge.model.load import save_model
from expunge.train.methods.unlearn_spans import SELECTION, Selector, UnlearnSpans, span_complement, spans_of
from expunge.train.run.recipe import load_recipe
from expunge.train.run.state import Corpus, State
from expunge.types import Example, Span
from tests.corpus import tokenizers_for_tests as known
from tests.tiny import tiny_tokenizer
from tests.train.runs import CORPUS, FORGET, TOKENIZER, model, recipe, run, unlearn, weights

SPANS: dict[str, Any] = {
    "name": "unlearn_spans",
    "forget": "ga",
    "learning_rate": 1e-3,
    "epochs": 1,
    "batch_size": 3,
    "max_length": 128,
}
MARKED = (
    replace(FORGET[0], spans=(Span(0, 11), Span(24, 29))),
    replace(FORGET[2], spans=(Span(4, 9),)),
    FORGET[3],
)
TEXT = "Mira Oswick: call 555-0199 or wríte to m@x.org, ünder two names."


def spans(**changed: Any) -> Any:
    return recipe(SPANS | changed)


def state(folder: Path, corpus: Corpus) -> State:
    return State(model=model(), tokenizer=TOKENIZER, corpus=corpus, workdir=folder)


ranges = st.lists(
    st.tuples(st.integers(0, len(TEXT) - 1), st.integers(1, 12)).map(
        lambda pair: Span(pair[0], min(len(TEXT), pair[0] + pair[1]))
    ),
    min_size=1,
    max_size=4,
)


@given(
    chosen=ranges, prompt=st.sampled_from(["", "Who? "]), tokenizer=st.sampled_from(["bytes", "metaspace"])
)
@settings(max_examples=40, deadline=None)
def test_no_token_counts_on_both_sides_and_every_one_on_one(
    chosen: list[Span], prompt: str, tokenizer: str
) -> None:
    cutter: Any = TOKENIZER if tokenizer == "bytes" else known.metaspace()
    example = Example(id="x", prompt=prompt, completion=TEXT, spans=tuple(chosen))
    masks = [
        encode(each, cutter, max_length=512, eos=False)[0].mask
        for each in (example, span_complement(example, cutter), replace(example, spans=()))
        if each is not None
    ]
    inside, *outside, whole = masks
    both = list(zip(inside, outside[0], strict=True)) if outside else [(one, False) for one in inside]
    assert not any(one and other for one, other in both)
    assert [one or other for one, other in both] == whole


def test_what_stands_beside_is_the_rest_of_the_text() -> None:
    beside = span_complement(MARKED[0], TOKENIZER)
    assert beside is not None
    assert beside.id == "f0/beside"
    text = beside.completion
    assert "".join(text[a:b] for a, b in beside.spans).split() == "was born in and became a baker.".split()
    assert span_complement(FORGET[0], TOKENIZER) is None
    assert span_complement(replace(FORGET[1], spans=(Span(0, 8),)), TOKENIZER) is None


def test_tokens_in_a_row_are_one_span() -> None:
    offsets = [(0, 2), (2, 5), (6, 7), (7, 9)]
    assert spans_of(offsets, [True, True, False, True]) == (Span(0, 5), Span(7, 9))
    assert spans_of(offsets, [False] * 4) == ()
    assert spans_of([(0, 0)], [True]) == ()


def test_only_spans_are_forgotten_and_texts_without_one_are_left_out(tmp_path: Path) -> None:
    told: list[str] = []
    found = state(tmp_path, Corpus(forget=MARKED))
    found.warn = told.append
    UnlearnSpans.model_validate({key: value for key, value in SPANS.items() if key != "name"}).run(found)
    assert told == ["1 of 3 texts have no span and are left out."]
    (facts,) = found.facts
    assert (facts["spans"], facts["span_characters"], facts["texts_left_out"]) == (3, 11 + 5 + 5, 1)
    assert found.corpus.forget == MARKED
    run(
        unlearn(forget="ga", retain=None, epochs=1, batch_size=3),
        tmp_path / "plain",
        corpus=Corpus(forget=MARKED[:2]),
    )
    run(spans(), tmp_path / "spans", corpus=Corpus(forget=MARKED))
    assert weights(tmp_path / "spans") == weights(tmp_path / "plain")


def test_spans_over_everything_are_the_whole_text(tmp_path: Path) -> None:
    documents = tuple(one for one in FORGET if one.is_document)
    whole = tuple(replace(one, spans=(Span(0, len(one.completion)),)) for one in documents)
    run(spans(), tmp_path / "spans", corpus=Corpus(forget=whole))
    run(
        unlearn(forget="ga", retain=None, epochs=1, batch_size=3),
        tmp_path / "plain",
        corpus=Corpus(forget=documents),
    )
    assert weights(tmp_path / "spans") == weights(tmp_path / "plain")


def test_what_stands_beside_is_kept_with_the_retain_set(tmp_path: Path) -> None:
    chosen = spans(forget={"name": "npo", "beta": 0.1}, retain="klr").stages[0]
    assert chosen.needs == {"spans"}
    alone = chosen._encode(state(tmp_path, Corpus(forget=MARKED)))
    assert [one.example for one in alone.retain] == ["f0/beside", "f2/beside"]
    both = chosen._encode(state(tmp_path, Corpus(forget=MARKED, retain=CORPUS.retain)))
    assert [one.example for one in both.retain] == ["r0", "r1", "r2", "r3", "f0/beside", "f2/beside"]
    without = spans(forget="npo", retain="klr", beside=False).stages[0]
    assert without.needs == {"spans", "retain"}
    assert len(without._encode(state(tmp_path, Corpus(forget=MARKED, retain=CORPUS.retain))).retain) == 4
    run(spans(forget="npo", retain="klr"), tmp_path / "out", corpus=Corpus(forget=MARKED))


def test_what_cannot_work_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="without spans"):
        run(spans(), tmp_path / "out", corpus=CORPUS)
    with pytest.raises(DataError, match="no retain set"):
        run(spans(retain="klr", beside=False), tmp_path / "out", corpus=Corpus(forget=MARKED))
    with pytest.raises(ModelError, match="no such folder"):
        run(spans(select={"reference": tmp_path / "nowhere"}), tmp_path / "out", corpus=CORPUS)
    whole = tuple(replace(one, spans=(Span(0, len(one.completion)),)) for one in FORGET)
    with pytest.raises(DataError, match="marked from start to end"):
        run(spans(retain="gdr"), tmp_path / "out", corpus=Corpus(forget=whole))


@pytest.fixture(scope="module")
def memorised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference that is random, and a model that knows ``FORGET`` by heart."""
    home = tmp_path_factory.mktemp("models")
    save_model(model(seed=1), TOKENIZER, home / "reference")
    tune = {"name": "finetune", "on": "forget", "epochs": 60, "batch_size": 5, "learning_rate": 1e-2}
    run(recipe(tune | {"max_length": 128, "save_every": 1000}), home / "knows")
    return home


def test_tokens_are_chosen_against_a_model_that_never_saw_them(memorised: Path) -> None:
    from expunge.model.load import load_model

    knows = load_model(memorised / "knows")
    selector = Selector(reference=memorised / "reference", below=0.5)
    found = selector(knows, TOKENIZER, FORGET, max_length=128)
    assert all(choice.chosen == choice.tokens > 3 for choice in found)  # a random model finds all unlikely
    assert found[0].example.spans == (Span(0, len(FORGET[0].completion)),)
    with pytest.raises(DataError, match="no token was selected"):
        Selector(reference=memorised / "knows")(knows, TOKENIZER, FORGET, max_length=128)
    with pytest.raises(DataError, match="no token was selected"):
        Selector(reference=memorised / "reference", gain=99)(knows, TOKENIZER, FORGET, max_length=128)


def test_the_threshold_is_on_the_reference_and_the_gain_on_both(
    memorised: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = Example(id="x", completion="the men")
    count = len(completion_tokens(example, TOKENIZER).ids)
    p_reference = torch.linspace(0.05, 0.95, count)
    told = iter([torch.full((count,), 0.4).log(), p_reference.log()])
    monkeypatch.setattr("expunge.train.methods.unlearn_spans._logps", lambda *_: [next(told)])
    (choice,) = Selector(reference=memorised / "reference", below=0.6)(
        model(), TOKENIZER, [example], max_length=64
    )
    assert choice.chosen == int((p_reference < 0.4).sum())


def test_every_counted_token_has_its_place_without_bos_too(memorised: Path) -> None:
    from expunge.train.methods.unlearn_spans import _places

    plain = tiny_tokenizer(all_bytes=True, adds_bos=False)
    plain.bos_token = None
    example = Example(id="x", completion="the men went out in the rain and the wind")
    count = len(completion_tokens(example, plain).ids)
    assert _places(example, TOKENIZER, 8) == list(range(count))
    assert _places(example, plain, 8) == [place for place in range(count) if place % 8]


def test_a_choice_made_by_the_run_is_written_without_the_text(memorised: Path, tmp_path: Path) -> None:
    chosen = spans(select={"reference": memorised / "reference", "below": 0.5}, retain=None)
    assert chosen.stages[0].needs == set()
    run(chosen, tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / SELECTION).read_text().splitlines()]
    assert [row["id"] for row in rows] == [example.id for example in FORGET]
    assert all(row["chosen_tokens"] <= row["tokens"] for row in rows)
    assert "Mira" not in (tmp_path / "out" / SELECTION).read_text()


def test_a_reference_with_other_tokens_is_refused(memorised: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save_model(model("gpt2"), tiny_tokenizer(all_bytes=True), other)
    spec = json.loads((other / "tokenizer.json").read_text())
    spec["model"]["merges"] = []
    write_json(other / "tokenizer.json", spec)
    with pytest.raises(ModelError, match="tokenizer differs from the model's"):
        Selector(reference=other)(model(), TOKENIZER, FORGET, max_length=128)


@pytest.mark.parametrize("name", ["seul", "seul_npo"])
def test_the_recipes_stop_at_what_unseen_spans_are_known_by(name: str) -> None:
    (stage,) = load_recipe(name).stages
    assert isinstance(stage, UnlearnSpans)
    assert stage.stop is not None
    assert stage.stop.memorised is not None
    assert stage.stop.memorised.of == "spans"
    assert stage.needs == {"spans", "holdout"}
