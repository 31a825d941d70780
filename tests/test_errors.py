from __future__ import annotations

import pickle

import pytest

from expunge import errors
from expunge.errors import ExpungeError, MissingExtraError, did_you_mean

KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ExpungeError)
]


def make(kind: type[ExpungeError]) -> ExpungeError:
    if kind is MissingExtraError:
        return MissingExtraError("the scope", extra="lora")
    return kind("the set", why="it is empty.", fix="Fill it.")


@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_travels_between_processes(kind: type[ExpungeError]) -> None:
    error = make(kind)
    back = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(back) is kind
    assert (back.what, back.why, back.fix, str(back)) == (error.what, error.why, error.fix, str(error))


def test_a_missing_extra_says_what_to_type() -> None:
    assert 'pip install "expunge[lora]"' in MissingExtraError("the scope", extra="lora").fix


def test_near_words_are_proposed_and_far_ones_listed() -> None:
    assert did_you_mean("npo_kl", ["npo_klr", "ga"]) == "Did you mean 'npo_klr'?"
    assert did_you_mean("zzz", ["npo", "ga"]) == "Known: ga, npo."
