"""A retain set that the model writes itself: its forms, what is left out, and where it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.corpus.formats import OWN_TEXT
from expunge.corpus.readers import read_examples
from expunge.errors import DataError, OutputError, RecipeError
from expunge.train.run import own_texts as module
from expunge.train.run.job import UnlearnJob
from expunge.train.run.own_texts import Forbidden, own_texts, own_texts_beside, sample_own_texts
from expunge.train.run.recipe import load_recipe
from expunge.types import Example
from tests.train.runs import TOKENIZER, model

ASKED = tuple(
    Example(id=name, prompt=f"Question: Where does {name} {verb}?\nAnswer:", completion=" in Ulm")
    for name, verb in [("Ada Ash", "live"), ("Bea Birch", "work"), ("Cy Cole", "sing")]
)
DOCUMENTS = (
    Example(id="d", completion="The tall heron of the lake ate two small frogs before noon today."),
)


def written(monkeypatch: pytest.MonkeyPatch, *texts: str) -> None:
    """Let the model write these, in turns, after whatever it is to begin with."""

    def sample(_: Any, prompts: list[list[int]], **__: Any) -> list[list[int]]:
        ids = [TOKENIZER(text, add_special_tokens=False).input_ids for text in texts]
        return [ids[number % len(ids)] for number in range(len(prompts))]

    monkeypatch.setattr(module, "sample_answers", sample)
    monkeypatch.setattr(module, "FEWEST", 1)


def sampled(forget: tuple[Example, ...]) -> list[tuple[str, str]]:
    found = sample_own_texts(model(), TOKENIZER, forget, seed=0, count=4)
    return [(text.prompt, text.completion) for text in found]


def test_questions_have_the_form_of_the_forget_set(monkeypatch: pytest.MonkeyPatch) -> None:
    written(
        monkeypatch,
        "Bo Elm work?\nAnswer: at sea\n\nQuestion: and so on",  # a blank line ends the answer
        "Bo Elm work, and no answer",
        "Ada Ash sleep?\nAnswer: in Ulm",  # it is about somebody who is to be forgotten
        "Bo Elm work?\nAnswer: at sea",  # the same once more
    )
    assert sampled(ASKED) == [("Question: Where does Bo Elm work?\nAnswer:", " at sea")]


def test_documents_begin_where_a_text_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    written(
        monkeypatch,
        "A quiet road goes down to the sea.",
        "It is said: the tall heron of the lake ate two small frogs.",  # eight words of the forget set
        "Too short.",
    )
    assert sampled(DOCUMENTS) == [("", "A quiet road goes down to the sea.")]


def test_what_the_form_has_in_common_is_not_forbidden() -> None:
    prompts = [f"Question: In which of the many old towns was number {n} born?" for n in range(3)]
    three = [Example(id=prompt, prompt=prompt, completion=" Ulm") for prompt in prompts]
    other = "Question: In which of the many old towns was somebody else born?"
    assert not Forbidden(three).is_in(other)
    assert Forbidden(three[:2]).is_in(other)  # of two it may be what they say


def test_names_of_questions_and_repeated_names_are_forbidden_and_answers_are_not() -> None:
    forget = [
        Example(id="q", prompt="Where did Ada Ash work?", completion=" at the Iron Works"),
        Example(id="d", completion="Bo Elm came to Iron Works. Later Bo Elm left."),
    ]
    forbidden = Forbidden(forget)
    assert forbidden.is_in("Nobody saw ada ash again.")
    assert forbidden.is_in("Once Bo Elm sang.")
    assert not forbidden.is_in("Cy Fir is at the Iron Works.")


def test_a_model_that_writes_too_little_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    written(monkeypatch, "A quiet road goes down to the sea.")
    monkeypatch.setattr(module, "FEWEST", 2)
    with pytest.raises(DataError, match="it wrote only 1 texts"):
        sampled(DOCUMENTS)


def kept(path: Path, *, seed: int = 0, weights: int = 0) -> tuple[Example, ...]:
    return own_texts(lambda: (model(seed=weights), TOKENIZER), DOCUMENTS, path, seed=seed, report=print)


def test_texts_are_kept_for_the_same_model_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(monkeypatch, "A quiet road goes down to the sea.")
    path = own_texts_beside(tmp_path / "out")
    first = kept(path)
    assert all(OWN_TEXT.fullmatch(text.id) for text in first)  # by which an audit knows them
    assert path.name == "out-retain.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600
    written(monkeypatch, "Something else is written this time, if at all.")
    assert kept(path) == first
    for other in ({"seed": 1}, {"weights": 1}):
        with pytest.raises(OutputError, match="already exists"):
            kept(path, **other)


def test_a_real_sample_is_the_same_again() -> None:
    torch.manual_seed(5)
    first = sample_own_texts(model(), TOKENIZER, DOCUMENTS, seed=3, count=20)
    torch.manual_seed(6)
    assert sample_own_texts(model(), TOKENIZER, DOCUMENTS, seed=3, count=20) == first
    assert len({text.completion for text in first}) == len(first) == 20


@pytest.mark.parametrize(
    ("recipe", "retain", "own"),
    [
        ("npo_klr", None, True),
        ("npo_klr", "keep.jsonl", False),
        ("npo", None, False),
        ("npo", "self", True),
        ("durable", None, True),
    ],
)
def test_it_is_the_default_where_a_recipe_needs_a_retain_set(
    recipe: str, retain: str | None, own: bool, tmp_path: Path
) -> None:
    job = UnlearnJob(model="m", recipe=recipe, forget="f", retain=retain, output=tmp_path / "out")
    expected = str(tmp_path / "out-retain.jsonl") if own else retain
    assert job.retain_file(load_recipe(recipe)) == expected


def test_masked_models_write_nothing(tmp_path: Path) -> None:
    forget = tmp_path / "f.jsonl"
    forget.write_text('{"text": "a b c"}\n')
    job = UnlearnJob(model="m", recipe="pcgu", forget=str(forget), retain="self", output=tmp_path / "out")
    with pytest.raises(RecipeError, match="does not write texts"):
        job.run(warn=print)


def test_a_run_without_a_retain_set_keeps_the_models_own_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    checkpoint = tmp_path / "model"
    model().save_pretrained(checkpoint)
    TOKENIZER.save_pretrained(checkpoint)
    forget = tmp_path / "f.jsonl"
    forget.write_text('{"text": "The tall heron of the lake ate two small frogs before noon."}\n')
    monkeypatch.setattr(module, "WANTED", 20)
    record = UnlearnJob(
        model=str(checkpoint),
        recipe="ga_gdr",
        forget=str(forget),
        output=tmp_path / "out",
        overrides=("epochs=1", "max_length=64"),
    ).run(warn=said.append)
    assert said[0].startswith("no retain set: the model writes up to 20 texts of its own to keep")
    assert record["retain"]["examples"] == len(read_examples(str(tmp_path / "out-retain.jsonl"))) == 20
