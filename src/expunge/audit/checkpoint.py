"""A checkpoint of an audit: loaded to be measured, or read tensor by tensor to be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from expunge.model.checkpoint import local_folder
from expunge.model.load import load_model, load_tokenizer
from expunge.model.resources import best_device
from expunge.model.tensors import Weights, on_disk


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder, or a name on the Hub. Calling it loads the model on the best device, and its tokenizer.

    ``masked``: masked language models are allowed.
    """

    path: str
    trust_remote_code: bool = False
    masked: bool = False

    def __call__(self) -> tuple[nn.Module, Any]:
        """The model and its tokenizer."""
        model = load_model(
            self.path,
            device=best_device(),
            trust_remote_code=self.trust_remote_code,
            masked=self.masked,
        )
        tokenizer = load_tokenizer(self.path, model=model, trust_remote_code=self.trust_remote_code)
        return model, tokenizer

    def weights(self) -> Weights | None:
        """Its weights, read one at a time; ``None`` where that cannot be done."""
        folder = local_folder(self.path)
        return None if folder is None else on_disk(folder)
