"""Long texts in windows: the tokens of the whole text, in the memory and time of a part of it.

A tokenizer keeps 200 bytes and more for every token of a text while it works, and Python another 100 for
its offsets. So a text of megabytes is tokenised in windows that overlap, and what is kept of each begins
and ends between a letter and a space or line break. The tokens are those of the whole text, because

- no token crosses such a place: no entry of the vocabulary holds a letter followed by a space;
- the pre-tokenizer cuts there in both windows, and both see the same text for ``OVERLAP`` characters
  around it, so that it stays in step (where a BPE model has no pre-tokenizer that cuts, its merges
  cannot cross the place either, and those on one side do not depend on the other);
- the two windows are compared where they overlap.

Where one of these does not hold for a tokenizer, or is unknown, the text is tokenised at once.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONG = 200_000
"""Characters from which a text is tokenised in windows."""
WINDOW, OVERLAP = 100_000, 1_000

LETTERS = r"[^\W\d_]", "[A-Za-z]"
"""Letters behind which a window may end: any, or where a vocabulary has tokens of other scripts that end
with a space, ASCII ones."""
BROKEN = "[\udc80-\udcff]"
"""A byte of a character that a token holds in part: it may be a letter's."""
NORMALIZERS = frozenset(
    "NFC NFD NFKC NFKD Lowercase StripAccents Strip Prepend Replace Precompiled BertNormalizer Nmt".split()
)
PRE_TOKENIZERS = frozenset(
    "ByteLevel Split Metaspace Digits Punctuation Whitespace WhitespaceSplit BertPreTokenizer".split()
)

Offsets = list[tuple[int, int]]


class WindowTokens(NamedTuple):
    """Token ids, and the characters of each."""

    ids: list[int]
    offsets: Offsets


class _Kind(NamedTuple):
    """Of a tokenizer that can work in windows: where they end, and if its pre-tokenizer must cut there."""

    place: re.Pattern[str]
    must_cut: bool


def in_windows(
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    encode: Callable[[str], WindowTokens],
    *,
    offsets: bool,
    window: int = WINDOW,
) -> WindowTokens | None:
    """What ``encode`` gives for a whole text, put together from windows of it.

    Args:
        text: The text.
        tokenizer: Says whether windows are safe.
        encode: Tokenises a text without special tokens.
        offsets: Whether offsets are wanted; without them the result has none.
        window: Characters of a window; more where no safe place is in it.

    Returns:
        ``None`` where it is not certain that the tokens would be those of the whole text.
    """
    kind = _kind(tokenizer)
    if kind is None:
        return None
    ids: list[int] = []
    places: Offsets = []
    known: dict[int, int] = {}  # one object for a token, however often it occurs
    for piece in _pieces(text, tokenizer, encode, kind, window):
        if piece is None:
            return None
        ids += [known.setdefault(token, token) for token in piece.ids]
        if offsets:
            places += piece.offsets
    return WindowTokens(ids, places)


def _pieces(
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    encode: Callable[[str], WindowTokens],
    kind: _Kind,
    window: int,
) -> Iterator[WindowTokens | None]:
    """The tokens of consecutive pieces; ``None`` as soon as two windows disagree."""
    begin = start = 0  # of the window, and of what is kept of it
    size = window
    before = WindowTokens([], [])  # the end of the piece before, which this window covers as well
    while True:
        end = min(begin + size, len(text))
        tokens = _moved(encode(text[begin:end]), begin)
        cuts = _Cuts(
            tokens, begin, _boundaries(text[begin:end], begin, tokenizer) if kind.must_cut else None
        )
        first = cuts.token_at(start) if start else 0
        if first is None or not _agree(before, tokens, first):
            yield None
            return
        if end == len(text):
            yield WindowTokens(tokens.ids[first:], tokens.offsets[first:])
            return
        places = _places(kind.place, text, start, end - OVERLAP, cuts)
        cut = next(places, None)
        context = next((place for place in places if cut is not None and place <= cut - OVERLAP), None)
        if cut is None or context is None:
            size *= 2
            continue
        last = cuts.token_at(cut)
        yield WindowTokens(tokens.ids[first:last], tokens.offsets[first:last])
        # The first word of the next window may be read differently: nothing precedes it there.
        shared = bisect_left([begins for begins, _ in tokens.offsets], context + OVERLAP // 2)
        before = WindowTokens(tokens.ids[shared:last], tokens.offsets[shared:last])
        begin, start, size = context, cut, window


class _Cuts(NamedTuple):
    """Where a window may be cut: between two tokens, and where its pre-tokenizer cuts."""

    tokens: WindowTokens
    begin: int
    boundaries: frozenset[int] | None

    def token_at(self, place: int) -> int | None:
        """The number of the first token from ``place`` on; ``None`` where a token or word crosses it."""
        if self.boundaries is not None and place not in self.boundaries:
            return None
        number = bisect_left(self.tokens.offsets, (place, place))
        crossed = number > 0 and self.tokens.offsets[number - 1][1] > place
        return None if crossed else number


def _places(place: re.Pattern[str], text: str, start: int, end: int, cuts: _Cuts) -> Iterator[int]:
    """Places of a window where it may be cut, from ``end`` backwards to ``start``."""
    for high in range(end, start, -OVERLAP):
        low = max(start + 1, high - OVERLAP)
        for match in reversed(list(place.finditer(text, low, high + 1))):
            if cuts.token_at(match.end()) is not None:
                yield match.end()


def _agree(before: WindowTokens, tokens: WindowTokens, first: int) -> bool:
    begin = first - len(before.ids)
    return begin >= 0 and before == WindowTokens(tokens.ids[begin:first], tokens.offsets[begin:first])


def _moved(tokens: WindowTokens, begin: int) -> WindowTokens:
    return WindowTokens(tokens.ids, [(start + begin, end + begin) for start, end in tokens.offsets])


def _boundaries(text: str, begin: int, tokenizer: Any) -> frozenset[int]:
    words = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    return frozenset(begin + place for _, places in words for place in places)


def _kind(tokenizer: Any) -> _Kind | None:
    """How a tokenizer works in windows; ``None`` where it is not certain that it can."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not tokenizer.is_fast:
        return None
    described = json.loads(backend.to_str())
    model, steps = described["model"], list(_steps(described["pre_tokenizer"]))
    names = {step["type"] for step in steps}
    if not names <= PRE_TOKENIZERS or not set(map(_type, _steps(described["normalizer"]))) <= NORMALIZERS:
        return None
    if any(_has_wildcard(step) for step in steps) or model.get("dropout"):
        return None
    letters = _letters(backend, byte_level=any(step["type"] == "ByteLevel" for step in steps))
    if letters is None:
        return None
    cuts = any(step["type"] != "Metaspace" or step.get("split", True) for step in steps)
    affixed = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    if not cuts and (model["type"] != "BPE" or affixed):
        return None
    return _Kind(place=re.compile(f"{letters}(?=[ \\n])"), must_cut=cuts)


def _letters(backend: Any, *, byte_level: bool) -> str | None:
    """The largest set of letters that no token holds followed by a space or line break."""
    inner = backend.get_vocab(with_added_tokens=False)
    tokens = [*map(_written, inner), *backend.get_added_tokens_decoder().values()] if byte_level else []
    texts = [str(getattr(token, "content", token)) for token in tokens or backend.get_vocab()]
    for letters in LETTERS:
        either = f"(?:{letters}|{BROKEN})" if letters == LETTERS[0] else letters
        crossing = re.compile(f"{either}[▁ \\n]")
        if not any(map(crossing.search, texts)):
            return letters
    return None


@cache
def _byte_of() -> Mapping[str, int]:
    """The byte of each character of a byte-level vocabulary (GPT-2's table)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(shown)]
    return {chr(byte): byte for byte in shown} | {chr(256 + at): byte for at, byte in enumerate(hidden)}


def _written(token: str) -> str:
    """The text of a token of a byte-level vocabulary; bytes of broken characters as surrogates."""
    table = _byte_of()
    raw = b"".join(bytes([table[each]]) if each in table else each.encode() for each in token)
    return raw.decode("utf-8", "surrogateescape")


def _steps(described: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The parts of a normalizer or pre-tokenizer, sequences unpacked."""
    if described is None:
        return
    inside = described.get("pretokenizers") or described.get("normalizers")
    if described["type"] == "Sequence":
        for step in inside or ():
            yield from _steps(step)
    else:
        yield described


def _type(step: Mapping[str, Any]) -> str:
    return str(step["type"])


def _has_wildcard(step: Mapping[str, Any]) -> bool:
    """Whether a pattern may match any character, so that one match may reach over a whole text."""
    pattern = (step.get("pattern") or {}).get("Regex", "")
    return "." in re.sub(r"\\.|\[[^\]]*\]", "", pattern)
