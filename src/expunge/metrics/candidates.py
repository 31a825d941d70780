"""Among candidates, or among all words: the same knowledge, asked in the easy and in the hard way."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from expunge.metrics import metrics
from expunge.metrics.multiple_choice import Choosing, Per
from expunge.metrics.per_text import NO_TOKEN, PerText

if TYPE_CHECKING:
    from expunge.score.facts import TokenFacts
    from expunge.types import Example

SOURCE = "Lynch et al. 2024 (arXiv 2402.16835); Guo et al. 2025 (arXiv 2410.12949)"


@metrics.register("candidate_accuracy")
class CandidateAccuracy(Choosing):
    """Questions of the forget set: is the right answer likelier, by token, than its wrong ones?

    Beside ``full_vocabulary_accuracy`` it shows what is hidden rather than gone.
    """

    title: ClassVar[str] = "Right among candidates"
    definition: ClassVar[str] = (
        "share of forget questions whose right answer is likelier than the wrong ones"
    )
    source: ClassVar[str] = SOURCE
    lower_is_better: ClassVar[bool | None] = True
    misleads: ClassVar[str] = (
        "Chance is 1 over the number of candidates. Candidates that are not of the right one's kind are "
        "ruled out without knowing anything: read it beside the control's."
    )
    split: ClassVar[str] = "forget"

    per: Per = "token"


@metrics.register("full_vocabulary_accuracy")
class FullVocabularyAccuracy(PerText):
    """Texts of the forget set whose every token, given what stands before it, is the likeliest of all.

    Spans, where there are any, are all that counts; what ends an answer does not.
    """

    title: ClassVar[str] = "Right among all words"
    definition: ClassVar[str] = "share of forget texts of which every token is the likeliest of all"
    source: ClassVar[str] = SOURCE
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = True
    default: ClassVar[bool] = False
    misleads: ClassVar[str] = (
        "One word that the model would put otherwise makes a text count as forgotten. A low value with "
        "a high candidate accuracy means hidden, not gone."
    )

    def value(self, example: Example, facts: TokenFacts) -> float | str:  # noqa: ARG002
        """1 where all are, else 0."""
        right_n = facts.text.counted.right_n
        return float(right_n.all()) if len(right_n) else NO_TOKEN
