"""The recipes that travel with the package: found by their name where there is no such file."""

from __future__ import annotations

from pathlib import Path

from sod.recipe.names import Notice
from sod.records import SodError

FOLDER = Path(__file__).parents[1] / "recipes"


def shipped_names() -> list[str]:
    """The names of the recipes in the package, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def shipped_file(name: str) -> Path:
    """The file of one of them. Raises SodError with all names when there is none of this name."""
    if name not in shipped_names():
        raise SodError(f"{name}: no recipe of this name; there are {', '.join(shipped_names())}")
    return FOLDER / f"{name}.yaml"


def recipe_file(given: str | Path, notice: Notice) -> Path:
    """The file that a recipe argument means.

    A file of that path, wherever it lies; else a recipe of the package, by its name (`quickstart`) or by its path in a
    checkout (`recipes/quickstart.yaml`), of which `notice` hears; else the path as it was given.
    """
    path = Path(given)
    named = path.name.removesuffix(".yaml")
    if path.is_file() or str(path.parent) not in (".", "recipes") or named not in shipped_names():
        return path
    notice(f"{given}: no such file here, so the recipe that comes with sod is used; `sod init {named}` writes a copy")
    return FOLDER / f"{named}.yaml"
