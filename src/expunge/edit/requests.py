"""What is kept of each request to forget that was met by unlearning layers: the layers, never the text.

A result has them in the folder ``requests``: factors and Gram matrices as safetensors, with the hash of
the model they belong to and a hash of every text that was forgotten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, NonNegativeInt
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from expunge.corpus.checks import normalised
from expunge.edit.fusion import RIDGE, PostLayerLinear, fused_maps, merge_map
from expunge.errors import ModelError
from expunge.model.checkpoint import reading
from expunge.parsing import load_json
from expunge.types import Example

REQUESTS = "requests"
ABOUT = "expunge"
"""The key of a file's metadata that holds everything but tensors."""


@dataclass(frozen=True, kw_only=True)
class LayerRequest:
    """The layer behind each writer, the hash of the model they belong to, those of the forgotten texts."""

    layers: Mapping[str, PostLayerLinear]
    base: str
    texts: frozenset[str]

    def save(self, path: Path) -> None:
        """Write everything as one file of safetensors."""
        tensors: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            tensors |= {
                f"{name}/down": layer.down_RH,
                f"{name}/up": layer.up_HR,
                f"{name}/gram": layer.gram_HH,
            }
            if layer.kept_HH is not None:
                tensors[f"{name}/kept"] = layer.kept_HH
        first = next(iter(self.layers.values()))
        about = {
            "names": list(self.layers),
            "base": self.base,
            "texts": sorted(self.texts),
            "tokens": first.tokens,
            "kept_tokens": first.kept_tokens,
        }
        save_file(
            {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()},
            path,
            metadata={ABOUT: json.dumps(about)},
        )

    @classmethod
    def load(cls, path: Path) -> LayerRequest:
        """Read what ``save`` wrote.

        Raises:
            ModelError: it cannot be read.
        """
        about = _about(path)
        with reading(path, "request"), safe_open(path, framework="pt") as tensors:
            present = set(tensors.keys())
            layers = {
                name: PostLayerLinear(
                    down_RH=tensors.get_tensor(f"{name}/down"),
                    up_HR=tensors.get_tensor(f"{name}/up"),
                    gram_HH=tensors.get_tensor(f"{name}/gram"),
                    tokens=about.tokens,
                    kept_HH=tensors.get_tensor(f"{name}/kept") if f"{name}/kept" in present else None,
                    kept_tokens=about.kept_tokens,
                )
                for name in about.names
            }
        return cls(layers=layers, base=about.base, texts=frozenset(about.texts))


def hashes(examples: Iterable[Example]) -> frozenset[str]:
    """A hash of each text, without regard to case and white space."""
    return frozenset(hashlib.sha256(normalised(example).encode()).hexdigest() for example in examples)


def save_requests(requests: Sequence[LayerRequest], folder: Path) -> None:
    """Write requests into the folder of a result, in their order."""
    (folder / REQUESTS).mkdir()
    for number, request in enumerate(requests):
        request.save(folder / REQUESTS / f"{number:04d}.safetensors")


def load_requests(results: Iterable[Path]) -> list[LayerRequest]:
    """The requests of several results, each once, in their order.

    Raises:
        ModelError: a result holds none.
    """
    requests: dict[frozenset[str], LayerRequest] = {}
    for path in _files(results):
        request = LayerRequest.load(path)
        requests.setdefault(request.texts, request)
    return list(requests.values())


def forgotten(results: Iterable[Path]) -> frozenset[str]:
    """The hashes of all texts that the requests of several results asked to forget.

    Raises:
        ModelError: a result holds no request.
    """
    return frozenset[str]().union(*(_about(path).texts for path in _files(results)))


def require_base(requests: Iterable[LayerRequest], base: str) -> None:
    """Refuse requests that were met on another model than the one whose hash is ``base``.

    Raises:
        ModelError: there is one.
    """
    if any(request.base != base for request in requests):
        raise ModelError(
            "a request belongs to another model",
            why="its layers were trained with other frozen weights than this model's.",
            fix="Start from the checkpoint of the first request, not from a result.",
        )


@torch.no_grad()
def merge_requests(
    model: nn.Module,
    requests: Sequence[LayerRequest],
    *,
    base: str,
    ridge: float = RIDGE,
    keep: float = 0.0,
) -> None:
    """Fuse the layers of all requests and merge them into ``model``, whose hash is ``base``.

    Raises:
        ModelError: a request belongs to another model, or ``keep`` is asked for and no request has what it
            takes; nothing was changed.
    """
    require_base(requests, base)
    layers = [request.layers for request in requests]
    if keep and not any(layer.kept_tokens for maps in layers for layer in maps.values()):
        raise ModelError(
            "nothing of the retain set was kept",
            why="keep needs a Gram matrix of retain text, and none was stored.",
            fix="Run the recipe eul with keep above 0, or leave keep out.",
        )
    with reading("the requests", "layers"):  # whose names and sizes need not be those of the model
        for name, map_HH in fused_maps(layers, ridge=ridge, keep=keep):
            merge_map(model, name, map_HH)


def _files(results: Iterable[Path]) -> Iterator[Path]:
    for result in results:
        paths = sorted((result / REQUESTS).glob("*.safetensors"))
        if not paths:
            raise ModelError(
                f"no requests in {result}",
                why=f"a model with unlearning layers has a folder {REQUESTS!r} next to its weights.",
                fix="Pass the output of a run of the recipe eul.",
            )
        yield from paths


class _About(BaseModel):
    """All that is no tensor in a request's file."""

    names: list[str]
    base: str
    texts: list[str]
    tokens: NonNegativeInt
    kept_tokens: NonNegativeInt


def _about(path: Path) -> _About:
    with reading(path, "request"), safe_open(path, framework="pt") as tensors:
        return _About.model_validate(load_json((tensors.metadata() or {}).get(ABOUT, "")))
