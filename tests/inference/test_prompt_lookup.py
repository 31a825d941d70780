"""Guesses by hand: what a text said after the same two tokens before, and how bold they get."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from expunge.inference.generation.decode import LONGEST, PromptLookupDrafter


def test_what_followed_the_last_two_tokens_before() -> None:
    guess = PromptLookupDrafter([1, 2, 3, 4, 5, 1, 2])
    assert guess.propose(2) == [3, 4]
    assert guess.propose(9) == [3, 4]  # no bolder than two at first
    guess.update([3, 4, 5], guessed=2)
    assert guess.propose(9) == [1, 2, 3, 4]
    guess.update([1, 9], guessed=4)
    assert guess.propose(9) == []  # nothing ever followed 1, 9


def test_the_latest_time_counts_and_a_loop_goes_round() -> None:
    assert PromptLookupDrafter([1, 2, 3, 1, 2, 4, 1, 2]).propose(2) == [4, 1]
    assert PromptLookupDrafter([7, 7, 7]).propose(2) == [7, 7]
    loop = PromptLookupDrafter([5, 6, 5, 6])
    loop.update([5, 6, 5], guessed=2)
    loop.update([6, 5, 6, 5, 6], guessed=4)
    assert loop.propose(LONGEST) == [5, 6] * (LONGEST // 2)


def test_too_short_a_text_says_nothing() -> None:
    assert (
        PromptLookupDrafter([]).propose(3)
        == PromptLookupDrafter([1]).propose(3)
        == PromptLookupDrafter([1, 2]).propose(3)
        == []
    )
    assert PromptLookupDrafter([1, 1, 1]).propose(0) == PromptLookupDrafter([1, 1, 1]).propose(-1) == []


def test_it_gets_bolder_when_right_and_meeker_when_wrong() -> None:
    guess = PromptLookupDrafter([1] * 5)
    assert len(guess.propose(99)) == 2
    for wanted in (4, 8, 8):
        tried = guess.propose(99)
        guess.update([*tried, 1], len(tried))
        assert len(guess.propose(99)) == wanted
    guess.update([1, 1, 1, 1], guessed=8)  # three of eight were right
    assert len(guess.propose(99)) == 3
    guess.update([1], guessed=3)
    assert len(guess.propose(99)) == 1


def test_how_a_document_goes_on_is_followed_while_it_is_said() -> None:
    guess = PromptLookupDrafter([1, 1, 1], wanted=[4, 5, 6])
    assert guess.propose(2) == [4, 5]
    guess.update([4, 5, 6], guessed=2)
    assert guess.propose(2) == []  # the document is at its end, and 5, 6 are new
    other = PromptLookupDrafter([1, 1, 1], wanted=[4, 5, 6])
    other.update([1], guessed=2)
    assert other.propose(2) == [1]  # it says something else: back to what it said before


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(0, LONGEST))
def test_a_guess_is_made_of_what_was_said(tokens: list[int], most: int) -> None:
    guess = PromptLookupDrafter(tokens).propose(most)
    assert len(guess) <= most
    assert set(guess) <= set(tokens)
    if guess:
        pair = tokens[-2:]
        places = [at for at in range(len(tokens) - 2) if tokens[at : at + 2] == pair]
        assert guess[0] == tokens[places[-1] + 2]
