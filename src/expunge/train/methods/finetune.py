"""Plain training of targets and controls, and learning new answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

from expunge.corpus.batching import Batch, collate, pack, shuffled
from expunge.corpus.boundary import continuation, opening
from expunge.corpus.tokenise import Encoded, encode
from expunge.errors import DataError
from expunge.inference.forward import compute_token_view
from expunge.model.rope import check_lengths
from expunge.retain.losses import GDR
from expunge.train.loop.callbacks import last_checkpoint
from expunge.train.methods import DataNeed, stages
from expunge.train.methods.training_stage import TrainingStage, training_facts
from expunge.train.run.state import Corpus, State
from expunge.types import Example

SEPARATOR = "\n\n"
"""The separator between packed examples, as MUSE joins its documents."""


@stages.register("finetune")
class Finetune(TrainingStage):
    """Descends on the cross-entropy of the forget set, the retain set or both."""

    on: Literal["forget", "retain", "both"] = Field(
        default="retain",
        description="The examples to train on: the `forget` set, the `retain` set, or `both`.",
    )
    pack: bool = Field(
        default=False,
        description=(
            "Whether examples are joined into sequences of `max_length` tokens, shuffled anew every "
            "epoch: nothing is padded, and a context holds several examples."
        ),
    )

    def run(self, state: State) -> State:
        """Train, resuming from the last whole checkpoint in ``state.workdir`` if there is one."""
        model = self.prepare(state)
        model.requires_grad_(True)
        texts = TextDataset(self._encode(state), state.tokenizer, self, seed=state.seed)
        check_lengths(model, (len(piece.input_ids) for piece in texts.sequences))
        pad_id = state.tokenizer.pad_token_id
        trainer = self.make_trainer(
            model,
            state,
            objective=cross_entropy,
            count_examples=lambda batch: len(batch.input_ids_BT),
            data=texts,
            sampler=EpochSampler(texts),
            collate=lambda pieces: collate(pieces, pad_id=pad_id),
        )
        trainer.train_from(last_checkpoint(state.workdir))
        state.model = model
        state.facts.append({"stage": "finetune", **training_facts(trainer)})
        return state

    def check(self, corpus: Corpus) -> None:
        """Refuse an empty set."""
        if not self._examples(corpus):
            raise DataError("nothing to train on", why="the set is empty.", fix="Pass --data FILE.")

    def _examples(self, corpus: Corpus) -> tuple[Example, ...]:
        sets = {"forget": corpus.forget, "retain": corpus.retain, "both": corpus.forget + corpus.retain}
        return sets[self.on]

    def _encode(self, state: State) -> list[Encoded]:
        eos = False if self.pack and self.append_eos is None else self.append_eos
        return [
            piece
            for example in self._examples(state.corpus)
            for piece in encode(example, state.tokenizer, max_length=self.max_length, eos=eos)
        ]


class TextDataset(Dataset[Encoded]):
    """The sequences of one epoch: the examples themselves, or the packing of that epoch."""

    def __init__(
        self, encoded: Sequence[Encoded], tokenizer: Any, settings: Finetune, *, seed: int
    ) -> None:
        self._encoded = list(encoded)
        self._settings = settings
        self._head = opening(tokenizer)
        self._separator = continuation(SEPARATOR, tokenizer).ids
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Repack for ``epoch``; the number of sequences does not depend on it."""
        self.sequences = self._encoded if not self._settings.pack else self._packed(epoch)

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> Encoded:
        return self.sequences[index]

    def _packed(self, epoch: int) -> list[Encoded]:
        return pack(
            self._encoded,
            separator=self._separator,
            head=self._head,
            length=self._settings.max_length,
            seed=self.seed,
            epoch=epoch,
        )


class EpochSampler(Sampler[int]):
    """A shuffle that is a function of the seed and the epoch alone."""

    def __init__(self, texts: TextDataset) -> None:
        self.texts = texts
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration epoch ``epoch``."""
        self.epoch = epoch
        self.texts.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Any:
        return iter(shuffled(len(self.texts), self.texts.seed, self.epoch))


def cross_entropy(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The loss of plain training, summed over the examples of a batch."""
    return {"text": GDR()(compute_token_view(model, batch)).sum()}


# Learning the answers that are to be given instead: the last step of an update of facts.


@stages.register("learn_new")
class LearnNewAnswers(Finetune):
    """Descends on the cross-entropy of the new answers to the forget set's questions.

    In an update of facts the forget set holds what the model knows: ``completion`` is the old answer,
    and the first of the ``wrong`` ones (which the model does not give) is the new one. Examples
    without another answer are only forgotten.

    Source: Ni et al. 2023 (arXiv 2311.08011): forgetting before learning.
    """

    on: Literal["forget"] = Field(default="forget", description="The examples to train on: the forget set.")

    @property
    def needs(self) -> frozenset[DataNeed]:
        return frozenset({"wrong"})

    def check(self, corpus: Corpus) -> None:
        """Refuse a forget set without a new answer."""
        if not self._examples(corpus):
            raise DataError(
                "no new answer in the forget set",
                why="none of its examples has a 'wrong' answer, and the first of these is the new one.",
                fix='Write rows such as {"question": "...", "answer": "old", "wrong": ["new"]}.',
            )

    def _examples(self, corpus: Corpus) -> tuple[Example, ...]:
        return tuple(
            replace(example, completion=example.wrong[0], spans=(), wrong=(), correct_index=0)
            for example in corpus.forget
            if example.wrong
        )
