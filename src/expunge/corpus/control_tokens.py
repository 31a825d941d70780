"""A token before every text: a tokenizer that conditions whatever is asked on it."""

from __future__ import annotations

from typing import Any

from tokenizers.processors import TemplateProcessing

from expunge.corpus.boundary import opening
from expunge.errors import ModelError


def add_control_token(tokenizer: Any, token: str) -> None:
    """Make ``tokenizer`` put ``token`` behind what it puts before every text (BOS, as a rule).

    Raises:
        ModelError: the tokenizer is not a fast one, or does not do it.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            "a slow tokenizer",
            why="nothing can be put before every text with it.",
            fix="Use a model with a fast tokenizer (a tokenizer.json).",
        )
    head = [*tokenizer.convert_ids_to_tokens(opening(tokenizer)), token]
    ids = dict(zip(head, tokenizer.convert_tokens_to_ids(head), strict=True))
    before = " ".join(head)
    backend.post_processor = TemplateProcessing(
        single=f"{before} $A", pair=f"{before} $A $B", special_tokens=list(ids.items())
    )
    if opening(tokenizer)[-1:] != [ids[token]]:
        raise ModelError(
            f"the tokenizer {type(tokenizer).__name__}",
            why=f"it does not put {token} before a text although it is configured to.",
            fix="Use a tokenizer that is only a tokenizer.json (PreTrainedTokenizerFast).",
        )
