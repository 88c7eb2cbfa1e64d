"""Tools, rewards and environments that Python passes in: where they stand in a recipe, and what asks for them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from sod.recipe import Recipe, validated
from sod.recipe.keys.code import CALL, passed_name
from sod.recipe.own_code import code_in
from sod.records import SodError
from sod.tools.base import Tool
from sod.usercode import PASSED_IN

Tools = Sequence[Any] | Mapping[str, Any] | Callable[..., Any]
"""Functions, classes or import paths, one or several; or these by the name that the model calls them by, each alone or
as a section of the recipe.
"""
OURS = "python"
"""The name of our own tool's section."""


@final
@dataclass(frozen=True)
class Passed:
    """What a call of ours was given beside the recipe."""

    tools: Tools = ()
    reward: Any = None
    environment: Any = None


NOTHING = Passed()


def with_passed(recipe: Recipe, passed: Passed) -> Recipe:
    """The recipe with these objects in their places; other keys of the same sections stay.

    Raises SodError for what cannot stand there, and for two tools of one name.
    """
    update: dict[str, Any] = {}
    if passed.tools:
        sections = recipe.tools.model_dump(exclude_unset=True)
        for name, tool in _named(passed.tools).items():
            if name == OURS and not isinstance(tool, Mapping | None):
                raise SodError(f"tools: {OURS} is sod's own tool; pass yours by another name, {{'other': {OURS}}}")
            sections[name] = _section(sections.get(name), tool)
        update["tools"] = sections
    if passed.reward is not None:
        held = recipe.reward.model_dump(exclude_unset=True)  # what was set: defaults follow what is passed in
        update["reward"] = _section(held, _as_before(held.get(CALL, ()), passed.reward))
    if passed.environment is not None:
        world = None if recipe.environment is None else recipe.environment.model_dump(exclude_unset=True)
        update["environment"] = _section(world, passed.environment)
    fields = Recipe.model_fields
    checked = {key: validated(fields[key].annotation, content, key) for key, content in update.items()}
    return recipe.model_copy(update=checked)


def refuse_unpassed(recipe: Recipe, where: str, again: str) -> None:
    """Raises SodError where the recipe of a run names what Python passed in and nobody has passed again.

    `again` is the call that goes on with the run, `{}` in it what it has to be given.
    """
    missing = [(key, value) for key, value in code_in(recipe) if isinstance(value, str) and value.startswith(PASSED_IN)]
    if not missing:
        return
    names: dict[str, dict[str, str]] = {}
    for key, value in missing:
        section, _, rest = key.partition(".")
        names.setdefault(section, {})[rest.removesuffix(f".{CALL}")] = value.removeprefix(PASSED_IN)
    keys = ", ".join(key for key, _ in missing)
    given = ", ".join(f"{section}={_argument(section, held)}" for section, held in names.items())
    raise SodError(f"{where}: {keys}: passed in from Python, and in no file; pass it again: {again.format(given)}")


def _named(tools: Tools) -> dict[str, Any]:
    if isinstance(tools, Mapping):
        return dict(tools)
    named: dict[str, Any] = {}
    for tool in tools if isinstance(tools, list | tuple) else [tools]:
        name = tool.name if isinstance(tool, Tool) else passed_name(tool)
        if name in named:
            raise SodError(f"tools: two of them are called {name}; pass {{name: tool, ...}} to tell them apart")
        named[name] = tool
    return named


def _section(held: Mapping[str, Any] | None, given: Any) -> Any:
    """A section of the recipe with what was passed in: its keys where it is a mapping, else its code."""
    if given is None:
        return None  # leaves a tool out
    given = list(given) if isinstance(given, tuple) else given
    return {**(held or {}), **(given if isinstance(given, Mapping) else {CALL: given})}


def _as_before(held: Sequence[Mapping[str, Any]], given: Any) -> Any:
    """Reward functions, each with the weight and name that the recipe has for one that is called the same."""
    if isinstance(given, Mapping):
        return given
    known = {passed_name(one[CALL]): one for one in held}
    functions = given if isinstance(given, list | tuple) else [given]
    return {
        CALL: [one if isinstance(one, Mapping) else {**known.get(passed_name(one), {}), CALL: one} for one in functions]
    }


def _argument(section: str, names: Mapping[str, str]) -> str:
    """What to pass, where `names` are the objects' by the rest of their key, which for a tool is what it goes by."""
    if section == "tools" and any(name != known for known, name in names.items()):
        return f"{{{', '.join(f'{known!r}: {name}' for known, name in names.items())}}}"
    listed = ", ".join(names.values())
    return f"[{listed}]" if section == "tools" or len(names) > 1 else listed
