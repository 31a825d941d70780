from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expunge.corpus.tokenise import Encoded, encode
from expunge.errors import DataError, RecipeError
from expunge.train.alternate_answers import (
    FILE,
    REFUSALS,
    Alternates,
    RandomAnswers,
    Refusals,
    SampledAnswers,
    Writing,
    WrongAnswers,
    alternates,
    other_answers,
)
from expunge.train.methods.unlearn import Unlearn
from expunge.train.run.recipe import load_recipe
from expunge.train.run.state import Corpus, State
from expunge.types import Example, Span
from tests.train.runs import CORPUS, FORGET, RETAIN, SCOPES, TOKENIZER, model, run, unlearn

DOCUMENT, QUESTION = FORGET[0], FORGET[1]


def state(folder: Path, *, forget: tuple[Example, ...] = FORGET, seed: int = 0) -> State:
    corpus = Corpus(forget=forget, retain=RETAIN)
    return State(model=model(), tokenizer=TOKENIZER, corpus=corpus, workdir=folder / "work", seed=seed)


def made(
    alternate: Alternates,
    folder: Path,
    *,
    forget: tuple[Example, ...] = FORGET,
    seed: int = 0,
    max_length: int = 128,
    eos: bool | None = None,
) -> list[list[Encoded]]:
    pieces = [piece for one in forget for piece in encode(one, TOKENIZER, max_length=max_length, eos=eos)]
    alternate.check(Corpus(forget=forget, retain=RETAIN))
    writing = Writing(TOKENIZER, max_length, eos)
    return other_answers(alternate, pieces, state(folder, forget=forget, seed=seed), writing)


def said(one: Encoded) -> tuple[str, str]:
    """What does not count and what counts, as text."""
    parts = ([], [])
    for token, counts in zip(one.input_ids, one.mask, strict=True):
        parts[counts].append(token)
    before, after = (TOKENIZER.decode(part, skip_special_tokens=True) for part in parts)
    return before, after


def test_a_refusal_stands_where_the_answer_stood(tmp_path: Path) -> None:
    found = made(Refusals(opening=4), tmp_path)
    assert [len(each) for each in found] == [1] * len(FORGET)
    before, after = said(found[1][0])
    assert before == QUESTION.prompt
    assert after[0] == " "
    assert after[1:] in REFUSALS
    assert found[1][0].input_ids[-1] == TOKENIZER.eos_token_id
    assert found[1][0].mask[-1]


def test_a_document_is_answered_behind_its_opening(tmp_path: Path) -> None:
    found = made(Refusals(opening=4), tmp_path)
    (whole,) = encode(DOCUMENT, TOKENIZER, max_length=128)
    assert found[0][0].input_ids[:4] == whole.input_ids[:4]
    assert found[0][0].mask[:5] == [False] * 4 + [True]
    assert said(found[0][0])[1].strip() in REFUSALS
    short = made(Refusals(opening=1000), tmp_path, forget=(DOCUMENT,))[0][0]
    assert short.mask.index(True) == len(whole.input_ids) // 2


def test_every_piece_of_a_long_document_has_its_own(tmp_path: Path) -> None:
    pieces = encode(DOCUMENT, TOKENIZER, max_length=16)
    found = made(RandomAnswers(opening=4, count=1), tmp_path, forget=(DOCUMENT,), max_length=16)
    assert len(found) == len(pieces) > 1
    for (other,), piece in zip(found, pieces, strict=True):
        cut = min(4, len(piece.input_ids) // 2)
        assert other.input_ids[:cut] == piece.input_ids[:cut]
        assert other.mask.index(True) == cut
        assert len(other.input_ids) <= 16


def test_refusals_depend_on_seed_and_item_alone(tmp_path: Path) -> None:
    alternate = Refusals(opening=4, count=3)
    first, again = made(alternate, tmp_path), made(alternate, tmp_path, forget=FORGET[::-1])[::-1]
    assert first == again
    assert made(alternate, tmp_path, seed=1) != first
    assert all(len({said(one)[1] for one in each}) == 3 for each in first)
    own = made(Refusals(texts=("No idea",), opening=4, count=2), tmp_path)
    assert {said(one)[1].strip() for each in own for one in each} == {"No idea"}


def test_our_refusals_are_sentences_and_all_different() -> None:
    assert len(set(REFUSALS)) == len(REFUSALS) == 20
    assert all(text[0].isupper() and text.endswith(".") for text in REFUSALS)


def test_false_answers_are_those_of_the_data(tmp_path: Path) -> None:
    found = made(WrongAnswers(count=2), tmp_path)
    assert [said(one) for one in found[1]] == [(QUESTION.prompt, QUESTION.wrong[0])] * 2
    assert said(found[0][0]) == ("", DOCUMENT.wrong[0])  # a whole document


def test_random_answers_are_of_the_retain_set_and_of_the_same_kind(tmp_path: Path) -> None:
    found = made(RandomAnswers(opening=4, count=2), tmp_path)
    answers = {one.completion.strip() for one in RETAIN if not one.is_document}
    documents = {one.completion.strip() for one in RETAIN if one.is_document}
    assert {said(one)[1].strip() for one in found[1]} == answers
    assert {said(one)[1].strip() for one in found[0]} == documents
    own = {one.completion.strip() for one in FORGET}
    assert not {said(one)[1].strip() for each in found for one in each} & own


def test_the_right_answer_is_never_drawn(tmp_path: Path) -> None:
    shared = (Example(id="s", prompt="What is Mira?\nAnswer:", completion=" a mason"),)
    found = made(RandomAnswers(count=5), tmp_path, forget=shared)
    assert {said(one)[1] for one in found[0]} == {" the harp"}


def test_spans_do_not_move_the_prompt(tmp_path: Path) -> None:
    marked = (Example(id="m", prompt="Who?\nAnswer:", completion=" a tall baker", spans=(Span(8, 13),)),)
    assert said(made(Refusals(), tmp_path, forget=marked)[0][0])[0] == "Who?\nAnswer:"
    assert state(tmp_path, forget=marked).corpus.forget[0].spans


def test_sampled_answers_are_made_once_and_read_again(tmp_path: Path) -> None:
    alternate = SampledAnswers(opening=4, count=2, new_tokens=8)
    first = made(alternate, tmp_path)
    path = tmp_path / "work" / FILE
    kept = path.read_bytes()
    assert made(alternate, tmp_path, seed=7) == first  # from the file: another seed would say others
    assert path.read_bytes() == kept
    path.unlink()
    assert made(alternate, tmp_path, seed=7) != first
    path.unlink()
    assert made(alternate, tmp_path) == first


def test_what_holds_the_right_answer_is_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []

    def sample(_: Any, prompts: list[list[int]], **__: Any) -> list[list[int]]:
        rounds.append(len(prompts))
        text = " A  Baker, it is" if len(rounds) == 1 else " a mason"
        return [TOKENIZER(text, add_special_tokens=False)["input_ids"]] * len(prompts)

    monkeypatch.setattr("expunge.train.alternate_answers.sample_answers", sample)
    found = made(SampledAnswers(count=1), tmp_path, forget=(QUESTION,))
    assert said(found[0][0])[1] == " a mason"
    assert rounds == [1, 1]


def test_a_model_that_says_nothing_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = TOKENIZER(" a baker", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(
        "expunge.train.alternate_answers.sample_answers",
        lambda _, prompts, **__: [ids] * len(prompts),
    )
    with pytest.raises(DataError, match=r"in 3 tries .* no answer .* Raise alternate\.temperature"):
        made(SampledAnswers(count=1, tries=3), tmp_path, forget=(QUESTION,))
    assert not (tmp_path / "work" / FILE).exists()


@pytest.mark.parametrize("name", ["refusals", "random", "sampled"])
def test_a_document_without_an_opening_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"'f0' is a document.*alternate\.opening=16"):
        alternates.build(name).check(CORPUS)
    alternates.build({"name": name, "opening": 4}).check(CORPUS)
    alternates.build(name).check(Corpus(forget=(QUESTION,), retain=RETAIN))


def test_data_that_is_not_there_is_refused() -> None:
    bare = (QUESTION, Example(id="bare", prompt="Q?", completion=" a"))
    with pytest.raises(DataError, match=r"'bare' has no false answer.*set alternate="):
        WrongAnswers().check(Corpus(forget=bare))
    with pytest.raises(DataError, match=r"no retain set.*samples answers from it"):
        RandomAnswers().check(Corpus(forget=(QUESTION,)))


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("alternate=null", "forget loss 'dpo' learns another answer.*refusals, sampled, wrong"),
        ("forget=npo", "forget loss 'npo' looks at no other answers"),
        ("alternate=refusal", "alternate 'refusal'.*Did you mean 'refusals'"),
        ("alternate.count=0", "count: input should be greater than 0"),
    ],
)
def test_a_recipe_that_does_not_fit_together_is_refused(override: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        load_recipe("idk_dpo", [override])
    with pytest.raises(RecipeError, match="bound limits the retain loss, and there is none"):
        load_recipe("pdu", ["retain=null"])


def test_a_stage_needs_what_its_other_answers_need() -> None:
    assert Unlearn(forget="dpo", alternate="wrong").needs == {"wrong"}
    assert Unlearn(forget="dpo", alternate="random", retain="gdr").needs == {"retain"}
    assert Unlearn(forget="dpo", alternate="refusals").needs == frozenset()


@pytest.mark.parametrize("adversary", [None, {"name": "latent", "layer": 1, "radius": 0.5, "steps": 1}])
@pytest.mark.parametrize("scope", ["lora", "tensor", "row"])
def test_other_answers_go_with_every_scope_and_adversary(
    scope: str, adversary: dict[str, Any] | None, tmp_path: Path
) -> None:
    chosen = unlearn(
        forget="dpo",
        alternate={"name": "random", "opening": 4, "count": 2},
        scope=SCOPES[scope],
        adversary=adversary,
        epochs=1,
        accumulation=2,
    )
    (facts,) = run(chosen, tmp_path / "out")["stages"]
    assert facts["steps"] == 3
    assert facts["reference"] == ("LiveReference" if scope == "lora" else "CachedReference")
