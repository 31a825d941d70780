"""Quantizers, and how a short name such as ``int4-g64`` or ``gptq4`` becomes one."""

from __future__ import annotations

import re
from typing import get_args

from expunge.errors import RecipeError, did_you_mean
from expunge.quant.base import Quantizer
from expunge.quant.grid import ScaleMode
from expunge.registry import Registry

quantizers: Registry[Quantizer] = Registry("quantizer", "expunge.quant")

__all__ = ["EXAMPLES", "FULL_PRECISION", "Quantizer", "parse_quantizer", "quantizers"]


EXAMPLES = (
    *("int4", "int3", "int8", "int4-g64", "int4-g128", "int4-row", "int4-tensor", "ao-int4-g128"),
    *("gptq4", "gptq4-g128", "gptq8", "awq4", "awq4-g128"),
)
FULL_PRECISION = ("none", "full", "fp32", "fp16", "bf16", "float32", "float16", "bfloat16")

ALIASES = {
    **{f"{bits}{sign}bit": f"int{bits}" for bits in (3, 4, 8) for sign in ("", "-")},
    **{f"q{kind}": f"gguf-q{kind}" for kind in ("4_0", "4_k", "5_k", "6_k", "8_0")},
    # llama.cpp's mixtures keep some tensors finer; what is measured is named in the audit.
    **{f"q{bits}_k_{size}": f"gguf-q{bits}_k" for bits in (4, 5) for size in ("m", "s")},
}
"""What people call formats elsewhere."""

_SCALE = rf"(?:-(?P<scale>{'|'.join(get_args(ScaleMode))}))?"
_INTEGER = re.compile(rf"int(?P<bits>\d+)(?:-(?P<where>row|tensor|g(?P<size>\d+)))?{_SCALE}")
_CALIBRATED = re.compile(
    rf"(?P<name>(?:llmc-)?[a-z]+)(?P<bits>\d+)(?:-(?P<where>row|g(?P<size>\d+)))?{_SCALE}(?::(?P<rest>.*))?"
)
_GROUPED = re.compile(r"(?P<name>[a-z0-9-]+)-g(?P<size>\d+)")


def parse_quantizer(text: str) -> Quantizer:
    """The quantizer of a short name.

    ``int<N>`` is round to nearest with N bits and one symmetric step per output row; ``-tensor``,
    ``-row`` or ``-g<size>`` changes the granularity, and a scale mode may follow. ``gptq<N>``, ``awq<N>``
    and their like take the same endings, and settings after a colon. ``4bit``, ``q4_k_m`` and their like
    (``ALIASES``) stand for the nearest of these. Everything else is
    ``<registered name>`` or ``<registered name>-g<size>``, and ``:<setting>=<value>,...`` behind it.

    Raises:
        RecipeError: the name or a setting is unknown, or the name means full precision.
    """
    name = text.strip().lower()
    name = ALIASES.get(name, name)
    if name in FULL_PRECISION:
        raise RecipeError(
            f"quantizer {text!r}",
            why="full precision is not a quantizer.",
            fix="Leave it out: the model is always measured at full precision too.",
        )
    integer = _INTEGER.fullmatch(name)
    if integer:
        return quantizers.build(_rtn_settings(integer))
    calibrated = _CALIBRATED.fullmatch(name)
    if calibrated and calibrated["name"] in list(quantizers):
        rest = calibrated["rest"]
        extra = {} if rest is None else _settings(text, rest)
        return quantizers.build({"name": calibrated["name"], **extra, **_grid_settings(calibrated)})
    head, colon, settings = name.partition(":")
    grouped = _GROUPED.fullmatch(head)
    by_name: dict[str, int] = {}
    if grouped and grouped["name"] in list(quantizers):
        head, by_name = grouped["name"], {"group_size": int(grouped["size"])}
    if head not in list(quantizers):
        raise RecipeError(
            f"quantizer {text!r}",
            why="no quantizer of that name is known.",
            fix=did_you_mean(head, [*quantizers, *EXAMPLES]),
        )
    return quantizers.build({"name": head, **by_name, **(_settings(text, settings) if colon else {})})


def _rtn_settings(integer: re.Match[str]) -> dict[str, str]:
    settings = {"name": "rtn", **_grid_settings(integer)}
    if integer["where"] and not integer["size"]:
        settings["granularity"] = integer["where"]
    return settings


def _grid_settings(match: re.Match[str]) -> dict[str, str]:
    settings = {"bits": match["bits"], "group_size": match["size"], "scale": match["scale"]}
    return {name: value for name, value in settings.items() if value}


def _settings(text: str, settings: str) -> dict[str, int | str]:
    found: dict[str, int | str] = {}
    for part in settings.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value) or key in found:
            raise RecipeError(
                f"quantizer {text!r}",
                why=f"{part!r} is not a setting, or is set twice.",
                fix="Write name:setting=value,setting=value, for instance rtn:bits=4,group_size=32.",
            )
        found[key] = int(value) if value.isdecimal() else value
    return found
