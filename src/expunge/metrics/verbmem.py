"""VerMem: does the model continue a document of the forget set word for word?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import Field, PositiveInt

from expunge.corpus.boundary import plain
from expunge.errors import ModelError
from expunge.metrics import metrics
from expunge.metrics.base import Metric, MetricRole, not_applicable
from expunge.metrics.knowmem import SAMPLED, STEMMED
from expunge.metrics.rouge_recall import READ, Protocol, rouge_l, stems, words
from expunge.types import Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from expunge.inference.observer import Observer
    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes
    from expunge.types import Example

_SHOWN = 200


class SplitDocument(NamedTuple):
    """A document split in two: the prompt, and the true continuation.

    ``left`` is the number of tokens to compare when the document ends early, else ``None``.
    """

    prompt: str
    truth: str
    left: int | None


@metrics.register("verbmem")
class VerMem(Metric):
    """ROUGE-L F1 (x 100) of the greedy continuation of a document against its true continuation.

    As in MUSE's code the tokenizer's special tokens count among those of the truth, so a tokenizer that
    adds BOS leaves one fewer of the text. A document that ends sooner is compared over as many tokens
    as it has left. Where the probes bring beginnings of their own (the split ``verbatim``), these are
    continued instead.

    Source: Shi et al. 2024 (MUSE, arXiv 2407.06460), section 3.1 and its released evaluation.
    """

    title: ClassVar[str] = "Verbatim memory of the forget set"
    role: ClassVar[MetricRole] = MetricRole.VERBATIM
    definition: ClassVar[str] = "ROUGE-L of the continuation of forget-set documents"
    source: ClassVar[str] = "MUSE (arXiv 2407.06460): VerMem"
    lower_is_better: ClassVar[bool | None] = True
    caveats: ClassVar[str] = (
        "Common words in common order score without any memory: MUSE's retrained models have 14 and 21. "
        "A text that comes back in other words scores low, and only Latin letters and digits are words."
    )
    known_errors: ClassVar[tuple[str, ...]] = (SAMPLED, STEMMED)
    runs_last: ClassVar[bool] = True

    prompt_tokens: PositiveInt | None = Field(
        default=None,
        description=(
            "Tokens of the prompt; null: half the document, or as much as leaves room for the continuation."
        ),
    )
    new_tokens: PositiveInt = Field(
        default=128,
        description="The most tokens of the continuation, special tokens of the tokenizer included.",
    )
    stemmer: bool = Field(default=False, description="Whether ROUGE compares stems of words.")
    protocol: Protocol = Field(
        default="muse",
        description=(
            "Whose way of measuring is followed: `muse` (the code released with the paper), or "
            "`open_unlearning` (stems, truth within 2,048 tokens)."
        ),
    )

    def prefetch(self, observed: Observer, probes: Probes) -> None:
        """Beginnings of documents will be continued; who reads these documents reads them too."""
        _, cuts = self._cuts(observed, probes)
        prompts = [cut.prompt for cut in cuts if cut is not None]
        observed.prefetch(prompts, max_new_tokens=self._longest(cuts))

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """Continue every document of the forget set once, greedily."""
        documents, cuts = self._cuts(observed, probes)
        if not documents:
            return not_applicable("forget", "the forget split has no documents")
        prompts = [cut.prompt for cut in cuts if cut is not None]
        completions = iter(observed.greedy(prompts, max_new_tokens=self._longest(cuts)))
        return {
            "forget": [
                _unscored(document, "the document is too short to cut into a prompt and a continuation")
                if cut is None
                else self._score(
                    document, cut, first_tokens(next(completions), cut.left, observed.tokenizer)
                )
                for document, cut in zip(documents, cuts, strict=True)
            ]
        }

    def _cuts(
        self, observed: Observer, probes: Probes
    ) -> tuple[Sequence[Example], list[SplitDocument | None]]:
        """The documents to continue, each split in two."""
        if probes.verbatim:
            given = probes.verbatim
            return given, [
                self._pair(document.prompt, document.completion, observed.tokenizer) for document in given
            ]
        documents = probes.documents("forget")
        room = max(observed.max_length - self.new_tokens, observed.max_length // 2)
        return documents, [
            self.cut(document.completion, observed.tokenizer, room=room) for document in documents
        ]

    def _longest(self, cuts: Sequence[SplitDocument | None]) -> int:
        """Tokens to generate for all."""
        return max((self._budget(cut) for cut in cuts if cut is not None), default=self.new_tokens)

    def _budget(self, cut: SplitDocument) -> int:
        """Tokens to generate for a document: no more than can be compared, even if they merge in pairs."""
        return self.new_tokens if cut.left is None else min(self.new_tokens, 2 * cut.left)

    def cut(self, text: str, tokenizer: PreTrainedTokenizerBase, *, room: int) -> SplitDocument | None:
        """The prompt, ``room`` tokens at most, and what follows; ``None`` when the text is too short."""
        ends = token_ends(text, tokenizer)
        length = self.prompt_tokens or min(len(ends) // 2, room)
        if not 0 < length < len(ends):
            return None
        return self._pair(text[: ends[length - 1]], text[ends[length - 1] :], tokenizer, read=length)

    def _pair(
        self, prompt: str, rest: str, tokenizer: PreTrainedTokenizerBase, *, read: int | None = None
    ) -> SplitDocument:
        """A prompt of ``read`` tokens and its truth: what is compared of the ``rest``."""
        rest_ids = tokenizer(rest, add_special_tokens=True, verbose=False)["input_ids"]
        compared = self.new_tokens
        if self.protocol == "open_unlearning":
            before = len(token_ends(prompt, tokenizer)) if read is None else read
            compared = max(compared, READ - before)
        truth = tokenizer.decode(rest_ids[:compared], skip_special_tokens=True)
        left = len(token_ends(rest, tokenizer)) if len(rest_ids) < self.new_tokens else None
        return SplitDocument(prompt, str(truth), left)

    def _score(self, document: Example, cut: SplitDocument, completion: str) -> Score:
        if not words(cut.truth):
            return _unscored(
                document, "the continuation has no Latin letter or digit, all that ROUGE counts"
            )
        value = 100 * rouge_l(cut.truth, completion, stemmer=stems(self.protocol, stemmer=self.stemmer)).f1
        detail = {"prompt": cut.prompt[-_SHOWN:], "truth": cut.truth, "said": completion}
        return Score(item=document.id, value=value, group=document.group, detail=detail)


def _unscored(document: Example, reason: str) -> Score:
    return Score(item=document.id, value=None, group=document.group, unscored=reason)


def token_ends(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Where each token of ``text`` ends, in characters, without special tokens.

    Raises:
        ModelError: the tokenizer gives no character offsets.
    """
    # Cutting the text itself keeps it exact; decoding the first ids may not give it back.
    offsets = plain(text, tokenizer).offsets
    if offsets is None:
        raise ModelError(
            "this tokenizer",
            why="it gives no character offsets for tokens, and verbmem splits documents by tokens.",
            fix="Save the checkpoint with its fast tokenizer (tokenizer.json), or leave verbmem out.",
        )
    return [end for _, end in offsets]


def first_tokens(text: str, count: int | None, tokenizer: PreTrainedTokenizerBase) -> str:
    """The first ``count`` tokens of ``text``; all of it when ``count`` is ``None``."""
    if count is None:
        return text
    ends = token_ends(text, tokenizer)
    return text if len(ends) <= count else text[: ends[count - 1]]
