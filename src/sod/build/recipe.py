"""A recipe as a command gets it from its user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sod.build.method import check_knobs
from sod.recipe import Notice, Recipe, load_recipe


def read_recipe(path: str | Path, overrides: Sequence[str], notice: Notice) -> Recipe:
    """The recipe of a YAML file with `key=value` overrides, its method's knobs checked as far as all commands can.

    `notice` hears of keys that go by an old name. Raises SodError naming file, key, value and the nearest valid key.
    """
    recipe = load_recipe(path, overrides, notice)
    check_knobs(recipe.method, str(path))
    return recipe
