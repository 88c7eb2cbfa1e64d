"""The recipe that a command or a call means: a file, a mapping, or the one inside a run directory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sod.front.passed import NOTHING, Passed, refuse_unpassed, with_passed
from sod.recipe import Notice, Recipe, apply_overrides, parse_recipe, refuse_reaching, resolved
from sod.records import SodError
from sod.runlog import RunLog

Given = Recipe | str | Path | Mapping[str, Any]
"""A recipe, its file or the name of a shipped one, or its content."""


def refuse_text(overrides: Sequence[str]) -> None:
    """Raises SodError for a single override that is in no list: it would be read letter by letter."""
    if isinstance(overrides, str):
        raise SodError(f"overrides={overrides!r}: give a list, [{overrides!r}]")


def given_recipe(recipe: Given, overrides: Sequence[str], passed: Passed, notice: Notice) -> Recipe:
    """The user's own recipe with `key=value` overrides and what was passed in. Raises SodError as `read_recipe`."""
    if isinstance(recipe, Recipe):
        if overrides:
            raise SodError(f"overrides {list(overrides)}: are for a recipe that is read; give them to load_recipe")
        return with_passed(recipe, passed)
    if isinstance(recipe, Mapping):
        return with_passed(parse_recipe(apply_overrides(recipe, overrides, "recipe", notice), "recipe"), passed)
    from sod.build.recipe import read_recipe

    return with_passed(read_recipe(recipe, overrides, notice), passed)


def runs_own(
    content: dict[str, Any],
    overrides: Sequence[str],
    where: str,
    allow_code: bool,
    notice: Notice,
    again: str,
    passed: Passed = NOTHING,
    unread: Collection[str] = (),
) -> Recipe:
    """A run's own recipe with overrides and what was passed in; `again` is as in `refuse_unpassed`, `unread` as in
    `refuse_reaching`.

    Raises SodError where it sets by itself what needs `allow_code`, and where it names what has to be passed again.
    """
    changed = apply_overrides(resolved(parse_recipe(content, where)), overrides, where, notice)
    recipe = with_passed(parse_recipe(changed, where), passed)
    if not allow_code:
        refuse_reaching(recipe, where, overrides, unread)
    refuse_unpassed(recipe, where, again)
    return recipe


def resumed_recipe(
    run: Path, overrides: Sequence[str], allow_code: bool, notice: Notice, call: str, passed: Passed = NOTHING
) -> Recipe:
    """The recipe that a run is gone on with by `sod.CALL`. Raises SodError as `runs_own`."""
    kept, where = RunLog.open(run).recipe(), str(run / "recipe.yaml")
    again = f'sod.{call}(resume="{run}", {{}})'
    return runs_own(kept, overrides, where, allow_code, notice, again, passed)
