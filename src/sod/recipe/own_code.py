"""The user's own code that a recipe names by file, from wherever the recipe is read afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sod.usercode import is_file

CALL = "call"
"""The key, of whatever section, that names code by its import path, or by a list of paths."""


def with_files_found(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The recipe's content with the files of its own code, which are relative to `folder`, by absolute paths.

    So a run directory's recipe names the same files, wherever it is resumed from.
    """
    return {key: _found(key, value, folder) for key, value in content.items()}


def _found(key: str, value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping):
        return with_files_found(value, folder)
    if isinstance(value, list) and key == CALL:
        return [_found(key, item, folder) for item in value]
    if key == CALL and isinstance(value, str) and is_file(value):
        file, _, name = value.rpartition(":")
        return f"{(folder / Path(file).expanduser()).resolve()}:{name}"
    return value
