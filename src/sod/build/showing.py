"""Whether it is a tool of the user's or of an environment that keeps a tokenizer's chat template from being used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sod.build.declared_tools import name_of
from sod.build.tools import own_schemas
from sod.chat.render import Chat
from sod.recipe import Recipe
from sod.records import SodError

Tools = Sequence[Mapping[str, Any]]
ChatWith = Callable[[Tools], Chat]
"""The chat of a recipe with other tools than its own. Raises SodError where the template does not do."""


def refuse_unshown(recipe: Recipe, theirs: Tools, chat_with: ChatWith, why: str) -> None:
    """Raises SodError for the tool of the user's own, or of an environment (`theirs`), whose schema a template cannot
    show, where it shows others.

    `why` is what was wrong with all tools together.
    """
    if not (recipe.tools.own or theirs) or not _does(chat_with, []):
        return
    named = [(f"tools.{key}", schema) for key, schema in own_schemas(recipe)]
    named += [(f"environment: its tool {name_of(schema)}", schema) for schema in theirs]
    for name, schema in named:
        if not _does(chat_with, [schema]):
            raise SodError(
                f"{name}: the tokenizer's chat template cannot show its schema ({why}); use plain type hints "
                "(str, int, float, bool, list[str]), or set chat.template=hermes"
            )


def _does(chat_with: ChatWith, tools: Tools) -> bool:
    """Whether the tokenizer's own template does with these tools."""
    try:
        return chat_with(tools).own_template
    except SodError:
        return False
