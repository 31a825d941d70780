"""The commands and programs that the documents show, read out of them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOFU = ROOT.parent / "shared" / "data" / "tofu"


def fenced(document: str, language: str) -> list[str]:
    """The fenced blocks of a document in one language, in their order."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(document: str, program: str) -> list[list[str]]:
    """The arguments of every call of ``program`` in a document's shell blocks, continued lines joined."""
    lines = "\n".join(fenced(document, "sh")).replace("\\\n", " ").splitlines()
    calls = [shlex.split(line, comments=True) for line in lines]
    return [call[1:] for call in calls if call and call[0] == program]
