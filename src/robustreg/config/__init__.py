"""Recipes: one YAML file that names everything about a run, checked whole before anything starts.

recipe = load_recipe("gradient_l2", ["data=mnist", "threat.eps=0.5"])
built = build(recipe)
"""

from __future__ import annotations

from .building import Built, build
from .find import find_recipe, shipped_recipes
from .loading import load_recipe
from .needed import folder_of, needed
from .problems import RecipeError
from .schema import Recipe

__all__ = [
    "Built",
    "Recipe",
    "RecipeError",
    "build",
    "find_recipe",
    "folder_of",
    "load_recipe",
    "needed",
    "shipped_recipes",
]
