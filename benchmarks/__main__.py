"""Every benchmark, one after the other, then the table of the README: ``make bench``."""

from __future__ import annotations

import subprocess
import sys

for name in ("step", "evaluation", "sharing", "quantizers", "table"):
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
