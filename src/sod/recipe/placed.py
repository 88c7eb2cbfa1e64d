"""Files of the user's own code in a recipe, by absolute paths: a run resumed from elsewhere finds them again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sod.recipe.keys.code import CALL
from sod.usercode import is_file


def placed(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """`content` with every `./file.py:name` below a key `call` as a path from the root, read from `folder`."""
    return {key: _place(value, key == CALL, folder) for key, value in content.items()}


def unplaced(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` with every file of code by its name alone: the same wherever the recipe stands."""
    return {key: _unplace(value, key == CALL) for key, value in content.items()}


def _unplace(value: Any, code: bool) -> Any:
    if isinstance(value, Mapping):
        return unplaced(value)
    if isinstance(value, list):
        return [_unplace(item, code) for item in value]
    return Path(value).name if code and isinstance(value, str) and is_file(value) else value


def _place(value: Any, code: bool, folder: Path) -> Any:
    if isinstance(value, Mapping):
        return placed(value, folder)
    if isinstance(value, list):
        return [_place(item, code, folder) for item in value]
    if code and isinstance(value, str) and is_file(value):
        origin, _, name = value.rpartition(":")
        return f"{(folder / Path(origin).expanduser()).resolve()}:{name}"
    return value
