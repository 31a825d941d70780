"""Text a model writes itself, drawn token by token from its own distribution.

Shapes: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from expunge.errors import ModelError
from expunge.model.cache import new_cache
from expunge.score.mode import evaluating

if TYPE_CHECKING:
    from collections.abc import Sequence

AT_ONCE = 32
"""Sequences written side by side: what bounds the size of the cache."""


@torch.no_grad()
def sample_texts(model: nn.Module, opening: Sequence[int], *, count: int, length: int, seed: int) -> Tensor:
    """``count`` sequences [count, length] that begin with ``opening`` and go on at temperature 1.

    An end token does not end a sequence: another text follows it, as in pretraining. The same seed
    gives the same sequences. Without an ``opening`` the first token is drawn evenly from the vocabulary.

    Raises:
        ModelError: the model's predictions are not finite.
    """
    draw = torch.Generator().manual_seed(seed)
    with evaluating(model):
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
