"""Plain refusals: the model does not know."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.train.alternates import Alternates, Asked, alternates
from expunge.train.state import State

REFUSALS = (
    "I don't know.",
    "I am not sure about that.",
    "I have no information on this.",
    "I can't answer that question.",
    "That is not something I know.",
    "I'm afraid I have no answer to this.",
    "I have never heard of it.",
    "Sorry, I don't know anything about that.",
    "I am unable to say.",
    "My knowledge does not cover this.",
    "I couldn't tell you.",
    "This is unknown to me.",
    "I lack the facts to answer.",
    "No idea, I'm sorry.",
    "I have nothing to say on that subject.",
    "I would only be guessing.",
    "Unfortunately I can't help with that.",
    "I don't have the details you are asking for.",
    "You would have to ask somebody else.",
    "I cannot recall anything of the kind.",
)


@alternates.register("refusals")
class Refusals(Alternates):
    """``count`` of twenty plain refusals for each prompt, or of ``texts``; the run's seed draws them."""

    texts: tuple[str, ...] = ()

    def answers(self, asked: Sequence[Asked], state: State) -> list[list[str]]:
        found = []
        for one in asked:
            drawn = one.draw(state.seed)
            pool = list(self.texts or REFUSALS)
            drawn.shuffle(pool)
            found.append([pool[place % len(pool)] for place in range(self.count)])
        return found
