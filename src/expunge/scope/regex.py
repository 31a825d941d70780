"""Parameters whose names match a pattern may change."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from expunge.errors import RecipeError
from expunge.scope import Saliency, Scope, scopes
from expunge.scope.selection import Selection

if TYPE_CHECKING:
    from torch import nn


@scopes.register("regex")
class MatchingNames(Scope):
    r"""Parameters whose name matches a pattern, for instance ``mlp\.down_proj``."""

    pattern: str = Field(description="A regular expression that must be found in a parameter's name.")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern

    def select(self, model: nn.Module, saliency: Saliency) -> Selection:  # noqa: ARG002
        names = [name for name, _ in model.named_parameters()]
        matching = [name for name in names if re.search(self.pattern, name)]
        if not matching:
            raise RecipeError(
                f"scope pattern {self.pattern!r}",
                why="it matches no parameter of this model.",
                fix=f"Its parameters look like {names[0]!r} and {names[-1]!r}.",
            )
        return Selection(dict.fromkeys(matching))
