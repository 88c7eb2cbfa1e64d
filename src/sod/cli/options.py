"""Arguments that several commands take, and the recipe they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sod.recipe import Recipe, apply_overrides, parse_recipe, resolved
from sod.report.console import notice

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Keys of the recipe to set, e.g. optim.lr=1e-4 (docs/keys.md)."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Directory to write.")]


def changed(recipe: Recipe, overrides: list[str], where: str) -> Recipe:
    """A run's own recipe with overrides."""
    return parse_recipe(apply_overrides(resolved(recipe), overrides, where, notice), where)
