"""Arguments that several commands take, and the recipe they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sod.recipe import Recipe, apply_overrides, parse_recipe, refuse_reaching, resolved
from sod.report.console import notice

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Keys of the recipe to set, e.g. optim.lr=1e-4 (docs/keys.md)."),
]
AllowCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Let a run's own recipe do what no recipe that came with a run may: tools.python.unsafe, modules of its "
        "own in tools.python.preload, tools.python.fusion, reward.judge, and code of its own: tools.NAME.call, "
        "tools.NAME.mcp, reward.call.",
    ),
]
OutOption = Annotated[Path, typer.Option("--out", help="Directory to write.")]


def runs_own(content: dict[str, Any], overrides: list[str], where: str, allow_code: bool) -> Recipe:
    """A run's own recipe with overrides. Raises SodError where it sets by itself what needs `--allow-code`."""
    recipe = parse_recipe(apply_overrides(resolved(parse_recipe(content, where)), overrides, where, notice), where)
    if not allow_code:
        refuse_reaching(recipe, where, overrides)
    return recipe
