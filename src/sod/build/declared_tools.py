"""Tools that tasks declare and a run does not have: an episode can only call what runs here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sod.build.tools import tool_schemas
from sod.recipe import Notice, Recipe
from sod.records import Task

NAMED = 4


def tell_other_tools(tasks: Sequence[Task], source: str, recipe: Recipe, notice: Notice) -> None:
    """Tell which tools tasks declare that the run does not have, and how ours can be called as theirs is."""
    own = tool_schemas(recipe)
    ours = {name_of(schema) for schema in own}
    found: Counter[str] = Counter()
    schemas: dict[str, Mapping[str, Any]] = {}
    for task in tasks:
        for schema in task.tools:
            if name_of(schema) not in ours:
                found[signature(schema)] += 1
                schemas.setdefault(signature(schema), schema)
    if not found:
        return
    named = ", ".join(f"{name} ({_rows(count)})" for name, count in found.most_common(NAMED))
    more = f" and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
    instead = f"prompts show the run's own ({', '.join(map(signature, own))})" if own else "prompts show no tool"
    notice(
        f"{source}: rows declare tools that the run does not have: {named}{more}; {instead}"
        f"{_renaming(schemas.values(), recipe)}"
    )


def _rows(count: int) -> str:
    return f"{count:,} row" + ("" if count == 1 else "s")


def _renaming(schemas: Iterable[Mapping[str, Any]], recipe: Recipe) -> str:
    """The keys that make our Python tool look like the one that is declared; empty where none could be it."""
    alike = [schema for schema in schemas if len(_properties(schema)) == 1]
    if recipe.tools.python is None or len(alike) != 1:
        return ""
    (argument,) = _properties(alike[0])
    return f"; set tools.python.name={name_of(alike[0])} and tools.python.argument={argument} to call Python so"


def name_of(schema: Mapping[str, Any]) -> str:
    """What a function schema calls its tool."""
    return str((schema.get("function") or schema).get("name"))


def signature(schema: Mapping[str, Any]) -> str:
    """A function schema in short: `python(code)`."""
    return f"{name_of(schema)}({', '.join(_properties(schema))})"


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = (schema.get("function") or schema).get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    return properties if isinstance(properties, Mapping) else {}
