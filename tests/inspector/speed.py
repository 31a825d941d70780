"""How long a whole answer takes once the models are in memory: ``python -m tests.inspector.speed RUN``.

The question goes over HTTP as a browser sends it, to four models: target, retrained, unlearned, and
unlearned at 4 bits, each also read layer by layer.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from expunge.audit.run.plan import Role
from expunge.inspector.server import cookie_of
from tests.inspector.serving import KEY, desk_of, serving

ROUNDS = 9
TOKENS = 48


def main(run: Path) -> None:
    """Print the middle and the longest of some rounds, for a question and for the beginning of a text."""
    service = desk_of(run, max_tokens=TOKENS)
    asked = [{"model": service.registry.of(role)[0].name} for role in Role]
    asked.append(asked[-1] | {"precision": "int4"})
    with serving(service) as address:
        for metric in dict.fromkeys(item.metric for item in service.items):
            item = next(each for each in service.items if each.metric == metric)
            question = {"prompt": item.prompt, "truth": item.truth, "asked": asked}
            took = list(rounds(address, question))
            print(f"{metric}: {statistics.median(took):.2f} s, at most {max(took):.2f} s")


def rounds(address: str, question: Any) -> Iterator[float]:
    """Seconds from asking to the last word, the first round, which loads, left out."""
    sent = Request(  # noqa: S310 - of this machine
        f"{address}/ask", json.dumps(question).encode(), {"cookie": f"{cookie_of(KEY)}={KEY}"}
    )
    for number in range(ROUNDS + 1):
        began = time.perf_counter()
        with urlopen(sent) as answer:  # noqa: S310
            answer.read()
        if number:
            yield time.perf_counter() - began


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
