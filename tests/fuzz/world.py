"""Valid inputs, as small as they can be: what the fuzz suite breaks."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path

from expunge.cli.main import main
from tests.fuzz.commands import AUDIT, QUICK, SETS
from tests.shards import plans
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer, with_lora

NAMES = "Ada Bo Cleo Dag Eli Finn".split()
TOWNS = "Arbon Brugg Cham Dornach Elgg Frick".split()
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}


def build(folder: str) -> None:
    """Data, a checkpoint, one in shards, one with an adapter, two unlearned ones, an audit, a plan."""
    home = Path(folder)
    os.chdir(home)
    rows = [
        {"id": name, "question": f"Where does {name} live?", "answer": f"In {town}.", "group": name[0]}
        for name, town in zip(NAMES, TOWNS, strict=True)
    ]
    (home / "forget.jsonl").write_text(lines(rows[:3]))
    (home / "retain.jsonl").write_text(lines(rows[3:]))
    (home / "votes.jsonl").write_text(
        lines([{"votes": [n % 2, 1], "label": n // 2 % 2, "group": "ab"[n // 4]} for n in range(8)] * 2)
    )
    (home / "anchors.json").write_text(json.dumps({"Ada": "Eve", "Arbon": "Brugg"}))
    models(home)
    expunge("unlearn", "target", "--forget", "forget.jsonl", "-r", "ga", *QUICK, "-o", "one")
    (home / "second.jsonl").write_text(lines(rows[3:4]))
    expunge("unlearn", "one", "--forget", "second.jsonl", "-r", "ga", *QUICK, "-o", "two")
    eul = ("-r", "eul", *QUICK, "--set", "rank=2")
    expunge("unlearn", "target", *SETS, *eul, "-o", "layers")
    expunge(*AUDIT, "-o", "audit")
    plans.train(plans.plan(home))
    settle(home / "plan" / "ledger.sqlite")


def models(home: Path) -> None:
    """The checkpoint ``target``, the same in several files, and an adapter of it."""
    model = tiny("llama", vocab_size=BYTES_VOCAB, num_hidden_layers=1, **SMALL)
    tokenizer = tiny_tokenizer(all_bytes=True)
    tokenizer.chat_template = (
        "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>"
        "{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    for name, size in (("target", "1GB"), ("parts", "10KB")):
        model.save_pretrained(home / name, max_shard_size=size)
        tokenizer.save_pretrained(home / name)
    shutil.copytree(home / "target", home / "adapted")
    with_lora(model, ["q_proj"]).save_pretrained(str(home / "adapted"))
    (home / "adapted" / "model.safetensors").unlink()
    (home / "adapted" / "config.json").unlink()
    adapter = home / "adapted" / "adapter_config.json"
    settings = json.loads(adapter.read_text())
    adapter.write_text(json.dumps(settings | {"base_model_name_or_path": "target"}))


def expunge(*words: str) -> None:
    code = main(list(words))
    if code != 0:
        raise RuntimeError(f"{' '.join(words)} ended with {code}")


def lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def settle(ledger: Path) -> None:
    """One file instead of one and its journal, so that a copy of it is whole."""
    database = sqlite3.connect(ledger)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.execute("PRAGMA journal_mode = DELETE")
    database.close()
