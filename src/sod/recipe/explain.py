"""What pydantic found wrong with a recipe, as one line that names file, key, value and the nearest key there is."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from sod.recipe.names import accepted_names


def explained(error: ValidationError, where: str, root: type[BaseModel] | None, at: str = "") -> str:
    """Every problem, separated by semicolons.

    `root` is the section that was checked, None for a plain value; `at` is its dotted key, empty for the whole recipe;
    `where` is the file, empty where there is none.
    """
    return "; ".join(_explain(problem, where, root, at) for problem in error.errors())


def unknown_key(key: str, value: Any, known: Sequence[str], where: str) -> str:
    """The line for a dotted `key` that does not exist, with the nearest of the `known` ones."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    offer = f"; did you mean {near[0]}?" if near else ""
    return f"{_prefix(where)}unknown key {key} (value {_shown(value)}){offer}"


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds, also where it may be null; None where it holds a plain value."""
    options = [annotation, *getattr(annotation, "__args__", ())]
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _explain(problem: Any, where: str, root: type[BaseModel] | None, at: str) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join([at, *path] if at else path) or "recipe"
    if problem["type"] == "extra_forbidden":
        return unknown_key(key, problem["input"], _candidates(key, path, root, at), where)
    if problem["type"] == "missing":
        return f"{_prefix(where)}key {key} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "model_type":  # pydantic would name one of our classes
        message = "input should be a mapping of keys"
    if problem["type"] == "value_error":
        return f"{_prefix(where)}{at + ': ' if at else ''}{message}"
    return f"{_prefix(where)}{key}={_shown(problem['input'])}: {message[0].lower()}{message[1:]}"


def _candidates(key: str, path: Sequence[str], root: type[BaseModel] | None, at: str) -> list[str]:
    """What a mistyped key may have meant: a key of its own section where one is near, else any key there is."""
    section = root
    for part in path[:-1]:
        field = section.model_fields.get(part) if section else None
        section = section_in(field.annotation) if field else None
    above = key.rpartition(".")[0]
    names = list(section.model_fields) if section else []
    names += [name.rpartition(".")[2] for name in _other_names() if name.rpartition(".")[0] == above]
    near = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.6)
    if near:
        return [_joined(above, near[0])]
    return _all_keys(root, at) + ([] if at else _other_names())


def _all_keys(section: type[BaseModel] | None, at: str) -> list[str]:
    keys: list[str] = []
    for name, field in section.model_fields.items() if section else ():
        keys.append(_joined(at, name))
        keys += _all_keys(section_in(field.annotation), keys[-1])
    return keys


def _other_names() -> list[str]:
    return [name for names in accepted_names().values() for name in names]


def _joined(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _prefix(where: str) -> str:
    return f"{where}: " if where else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
