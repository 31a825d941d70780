"""Commands that are killed 200 times: same bytes, nothing lost, no leftovers after the next run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KILLS = 200
QUIET = {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}


@pytest.mark.kill
def test_whatever_is_killed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill.killer", tmp_path, str(KILLS), os.environ.get("KILL_SEED", "0")],
        cwd=ROOT,
        env=os.environ | QUIET | {"TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    counts: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(counts, indent=1))
    at_renames = sum(row["at renames"] for row in counts.values())
    at_random = sum(row["at random"] for row in counts.values())
    assert at_renames >= KILLS // 2
    assert at_renames + at_random >= KILLS
    assert all(row["at renames"] and row["at random"] for row in counts.values())
