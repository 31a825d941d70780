"""``python -m expunge``, and ``accelerate launch -m expunge`` for several processes that share the work."""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from pathlib import Path

from expunge.cli.main import run

if __name__ == "__main__":
    if os.environ.get("RANK", "0") == "0":
        run()
    # All processes know the whole result; one of them tells it.
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        run()
