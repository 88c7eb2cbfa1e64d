"""`extends`: a recipe file that names others and holds what differs from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sod.recipe.shipped import FOLDER
from sod.records import SodError

EXTENDS = "extends"
MEANING = "recipe files under this one, later over earlier; beside it, or by the names of those that come with sod"
_WHOLE = ("method",)
"""Sections that are never mixed: the knobs of a method are not those of another."""


def laid_over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`under` with the keys of `over` in their places: sections key by key, `method` and everything else as a whole.

    An empty section empties the one below.
    """
    laid = dict(under)
    for key, value in over.items():
        below = laid.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and value and key not in _WHOLE:
            laid[key] = laid_over(below, value)
        else:
            laid[key] = value
    return laid


def files_under(named: Any, file: Path, above: tuple[Path, ...]) -> list[Path]:
    """The files that the `extends` of `file` names; `above` are those that are being read because of one another.

    Raises SodError for a value that names no files, for a file that is not there, and for a circle.
    """
    texts = [named] if isinstance(named, str) else named
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise SodError(f"{file}: extends={named!r} names no recipe file; give one, or a list of them")
    files = [_found(text, file) for text in texts]
    for each in files:
        if each.resolve() in above:
            raise SodError(f"{file}: extends {each}, which extends this file in turn; take one of the two out")
    return files


def _found(text: str, file: Path) -> Path:
    """The file that a text means, which is never `file` itself: one may be called as the one that it extends."""
    tried = [folder / name for folder in (file.parent, FOLDER) for name in (text, f"{text}.yaml")]
    for each in tried:
        if each.is_file() and each.resolve() != file.resolve():
            return each
    raise SodError(
        f"{file}: extends {text!r}, and there is no other recipe file of that name, neither in {file.parent} nor "
        "among those that come with sod (`sod init` lists them)"
    )
