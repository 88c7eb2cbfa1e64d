"""What pydantic found wrong with a recipe, as one line that names file, key, value and the nearest key there is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from sod.recipe.keys.section import Section
from sod.recipe.names import accepted_names
from sod.recipe.nearest import nearest_key, offered


def explained(error: ValidationError, where: str, root: type[BaseModel] | None, at: str = "") -> str:
    """Every problem, separated by semicolons.

    `root` is the section that was checked, None for a plain value; `at` is its dotted key, empty for the whole recipe;
    `where` is the file, empty where there is none.
    """
    return "; ".join(_explain(problem, where, root, at) for problem in error.errors())


def unknown_key(key: str, value: Any, known: Sequence[str], where: str) -> str:
    """The line for a dotted `key` that does not exist: the one of the `known` keys that is near, else its section's."""
    above = key.rpartition(".")[0]
    near = nearest_key(key, known)
    siblings = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == above]
    offer = f"; did you mean {near}?" if near else f"; there {_are(siblings)} {', '.join(siblings)}"
    return f"{_prefix(where)}unknown key {key} (value {_shown(value)}){offer if near or siblings else ''}"


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds, also where it may be null; None where it holds a plain value, or a list."""
    if get_origin(annotation) is list:
        return None
    options = [annotation, *getattr(annotation, "__args__", ())]
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _explain(problem: Any, where: str, root: type[BaseModel] | None, at: str) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join([at, *path] if at else path) or "recipe"
    if problem["type"] == "extra_forbidden":
        return unknown_key(key, problem["input"], _all_keys(root, at, key) + ([] if at else _other_names()), where)
    if problem["type"] == "missing":
        return f"{_prefix(where)}key {key} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "model_type":  # pydantic would name one of our classes
        message = "input should be a mapping of keys"
    if problem["type"] == "list_type":
        message = "input should be a list"
        if isinstance(problem["input"], str | int):
            message += f"; write [{problem['input']}]"
    if problem["type"] == "value_error":
        named = not at or message.startswith(f"{at}.")
        return f"{_prefix(where)}{message if named else f'{at}: {message}'}"
    if problem["type"] == "literal_error" and isinstance(problem["input"], str):
        message += offered(problem["input"], re.findall(r"'([^']*)'", problem["ctx"]["expected"]))
    return f"{_prefix(where)}{key}={_shown(problem['input'])}: {message[0].lower()}{message[1:]}"


def _all_keys(section: type[BaseModel] | None, at: str, asked: str) -> list[str]:
    """Every key at and below `at`; where the user chooses names, or lists sections, below what stands in `asked`."""
    keys: list[str] = []
    for name, field in section.model_fields.items() if section else ():
        key = _joined(at, name)
        keys += [key, *_all_keys(section_in(field.annotation), key, asked)]
        number = asked.removeprefix(f"{key}.").partition(".")[0]
        if get_origin(field.annotation) is list and number.isdigit():
            keys += _all_keys(section_in(get_args(field.annotation)[0]), f"{key}.{number}", asked)
    if section is not None and issubclass(section, Section) and section.named is not None:
        name = asked.removeprefix(f"{at}.").partition(".")[0]
        if asked.startswith(f"{at}.") and name not in section.model_fields:
            keys += _all_keys(section.named.section, _joined(at, name), asked)
    return keys


def _other_names() -> list[str]:
    return [name for names in accepted_names().values() for name in names]


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _joined(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _prefix(where: str) -> str:
    return f"{where}: " if where else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
