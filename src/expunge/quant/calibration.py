"""Text a model writes itself, drawn token by token from its own distribution.

Shapes: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from expunge.corpus.batching import shuffled
from expunge.corpus.boundary import opening
from expunge.corpus.readers import read_examples
from expunge.corpus.tokenise import encode, first_token
from expunge.errors import DataError, ModelError, RecipeError
from expunge.inference.backbone import eval_mode
from expunge.model.cache import new_cache
from expunge.model.rope import learned_positions
from expunge.record import hash_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from expunge.types import Example

AT_ONCE = 32
"""Sequences written side by side: what bounds the size of the cache."""


@torch.no_grad()
def sample_texts(model: nn.Module, opening: Sequence[int], *, count: int, length: int, seed: int) -> Tensor:
    """``count`` sequences [count, length] that begin with ``opening`` and continue at temperature 1.

    An end token does not end a sequence: another text follows it, as in pretraining. The same seed
    gives the same sequences. Without an ``opening`` the first token is drawn evenly from the vocabulary.

    Raises:
        ModelError: the model's predictions are not finite.
    """
    draw = torch.Generator().manual_seed(seed)
    with eval_mode(model):
        parts = [
            _sample(model, opening, min(AT_ONCE, count - start), length, draw)
            for start in range(0, count, AT_ONCE)
        ]
    return torch.cat(parts)


def _sample(
    model: nn.Module, opening: Sequence[int], rows: int, length: int, draw: torch.Generator
) -> Tensor:
    device = next(model.parameters()).device
    if opening:
        ids_BT = torch.tensor([list(opening)[:length]] * rows)
    else:
        words = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        ids_BT = torch.randint(words, (rows, 1), generator=draw)
    cache = new_cache(model)
    last_BT = ids_BT
    while ids_BT.shape[1] < length:
        logits_BV = model(last_BT.to(device), past_key_values=cache, use_cache=True).logits[:, -1]
        last_BT = torch.multinomial(_probabilities(logits_BV), 1, generator=draw)
        ids_BT = torch.cat([ids_BT, last_BT], dim=1)
    return ids_BT


def _probabilities(logits_BV: Tensor) -> Tensor:
    probabilities_BV = logits_BV.float().softmax(-1).cpu()
    if not torch.isfinite(probabilities_BV).all():
        raise ModelError(
            "the model cannot write its own calibration text",
            why="its predictions are not finite.",
            fix="Calibrate on a file of text, or unlearn again with a smaller learning rate.",
        )
    return probabilities_BV


# Text a quantizer is calibrated on: where it comes from, and the tokens a model reads of it.
#
# Shapes: N sequences, T tokens.

Given = TypeVar("Given", "Calibration", "CalibrationSource")

SELF = "self"
"""The name of text that each model writes itself."""
NEVER_CUT = 2**31 - 1
"""A length no text has: texts are cut where the sequences end, not where they begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Tokens for one model: N sequences of T tokens, int64, without padding."""

    name: str
    ids_NT: Tensor
    seed: int = 0

    def __str__(self) -> str:
        samples, length = self.ids_NT.shape
        return f"{samples} x {length} tokens of {self.name}, seed {self.seed}"

    @property
    def hash(self) -> str:
        """SHA-256 over the tokens: other text, other hash."""
        return hash_json(self.ids_NT.tolist())

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without the tokens."""
        samples, length = self.ids_NT.shape
        facts = {"name": self.name, "samples": samples, "length": length, "seed": self.seed}
        return facts | {"tokens_sha256": self.hash}


@dataclass(frozen=True, kw_only=True)
class CalibrationSource:
    """Where calibration text comes from: known before a model is loaded, the same for all models.

    ``name``: ``self`` (every model writes its own; no ``texts``), ``retain``, ``forget``, or
    ``general`` with the name of the user's file. At most ``samples`` sequences of ``length`` tokens.
    """

    name: str = SELF
    texts: tuple[Example, ...] = ()
    samples: int = 128
    length: int = 512
    seed: int = 0

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the result depends on apart from the model: name, amount, seed and a hash of the texts."""
        facts = {"name": self.name, "samples": self.samples, "length": self.length, "seed": self.seed}
        return facts | {"texts_sha256": hash_json([asdict(text) for text in self.texts])}

    def tokens(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Calibration:
        """The tokens ``model`` is calibrated on.

        Raises:
            DataError: the texts are too short to be read, or cannot be tokenised.
            ModelError: the model is to write its own text and cannot.
        """
        length = min(self.length, learned_positions(model) or self.length)
        if self.name == SELF:
            begin = opening(tokenizer) or first_token(tokenizer)
            ids_NT = sample_texts(model, begin, count=self.samples, length=length, seed=self.seed)
        else:
            ids_NT = self._packed(tokenizer, length)
        return Calibration(name=self.name, ids_NT=ids_NT, seed=self.seed)

    def _packed(self, tokenizer: PreTrainedTokenizerBase, length: int) -> Tensor:
        """The texts in an order drawn by ``seed``, one after another, cut into sequences."""
        wanted = self.samples * length
        ids: list[int] = []
        for index in shuffled(len(self.texts), self.seed):
            for encoded in encode(self.texts[index], tokenizer, max_length=NEVER_CUT):
                ids += encoded.input_ids
            if len(ids) >= wanted:
                break
        length = min(length, len(ids))
        if length < 2:
            raise DataError(
                f"calibration text {self.name}",
                why="it has fewer than two tokens.",
                fix="Use more text; some ten thousand tokens are usual.",
            )
        count = min(self.samples, len(ids) // length)
        return torch.tensor(ids[: count * length]).reshape(count, length)


def require_calibration(label: str, calibration: Given | None) -> Given:
    """The calibration a quantizer needs, or where it comes from.

    Raises:
        RecipeError: there is none.
    """
    if calibration is None:
        raise RecipeError(
            f"{label} without calibration text",
            why="its rounding depends on the inputs of the model's layers.",
            fix="Pass --calibrate self, retain, forget or a file of text.",
        )
    return calibration


def text_of_file(path: str, fields: Mapping[str, str] | None = None) -> tuple[str, tuple[Example, ...]]:
    """The name that text of the user's own goes by, and the text; ``fields`` as for ``read_examples``."""
    return f"general ({Path(path).name})", tuple(read_examples(path, fields=fields))


def unread(word: str) -> RecipeError:
    """The refusal of calibration text that no quantizer would read."""
    return RecipeError(
        f"--calibrate {word}",
        why="none of the quantizers needs calibration text.",
        fix="Leave it out, or choose one that does, such as gptq4-g128.",
    )
