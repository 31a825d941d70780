from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import PositiveFloat

from expunge import registry as module
from expunge.component import Component
from expunge.errors import RecipeError
from expunge.registry import Registry


class Shape(Component):
    """What this registry holds."""


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[Shape]:
    """A registry of a package written for the test, with two modules."""
    package = tmp_path / "shapes_for_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("shapes_for_test")]:
        monkeypatch.delitem(sys.modules, name)
    made: Registry[Shape] = Registry("shape", "shapes_for_test")
    holder = ModuleType("shapes_holder")
    holder.shapes, holder.Shape, holder.PositiveFloat = made, Shape, PositiveFloat
    monkeypatch.setitem(sys.modules, "shapes_holder", holder)
    start = "from shapes_holder import PositiveFloat, Shape, shapes\n"
    (package / "circle.py").write_text(
        start + "@shapes.register('circle')\nclass Circle(Shape):\n    radius: PositiveFloat = 1.0\n"
    )
    (package / "point.py").write_text(start + "@shapes.register('point')\nclass Point(Shape):\n    pass\n")
    return made


def test_every_module_of_the_package_is_found_on_first_use(shapes: Registry[Shape]) -> None:
    assert "shapes_for_test.circle" not in sys.modules
    assert list(shapes) == ["circle", "point"]
    assert shapes["circle"].__name__ == "Circle"


def test_a_component_is_built_from_its_settings_and_named_after_them(shapes: Registry[Shape]) -> None:
    built = shapes.build({"name": "circle", "radius": "2.5"})
    assert built.model_dump() == {"radius": 2.5}
    assert shapes.name_of(built) == "circle"
    assert shapes.build(built) is built


def test_a_bare_name_is_all_defaults(shapes: Registry[Shape]) -> None:
    assert shapes.build("circle") == shapes.build({"name": "circle"})


def test_building_leaves_the_settings_as_they_are(shapes: Registry[Shape]) -> None:
    settings = {"name": "circle", "radius": 2}
    shapes.build(settings)
    assert settings == {"name": "circle", "radius": 2}


def test_an_unknown_name_brings_near_ones(shapes: Registry[Shape]) -> None:
    for ask in (lambda: shapes["circel"], lambda: shapes.build("circel")):
        with pytest.raises(RecipeError, match=r"shape 'circel'.*Did you mean 'circle'\?"):
            ask()
    with pytest.raises(RecipeError, match="Known: circle, point"):
        shapes["dodecahedron"]


@pytest.mark.parametrize("settings", [{}, {"radius": 1}, {"name": 3}, None, 7])
def test_settings_without_a_name_are_refused(shapes: Registry[Shape], settings: object) -> None:
    with pytest.raises(RecipeError, match="a shape without a name"):
        shapes.build(settings)


def test_an_unknown_setting_brings_near_ones(shapes: Registry[Shape]) -> None:
    with pytest.raises(RecipeError, match=r"shape 'circle': radus: .* Did you mean 'radius'\?"):
        shapes.build({"name": "circle", "radus": 1})
    with pytest.raises(RecipeError, match="It takes: no settings"):
        shapes.build({"name": "point", "radius": 1})


def test_a_value_out_of_range_is_refused_with_what_may_be_set(shapes: Registry[Shape]) -> None:
    with pytest.raises(RecipeError, match=r"radius: input should be greater than 0\. It takes: radius\."):
        shapes.build({"name": "circle", "radius": -1})


def test_components_are_frozen(shapes: Registry[Shape]) -> None:
    with pytest.raises(ValueError, match="frozen"):
        shapes.build("circle").radius = 3  # type: ignore[attr-defined]


def test_a_name_belongs_to_one_component(shapes: Registry[Shape]) -> None:
    @shapes.register("square")
    class Square(Shape):
        pass

    def another() -> None:
        @shapes.register("square")
        class Cube(Shape):
            pass

    with pytest.raises(RuntimeError, match="shape 'square' is registered twice"):
        another()
    assert shapes["square"] is Square


def test_a_class_of_the_same_name_from_elsewhere_is_another_component(shapes: Registry[Shape]) -> None:
    elsewhere = type("Circle", (Shape,), {"__module__": "elsewhere"})
    assert list(shapes)
    with pytest.raises(RuntimeError, match="twice"):
        shapes.register("circle")(elsewhere)
    again = type("Circle", (Shape,), {"__module__": "shapes_for_test.circle"})
    assert shapes.register("circle")(again) is shapes["circle"]  # the module was loaded anew


def test_third_parties_add_through_entry_points(
    shapes: Registry[Shape], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugin_for_test.py").write_text(
        "from shapes_holder import Shape, shapes\n@shapes.register('star')\nclass Star(Shape):\n    pass\n"
    )
    asked = []

    def fake(*, group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint(name="star", value="plugin_for_test", group=group)]

    monkeypatch.setattr(module, "entry_points", fake)
    assert list(shapes) == ["circle", "point", "star"]
    assert list(shapes) == ["circle", "point", "star"]
    assert asked == ["shapes_for_test"]  # once
    monkeypatch.delitem(sys.modules, "plugin_for_test")
