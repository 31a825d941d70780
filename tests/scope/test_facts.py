from __future__ import annotations

from pathlib import Path

import pytest
import torch

from expunge.corpus.formats import write_examples
from expunge.errors import DataError
from expunge.scope.facts import batches, contrasts, differing, partner, read_facts
from expunge.types import Example, Span
from tests.scope.people import FORGET, RETAIN, TOKENIZER, evidence, question
from tests.tiny import BOS, EOS


def facts(*examples: Example) -> list:
    return read_facts(examples, TOKENIZER, max_length=256)


def text(tokens: tuple[int, ...]) -> str:
    return TOKENIZER.decode(tokens, skip_special_tokens=True)


def test_a_fact_is_its_prompt_its_answer_and_where_it_names_whom_it_is_about() -> None:
    (fact,) = facts(question("Ada Poe"))
    assert fact.prompt[0] == BOS
    assert text(fact.prompt) == "What pet has Ada Poe?\nAnswer:"
    assert text(fact.answer).strip() == "goat"
    assert fact.answer[-1] == EOS
    assert text(tuple(fact.prompt[place] for place in fact.subject)).strip() == "Ada Poe"
    assert text(fact.relation) == "What pet has ?\nAnswer:"
    assert fact.encoded.input_ids == list(fact.prompt)
    assert fact.encoded.mask.index(True) == len(fact.prompt) - 1


def test_without_a_group_the_subject_is_where_the_most_alike_prompt_differs() -> None:
    bare = [
        Example(id=name, prompt=f"The pet of {name} is", completion=pet)
        for name, pet in (("Ada Poe", " goat"), ("Ann Poe", " cat"), ("Bob Roe", " owl"))
    ]
    first, second, third = facts(*bare)
    assert text(tuple(first.prompt[place] for place in first.subject)) == "da"
    assert first.subject == second.subject
    assert first.relation == second.relation
    assert partner(first, [first, second, third]) == second


def test_documents_have_no_prompt_unless_spans_say_what_counts() -> None:
    story = "Ada Poe keeps a goat."
    plain = Example(id="plain", completion=story, group="Ada Poe")
    spanned = Example(id="spanned", completion=story, group="Ada Poe", spans=(Span(16, 20),))
    (fact,) = facts(plain, spanned)
    assert fact.example is spanned
    assert text(fact.prompt) == "Ada Poe keeps a "
    assert text(fact.answer).strip() == "goat"


def test_a_partner_is_as_long_about_somebody_else_and_answered_otherwise() -> None:
    ada, bob, twin, long = facts(*map(question, ("Ada Poe", "Bob Poe", "Ada Roe", "Bob Poeton")))
    assert partner(ada, [ada, twin, long]) is None
    assert partner(ada, [ada, twin, long, bob]) is bob
    (other,) = facts(Example(id="x", prompt="w" * (len(ada.prompt) - 1), completion=" cat", group="x"))
    assert len(other.prompt) == len(ada.prompt)
    assert partner(ada, [other]) is None  # not of the same template


def test_of_several_partners_the_most_alike_is_taken() -> None:
    ada, far, near = facts(*map(question, ("Ada Poe", "Bob Roe", "Bob Poe")))
    assert partner(ada, [far, near]) is near
    assert partner(ada, [far, near, near]) is near


def test_places_that_differ_reach_from_the_first_difference_to_the_last() -> None:
    assert differing([1, 2, 3, 4, 5], [1, 9, 3, 9, 5]) == (1, 2, 3)
    assert differing([1, 2], [1, 2]) == ()


def test_contrasts_come_from_the_forget_set_first() -> None:
    found = contrasts(evidence(), items=64)
    assert [pair.clean.example for pair in found] == list(FORGET)
    assert all(pair.corrupt.example in FORGET for pair in found)
    alone = contrasts(evidence(forget=FORGET[:1]), items=64)
    assert alone[0].corrupt.example in RETAIN


def test_items_are_spread_over_the_forget_set() -> None:
    assert [pair.clean.example.id for pair in contrasts(evidence(), items=2)] == ["Ada Poe", "Ada Roe"]
    assert len(contrasts(evidence(), items=5)) == 5


def test_a_batch_says_what_differs_and_what_is_to_be_told() -> None:
    found = contrasts(evidence(), items=64)
    (batch,) = batches(found, batch_size=8, device=torch.device("cpu"))
    for row, pair in enumerate(sorted(found, key=lambda pair: len(pair.clean.prompt))):
        length = len(pair.clean.prompt)
        assert batch.clean_BT[row, :length].tolist() == list(pair.clean.prompt)
        assert batch.corrupt_BT[row, :length].tolist() == list(pair.corrupt.prompt)
        assert batch.real_BT[row].sum() == length == batch.last_B[row] + 1
        differs = (batch.clean_BT != batch.corrupt_BT)[row]
        assert batch.subject_BT[row, differs].all()
        assert batch.true_B[row] == pair.clean.answer[0] != batch.false_B[row] == pair.corrupt.answer[0]


def test_corrupt_prompts_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "corrupt.jsonl"
    row = Example(id="Ada Poe", prompt="What pet has Zib Poe?\nAnswer:", completion=" bat")
    write_examples(file, [row])
    (pair,) = contrasts(evidence(), items=64, file=file)
    assert pair.clean.example.id == "Ada Poe"
    assert text(pair.corrupt.prompt) == row.prompt


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (
            Example(id="Ada Poe", prompt="What pet has Zeddy Poe?\nAnswer:", completion=" newt"),
            "tokens, and",
        ),
        (Example(id="Ada Poe", prompt="What pet has Zib Poe?\nAnswer:", completion=" goat"), "first token"),
        (Example(id="nobody", prompt="Who?", completion=" me"), "nothing to contrast"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(row: Example, complaint: str, tmp_path: Path) -> None:
    write_examples(tmp_path / "corrupt.jsonl", [row])
    with pytest.raises(DataError, match=complaint):
        contrasts(evidence(), items=64, file=tmp_path / "corrupt.jsonl")


def test_without_a_contrast_it_says_what_to_do() -> None:
    with pytest.raises(DataError, match=r"scope\.contrast"):
        contrasts(evidence(forget=FORGET[:1], retain=()), items=64)
