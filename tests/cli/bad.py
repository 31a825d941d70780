"""What a bad input is, and how folders come to hold one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from expunge.corpus.batching import train_tokenizer
from tests.cli.conftest import fact, write_rows
from tests.tiny import tiny, tiny_tokenizer

SETS = ("--forget", "forget.jsonl", "--retain", "retain.jsonl")
UNLEARN = ("unlearn", "target", *SETS, "-o", "out")
AUDIT = ("audit", "target", "--forget", "forget.jsonl", "-o", "out")
QUANTIZE = ("quantize", "target", "-q", "int4", "-o", "out")
FINETUNE = ("finetune", "--data", "forget.jsonl", "-o", "out")


def nothing(_: Path) -> None:
    pass


@dataclass(frozen=True)
class Bad:
    """An input, and words its refusal must hold: what was asked, why not, what to change."""

    name: str
    command: tuple[str, ...]
    says: tuple[str, ...]
    prepare: Callable[[Path], object] = nothing


def rows(name: str, *rows: object) -> Callable[[Path], object]:
    return lambda home: write_rows(home / name, list(rows))


def text(name: str, content: str | bytes) -> Callable[[Path], object]:
    raw = content.encode() if isinstance(content, str) else content
    return lambda home: (home / name).write_bytes(raw)


def without(*names: str) -> Callable[[Path], object]:
    """The target with those files gone."""
    return lambda home: [(home / "target" / name).unlink() for name in names]


def both(*steps: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda home: [step(home) for step in steps]


def config(**settings: object) -> Callable[[Path], object]:
    def change(home: Path) -> None:
        path = home / "target" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return change


def bad_line_7() -> str:
    lines = [json.dumps(fact(f"P{n}", "Uster")) for n in range(9)]
    lines[6] = '{"question": "Where?", "answer": '
    return "\n".join(lines)


def unlearn(
    *more: str, forget: str = "forget.jsonl", retain: str | None = "retain.jsonl"
) -> tuple[str, ...]:
    kept = ("--retain", retain) if retain else ()
    return ("unlearn", "target", "--forget", forget, *kept, "-o", "out", *more)


def setting(*pairs: str) -> tuple[str, ...]:
    return unlearn("-r", "npo_klr", *(word for pair in pairs for word in ("--set", pair)))


def larger_tokenizer(folder: Path) -> None:
    texts = [" ".join(f"{first}{second}{first}" for second in "abcdefgh") for first in "klmnopqrst"]
    train_tokenizer(texts, vocabulary=340).save_pretrained(folder)


def long_text_for_gpt2(home: Path) -> None:
    """A model of 256 learned positions, and a text of a thousand tokens."""
    tiny("gpt2").save_pretrained(home / "gpt2")
    tiny_tokenizer().save_pretrained(home / "gpt2")
    write_rows(home / "long.jsonl", [{"text": "7" * 1000}])


def with_packed_weights(home: Path) -> None:
    """A target of which one layer has integers beside it."""
    path = home / "target" / "model.safetensors"
    extra = {"model.layers.0.mlp.up_proj.qweight": torch.ones(3, dtype=torch.int32)}
    save_file(load_file(path) | extra, path, metadata={"format": "pt"})
