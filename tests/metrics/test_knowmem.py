from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from expunge.metrics import metrics
from expunge.metrics.probes import Probes
from tests.corpus.tokenizers_for_tests import chatml
from tests.metrics.fakes import FakeObserver, document, question
from tests.tiny import tiny_tokenizer

ICL = tuple(question(f"icl{n}", f"icl {n}?", f"shown {n}") for n in range(12))
ASKED = question("q", "capital of France?", "Paris", group="geography")
PROBES = Probes(forget=(ASKED, document("d", "no question")), forget_icl=ICL)


def forget_scores(observer: FakeObserver, probes: Probes = PROBES, **settings: object) -> list:
    metric = metrics.build({"name": "knowmem_forget", **settings})
    return metric.measure(observer, probes)["forget"]


def test_prompt_is_ten_solved_questions_and_ends_with_a_space() -> None:
    observer = FakeObserver(say=lambda prompt: "Paris")
    (score,) = forget_scores(observer)
    ((prompts, new_tokens, stops),) = observer.asked
    shown = "".join(f"Question: icl {n}?\nAnswer: shown {n}\n\n" for n in range(10))
    assert prompts == [shown + "Question: capital of France?\nAnswer: "]
    assert new_tokens == 32
    assert stops == ("\n\n", "\nQuestion", "Question:")
    assert score.detail == {"question": ASKED.prompt, "truth": "Paris", "said": "Paris", "shots": "10"}
    assert (score.item, score.group, score.value) == ("q", "geography", 100.0)


@pytest.mark.parametrize("tail", ["\n\nQuestion: x", "\nQuestion: x", "Question: x", "\n\n", ""])
def test_answer_ends_where_the_next_question_begins(tail: str) -> None:
    (score,) = forget_scores(FakeObserver(say=lambda prompt: f"Paris{tail}"))
    assert score.detail["said"] == "Paris"
    assert score.value == 100.0


def test_value_is_rouge_l_f1_in_percent() -> None:
    # "Paris" in "Paris I think": P = 1/3, R = 1, F = 1/2.
    (score,) = forget_scores(FakeObserver(say=lambda prompt: "Paris I think"))
    assert score.value == pytest.approx(50.0)


def test_a_silent_model_scores_zero() -> None:
    (score,) = forget_scores(FakeObserver())
    assert score.value == 0.0


def test_without_solved_questions_it_is_asked_alone() -> None:
    observer = FakeObserver()
    (score,) = forget_scores(observer, replace(PROBES, forget_icl=()))
    assert observer.asked[0][0] == [ASKED.prompt]
    assert score.detail["shots"] == "0"


def test_the_question_itself_is_never_shown_solved() -> None:
    observer = FakeObserver()
    (score,) = forget_scores(observer, replace(PROBES, forget_icl=(replace(ASKED, id="copy"), *ICL[:1])))
    assert "Answer: Paris" not in observer.asked[0][0][0]
    assert score.detail["shots"] == "1"


def test_a_chat_goes_to_the_model_as_it_is() -> None:
    chat = replace(ASKED, is_chat=True)
    observer = FakeObserver(tokenizer=chatml(), model=reads(2048))
    (score,) = forget_scores(observer, replace(PROBES, forget=(chat,)))
    assert observer.asked[0][0] == [chat]
    assert score.detail["shots"] == "0"


def test_a_truth_that_rouge_cannot_read_is_unscored() -> None:
    probes = replace(PROBES, forget=(replace(ASKED, completion="東京"),))
    (score,) = forget_scores(FakeObserver(say=lambda prompt: "東京"), probes)
    assert score.value is None
    assert "Latin" in score.unscored


def test_no_questions_is_one_row_with_the_reason() -> None:
    observer = FakeObserver()
    (score,) = forget_scores(observer, Probes(forget=(document("d", "text"),)))
    assert (score.value, score.unscored) == (None, "the forget split has no questions")
    assert observer.asked == []


@pytest.mark.parametrize(
    ("name", "split", "icl"),
    [
        ("knowmem_forget", "forget", "forget_icl"),
        ("paraphrase_questions", "paraphrase_questions", "forget_icl"),
        ("utility", "retain", "retain_icl"),
        ("neighbours", "neighbours", "retain_icl"),
    ],
)
def test_each_sibling_reads_its_own_splits(name: str, split: str, icl: str) -> None:
    splits = ("forget", "paraphrase_questions", "retain", "neighbours", "forget_icl", "retain_icl")
    probes = Probes(**{each: (question(each, f"{each}?", "yes"),) for each in splits})
    observer = FakeObserver(say=lambda prompt: "yes")
    measured = metrics.build({"name": name}).measure(observer, probes)
    assert [score.item for score in measured[split]] == [split]
    assert list(measured) == [split]
    assert observer.asked[0][0] == [f"Question: {icl}?\nAnswer: yes\n\nQuestion: {split}?\nAnswer: "]


def test_shots_and_stemmer_can_be_set() -> None:
    observer = FakeObserver(say=lambda prompt: "run")
    probes = replace(PROBES, forget=(replace(ASKED, completion="running"),))
    (score,) = forget_scores(observer, probes, shots=2, stemmer=True, max_new_tokens=5)
    assert (score.value, score.detail["shots"], observer.asked[0][1]) == (100.0, "2", 5)


def reads(tokens: int) -> SimpleNamespace:
    """A model made to read so many tokens at once."""
    return SimpleNamespace(config=SimpleNamespace(max_position_embeddings=tokens))


def test_solved_questions_are_left_out_until_the_prompt_fits() -> None:
    tokenizer = tiny_tokenizer()

    def count(text: str) -> int:
        return len(tokenizer(text).input_ids)

    long = question("long", "capital of " + "a far away country " * 3 + "?", "Paris")
    context = count(long.prompt) + 2 * count(f"{ICL[0].prompt}{ICL[0].completion}\n\n") + 32
    observer = FakeObserver(tokenizer=tokenizer, model=reads(context))
    scores = forget_scores(observer, replace(PROBES, forget=(ASKED, long)))
    few, fewer = (int(score.detail["shots"]) for score in scores)
    assert 1 <= fewer < few < 10
    for prompt, asked, shots in zip(observer.asked[0][0], (ASKED, long), (few, fewer), strict=True):
        kept = [f"{each.prompt}{each.completion}\n\n" for each in ICL[: shots + 1]]
        assert prompt == "".join(kept[:shots]) + asked.prompt  # the first ones stay, the question always
        assert count(prompt) + 32 <= context < count("".join(kept) + asked.prompt) + 32


def test_a_question_too_long_by_itself_is_not_scored_and_the_others_are() -> None:
    endless = question("endless", "word " * 500, "Paris")
    observer = FakeObserver(say=lambda prompt: "Paris", tokenizer=tiny_tokenizer(), model=reads(128))
    first, second = forget_scores(observer, replace(PROBES, forget=(endless, ASKED)))
    assert (first.value, first.unscored) == (None, "the question leaves no room in the model's 128 tokens")
    assert second.value == 100.0
    assert len(observer.asked[0][0]) == 1


def test_a_prompt_that_surely_fits_is_not_counted() -> None:
    class Uncalled:
        def __call__(self, *_: object, **__: object) -> None:
            raise AssertionError("tokenised")

    (score,) = forget_scores(FakeObserver(tokenizer=Uncalled(), model=reads(2048)))
    assert score.detail["shots"] == "10"
