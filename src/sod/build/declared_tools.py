"""Tools that rows declare beside those of a run: which a conversation shows, and which no episode can call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sod.build.tools import tool_schemas
from sod.recipe import Notice, Recipe
from sod.recipe.keys.tools import TOOL_NAME
from sod.records import Task
from sod.tasks.base import Conversation

Tools = Sequence[Mapping[str, Any]]

NAMED = 4


def tools_to_show(conversation: Conversation, own: Tools) -> Tools | None:
    """The tools that a conversation shows; None for those of the run (`own`), as they are.

    Raises ValueError for a call to a tool that neither declares.
    """
    ours, theirs = {name_of(tool): tool for tool in own}, {name_of(tool): tool for tool in conversation.tools}
    called = list(dict.fromkeys(call.name for message in conversation.messages for call in message.tool_calls))
    unknown = [name for name in called if name not in ours and name not in theirs]
    if unknown:
        raise ValueError(
            f"it calls '{unknown[0]}', which neither its own tools nor the run's declare; add a 'tools' column, or "
            "name a file of them in data.tools"
        )
    if not theirs:
        return None
    return [*conversation.tools, *(ours[name] for name in called if name not in theirs)]


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
        f"{_renaming(schemas.values(), recipe) or _own(found.most_common(1)[0][0])}"
    )


def _rows(count: int) -> str:
    return f"{count:,} row" + ("" if count == 1 else "s")


def _own(declared: str) -> str:
    """The key that gives the run a tool of that signature."""
    name = declared.partition("(")[0]
    return f"; tools.{name}.call names a function of your own for it" if TOOL_NAME.fullmatch(name) else ""


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
