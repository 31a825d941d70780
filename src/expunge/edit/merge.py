"""A checkpoint with what others learnt put into it: task vectors, fused layers, a model held against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from expunge.edit.requests import load_requests, merge_requests, save_requests
from expunge.edit.task_vector import ADAPTER, WeightDelta, stored
from expunge.errors import ModelError, RecipeError
from expunge.files import RECORD, claiming, local_folder, refuse_existing, replaced_by, write_json, writing
from expunge.model.contrast import contrasted
from expunge.model.load import hash_model, load_model, load_tokenizer, require_savable, save_model
from expunge.model.resources import disk_errors
from expunge.model.tensors import Weight
from expunge.record import Stopwatch, make_record

EXAMPLE = "For instance --subtract ./finetuned:0.5"


class TaskVectorSpec(NamedTuple):
    """What a checkpoint (or a LoRA adapter) adds to the base, and how many times it is added."""

    folder: Path
    factor: float

    @classmethod
    def read(cls, text: str, *, sign: float) -> Self:
        """``folder`` or ``folder:weight``, times ``sign``.

        Raises:
            ModelError: there is no such folder.
            RecipeError: the weight is zero or below.
        """
        path, _, number = text.rpartition(":")
        weight = _number(number) if path else None
        path = text if weight is None else path
        if weight is not None and not 0 < weight < float("inf"):
            raise RecipeError(text, why="a weight is a number above zero.", fix=EXAMPLE)
        folder = local_folder(Path(path))
        if folder is None:
            raise ModelError(f"no folder {path}", why="it does not exist.", fix=EXAMPLE)
        return cls(folder, sign * (1.0 if weight is None else weight))

    def delta(self, base: Mapping[str, Weight]) -> WeightDelta:
        """The change this vector makes, tensor by tensor from its files."""
        if (self.folder / ADAPTER).is_file():
            return WeightDelta.of_adapter(self.folder).scaled(self.factor)
        return WeightDelta.between(base, stored(self.folder)).scaled(self.factor)


@dataclass(frozen=True, kw_only=True)
class MergeJob:
    """Base + Σ factor (checkpoint − base), or the base with the requests of ``fuse`` met at once.

    Source: Ilharco et al. 2023 (arXiv 2212.04089): negation and addition of task vectors; Chen and Yang
    2023 (arXiv 2310.20150): fusion. ``keep`` is that of ``expunge.edit.fusion.fused``. With ``contrast`` (a
    checkpoint trained from the base, and α) the two answer as one (``expunge.model.contrast``).
    """

    base: Path
    output: Path
    subtract: tuple[str, ...] = ()
    add: tuple[str, ...] = ()
    fuse: tuple[Path, ...] = ()
    contrast: str | None = None
    keep: float = 0.0
    overwrite: bool = False

    def run(self) -> dict[str, Any]:
        """Write the result, in the dtype of the base; returns its record."""
        with claiming(self.output):
            refuse_existing(self.output, overwrite=self.overwrite)
            return self._merge()

    def _merge(self) -> dict[str, Any]:
        vectors = [TaskVectorSpec.read(text, sign=-1.0) for text in self.subtract]
        vectors += [TaskVectorSpec.read(text, sign=1.0) for text in self.add]
        held = None if self.contrast is None else TaskVectorSpec.read(self.contrast, sign=1.0)
        self._check(vectors)
        requests = load_requests(self.fuse)
        watch = Stopwatch()
        model = load_model(self.base)
        tokenizer = load_tokenizer(self.base, model=model)
        require_savable(model, tokenizer)
        source, dtype = hash_model(model), model.dtype
        if requests:
            model.float()
            merge_requests(model, requests, base=hash_model(model), keep=self.keep)
            model.to(dtype)
        elif held is not None:
            model = contrasted(model, load_model(held.folder), alpha=held.factor)
        else:
            self._total(vectors).apply(model)
        record = make_record(
            command="merge",
            watch=watch,
            source=str(self.base),
            source_sha256=source,
            vectors=[{"folder": str(vector.folder), "factor": vector.factor} for vector in vectors],
            fused=[str(folder) for folder in self.fuse],
            contrast=None if held is None else {"folder": str(held.folder), "alpha": held.factor},
            requests=len(requests),
            result_sha256=hash_model(model),
        )
        may_replace = replaced_by(overwrite=self.overwrite)
        with disk_errors(self.output), writing(self.output, may_replace=may_replace) as folder:
            save_model(model, tokenizer, folder)
            if requests:
                save_requests(requests, folder)
            write_json(folder / RECORD, record)
        return record

    def _check(self, vectors: Sequence[TaskVectorSpec]) -> None:
        if not vectors and not self.fuse and self.contrast is None:
            raise RecipeError("nothing to merge", why="no checkpoint was named.", fix=EXAMPLE)
        if vectors and self.fuse:
            raise RecipeError(
                "task vectors and unlearning layers at once",
                why="the layers were trained with the weights of the base, which a vector would change.",
                fix="Fuse first, then subtract from the result.",
            )
        if self.contrast is not None and (vectors or self.fuse):
            raise RecipeError(
                "--contrast with other ways to merge",
                why="it leaves the weights of both checkpoints as they are.",
                fix="Merge the others first, then apply --contrast to the result.",
            )
        if self.keep and not self.fuse:
            raise RecipeError("--keep", why="it belongs to fusing.", fix="Add --fuse, or leave it out.")

    def _total(self, vectors: Sequence[TaskVectorSpec]) -> WeightDelta:
        base = stored(self.base)
        total = WeightDelta({})
        for vector in vectors:
            total += vector.delta(base)
        return total


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
