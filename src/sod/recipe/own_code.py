"""The user's own code in a recipe: every key that holds some."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sod.recipe.keys.recipe import Recipe


def code_in(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of each; see `keys.code` for what a value is."""
    for name, tool in recipe.tools.own.items():
        if tool.call is not None:
            yield f"tools.{name}.call", tool.call
    for number, function in enumerate(recipe.reward.call):
        yield f"reward.call.{number}" if len(recipe.reward.call) > 1 else "reward.call", function.call
    if recipe.environment is not None:
        yield "environment.call", recipe.environment.call
