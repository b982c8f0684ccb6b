"""Recipes: Python files that hold a run's configuration, and in their docstring what it costs and what came of it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

from mobile_sam.distill.config import TrainConfig


def load_recipe(path: Path, variant: str | None = None) -> TrainConfig:
    """Run a recipe and take its configuration.

    Args:
        path: a Python file that sets `RECIPE = TrainConfig(...)`, or `RECIPES = {"name": TrainConfig(...), ...}`. It is
            run: take recipes from people you trust.
        variant: which of RECIPES.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it fails, sets neither, has a field that does not exist, or no such variant; the message says where.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {path}; recipes/ in the repository holds some to begin with")
    names = _run(path)
    if "RECIPES" in names:
        variants = names["RECIPES"]
        if not isinstance(variants, dict) or not variants:
            raise ValueError(f"{path}: RECIPES must be a dict of TrainConfig by name, got {type(variants).__name__}")
        if variant not in variants:
            raise ValueError(f"{path} has the variants {', '.join(map(str, variants))}; choose one with --variant")
        return _checked(path, f"RECIPES[{variant!r}]", variants[variant])
    if variant is not None:
        raise ValueError(f"{path} has no variants (it sets no RECIPES); leave out --variant {variant}")
    if "RECIPE" not in names:
        raise ValueError(f"{path} sets neither RECIPE nor RECIPES; write RECIPE = TrainConfig(...)")
    return _checked(path, "RECIPE", names["RECIPE"])


def variants_of(path: Path) -> list[str]:
    """List the variants of a recipe, none if it has a single configuration; raises as `load_recipe` does."""
    return list(_run(path).get("RECIPES", {}))


def _run(path: Path) -> dict[str, Any]:
    try:
        return runpy.run_path(str(path))
    except TypeError as error:
        unknown = re.search(r"TrainConfig\S* got an unexpected keyword argument '(\w+)'", str(error))
        if unknown is None:
            raise ValueError(f"the recipe {path} fails: {error}") from error
        try:
            TrainConfig.from_mapping({unknown[1]: None})
        except ValueError as reason:
            raise ValueError(f"the recipe {path}: {reason}") from error
        raise
    except SyntaxError as error:
        raise ValueError(f"the recipe {path} is no Python, line {error.lineno}: {error.msg}") from error
    except Exception as error:  # whatever a user's file may raise
        raise ValueError(f"the recipe {path} fails: {type(error).__name__}: {error}") from error


def _checked(path: Path, name: str, value: Any) -> TrainConfig:
    if not isinstance(value, TrainConfig):
        raise ValueError(f"{path}: {name} must be a TrainConfig, got {type(value).__name__}")
    return value
