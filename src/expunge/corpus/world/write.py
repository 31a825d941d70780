"""The built-in world as files: the same JSONL an owner would bring."""

from __future__ import annotations

from pathlib import Path

from expunge.corpus.world.splits import World
from expunge.corpus.writer import write_examples
from expunge.files import MayReplace, nothing, writing


def write_world(world: World, folder: Path, *, may_replace: MayReplace = nothing) -> None:
    """Write every split as ``<split>.jsonl``, and the training texts of target and retrained."""
    with writing(folder, may_replace=may_replace) as scratch:
        scratch.mkdir()
        for name, examples in world.splits().items():
            write_examples(scratch / f"{name}.jsonl", examples)
        write_examples(scratch / "target_texts.jsonl", world.target_texts())
        write_examples(scratch / "retrained_texts.jsonl", world.retrained_texts())
