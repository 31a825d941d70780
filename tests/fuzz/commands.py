"""Words that several command lines share."""

from __future__ import annotations

QUICK = ("--set", "epochs=1", "--set", "batch_size=4", "--set", "learning_rate=1e-3")
METRICS = ("--metric", "knowmem_forget", "--metric", "probability", "--metric", "utility")
SETS = ("--forget", "forget.jsonl", "--retain", "retain.jsonl")
AUDIT = ("audit", "one", "--target", "target", *SETS, *METRICS, "-q", "int4", "--max-items", "2")
