from __future__ import annotations

import pytest

from expunge.errors import ModelError
from expunge.metrics.probes import Probes
from expunge.metrics.rouge_recall import rouge_l
from expunge.metrics.verbmem import VerMem, first_tokens, token_ends
from expunge.types import Example
from tests.metrics.fakes import FakeObserver, document, question
from tests.tiny import tiny_tokenizer

# Single letters and spaces do not merge in the tiny tokenizer: a character is a token.
LONG = "".join(f"{letter} " for letter in "xyzjkqvXYZJKQV" * 30)


def observer(say: str = "", **settings: object) -> FakeObserver:
    return FakeObserver(say=lambda prompt: say, tokenizer=tiny_tokenizer(**settings))


def only(metric: VerMem, watching: FakeObserver, text: str) -> tuple:
    (score,) = metric.measure(watching, Probes(forget=(document("d", text, group="g"),)))["forget"]
    return score, watching.asked[0][0]


def test_beginnings_that_are_given_are_continued_as_they_are() -> None:
    watching = observer(say=" y z j and on")
    given = Example(id="v", prompt="q k x", completion=" y z j", group="g")
    probes = Probes(forget=(document("d", LONG),), verbatim=(given,))
    (score,) = VerMem().measure(watching, probes)["forget"]
    assert watching.asked[0][0] == ["q k x"]
    assert (score.item, score.group, score.value) == ("v", "g", 100.0)


def test_a_given_truth_is_cut_as_the_protocol_has_it() -> None:
    whole = Probes(forget=(), verbatim=(Example(id="v", prompt=LONG[:420], completion=LONG[420:]),))
    (score,) = VerMem().measure(observer(), whole)["forget"]
    assert score.detail["truth"] == LONG[420:547]  # 127 characters are tokens, one more is BOS
    (score,) = VerMem(protocol="open_unlearning").measure(observer(), whole)["forget"]
    assert score.detail["truth"] == LONG[420:]


def test_prompt_is_half_and_truth_127_tokens_after_bos() -> None:
    watching = observer(say=LONG[420:548])
    score, prompts = only(VerMem(), watching, LONG)
    half = len(LONG) // 2
    assert prompts == [LONG[:half]]
    assert watching.asked[0][1:] == (128, ())
    assert score.detail["truth"] == LONG[half : half + 127]
    assert score.group == "g"


def test_without_bos_all_128_tokens_are_text() -> None:
    score, _ = only(VerMem(), observer(adds_bos=False), LONG)
    half = len(LONG) // 2
    assert score.detail["truth"] == LONG[half : half + 128]


def test_value_compares_the_whole_continuation_with_the_truth() -> None:
    said = LONG[420:548]  # one token more than the truth, as in MUSE
    score, _ = only(VerMem(), observer(say=said), LONG)
    assert score.value == pytest.approx(100 * rouge_l(LONG[420:547], said).f1)
    assert score.value > 98


def test_a_short_document_is_compared_over_what_it_has_left() -> None:
    text = "q k x y z j"  # 11 tokens: 5 of prompt, 6 left
    score, prompts = only(VerMem(), observer(say=" y z j and on and on"), text)
    assert prompts == ["q k x"]
    assert (score.detail["truth"], score.detail["said"]) == (" y z j", " y z j")
    assert score.value == 100.0


def test_the_prompt_leaves_room_for_the_continuation() -> None:
    watching = observer()
    watching.max_length = 200
    _, prompts = only(VerMem(new_tokens=50), watching, LONG)
    assert prompts == [LONG[:150]]


def test_prompt_tokens_can_be_set() -> None:
    _, prompts = only(VerMem(prompt_tokens=10), observer(), LONG)
    assert prompts == [LONG[:10]]


def test_prompt_is_an_exact_piece_of_the_text() -> None:
    text = "naïve café in Zürich, and then the rest of it"
    _, prompts = only(VerMem(prompt_tokens=4), observer(all_bytes=True), text)
    assert text.startswith(prompts[0])
    assert prompts[0]


@pytest.mark.parametrize("text", ["", "q"])
def test_a_document_too_short_to_cut_is_unscored(text: str) -> None:
    score, prompts = only(VerMem(), observer(), text)
    assert score.value is None
    assert "too short" in score.unscored
    assert prompts == []


def test_a_continuation_rouge_cannot_read_is_unscored() -> None:
    score, _ = only(VerMem(prompt_tokens=3), observer(all_bytes=True), "ab 東京東京")
    assert score.value is None
    assert "Latin" in score.unscored


def test_scores_stay_with_their_documents_when_one_is_unscored() -> None:
    probes = Probes(forget=(document("short", "q"), document("long", LONG), question("q", "?", "a")))
    scores = VerMem().measure(observer(say=LONG[420:547]), probes)["forget"]
    assert [(score.item, score.value) for score in scores] == [("short", None), ("long", 100.0)]


def test_no_documents_is_one_row_with_the_reason() -> None:
    (score,) = VerMem().measure(observer(), Probes(forget=(question("q", "?", "a"),)))["forget"]
    assert score.unscored == "the forget split has no documents"


def test_first_tokens() -> None:
    tokenizer = tiny_tokenizer()
    assert first_tokens("x y z", 3, tokenizer) == "x y"
    assert first_tokens("x y", 30, tokenizer) == first_tokens("x y", None, tokenizer) == "x y"
    assert first_tokens("", 3, tokenizer) == ""


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

        def __call__(self, text: str, **settings: object) -> dict[str, list[int]]:
            return {"input_ids": [1, 2]}

    with pytest.raises(ModelError, match="fast tokenizer"):
        token_ends("text", Slow())
