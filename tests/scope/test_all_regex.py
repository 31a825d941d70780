from __future__ import annotations

import pytest
from torch import nn

from expunge.errors import RecipeError
from expunge.scope import by_name, scopes
from expunge.scope.by_name import AllParameters
from tests.tiny import tiny


def unused() -> dict[str, object]:
    raise AssertionError("this scope has no use for the forget gradient")


def test_all_is_every_parameter() -> None:
    model = tiny("llama")
    selection = AllParameters().select(model, unused)
    assert selection.rows == {name: None for name, _ in model.named_parameters()}
    chosen, total = selection.count(model)
    assert chosen == total


def test_a_pattern_is_looked_for_anywhere_in_the_name() -> None:
    model = tiny("llama")
    scope = scopes.build({"name": "regex", "pattern": r"layers\.1\.mlp\.(up|down)_proj"})
    assert scope.select(model, unused).rows == {
        "model.layers.1.mlp.up_proj.weight": None,
        "model.layers.1.mlp.down_proj.weight": None,
    }


def test_a_pattern_that_matches_nothing_is_refused_with_names_that_would() -> None:
    scope = scopes.build({"name": "regex", "pattern": "transformer.h"})
    with pytest.raises(RecipeError, match="matches no parameter") as caught:
        scope.select(tiny("llama"), unused)
    assert "model.embed_tokens.weight" in str(caught.value)


@pytest.mark.parametrize("settings", [{"pattern": "("}, {}])
def test_what_is_no_pattern_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(RecipeError, match="pattern"):
        scopes.build({"name": "regex", **settings})


def test_scopes_do_not_wrap_the_model() -> None:
    model = nn.Linear(1, 1)
    assert AllParameters().prepare(model) is model


def test_a_pattern_that_takes_for_ever_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    scope = scopes.build({"name": "regex", "pattern": "([a-z0-9._]+)+X"})
    with pytest.raises(RecipeError, match="matches no parameter"):  # re takes hours over this one
        scope.select(tiny("llama"), unused)

    def search(_: str, name: str, *, timeout: float) -> None:
        raise TimeoutError(name, timeout)

    monkeypatch.setattr(by_name.regex, "search", search)
    with pytest.raises(RecipeError, match="its repetitions are nested"):
        scope.select(tiny("llama"), unused)
