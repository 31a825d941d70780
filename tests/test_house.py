"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from expunge.catalogue import recipe_names
from tests.test_imports import PACKAGE, module_of, modules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).parents[1]
MAX_FILE = 400
MAX_FUNCTION = 60
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:tmp|work|root|home|Users|mnt|data)/")
"""What an absolute path of somebody's machine begins with."""
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COLUMNS = 4
"""Of the tables in docs/papers.md: paper, name, test, what differs."""
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def python_files() -> list[Path]:
    rooms = (PACKAGE, ROOT / "tests", ROOT / "benchmarks")
    return sorted(path for room in rooms for path in room.rglob("*.py"))


def documents() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_files_are_short() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in python_files()}
    assert {path: length for path, length in lengths.items() if length > MAX_FILE} == {}


def test_functions_are_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in python_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION
    ]
    assert long == []


def test_a_class_name_means_one_thing() -> None:
    names = [
        node.name
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_public_names_are_documented() -> None:
    bare = [
        f"{name}: {public}" for name in modules() for public in undocumented(importlib.import_module(name))
    ]
    assert bare == []


def undocumented(module: ModuleType) -> Iterator[str]:
    """The module itself, its public functions and classes, and their public methods without a docstring."""
    if not inspect.getdoc(module):
        yield "the module"
    yield from (public for public, value in vars(module).items() if is_bare(public, value, module))
    for cls in classes(module):
        yield from (f"{cls.__name__}.{method}" for method in bare_methods(cls, module))


def is_bare(name: str, value: object, module: ModuleType) -> bool:
    own = getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    return own and (inspect.isclass(value) or inspect.isfunction(value)) and not value.__doc__


def classes(module: ModuleType) -> list[type]:
    return [value for value in vars(module).values() if is_own_class(value, module)]


def is_own_class(value: object, module: ModuleType) -> bool:
    return inspect.isclass(value) and value.__module__ == module.__name__ and value.__name__[0] != "_"


def bare_methods(cls: type, module: ModuleType) -> Iterator[str]:
    """Public methods that neither they, nor a base, nor a protocol of the same file document."""
    for name, value in vars(cls).items():
        if name.startswith("_") or not (inspect.isfunction(value) or isinstance(value, property)):
            continue
        kin = [getattr(other, name, None) for other in classes(module)]
        if not any(inspect.getdoc(each) for each in (value, *kin) if each is not None):
            yield name


def test_no_path_of_a_machine_is_named() -> None:
    others = [
        path for path in ROOT.iterdir() if path.is_file() and path.suffix != ".lock" and path.name != ".git"
    ]
    recipes = list(PACKAGE.rglob("*.yaml"))
    named = [
        f"{path.relative_to(ROOT)}:{number} {line.strip()}"
        for path in [*python_files(), *documents(), *others, *recipes]
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]
    assert named == []


def test_a_machine_path_would_be_found() -> None:
    assert MACHINE_PATH.search('open("' + "/".join(["", "tmp", "x"]) + '")')
    assert not MACHINE_PATH.search("https://example.org/data/x and src/work/x and ./tmp/x")


def test_links_lead_somewhere() -> None:
    dead = [
        f"{path.relative_to(ROOT)}: {link}"
        for path in documents()
        for link in LINK.findall(path.read_text())
        if not (path.parent / link).exists()
    ]
    assert dead == []


def test_every_recipe_has_its_row_in_the_paper_table() -> None:
    recipes, _ = named_in_papers()
    assert recipes == set(recipe_names())


def test_every_test_named_in_the_paper_table_exists() -> None:
    _, tests = named_in_papers()
    assert tests
    assert [test for test in tests if not (ROOT / "tests" / test).is_file()] == []


def named_in_papers() -> tuple[set[str], set[str]]:
    """The recipes of the tables that have such a column, and the tests of every table."""
    recipes, tests, header = set[str](), set[str](), ""
    for line in (ROOT / "docs" / "papers.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == COLUMNS + 2:
            header = cells[2] if cells[1] == "paper" else header
            recipes |= set(re.findall(r"`(\w+)`", cells[2])) if header == "recipe" else set()
            tests |= set(re.findall(r"`(\w+/\w+\.py)`", cells[3]))
    return recipes, tests


def test_the_guide_adds_a_working_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss registers, its tests pass and its recipe loads, as the guide shows them."""
    from expunge.forget import forget_losses
    from expunge.train.run.recipe import load_recipe

    blocks = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())
    loss, tests, recipe, *_ = (text for language, text in blocks if language != "toml")
    # Nothing of it may stay behind for other tests, and no loss of that name may stand in its way.
    monkeypatch.setattr(forget_losses, "_known", {})
    monkeypatch.setattr(forget_losses, "_discovered", True)
    load("expunge.forget.clipped_ga", loss, tmp_path, monkeypatch)
    checks = vars(load("test_clipped_ga", tests, tmp_path, monkeypatch))
    passed = [check() for name, check in checks.items() if name.startswith("test_")]
    assert len(passed) == 3
    (tmp_path / "clipped_ga_gdr.yaml").write_text(recipe)
    loaded = load_recipe(str(tmp_path / "clipped_ga_gdr.yaml"), ["forget.floor=-3"])
    forget = loaded.model_dump()["stages"][0]["forget"]
    assert forget == {"name": "clipped_ga", "floor": -3.0}


def test_the_guide_adds_a_working_attack_adversary_and_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    from expunge.attacks import attacks, parse_attack
    from expunge.train.axes import AXES, find_members
    from tests.attacks.context import context
    from tests.train.runs import FORGET, UNLEARN, model, recipe, run

    for registry in AXES.values():
        monkeypatch.setattr(registry, "_known", {name: registry[name] for name in registry})
    blocks = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())
    _, _, *members = (text for language, text in blocks if language == "python")
    for name, text in zip(("preamble", "noise", "interpolate"), members, strict=True):
        load(f"guide_{name}", text, tmp_path, monkeypatch)
        (member,) = find_members(name)
        assert all(setting.description for setting in member.settings)
    attack = parse_attack("preamble:text=Hello.")
    assert attacks.name_of(attack) == "preamble"
    with attack.under(model(), context(tmp_path)) as applied:
        assert applied.rewrite_prompt(FORGET[1]).prompt == f"Hello. {FORGET[1].prompt}"
    disturbed = UNLEARN | {"adversary": {"name": "noise"}, "epochs": 1}
    record = run(recipe(disturbed, {"name": "interpolate", "share": 0.0}), tmp_path / "out")
    assert [stage["stage"] for stage in record["stages"]] == ["unlearn", "interpolate"]
    assert "loss_forget_perturbed" in record["stages"][0]["history"][0]
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(found[name].equal(weight) for name, weight in model().named_parameters() if name in found)


def test_the_guide_names_every_group_of_entry_points() -> None:
    """Every registry is one: what a registry looks through is its group."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    registries = re.compile(r'\bRegistry\("[\w ]+", "(expunge[\w.]+)"\)')
    groups = {group for path in PACKAGE.rglob("*.py") for group in registries.findall(path.read_text())}
    assert set(re.findall(r"^\| `(expunge[\w.]+)` \|", text, re.MULTILINE)) == groups


def load(name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module called ``name`` from its text."""
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_modules_are_named_after_their_files() -> None:
    assert module_of(PACKAGE / "forget" / "__init__.py") == "expunge.forget"
    assert module_of(PACKAGE / "forget" / "preference.py") == "expunge.forget.preference"
