"""Plain names to put in the place of others: drawn by a seed, the same one for the same name."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count

from expunge.corpus.names import Kind, Name

FIRST = (
    "Anna James Maria Robert Laura Thomas Emma Daniel Julia Peter Sarah Paul Helen Martin Alice Simon "
    "Ruth Mark Nina Frank Clare Adam Eva Oliver Kate Henry Lucy George Rachel Edward Sophie Philip Jane "
    "David Susan Michael Carol Andrew Ellen Patrick Irene Stephen Diana Charles Monica Leo Vera Max"
).split()
LAST = (
    "Brown Miller Clark Baker Walker Turner Cooper Carter Fisher Mason Parker Hunter Ward Wood Hill Green "
    "Young King Wright Scott Adams Nelson Mitchell Roberts Phillips Evans Collins Stewart Morris Rogers "
    "Reed Cook Morgan Bell Murphy Bailey Kelly Howard Cox Richardson Watson Brooks Gray Price Bennett Ross"
).split()
PLACES = (
    "Ashford Milton Newport Kingston Bradley Weston Preston Norton Sutton Marston Clifton Stratford "
    "Burton Hampton Langley Morton Wickham Hilton Oakley Stanton Thornton Wells Barton Linton Shelby "
    "Dalton Ripley Selby Malton Buxton Camden Easton Fairview Georgetown Lakewood Midland Riverside"
).split()
TRADES = (
    "Trading Transport Foods Textiles Press Motors Insurance Electric Tools Paper Shipping Travel".split()
)
PARTS: Mapping[Kind, tuple[Sequence[str], ...]] = {
    "person": (FIRST, LAST),
    "name": (FIRST, LAST),
    "place": (PLACES,),
    "organisation": (LAST, TRADES),
}
"""What a replacement of each kind is put together from."""


def pseudonyms(names: Sequence[Name], *, seed: int) -> dict[str, str]:
    """A replacement of the same kind for every name, in their order.

    First and last words of names of persons (and of what is not known) are replaced each by one word
    everywhere: "Mira" is replaced by what "Mira Oswick" begins with. No word of a name replaces
    another, and none is used twice while there are others.
    """
    taken = {word for name in names for word in name.text.split()}
    pools = {kind: _pool(kind, seed, taken) for kind in PARTS}
    replacements: dict[str, str] = {}
    by_word: dict[str, str] = {}
    # Longer names first: they say which words belong together.
    for name in sorted(names, key=lambda name: (-len(name.text.split()), -name.times, name.text)):
        if name.kind in ("place", "organisation"):
            replacements[name.text] = " ".join(next(pools[name.kind]))
            continue
        first, *others = name.text.split()
        ends = [first, *others[-1:]]
        if not by_word.keys() >= set(ends):
            for word, other in zip(ends, next(pools[name.kind]), strict=False):
                by_word.setdefault(word, other)
        replacements[name.text] = " ".join(by_word[word] for word in ends)
    return {name.text: replacements[name.text] for name in names}


def _pool(kind: Kind, seed: int, taken: Collection[str]) -> Iterator[tuple[str, ...]]:
    """Replacements in the parts of their kind, in an order drawn by ``seed``, again and again."""
    draw = random.Random(f"{seed}/{kind}")
    parts = []
    for words in PARTS[kind]:
        free = [word for word in words if word not in taken] or list(words)
        parts.append(draw.sample(free, len(free)))
    for turn in count():
        # All parts move on together: no word comes twice before it must, and then beside another one.
        yield tuple(part[(turn + at * (turn // len(part))) % len(part)] for at, part in enumerate(parts))
