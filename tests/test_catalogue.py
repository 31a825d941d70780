from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from expunge.catalogue import cited, made_of, recipe_names, recipe_text
from expunge.errors import RecipeError


def test_names_are_sorted_and_each_is_the_one_inside() -> None:
    names = recipe_names()
    assert names == sorted(names)
    assert {"ga", "npo", "ga_gdr", "npo_klr", "npo_klr_sure", "finetune"} <= set(names)
    assert [yaml.safe_load(recipe_text(name))["name"] for name in names] == names


def test_a_recipe_says_what_it_is_made_of() -> None:
    def parts(name: str) -> str:
        return made_of(yaml.safe_load(recipe_text(name)))

    assert parts("ga") == "ga"
    assert parts("npo_klr_sure") == "npo × klr × saliency"
    assert parts("npo_gdr_sam") == "npo × gdr × sam"
    assert parts("npo_gdr_floor") == "npo × gdr, then floor"
    assert parts("finetune") == "finetune"
    assert made_of({"stages": [{"name": "unlearn", "forget": "ga", "scope": "lora"}]}) == "ga × lora"


def test_a_source_in_a_few_words() -> None:
    def source(paper: str) -> str:
        return cited({"paper": paper})

    assert source("Jang et al. 2023, Knowledge (arXiv 2210.01504)") == "Jang et al. 2023, arXiv 2210.01504"
    assert source("losses of Liu and Kim 2024 (arXiv 2309.16082)") == "Liu and Kim 2024, arXiv 2309.16082"
    assert source("SAF (arXiv 2605.02196); NPO of Zhang et al. 2024") == "arXiv 2605.02196"
    assert source("our own") == "our own"
    for name in recipe_names():
        assert len(source(yaml.safe_load(recipe_text(name))["paper"])) < 50, name


def test_a_recipe_may_be_a_file_of_ones_own(tmp_path: Path) -> None:
    for name in ("mine.yaml", "mine.yml"):
        (tmp_path / name).write_text("name: mine\ntitle: Zoë\n", encoding="utf-8")
        assert "Zoë" in recipe_text(str(tmp_path / name))
    with pytest.raises(RecipeError, match="there is no such file"):
        recipe_text(str(tmp_path / "absent.yaml"))


def test_an_unknown_name_brings_near_ones() -> None:
    with pytest.raises(RecipeError, match=r"recipe 'npo_kl'.*Did you mean 'npo_klr'") as caught:
        recipe_text("npo_kl")
    assert "expunge methods" in str(caught.value)
    with pytest.raises(RecipeError, match="no recipe of that name"):
        recipe_text("")


def test_listing_recipes_loads_no_model_library() -> None:
    code = "import sys, expunge.catalogue as c; c.recipe_names(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
