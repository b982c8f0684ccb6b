"""Recipes: what a file may get wrong, and that all of ours load."""

import ast
import runpy
from pathlib import Path

import pytest

from mobile_sam.distill.config import TrainConfig
from mobile_sam.distill.recipe import load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.py"))


def variants_of(path: Path) -> list[str | None]:
    """Names under RECIPES, or None for the only one."""
    names = runpy.run_path(str(path))
    return list(names.get("RECIPES", [None]))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_of_our_recipes_loads_and_says_what_it_costs(path):
    names = variants_of(path)
    for name in names:
        assert isinstance(load_recipe(path, name), TrainConfig)
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert f"recipes/{path.name}" in docstring  # in its command


def test_there_are_recipes():
    assert "tiny_cpu" in {path.stem for path in RECIPES}


def test_a_recipe_is_its_configuration(recipe):
    assert load_recipe(recipe("RECIPE = TrainConfig(lr=0.25)")) == TrainConfig(lr=0.25)


def test_a_variant_is_chosen_by_name(recipe):
    path = recipe("RECIPES = {f'b{n}': TrainConfig(batch_size=n) for n in (8, 16)}")
    assert load_recipe(path, "b16").batch_size == 16
    for name in ("b32", None):
        with pytest.raises(ValueError, match="has the variants b8, b16; choose one with --variant"):
            load_recipe(path, name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("RECIPE = TrainConfig(bach_size=8)", r"mine.py: .*no setting 'bach_size'; did you mean 'batch_size'\?"),
        ("RECIPE = TrainConfig(batch_size=0)", "mine.py fails: ValueError: batch_size must be 1 or more, got 0"),
        ("x = 1\nRECIPE = TrainConfig(lr=\n", "mine.py is no Python, line 3: "),
        ("x = 1", "mine.py sets neither RECIPE nor RECIPES"),
        ("RECIPE = {'lr': 1}", "mine.py: RECIPE must be a TrainConfig, got dict"),
        ("RECIPES = [TrainConfig()]", "mine.py: RECIPES must be a dict of TrainConfig by name, got list"),
        ("RECIPES = {}", "RECIPES must be a dict of TrainConfig by name"),
        ("import not_there_at_all", "mine.py fails: ModuleNotFoundError: .*not_there_at_all"),
        ("len(3)", "mine.py fails: object of type 'int' has no len"),
        ("RECIPE = TrainConfig(1 / 0)", "mine.py fails: ZeroDivisionError"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(recipe, text, words):
    with pytest.raises(ValueError, match=words):
        load_recipe(recipe(text))


def test_a_variant_of_a_recipe_without_any_is_refused(recipe):
    with pytest.raises(ValueError, match=r"has no variants .*leave out --variant large"):
        load_recipe(recipe("RECIPE = TrainConfig()"), "large")
    with pytest.raises(ValueError, match=r"RECIPES\['a'\] must be a TrainConfig, got int"):
        load_recipe(recipe("RECIPES = {'a': 1}"), "a")


def test_a_recipe_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no recipe .*none\.py"):
        load_recipe(tmp_path / "none.py")
