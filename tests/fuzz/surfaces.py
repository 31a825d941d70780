"""What is broken, and the command lines that read it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz import tables, values
from tests.fuzz.commands import (
    ADAPTER,
    ANCHORS,
    ANNOTATE,
    ASK,
    COMMON,
    DEAL,
    FAIR,
    FINETUNE,
    LAYERS,
    MODEL,
    NUMBERS,
    OPTIONS,
    OTHERS,
    PARTS,
    PLAN,
    REPORTS,
    REQUESTED,
    RESUME,
    SPECS,
    SWAP,
    UNLEARN,
)
from tests.fuzz.values import RAW, WORDS, Draw

Breaker = Callable[[bytes], st.SearchStrategy[bytes]]


@dataclass(frozen=True)
class Input:
    """A malformed input: files to write into the folder (None: removed), and the command line."""

    files: tuple[tuple[str, bytes | None], ...]
    argv: tuple[str, ...]

    @property
    def size(self) -> int:
        """How much of it there is to read."""
        return sum(len(content or b"") for _, content in self.files) + sum(map(len, self.argv))


@dataclass(frozen=True)
class Surface:
    """A kind of input: what of the world it needs, how often it is tried, and how it is drawn."""

    name: str
    needs: tuple[str, ...]
    inputs: int
    draw: Callable[[Path], st.SearchStrategy[Input]]


def lay(world: Path, surface: Surface, scratch: Path, given: Input) -> None:
    """A folder with a copy of what the surface needs and the malformed files in it."""
    for name in surface.needs:
        source = world / name
        if source.is_dir():
            shutil.copytree(source, scratch / name)
        else:
            shutil.copy(source, scratch / name)
    for name, content in given.files:
        path = scratch / name
        if content is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def of_files(
    pattern: str, breaker: Breaker, *commands: Sequence[str]
) -> Callable[[Path], st.SearchStrategy[Input]]:
    """One of the files of a pattern, broken, read by one of some commands."""

    def make(world: Path) -> st.SearchStrategy[Input]:
        names = sorted(path.relative_to(world).as_posix() for path in world.glob(pattern))

        @st.composite
        def input_of(draw: Draw) -> Input:
            name = draw(st.sampled_from(names))
            content = draw(breaker((world / name).read_bytes()))
            return Input(((name, content),), tuple(draw(st.sampled_from(commands))))

        return input_of()

    return make


def data_file(suffix: str, convert: Callable[[list[Any]], bytes], breaker: Breaker) -> Any:
    """The forget set in another form, broken."""

    def make(world: Path) -> st.SearchStrategy[Input]:
        rows = [json.loads(line) for line in (world / "forget.jsonl").read_text().splitlines()]
        content = convert(rows)

        @st.composite
        def input_of(draw: Draw) -> Input:
            command = draw(st.sampled_from([UNLEARN, ANCHORS, ANCHORS, ANNOTATE, ASK, FINETUNE]))
            argv = tuple(f"forget{suffix}" if word == "forget.jsonl" else word for word in command)
            return Input(((f"forget{suffix}", draw(breaker(content))),), argv)

        return input_of()

    return make


def as_csv(rows: list[dict[str, str]]) -> bytes:
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


RECIPE = {
    "name": "mine",
    "title": "A recipe",
    "paper": "none",
    "needs": ["retain"],
    "stages": [
        {
            "name": "unlearn",
            "forget": {"name": "npo", "beta": 0.1},
            "retain": {"name": "gdr", "weight": 1.0},
            "epochs": 1,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "max_length": 64,
            "scope": {"name": "all"},
        }
    ],
}
YAML = (
    *"2026-01-01|2026-99-99|!!python/object:os.system {}|!!binary //8=|&a [*a]|*b|{[a]: 1}".split("|"),
    *"{{a: b}: c}|? [a]\n: b|<<: *a|1:30:00|12:99|.nan|.inf|0x10|0b2|0o99|1_000|1e400|~".split("|"),
    *"\t- a|{a: 1, a: 2}|!!set {a, b}|!!omap [a: 1]|!!timestamp x|!!int x|!!float x|!!bool x".split("|"),
    *"!!str 1|!!null x|!!map [1]|!!seq {a: 1}|!|%YAML 9.9|---\n---\n|a: b: c|'|\"\\x|@|`|>-|=".split("|"),
    *("&a", "-", "?", "- " * 3000 + "a", "[" * 20_000, "{a: " * 5000),
)
LAUGHS = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else '1'}]" for n in range(12))
KEYS = (
    *("", ".", "\x1b[31m"),
    *"forget.beta epochs batch_size learning_rate max_length stages.0.epochs stages.1.epochs".split(),
    *"stages stages.0 stages.² stages.-1 stages.99999999999999999999.epochs name needs a..b".split(),
    *"forget retain.weight stages.0.forget.name stages.0.forget.beta.x scope adversary é stop".split(),
    *"schedule warmup_steps betas optimizer save_every".split(),
)


def recipe_file(world: Path) -> st.SearchStrategy[Input]:
    content = json.dumps(RECIPE).encode()

    @st.composite
    def input_of(draw: Draw) -> Input:
        how = draw(st.sampled_from(["json", "json", "json", "bytes", "yaml", "yaml", "laughs"]))
        if how == "json":
            text = draw(values.broken_json(content))
        elif how == "bytes":
            text = draw(values.broken_bytes(content))
        elif how == "laughs":
            text = LAUGHS.encode()
        else:
            odd = draw(st.sampled_from(YAML))
            key = draw(st.sampled_from(["name", "stages", "needs", odd]))
            text = f"{key}: {odd}\n".encode("utf-8", "surrogatepass")
        argv = tuple({"ga_gdr": "mine.yaml"}.get(word, word) for word in UNLEARN[:-8]) + UNLEARN[-2:]
        return Input((("mine.yaml", text),), draw(st.sampled_from([argv, ("methods", "mine.yaml")])))

    return input_of()


def overrides(world: Path) -> st.SearchStrategy[Input]:
    @st.composite
    def input_of(draw: Draw) -> Input:
        key, odd = draw(st.sampled_from(KEYS)), draw(st.sampled_from((*YAML, *RAW, *WORDS)))
        pair = draw(st.sampled_from([f"{key}={odd}", f"{key}={odd}", f"{key}={odd}", key, odd]))
        command = draw(st.sampled_from([UNLEARN, UNLEARN, FINETUNE, DEAL]))
        option = draw(st.sampled_from(["--set", "--set", "--set", "--field"]))
        if command is DEAL:
            option = draw(st.sampled_from(["--set", "--size"]))
        return Input((), (*command, f"{option}={typed(pair)}"))

    return input_of()


def typed(word: str) -> str:
    """What can be typed: no NUL, and not longer than the system passes on."""
    return word.replace("\x00", "")[:100_000]


def options(world: Path) -> st.SearchStrategy[Input]:
    """Valid commands with one option more, whose value makes no sense."""
    commands = [*MODEL, ANCHORS, ANNOTATE, DEAL, FAIR, *PLAN, *REPORTS, *OTHERS]

    @st.composite
    def input_of(draw: Draw) -> Input:
        command = draw(st.sampled_from(commands))
        option = draw(st.sampled_from(f"{COMMON} {OPTIONS[command[0]]}".split()))
        odd = typed(draw(st.sampled_from((*WORDS, *NUMBERS, *SPECS, *RAW[:20]))))
        kept = [word for word in command if word != option]
        return Input((), (*kept, f"{option}={odd}"))

    return input_of()


DATA = ("target", "forget.jsonl", "retain.jsonl")
EVERYTHING = (
    *DATA,
    *"one two audit plan start votes.jsonl anchors.json second.jsonl adapted layers".split(),
)
PARTED = ("parts", *DATA[1:])
AUDITED = ("audit", "one", *DATA)
ADAPTED, LAYERED, SWAPPED = ("target", "adapted"), ("target", "layers"), (*DATA, "anchors.json")
PLANNED = ("plan", "start", "forget.jsonl")
ASKED = ("two", *DATA, "second.jsonl")


def header_or_index(content: bytes) -> st.SearchStrategy[bytes]:
    return values.broken_json(content) if content[:1] == b"{" else tables.broken_tensors(content)


def as_json(rows: list[Any]) -> bytes:
    return json.dumps(rows).encode()


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


SURFACES = (
    Surface("data-jsonl", DATA, 120, data_file(".jsonl", lines, values.broken_lines)),
    Surface("data-json", DATA, 50, data_file(".json", as_json, values.broken_json)),
    Surface("data-csv", DATA, 60, data_file(".csv", as_csv, values.broken_csv)),
    Surface("data-parquet", DATA, 60, data_file(".parquet", tables.as_parquet, tables.broken_parquet)),
    Surface("recipe", DATA, 60, recipe_file),
    Surface("set", DATA, 80, overrides),
    Surface("options", EVERYTHING, 120, options),
    Surface("config", DATA, 100, of_files("target/config.json", values.broken_json, *MODEL)),
    Surface("generation", DATA, 30, of_files("target/generation_config.json", values.broken_json, *MODEL)),
    Surface("tokenizer", DATA, 80, of_files("target/tokenizer*.json", values.broken_json, *MODEL)),
    Surface("template", DATA, 30, of_files("target/chat_template.jinja", values.broken_template, *MODEL)),
    Surface("weights", DATA, 50, of_files("target/model.safetensors", tables.broken_tensors, *MODEL)),
    Surface("index", PARTED, 40, of_files("parts/model*", header_or_index, *PARTS)),
    Surface("adapter", ADAPTED, 40, of_files("adapted/adapter*", header_or_index, ADAPTER)),
    Surface("layers", LAYERED, 30, of_files("layers/requests/*", tables.broken_tensors, LAYERS)),
    Surface("anchors", SWAPPED, 20, of_files("anchors.json", values.broken_json, SWAP)),
    Surface("run-json", ("audit",), 90, of_files("audit/*.json", values.broken_json, *REPORTS)),
    Surface(
        "run-scores", ("audit",), 70, of_files("audit/scores.parquet", tables.broken_parquet, *REPORTS)
    ),
    Surface("run-cells", AUDITED, 40, of_files("audit/cells/*.parquet", tables.broken_parquet, RESUME)),
    Surface("run-notes", AUDITED, 20, of_files("audit/cells/*.json", values.broken_json, RESUME)),
    Surface("run-record", AUDITED, 20, of_files("*/record.json", values.broken_json, RESUME)),
    Surface("plan", PLANNED, 60, of_files("plan/plan.json", values.broken_json, *PLAN)),
    Surface("plan-ledger", PLANNED, 60, of_files("plan/ledger.sqlite", tables.broken_ledger, *PLAN)),
    Surface("plan-slices", PLANNED, 30, of_files("plan/shard-*/*.jsonl", values.broken_lines, *PLAN)),
    Surface("plan-state", PLANNED, 30, of_files("plan/shard-*/*/state.json", values.broken_json, *PLAN)),
    Surface("votes", ("votes.jsonl",), 30, of_files("votes.jsonl", values.broken_lines, FAIR)),
    Surface("requests", ASKED, 60, of_files("two/ledger.jsonl", values.broken_lines, *REQUESTED)),
    Surface("request-record", ASKED, 30, of_files("two/record.json", values.broken_json, *REQUESTED)),
)
"""Everything that is broken, and how often."""
