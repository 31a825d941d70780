"""The results that are kept, as the table of the README.

python -m benchmarks.table
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.compare import RESULTS
from expunge.files import write_text

README = RESULTS.parent / "README.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
NAMES = ("step-all", "step-blocks", "step-sure", "evaluation", "quantizers")
HEADER = (
    "what | plain, s | ours, s | times faster (turn by turn) | peak, plain → ours, MiB | share"
    " | share above the bare model | load average"
).split(" | ")
EVALUATION = "the four MUSE metrics"


def row(name: str) -> list[str]:
    """One result as the cells of the table."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    least, most = found["times_faster_of_turns"]
    load = found["load_average"]
    return [
        _what(found),
        f"{found['plain_seconds']:.2f}",
        f"{found['ours_seconds']:.2f}",
        f"**{found['times_faster']:.2f}** ({least:.2f}-{most:.2f})",
        f"{found['plain_memory']['peak_mib']:.0f} → {found['ours_memory']['peak_mib']:.0f}",
        f"**{found['peak_share']:.2f}**",
        f"{found['peak_share_above_model']:.2f}",
        f"{load['before']:.1f} → {load['after']:.1f}",
    ]


def _what(found: dict[str, Any]) -> str:
    if "what" in found:
        return str(found["what"])
    return f"step, {found['title']}" if "title" in found else EVALUATION


def main() -> None:
    """Put the table of the results between the marks of the README."""
    names = [name for name in NAMES if (RESULTS / f"{name}.json").exists()]
    lines = [HEADER, ["---"] * len(HEADER), *map(row, names)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    write_text(README, f"{before}{BEGIN}\n{table}\n{END}{after}")
    print(table)


if __name__ == "__main__":
    main()
