from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from expunge.catalogue import recipe_names
from expunge.errors import RecipeError
from expunge.forget.preference import NPO
from expunge.retain.losses import GDR
from expunge.scope.lora import LowRankAdapters
from expunge.train.loop.settings import LoopSettings
from expunge.train.methods import stages
from expunge.train.methods.quark import Quark
from expunge.train.methods.unlearn import Unlearn
from expunge.train.run.recipe import Recipe, load_recipe
from expunge.train.run.run import recipe_yaml
from expunge.train.run.state import Corpus
from expunge.types import Span
from tests.scope import people
from tests.train.runs import CORPUS, run

TWO_STAGES = """
name: two
title: Two stages
paper: none
stages:
  - {name: finetune, "on": both}
  - {name: unlearn, forget: ga}
"""


def stage(*overrides: str, name: str = "npo_klr") -> Any:
    return load_recipe(name, overrides).stages[-1]


@pytest.fixture
def two(tmp_path: Path) -> str:
    (tmp_path / "two.yaml").write_text(TWO_STAGES)
    return str(tmp_path / "two.yaml")


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_is_whole_and_comes_back_from_yaml(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.title
    assert "arXiv" in recipe.paper
    (tmp_path / "again.yaml").write_text(recipe_yaml(recipe))
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_says_what_data_its_stages_need(name: str) -> None:
    recipe = load_recipe(name)
    assert set(recipe.needs) == set().union(*(stage.needs for stage in recipe.stages))


def features(recipe: Recipe) -> Iterator[str]:
    """What of a recipe takes another path through training than a loss does (``test_every_loss``)."""
    yield " ".join(stages.name_of(stage) for stage in recipe.stages)
    for stage in recipe.stages:
        for field in ("scope", "adversary", "alternate", "bound", "reward"):
            part = getattr(stage, field, None)
            if part is not None:
                yield f"{field} {type(part).__name__}"
        yield from (f"{field} {getattr(stage, field, None)}" for field in ("optimizer", "precision", "on"))


def some_slow(names: Sequence[str]) -> list[Any]:
    """The first recipe with each feature is fast; what brings nothing new is slow."""
    seen: set[str] = set()
    marked_names = []
    for name in names:
        new = set(features(load_recipe(name))) - seen
        seen |= new
        marked_names.append(pytest.param(name, marks=[] if new else pytest.mark.slow))
    return marked_names


@pytest.mark.parametrize("name", some_slow(recipe_names()))
def test_a_shipped_recipe_runs_two_steps(name: str, tmp_path: Path) -> None:
    small = load_recipe(name, smaller(name))
    # A probe needs the same question of several people.
    corpus = Corpus(forget=people.FORGET, retain=people.RETAIN) if "mechanistic" in name else CORPUS
    corpus = marked(corpus) if "spans" in small.needs else corpus
    record = run(small, tmp_path / "out", corpus=corpus)
    assert len(record["stages"]) == len(small.stages)
    for facts, chosen in zip(record["stages"], small.stages, strict=True):
        assert not isinstance(chosen, LoopSettings) or facts["steps"] == 2
    assert record["result_sha256"] != record["source_sha256"]
    assert load_recipe(str(tmp_path / "out" / "recipe.yaml")) == small


def marked(corpus: Corpus) -> Corpus:
    """The corpus with the beginning of every completion sensitive."""
    forget, holdout = (
        tuple(replace(example, spans=(Span(0, 4),)) for example in examples)
        for examples in (corpus.forget, corpus.holdout)
    )
    return replace(corpus, forget=forget, holdout=holdout)


def smaller(name: str) -> list[str]:
    """Overrides that leave two steps of every stage that trains."""
    # 5 sequences to forget in batches of 3, or 4 to train on in batches of 2.
    size = 2 if name == "finetune" else 3
    settings = ("epochs=1", "accumulation=1", f"batch_size={size}", "max_length=128")
    rounds = ("epochs=2", "updates=1", "batch_size=2", "new_tokens=4", "warmup_steps=0")
    if name.startswith("knowledge_unlearning"):  # 5 examples, 3 of them first
        settings = ("epochs=1", "chunk=3", "stop=null", "max_length=128")
    if name == "pcgu":
        return ["gap=0"]  # or a random model has nothing to unlearn
    teachers = ["stages.0.teachers={count: 2, training: {epochs: 1}}"] if name.startswith("loo") else []
    return teachers + [
        f"stages.{place}.{setting}"
        for place, chosen in enumerate(load_recipe(name).stages)
        if isinstance(chosen, LoopSettings)
        for setting in (rounds if isinstance(chosen, Quark) else settings)
    ]


@pytest.mark.parametrize("name", ["npo", "npo_gdr", "npo_klr", "npo_gdr_sure", "npo_klr_sure"])
def test_the_published_settings_are_those_of_the_recipe(name: str) -> None:
    chosen = stage(name=name)
    assert chosen.forget == NPO(beta=0.1)
    assert chosen.learning_rate == (1e-4 if name.endswith("sure") else 1e-5)
    assert chosen.precision == "fp32"


def test_values_are_read_as_what_they_are() -> None:
    chosen = stage(
        "learning_rate=1e-3",  # YAML 1.1 reads this as text
        "epochs=7",
        "precision=bf16",
        "append_eos=true",
        "betas=[0.8, 0.95]",
        "forget.beta=0.2",
        "retain.weight=3",
        "scope.name=lora",
        "scope.rank=4",
    )
    assert chosen == Unlearn(
        learning_rate=1e-3,
        epochs=7,
        precision="bf16",
        append_eos=True,
        betas=(0.8, 0.95),
        forget=NPO(beta=0.2),
        retain={"name": "klr", "weight": 3.0},
        scope=LowRankAdapters(rank=4),
        batch_size=8,
        max_length=2048,
    )


def test_a_component_may_be_given_by_its_name_or_taken_away() -> None:
    assert stage("scope=lora").scope == LowRankAdapters()
    assert stage("retain=gdr").retain == GDR()
    assert stage("retain=null").retain is None
    assert stage("retain=null", "retain.name=gdr").retain == GDR()


def test_the_last_override_wins_and_the_first_part_of_a_path_may_be_the_recipe() -> None:
    assert stage("epochs=1", "epochs=2").epochs == 2
    assert stage("stages.0.epochs=3").epochs == 3
    assert load_recipe("npo", ["title=Another"]).title == "Another"


def test_a_value_may_hold_an_equals_sign() -> None:
    assert load_recipe("npo", ["title=a=b"]).title == "a=b"
    assert stage("scope.name=regex", "scope.pattern=(?=mlp)").scope.pattern == "(?=mlp)"


def test_one_of_several_stages_is_named(two: str) -> None:
    first, second = load_recipe(two, ["stages.0.epochs=2", "stages.1.epochs=3"]).stages
    assert (first.epochs, second.epochs) == (2, 3)
    with pytest.raises(RecipeError, match=r"exactly one stage.*stages\.0\.epochs=2"):
        load_recipe(two, ["epochs=2"])
    for number in ("2", "x", "-1"):
        with pytest.raises(RecipeError, match=f"'{number}' has no settings"):
            load_recipe(two, [f"stages.{number}.epochs=2"])
    with pytest.raises(RecipeError, match="'9' has no settings"):
        load_recipe(two, ["stages.9=1"])


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("learning_rat=1", r"stage 'unlearn': learning_rat: .*Did you mean 'learning_rate'"),
        ("forget.bta=1", r"forget loss 'npo': bta: .*Did you mean 'beta'"),
        ("scope=lorra", r"scope 'lorra': .*Did you mean 'lora'"),
        ("stages.0.name=unlern", r"stage 'unlern': .*Did you mean 'unlearn'"),
        ("learning_rate=-1e-5", "learning_rate: input should be greater than 0"),
        ("learning_rate=fast", "learning_rate: input should be a valid number"),
        ("learning_rate=.nan", "learning_rate: input should be a finite number"),
        ("epochs=1.5", "epochs: input should be a valid integer"),
        ("forget.beta=0", "beta: input should be greater than 0"),
        ("forget=null", "forget"),
        ("stages=[]", "stages"),
        ("batch_size", "not of the form key=value"),
        ("=3", "not of the form key=value"),
        ("learning_rate.peak=3", "'learning_rate' has no settings inside it"),
        ("title={", "not valid YAML"),
        ("learning_rate=" + "9" * 5000, "not valid YAML.*5,000 digits"),
        ("title=" + "[" * 2000, "not valid YAML.*nested"),
        ("title=2020-01-01\n1: 2", "not valid YAML"),
        ("title=!!set {a}", "not valid YAML.*tag"),
        ("title={1: 2}", "not valid YAML.*key 1 is not text"),
        ("forget={name: npo, name: ga}", "not valid YAML.*'name' is given 2 times"),
        ("stages.\u00b2=1", "'\u00b2' has no settings inside it"),
        ("stages." + "9" * 5000 + "=1", "has no settings inside it"),
        (".".join(["a"] * 5000) + "=1", "its path has 5000 parts"),
        ("epochs=10001", "epochs: input should be less than or equal to 10000"),
        ("reference=adapter_off", "needs adapters to switch off"),
        ("accumulation=3", "does not split into 3 equal pieces"),
    ],
)
def test_an_override_that_makes_no_sense_is_refused(override: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        load_recipe("npo_klr", [override])


@pytest.mark.parametrize("text", ["- a\n- b", "just words", "", "a: [", "name: x\ntitle: y\npaper: z"])
def test_a_file_that_is_no_recipe_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"bad\.yaml"):
        load_recipe(str(tmp_path / "bad.yaml"))


def test_a_setting_inside_a_plain_value_of_a_list_is_refused() -> None:
    with pytest.raises(RecipeError, match="'0' has no settings inside it"):
        load_recipe("npo_klr", ["stages=[.inf]", "stages.0.epochs=1"])


def test_a_recipe_of_too_many_stages_is_refused(tmp_path: Path) -> None:
    text = "name: x\ntitle: x\npaper: x\nstages: [" + "{name: unlearn, forget: ga}," * 101 + "]"
    (tmp_path / "long.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"101 stages, and a recipe has at most 32"):
        load_recipe(str(tmp_path / "long.yaml"))


def test_overrides_leave_the_shipped_recipe_alone() -> None:
    stage("epochs=99")
    assert (
        stage().epochs == yaml.safe_load(recipe_yaml(load_recipe("npo_klr")))["stages"][0]["epochs"] != 99
    )


@pytest.mark.parametrize(
    ("name", "override", "complaint"),
    [
        ("ga", "epochs=1000000000000", "epochs: input should be less than or equal to 10000"),
        ("ga", "max_steps=1000000000000", "max_steps: input should be less than or equal to 1000000"),
        ("eul", "epochs=10001", "epochs: input should be less than or equal to 10000"),
        ("pcgu", "epochs=10001", "epochs: input should be less than or equal to 10000"),
        ("kga", "teaching.epochs=10001", "epochs: input should be less than or equal to 10000"),
        ("depn", "steps=1000000000000", "steps: input should be less than or equal to 1000000"),
        ("quark", "updates=1000000000000", "updates: input should be less than or equal to 1000000"),
        ("alt_po", "alternate.count=10001", "count: input should be less than or equal to 10000"),
        ("ga", f"batch_size={10**30}", "batch_size is an integer beyond ±2^53"),
        ("rmu", f"forget.seed={10**30}", "seed is an integer beyond ±2^53"),
        ("ga", f"stages=[{'{name: depn},' * 33}]", "33 stages, and a recipe has at most 32"),
        ("ga", f"stages=[{'{name: depn},' * 20000}]", "a recipe has 200,000 at most"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_numbers_that_nobody_means_are_refused_at_once(name: str, override: str, complaint: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe(name, [override])
    assert complaint in str(refused.value)
    assert len(str(refused.value)) < 1500


def test_the_largest_numbers_allowed_are_allowed() -> None:
    (stage,) = load_recipe("ga", ["epochs=10000", "max_steps=10000000"]).stages
    assert isinstance(stage, Unlearn)
    assert (stage.epochs, stage.max_steps) == (10_000, 10_000_000)
    assert len(load_recipe("ga", [f"stages=[{'{name: depn},' * 32}]"]).stages) == 32
