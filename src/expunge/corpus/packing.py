"""Training from scratch: a tokenizer trained on a corpus, and texts packed to full sequences."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from expunge.corpus.batching import shuffled
from expunge.corpus.tokenise import Encoded

if TYPE_CHECKING:
    from collections.abc import Sequence

PAD, BOS, EOS = "<pad>", "<s>", "</s>"


def train_tokenizer(texts: Iterable[str], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most ``vocabulary`` entries that begins every text with BOS, as Llama's does.

    Every byte is covered, so any text round-trips.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


# Training a target from scratch: texts joined and cut to full sequences, so that none is padding.


def pack(
    encoded: Sequence[Encoded],
    *,
    separator: Sequence[int],
    head: Sequence[int],
    length: int,
    seed: int,
    epoch: int,
) -> list[Encoded]:
    """Sequences of ``length`` tokens that each begin with ``head`` (BOS or nothing), the last one short.

    Examples are shuffled by ``seed`` and ``epoch`` and joined by ``separator``; neighbouring chunks
    of one document stay together, in order. Every token but the first of a sequence counts,
    whatever the masks said: this is how a model first learns a text. (Without BOS, a last sequence
    of one token has nothing to predict and is dropped.)

    Raises:
        ValueError: ``length`` leaves no room for a token to predict.
    """
    room = length - len(head)
    if length < 2 or room < 1:
        raise ValueError(f"length must be at least {max(2, len(head) + 1)}, not {length}")
    stream = _stream(encoded, separator, list(head), seed=seed, epoch=epoch)
    sequences = [
        _sequence([*head, *stream[start : start + room]], f"packed:{epoch}:{start // room}")
        for start in range(0, len(stream), room)
    ]
    return [sequence for sequence in sequences if any(sequence.mask)]


def _stream(
    encoded: Sequence[Encoded], separator: Sequence[int], head: list[int], *, seed: int, epoch: int
) -> list[int]:
    texts = [
        [token for chunk in chunks for token in _without(head, chunk.input_ids)]
        for _, chunks in groupby(encoded, key=lambda one: one.example)
    ]
    stream: list[int] = []
    for position in shuffled(len(texts), seed, epoch):
        if stream:
            stream.extend(separator)
        stream.extend(texts[position])
    return stream


def _without(head: list[int], ids: list[int]) -> list[int]:
    return ids[len(head) :] if ids[: len(head)] == head else ids


def _sequence(ids: list[int], name: str) -> Encoded:
    return Encoded(ids, [False] + [True] * (len(ids) - 1), name)
