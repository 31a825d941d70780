"""Numbers as people read them, and the glossary of a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.audit.blocks import DIGITS

if TYPE_CHECKING:
    from expunge.audit.statistics.bootstrap import Estimate

GLOSSARY = (
    ("Forget set", "The texts that were to be forgotten."),
    ("Target", "The model before unlearning: it knows the forget set."),
    ("Retrained", "A model trained the same way without the forget set: what one knows who never saw it."),
    ("Unlearned", "The target after an unlearning method was applied to it."),
    ("Full precision", "The model as it was saved, nothing rounded."),
    (
        "Quantized",
        "Rounded to few bits per weight (int8, int4, NF4 …) to be served more cheaply, as most models are.",
    ),
    (
        "Recovery",
        "How much more a model knows of the forget set once it is quantized: text that came back.",
    ),
    (
        "Against the target",
        "What a model knows in percent of what the target knows, both rounded alike: all, if that is 100.",
    ),
    ("Utility", "How well the model still answers what it was to keep."),
    (
        "Interval",
        "What other texts of the same kind would give, 95 times in 100. A wide one means few items.",
    ),
    ("Leaked word", "A word of an answer that stands in the truth, in the same order."),
    ("SHA-256", "A fingerprint of a file: another fingerprint, another file."),
)


# Numbers as people read them: one place decides digits, signs, intervals and units.

NOTHING = "–"
MINUS = "−"


def digits_of(scale: str) -> int:
    """How many decimals a scale is read to, here as in the terminal."""
    return DIGITS.get(scale, 1)


def number(value: float | None, *, scale: str = "", sign: bool = False) -> str:
    """A value to the digits its scale is read in; a dash where there is none."""
    if value is None:
        return NOTHING
    digits = digits_of(scale)
    rounded = round(value, digits) + 0.0  # the zero turns a rounded -0.0 into 0.0
    text = f"{abs(rounded):.{digits}f}"
    before = MINUS if rounded < 0 else "+" if sign else ""
    return before + (text.removesuffix(".0") if abs(rounded) >= 100 else text)


def interval(estimate: Estimate | None, *, scale: str = "", sign: bool = False) -> str:
    """``19.4 to 76.5``; empty where no interval is known."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    low, high = (number(end, scale=scale, sign=sign) for end in (estimate.low, estimate.high))
    return f"{low} to {high}"


def short(digest: str) -> str:
    """The first characters of a hash: enough to compare by eye."""
    return digest[:12]


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 6 s`` or ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def memory(mib: float) -> str:
    """``590 MiB`` or ``12.3 GiB``."""
    return f"{mib:.0f} MiB" if mib < 1024 else f"{mib / 1024:.1f} GiB"


def thousands(count: int) -> str:
    """``1 581 056`` with thin spaces that do not break."""
    return f"{count:,}".replace(",", "\u202f")


def plural(count: int, one: str, many: str | None = None) -> str:
    """``1 question``, ``36 questions``."""
    return f"{thousands(count)} {one if count == 1 else many or one + 's'}"
