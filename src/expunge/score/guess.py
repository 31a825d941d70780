"""What a text will say next, guessed from what it said before: right often enough to be tried.

Models repeat themselves and their prompt, and one that memorised a text goes on with it. A guess costs
little and changes nothing: only what the model would have said itself is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LONGEST = 8
"""Tokens guessed at once at most."""


class Guess:
    """Goes on with a text as it went on after its last two tokens the last time they stood there.

    ``wanted`` is how the text is known to go on elsewhere (a document that it begins), followed while
    the model says the same.
    Source: prompt lookup decoding (Saxena 2023), greedy speculation of Stern et al. 2018 (arXiv
    1811.03115); here for whole batches.
    """

    def __init__(self, tokens: Iterable[int], wanted: Sequence[int] = ()) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, int], int] = {}
        self._wanted: Sequence[int] = ()
        self._said = 0
        self._reach = 2
        for token in tokens:
            self._append(token)
        self._wanted = wanted

    def learn(self, said: Sequence[int], guessed: int) -> None:
        """Take in what was said; all but its last token were among the ``guessed`` ones."""
        for token in said:
            self._append(token)
            if self._said < len(self._wanted) and self._wanted[self._said] != token:
                self._wanted = ()
            self._said += 1
        if guessed:
            right = len(said) - 1
            self._reach = min(LONGEST, 2 * self._reach) if right == guessed else max(1, right)

    @property
    def trust(self) -> float:
        """How often a guessed token is expected to be right, by how many were tried last."""
        return self._reach / (self._reach + 1)

    def next(self, most: int) -> list[int]:
        """At most so many tokens, fewer after guesses that were wrong."""
        most = min(most, self._reach)
        if most <= 0:
            return []
        if self._said < len(self._wanted):
            return list(self._wanted[self._said : self._said + most])
        place = self._after.get((self._tokens[-2], self._tokens[-1])) if len(self._tokens) > 1 else None
        if place is None:
            return []
        period = len(self._tokens) - place
        return [self._tokens[place + at % period] for at in range(most)]

    def _append(self, token: int) -> None:
        if len(self._tokens) > 1:
            self._after[(self._tokens[-2], self._tokens[-1])] = len(self._tokens)
        self._tokens.append(token)
