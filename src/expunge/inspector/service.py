"""The service behind the inspector's page: queries to models, independent of the web server."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from expunge.audit.summary import read_summary
from expunge.errors import ExpungeError, ModelError, RecipeError
from expunge.inspector.generate import (
    PromptForm,
    PromptTokens,
    answer,
    decoding_mode,
    formed,
    is_question,
    read_prompt,
    read_truth,
    room_of,
    sampled,
)
from expunge.inspector.items import Erased, InspectorItem, erased, measured, read_items, truths
from expunge.inspector.logit_lens import LensReading, read_layers
from expunge.inspector.models import FULL, SUMMARY, ModelPool, ModelRegistry, PooledModel
from expunge.model.resources import memory_errors
from expunge.quant import parse_quantizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from expunge.types import Example

USUAL = (FULL, "int8", "int4", "int3", "nf4", "fp4")
MAX_TOKENS = 48
MAX_LENGTH = 2048
"""Maximum tokens per input, for models with a longer context."""
SMALLER = "Start the inspector with a smaller --budget, so that models are let go sooner."


class ModelRef(NamedTuple):
    """A registered model at a precision and an epoch (``None``: finished)."""

    model: str
    precision: str = FULL
    epoch: int | None = None


class LayerReading(NamedTuple):
    """The logit lens of a true answer: its tokens as text, the reading, and the vocabulary's words."""

    tokens: list[str]
    reading: LensReading
    best: list[list[str]]


class GeneratedAnswer(NamedTuple):
    """The answer of one model so far; ``note`` if input was truncated or the model failed.

    ``over``: all is said. ``look`` comes after it, where the true answer is known, and then ``drawn``: the
    sampled answers, if any were asked for.
    """

    text: str = ""
    note: str = ""
    over: bool = False
    look: LayerReading | None = None
    drawn: tuple[str, ...] = ()


class Inquiry(NamedTuple):
    """What models are asked: a prompt with its form and true answer, and how many answers are sampled."""

    prompt: str
    truth: str = ""
    form: PromptForm = "written"
    samples: int = 0

    @property
    def example(self) -> Example:
        """The prompt in its form, with the true answer."""
        return formed(self.prompt, self.form, self.truth)


@dataclass(frozen=True)
class InspectorService:
    """The queries of the page. All methods are thread-safe."""

    registry: ModelRegistry
    pool: ModelPool
    max_tokens: int = MAX_TOKENS
    max_length: int = MAX_LENGTH

    @cached_property
    def items(self) -> list[InspectorItem]:
        """The items of the audits, the one of which most came back first."""
        return read_items(self.registry.audits)

    @cached_property
    def _truths(self) -> dict[str, str]:
        return truths(self.items)

    def truth_of(self, prompt: str) -> str | None:
        """The true answer, when the prompt is an item's."""
        return self._truths.get(prompt)

    @cached_property
    def precisions(self) -> list[str]:
        """Full precision, the usual formats, and those of the audits that need no calibration text."""
        audits = [read_summary(audit / SUMMARY) for audit in self.registry.audits]
        used = [condition.label for audit in audits for condition in audit.conditions]
        return [label for label in dict.fromkeys([*USUAL, *used]) if label == FULL or _is_plain(label)]

    @cached_property
    def form(self) -> PromptForm:
        """How the audits put their prompts, as far as it shows in them."""
        asked = [item.prompt for item in self.items if item.prompt]
        return "question" if asked and 2 * sum(map(is_question, asked)) > len(asked) else "written"

    def answers(self, inquiry: Inquiry, models: Sequence[ModelRef]) -> Iterator[list[GeneratedAnswer]]:
        """The answers of all models, side by side: the whole row is yielded again after every token.

        With a true answer each model is also read token by token and layer by layer, in the same loan. A
        model that cannot answer gives the reason in its note; the others continue.
        """
        row = [GeneratedAnswer() for _ in models]
        for index, who in enumerate(models):
            for row[index] in streamed(partial(self._stream_answer, inquiry, who)):
                yield list(row)

    def _stream_answer(
        self,
        inquiry: Inquiry,
        who: ModelRef,
        show: Callable[[GeneratedAnswer], None],
        stopped: Callable[[], bool],
    ) -> None:
        generated = GeneratedAnswer()
        try:
            path = self.registry.find(who.model).at(who.epoch)
            with memory_errors(fix=SMALLER), self.pool.borrow(path, who.precision) as lent:
                read = self._read(inquiry, lent)
                generated = self._answer(inquiry, read, lent, show, stopped)
                show(generated)
                if inquiry.truth and not stopped():
                    generated = generated._replace(look=self._look(inquiry, lent))
                    show(generated)
                if inquiry.samples and read.ids and not stopped():
                    way = decoding_mode(inquiry.example, self.max_tokens)
                    drawn = sampled(lent.model, lent.tokenizer, read.ids, way, inquiry.samples)
                    show(generated._replace(drawn=tuple(drawn)))
        except ExpungeError as error:
            show(generated._replace(note=f"{generated.note} {error}".strip(), over=True))

    def _read(self, inquiry: Inquiry, lent: PooledModel) -> PromptTokens:
        room = room_of(lent.model, self.max_length) - self.max_tokens
        return read_prompt(formed(inquiry.prompt, inquiry.form), lent.tokenizer, room=max(room, 2))

    def _answer(
        self,
        inquiry: Inquiry,
        read: PromptTokens,
        lent: PooledModel,
        show: Callable[[GeneratedAnswer], None],
        stopped: Callable[[], bool],
    ) -> GeneratedAnswer:
        note = f"The first {read.dropped:,} tokens of the prompt were left out." if read.dropped else ""
        if not read.ids:
            return GeneratedAnswer(note="There is nothing to continue.", over=True)
        text = answer(
            lent.model,
            lent.tokenizer,
            read.ids,
            decoding_mode(inquiry.example, self.max_tokens),
            on_text=lambda said: show(GeneratedAnswer(said, note)),
            stopped=stopped,
        )
        return GeneratedAnswer(text, note, over=True)

    def _look(self, inquiry: Inquiry, lent: PooledModel) -> LayerReading:
        room = room_of(lent.model, self.max_length)
        reading = read_layers(lent.model, read_truth(inquiry.example, lent.tokenizer, room=room))
        word = lent.tokenizer.decode
        best = [[word([seen.best]) for seen in layer] for layer in reading.layers]
        return LayerReading([word([token]) for token in reading.tokens], reading, best)

    def erased(self, who: ModelRef) -> list[Erased]:
        """The weights whose change the quantizer erased, by tensor: the audit's numbers where available.

        Raises:
            ExpungeError: there is no target, or the two models cannot be compared.
        """
        model = self.registry.find(who.model)
        known = [] if who.epoch is not None else erased(self.registry.audits, model.name, who.precision)
        if known:
            return known
        if model.target is None:
            raise ModelError(
                f"what {who.precision} erased of {model.name}",
                why="this requires its target, which was not found.",
                fix="Inspect the audit, or an unlearned model whose source checkpoint has not been moved.",
            )
        target, path = model.target, model.at(who.epoch)
        return computed(lambda: measured(target, path, who.precision))


def _is_plain(label: str) -> bool:
    """Whether a quantizer of that name can be applied without calibration."""
    try:
        return not parse_quantizer(label).calibrated
    except RecipeError:
        return False


# A single worker thread runs all computations.
#
# Every computing thread starts its own team of OpenMP threads, and several teams contend for the same
# cores. Jobs therefore take turns; a job is one query to one model, so browsers take turns too.

Result = TypeVar("Result")


@cache
def _jobs() -> queue.SimpleQueue[Callable[[], None]]:
    """The job queue; its worker thread starts with the first job."""
    waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def work() -> None:
        while True:
            waiting.get()()

    threading.Thread(target=work, daemon=True, name="expunge-worker").start()
    return waiting


def streamed(work: Callable[[Callable[[Any], None], Callable[[], bool]], None]) -> Iterator[Any]:
    """The values that ``work(report, stopped)`` reports, while the worker thread runs it.

    A model's lock is taken and given back by the worker alone, so a browser that leaves cannot keep it:
    when the caller stops iterating, ``stopped`` becomes true. Exceptions of the work are raised here.
    """
    news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    gone = threading.Event()

    def run() -> None:
        if gone.is_set():
            return
        try:
            work(lambda value: news.put(("said", value)), gone.is_set)
        except BaseException as error:  # noqa: BLE001 - handed to the listener, who raises it
            news.put(("failed", error))
        else:
            news.put(("over", None))

    _jobs().put(run)
    try:
        while True:
            kind, value = news.get()
            if kind == "failed":
                raise value
            if kind == "over":
                return
            yield value
    finally:
        gone.set()


def computed(work: Callable[[], Result]) -> Result:
    """The result of ``work``, run by the worker thread."""
    results: list[Result] = list(streamed(lambda report, _: report(work())))
    return results[0]
