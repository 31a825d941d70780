"""``Observer``: what a model says and how likely it finds a text, computed once however often asked."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from expunge.corpus.pairs import Blank
from expunge.model.masked import is_masked
from expunge.model.rope import separate_rope_lengths
from expunge.score.ahead import Ahead, Found
from expunge.score.batches import Batches
from expunge.score.blanks import weigh_fills
from expunge.score.facts import TokenFacts
from expunge.score.forks import Fork, Forks
from expunge.score.gradients import gradient_norms
from expunge.score.ranks import shared
from expunge.score.said import Continuations, Wish, cut
from expunge.score.states import States, read_states
from expunge.score.texts import Text, as_text, read_texts
from expunge.types import Example

__all__ = ["Fork", "Observer", "TokenFacts", "cut"]

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Observer:
    """A model as metrics see it. Nothing is computed twice; batches are sorted by length.

    ``batch_tokens`` bounds the padded size of one batch, so that long texts come in small batches. What
    a batch shares (solved questions before each question) is read once. Launched in several processes,
    each computes a part and all of them hold the whole.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, max_length: int, batch_tokens: int = 8192
    ) -> None:
        separate_rope_lengths(model)
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._batches = Batches(batch_tokens)
        generating = Batches(batch_tokens)
        self._continuations = Continuations(model, tokenizer, generating)
        self._forks = Forks(model, tokenizer, generating, max_length=max_length)
        self._ahead = Ahead(model, tokenizer)
        self._facts: dict[Example, TokenFacts] = {}
        self._gradients: dict[Example, list[float]] = {}
        self._found: dict[Hashable, object] = {}

    def greedy(
        self, prompts: Sequence[str | Example], *, max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[str]:
        """The greedy continuation of each prompt, in order, cut before the first stop string.

        A prompt is a text, or an example whose prompt (chat template and all) is continued. A prompt is
        continued once, whoever asks: a shorter continuation is the beginning of a longer one.
        """
        return self._continuations(prompts, Wish(max_new_tokens, tuple(stop)))

    def expect(self, prompts: Sequence[str], *, max_new_tokens: int) -> None:
        """These prompts will be continued: a document that begins with one is read for both at once."""
        self._ahead.expect(prompts, max_new_tokens)

    def expect_answers(
        self, prompts: Sequence[str | Example], *, max_new_tokens: int, stop: Sequence[str] = ()
    ) -> None:
        """``greedy`` will be asked this: what ends alike is then continued in the same batches."""
        self._continuations.expect(prompts, Wish(max_new_tokens, tuple(stop)))

    def token_logps(self, examples: Sequence[Example]) -> list[Tensor]:
        """For each example the log-probability of every counted token: float32, on the CPU, [n]."""
        return [facts.counted.logp_n for facts in self.facts(examples)]

    def facts(self, examples: Sequence[Example]) -> list[TokenFacts]:
        """For each example all that one forward pass says of every token of its completion."""
        _fill(self._facts, examples, self._first)
        return [self._facts[example] for example in examples]

    def read(self, examples: Sequence[Example]) -> list[TokenFacts]:
        """As ``facts``, remembering nothing: for variants that no other metric will ask of."""
        return shared(examples, self._read)

    def forks(self, asked: Sequence[Fork]) -> list[list[int]]:
        """The token ids that the model goes on with from inside a text, by fork."""
        return self._forks(asked)

    @property
    def is_masked(self) -> bool:
        """Whether the model fills in blanks: ``fills`` is all that can be asked of it."""
        return is_masked(self.model)

    def fills(self, blanks: Sequence[Blank]) -> list[list[float]]:
        """For each blank the raw logits of its ``fills``, all of which have as many."""
        return shared(blanks, lambda own: weigh_fills(self.model, own, batches=self._batches))

    def once(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """What ``compute`` finds of this model, remembered for whoever asks by the same key."""
        if key not in self._found:
            self._found[key] = compute()
        return cast("Value", self._found[key])

    def states(self, examples: Sequence[Example], *, tokens: int) -> list[States]:
        """For each example the hidden states behind its first counted tokens; nothing is remembered."""
        return shared(examples, lambda own: self._states(own, tokens))

    def gradient_norms(self, examples: Sequence[Example]) -> list[list[float]]:
        """For each example the 2-norm of the gradient of its mean loss, by parameter tensor.

        One backward pass each: by far the dearest thing to ask.
        """
        _fill(self._gradients, examples, lambda new: shared(new, self._norms))
        return [self._gradients[example] for example in examples]

    def _first(self, examples: list[Example]) -> list[TokenFacts]:
        both = shared(examples, self._read_and_go_on)
        for found in both:
            if found.said is not None:
                self._continuations.know(*found.said)
        return [found.facts for found in both]

    def _read(self, examples: list[Example]) -> list[TokenFacts]:
        return read_texts(self.model, self._texts(examples), pad_id=self._pad_id, batches=self._batches)

    def _read_and_go_on(self, examples: list[Example]) -> list[Found]:
        return self._ahead.read(
            self._texts(examples),
            [example.completion if example.is_document else None for example in examples],
            pad_id=self._pad_id,
            batches=self._batches,
        )

    def _states(self, examples: list[Example], tokens: int) -> list[States]:
        texts = self._texts(examples)
        return read_states(self.model, texts, tokens=tokens, pad_id=self._pad_id, batches=self._batches)

    def _norms(self, examples: list[Example]) -> list[list[float]]:
        return gradient_norms(self.model, self._texts(examples), pad_id=self._pad_id)

    def _texts(self, examples: list[Example]) -> list[Text]:
        return [as_text(each, self.tokenizer, max_length=self.max_length) for each in examples]

    @property
    def _pad_id(self) -> int:
        return self.tokenizer.pad_token_id or 0


def _fill(memo: dict[Key, Value], keys: Sequence[Key], compute: Callable[[list[Key]], list[Value]]) -> None:
    new = [key for key in dict.fromkeys(keys) if key not in memo]
    if new:
        memo.update(zip(new, compute(new), strict=True))
