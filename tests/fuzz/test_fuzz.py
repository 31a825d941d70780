"""No malformed input leads to an internal error, a traceback, a hang or a flood.

``make fuzz`` draws other inputs each time and prints its seed, with which FUZZ_SEED=n repeats them; with CI
set they are always the same. FUZZ_SCALE multiplies their number. The smallest input of every kind of fault
is kept in a folder that the failure names (FUZZ_KEEP; by default fuzz-failures).
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.sandbox import REFUSED, Outcome, Sandbox
from tests.fuzz.surfaces import SURFACES, Input, Surface, lay

IS_FIXED = bool(os.environ.get("CI"))
SEED = int(os.environ.get("FUZZ_SEED", random.SystemRandom().randrange(2**32)))
SCALE = float(os.environ.get("FUZZ_SCALE", "1"))
KEPT = Path(os.environ.get("FUZZ_KEEP", "fuzz-failures"))
LEAST = 1000


class Faults:
    """The faults of a surface, by kind, each with the smallest input that shows it."""

    def __init__(self, surface: Surface) -> None:
        self.surface = surface
        self.ended: Counter[int] = Counter()
        self.smallest: dict[str, tuple[Input, str]] = {}

    def note(self, given_input: Input, outcome: Outcome) -> None:
        self.ended[outcome.code] += 1
        for fault in outcome.faults():
            kind = re.sub(r"0x[0-9a-f]+|\d{3,}", "#", fault.split(": ")[0])
            known = self.smallest.get(kind)
            if known is None or given_input.size < known[0].size:
                self.smallest[kind] = (given_input, fault)

    @property
    def tried(self) -> int:
        return self.ended.total()

    def report(self, world: Path) -> str:
        """Every kind of fault, and where its input lies now."""
        told = []
        for number, (given_input, fault) in enumerate(self.smallest.values(), start=1):
            folder = KEPT / f"{self.surface.name}-{number}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            lay(world, self.surface, folder, given_input)
            argv = ascii(list(given_input.argv))
            (folder / "command.txt").write_text(
                f"{argv}\n{fault.encode('ascii', 'backslashreplace').decode()}\n"
            )
            told.append(f"{fault[:300]!r}\n    in {folder}: expunge {argv[:300]}")
        return "\n".join(told)


@pytest.mark.fuzz
@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_malformed(surface: Surface, world: Path, sandbox: Sandbox, tmp_path: Path) -> None:
    faults = Faults(surface)
    count = max(1, round(surface.inputs * SCALE))

    @settings(
        max_examples=count,
        derandomize=IS_FIXED,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(surface.draw(world))
    def try_one(given_input: Input) -> None:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        try:
            lay(world, surface, scratch, given_input)
            faults.note(given_input, sandbox.run(scratch, given_input.argv))
        finally:
            shutil.rmtree(scratch)

    (try_one if IS_FIXED else seed(SEED)(try_one))()
    said = "" if IS_FIXED else f" FUZZ_SEED={SEED}"
    print(
        f"{surface.name}: {faults.tried} inputs, {faults.ended[REFUSED]} refused, {faults.ended[0]} fine, "
        f"{len(faults.smallest)} kinds of fault{said}"
    )
    assert not faults.smallest, f"{surface.name}, {faults.tried} inputs{said}:\n{faults.report(world)}"
    assert faults.tried >= 0.9 * count


def test_there_are_enough_inputs() -> None:
    assert sum(surface.inputs for surface in SURFACES) * 0.9 >= LEAST
