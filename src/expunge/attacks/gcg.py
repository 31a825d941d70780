"""Greedy coordinate gradient: one suffix after every question that brings the answers back.

Shapes: n tokens of the suffix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Generator, Tensor, nn, randint, tensor

from expunge.adversary.hooks import MicroBatch, gradients, hooked_block
from expunge.attacks import Applied, Attack, ConditionContext, Knowledge, Need, attacks
from expunge.component import StepsOrNone
from expunge.corpus.batching import collate
from expunge.corpus.readers import sample
from expunge.corpus.tokenise import Encoded, encode
from expunge.errors import DataError
from expunge.inference.backbone import eval_mode
from expunge.inference.batches import Batches
from expunge.inference.forward import compute_token_view
from expunge.inference.generation.generate import Prefix, must_read_whole
from expunge.inference.logprobs import token_logps
from expunge.model.arch import backbone, output_head, unwrap, vocabulary
from expunge.types import Example

TRIES = 200
"""Tokens tried for one place before it is said that none fits."""

UNREADABLE = "\N{REPLACEMENT CHARACTER}"
"""What a token that is no whole character is written as."""


class SuffixPosition(NamedTuple):
    """A question in tokens: what comes before the suffix, between it and the answer, and the answer."""

    before: list[int]
    between: list[int]
    answer: list[int]

    def read_with(self, suffix: Sequence[int]) -> list[int]:
        """The tokens of the question with a suffix in it, and of the answer."""
        return [*self.before, *suffix, *self.between, *self.answer]


def with_suffix(example: Example, text: str) -> Example:
    """The question with a text after it; a document stays what it is."""
    return example if example.is_document else replace(example, prompt=example.prompt + text)


@dataclass(frozen=True)
class Suffixes:
    """The suffixes of some questions that survive being written out: what is searched is what is typed.

    A suffix survives if the question with its text in it is tokenised as the question, the suffix and
    the answer one after the other, in every question.
    """

    questions: Sequence[Example]
    tokenizer: Any
    max_length: int

    @cached_property
    def places(self) -> list[SuffixPosition]:
        """The position of the suffix in each question."""
        return [self._place(example) for example in self.questions]

    @cached_property
    def allowed(self) -> Tensor:
        """The tokens a suffix may consist of: no special ones, and none that is no printable text."""
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        ids = sorted(set(self.tokenizer.get_vocab().values()) - special)
        texts = self.tokenizer.batch_decode([[number] for number in ids])
        plain = [
            number
            for number, text in zip(ids, texts, strict=True)
            if text.isprintable() and text.strip() and UNREADABLE not in text
        ]
        return tensor(plain)

    def text(self, suffix: Sequence[int]) -> str:
        """The suffix as a user would type it."""
        written: str = self.tokenizer.decode(list(suffix), clean_up_tokenization_spaces=False)
        return written

    def survives(self, suffix: Sequence[int]) -> bool:
        """Whether reading the suffix's text gives its tokens again, in every question."""
        text = self.text(suffix)
        return all(
            self._ids(with_suffix(example, text)) == position.read_with(suffix)
            for example, position in zip(self.questions, self.places, strict=True)
        )

    def first(self, length: int, generator: Generator) -> list[int]:
        """A random suffix that survives, made token by token.

        Raises:
            DataError: no token fits at some place.
        """
        suffix: list[int] = []
        while len(suffix) < length:
            drawn = self.allowed[randint(len(self.allowed), (TRIES,), generator=generator)].tolist()
            token = next((candidate for candidate in drawn if self.survives([*suffix, candidate])), None)
            if token is None:
                raise DataError(
                    "an adversarial suffix",
                    why="no token of this tokenizer survives decoding and tokenising again there.",
                    fix="Choose another attack: this tokenizer normalises its input.",
                )
            suffix.append(token)
        return suffix

    def _ids(self, example: Example) -> list[int]:
        (encoded,) = encode(example, self.tokenizer, max_length=self.max_length)
        return encoded.input_ids

    def _place(self, example: Example) -> SuffixPosition:
        """A chat has something between the question and the answer: what its template puts there."""
        (encoded,) = encode(replace(example, spans=()), self.tokenizer, max_length=self.max_length)
        start = encoded.mask.index(True)
        answer = encoded.input_ids[start:]
        if not example.is_chat:
            return SuffixPosition(encoded.input_ids[:start], [], answer)
        (longer,) = encode(
            replace(example, prompt=example.prompt + " ?", spans=()),
            self.tokenizer,
            max_length=self.max_length,
        )
        pairs = zip(encoded.input_ids[:start], longer.input_ids, strict=False)
        same = next((at for at, (one, other) in enumerate(pairs) if one != other), start)
        return SuffixPosition(encoded.input_ids[:same], encoded.input_ids[same:start], answer)


# How unlikely the answers are after a suffix: for many suffixes at once, and its slope by their tokens.
#
# Shapes: C suffixes, n tokens of each, V vocabulary, H hidden units, N answer tokens of all suffixes.

AT_ONCE = 8
"""Questions whose slope is taken in one batch."""


@dataclass
class Likelihood:
    """``−Σ log p(answer | question, suffix)`` over all questions, in nats.

    What comes before the suffix is read once for each question, and its keys and values serve every
    suffix; a model with a sliding window shorter than the text reads it whole.
    """

    model: nn.Module
    places: Sequence[SuffixPosition]
    pad_id: int
    batches: Batches = field(default_factory=lambda: Batches(8192))
    _prefixes: dict[int, Prefix] = field(default_factory=dict)

    def losses(self, suffixes: Sequence[Sequence[int]]) -> Tensor:
        """The loss of each suffix, float64 on the CPU. Shape [C]."""
        total_C = torch.zeros(len(suffixes), dtype=torch.float64)
        with eval_mode(self.model), torch.inference_mode():
            for number, position in enumerate(self.places):
                lengths = [len(position.read_with(suffix)) for suffix in suffixes]
                losses = self.batches.run(
                    lengths,
                    lambda rows, number=number: self._of_one(number, [suffixes[row] for row in rows]),  # type: ignore[misc]
                )
                total_C += torch.tensor([losses[row] for row in range(len(suffixes))], dtype=torch.float64)
        return total_C

    def slope(self, suffix: Sequence[int]) -> Tensor:
        """How the loss changes, to first order, with each token at each place. Shape [n, V]."""
        weight_VH: Tensor = unwrap(self.model).get_input_embeddings().weight.detach()  # type: ignore[operator]
        total_nH = weight_VH.new_zeros(len(suffix), weight_VH.shape[1], dtype=torch.float32)
        with eval_mode(self.model):
            for start in range(0, len(self.places), AT_ONCE):
                total_nH += self._slope(suffix, self.places[start : start + AT_ONCE], like=weight_VH)
        return total_nH @ weight_VH.float().t()

    def _slope(self, suffix: Sequence[int], places: Sequence[SuffixPosition], *, like: Tensor) -> Tensor:
        """The slope by what block 0 reads at the suffix: its embedding, but for a constant. [n, H]."""
        texts = [
            Encoded(position.read_with(suffix), _mask(position, len(suffix)), "") for position in places
        ]
        batch = collate(texts, pad_id=self.pad_id).to(like.device)
        push_BTH = torch.zeros(*batch.input_ids_BT.shape, like.shape[1], device=like.device)
        push_BTH.requires_grad_(True)

        def add(part: MicroBatch, hidden_btH: Tensor) -> Tensor:
            return hidden_btH + part.of(push_BTH).to(hidden_btH.dtype)

        with hooked_block(self.model, 0, batch, add), torch.enable_grad():
            slope_BTH = gradients(-compute_token_view(self.model, batch).logps.sum(), [push_BTH])[push_BTH]
        begins = [len(position.before) for position in places]
        grads = [slope_BTH[row, begin : begin + len(suffix)] for row, begin in enumerate(begins)]
        return torch.stack(grads).float().sum(0)

    def _of_one(self, number: int, suffixes: Sequence[Sequence[int]]) -> list[float]:
        """The loss of each suffix in one question."""
        position = self.places[number]
        device = next(self.model.parameters()).device
        prefix = self._prefix(number, position, longest=len(position.read_with(suffixes[0])))
        read = 0 if prefix is None else len(prefix.ids)
        ids_CT = torch.tensor([position.read_with(suffix)[read:] for suffix in suffixes], device=device)
        width, answer = ids_CT.shape[1], len(position.answer)
        states_CTH = backbone(self.model)(
            input_ids=ids_CT,
            attention_mask=torch.ones(len(suffixes), read + width, dtype=torch.long, device=device),
            position_ids=torch.arange(read, read + width, device=device).expand_as(ids_CT),
            past_key_values=None if prefix is None else prefix.cache(len(suffixes)),
            use_cache=prefix is not None,
        ).last_hidden_state
        logps_N = token_logps(
            output_head(self.model),
            states_CTH[:, -answer - 1 : -1].flatten(0, 1),
            ids_CT[:, -answer:].flatten(),
            vocabulary=vocabulary(self.model),
        )
        losses: list[float] = (-logps_N.view(len(suffixes), answer).double().sum(1)).tolist()
        return losses

    def _prefix(self, number: int, position: SuffixPosition, *, longest: int) -> Prefix | None:
        if not position.before or must_read_whole(self.model, longest):
            return None
        if number not in self._prefixes:
            self._prefixes[number] = Prefix(self.model, position.before)
        return self._prefixes[number]


def _mask(position: SuffixPosition, length: int) -> list[bool]:
    before = len(position.before) + length + len(position.between)
    return [False] * before + [True] * len(position.answer)


# Greedy coordinate gradient: one suffix after every question that brings the answers back.

ROUNDS = 8
"""How often candidates are drawn before a step makes do with those that survive."""


@attacks.register("gcg")
class AdversarialSuffix(Attack):
    """``min over q of −Σ log p(y | x, q)`` over token sequences q of one length, one q for all questions.

    Each step ranks the tokens of every position by the slope of the loss, draws candidates that differ
    in one position by one of its best tokens, keeps those that survive being typed, evaluates them
    exactly and takes the best if it is better.

    Sources: Zou et al. 2023 (arXiv 2307.15043), GCG; Yuan et al. 2025 (arXiv 2408.10682), DUA. Their code
    for it was not released; length, top_k and steps are this project's.
    """

    title: ClassVar[str] = "an adversarial suffix after every question"
    source: ClassVar[str] = "arXiv 2408.10682, 2307.15043"

    on: Literal["model", "target"] = Field(
        default="model",
        description=(
            "The model the suffix is searched on: the `model` under attack, or the `target` "
            "(transfer: nothing of the unlearned model is needed)."
        ),
    )
    questions: Literal["same", "others"] = Field(
        default="others",
        description=(
            "Which questions are asked afterwards: the `same` that the suffix was searched on, or "
            "`others`, about other people."
        ),
    )
    length: PositiveInt = Field(default=10, description="Tokens of the suffix.")
    steps: StepsOrNone = Field(default=100, description="Steps of the search; 0 leaves the suffix out.")
    top_k: PositiveInt = Field(
        default=64, description="How many of the best tokens of each position are drawn from."
    )
    candidates: PositiveInt = Field(default=64, description="How many suffixes are evaluated in each step.")
    prompts: PositiveInt = Field(default=16, description="The most questions the suffix is searched on.")

    @property
    def attacker_knowledge(self) -> Knowledge:
        return "all" if self.questions == "same" else "half"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"forget", "target"} if self.on == "target" else {"forget"})

    @property
    def model_independent(self) -> bool:
        return self.on == "target"

    @property
    def is_noop(self) -> bool:
        return not self.steps

    def search(self, model: nn.Module, context: ConditionContext) -> Any:
        """The suffix, and the loss after every step."""
        if self.is_noop:
            return None
        questions = sample(
            [example for example in context.forget if not example.is_document],
            self.prompts,
            seed=context.seed,
            name="gcg",
        )
        if not questions:
            raise DataError(
                "an adversarial suffix",
                why="the forget set has no questions to append it to.",
                fix="Add questions (prompt and completion), or choose relearn or ablate.",
            )
        attacked = context.target() if self.on == "target" else model
        suffixes = Suffixes(questions, context.tokenizer, context.max_length)
        likelihood = Likelihood(attacked, suffixes.places, context.tokenizer.pad_token_id)
        generator = Generator().manual_seed(context.seed)
        suffix, losses = self._searched(suffixes, likelihood, generator, context)
        return {"text": suffixes.text(suffix), "ids": suffix, "losses": losses}

    def _searched(
        self, suffixes: Suffixes, likelihood: Likelihood, generator: Generator, context: ConditionContext
    ) -> tuple[list[int], list[float]]:
        suffix = suffixes.first(self.length, generator)
        losses = likelihood.losses([suffix]).tolist()
        for step in range(self.steps):
            others = self.neighbours(suffix, likelihood.slope(suffix), suffixes, generator)
            if others:
                candidate_losses = likelihood.losses(others)
                if float(candidate_losses.min()) < losses[-1]:
                    suffix = others[int(candidate_losses.argmin())]
                losses.append(min(losses[-1], float(candidate_losses.min())))
            context.report(f"step {step + 1} of {self.steps}, loss {losses[-1]:.2f}")
        return suffix, losses

    def neighbours(
        self, suffix: Sequence[int], slope_nV: Tensor, suffixes: Suffixes, generator: Generator
    ) -> list[list[int]]:
        """Suffixes that differ from one in a single place and survive, by the slope of the loss there."""
        allowed = suffixes.allowed
        ranked_nV = slope_nV.cpu()[:, allowed].argsort(dim=1)[:, : self.top_k]
        candidates: dict[tuple[int, ...], None] = {}
        for _ in range(ROUNDS):
            missing = self.candidates - len(candidates)
            places = torch.randint(len(suffix), (missing,), generator=generator).tolist()
            ranks = torch.randint(ranked_nV.shape[1], (missing,), generator=generator).tolist()
            for position, rank in zip(places, ranks, strict=True):
                other = list(suffix)
                other[position] = int(allowed[ranked_nV[position, rank]])
                if tuple(other) not in candidates and other != list(suffix) and suffixes.survives(other):
                    candidates[tuple(other)] = None
            if len(candidates) == self.candidates:
                break
        return [list(other) for other in candidates]

    @contextmanager
    def applied(self, model: nn.Module, context: ConditionContext, result: Any) -> Iterator[Applied]:  # noqa: ARG002
        text = result["text"] if result else ""
        yield Applied(model=model, rewrite_prompt=partial(with_suffix, text=text), facts=result or {})
