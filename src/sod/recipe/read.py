"""The recipe: one YAML file that fixes a run, checked before anything else happens."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sod.bounded import parse_yaml, read_yaml_file
from sod.recipe.explain import explained, section_in
from sod.recipe.extends import EXTENDS, files_under, laid_over
from sod.recipe.keys.recipe import Recipe
from sod.recipe.names import Notice, current_names, key_of, silent, twice
from sod.recipe.placed import placed
from sod.recipe.shipped import recipe_file
from sod.records import SodError


def warned(text: str) -> None:
    """A notice of `load_recipe` as a Python warning, of a kind that is shown by default, at the line that called it."""
    warnings.warn(text, FutureWarning, stacklevel=4)


def load_recipe(path: str | Path, overrides: Sequence[str] = (), notice: Notice = warned) -> Recipe:
    """The recipe of a YAML file with `key=value` overrides (dots reach into sections, values are YAML).

    Where there is no such file, the name or path of a recipe of the package means that one (`recipe.shipped`).
    Files of the user's own code are looked for from the folder of the YAML file, those in overrides from here.
    `notice` hears of that, and once of every key that goes by an old name. Knobs of the method are taken as they are.
    Raises SodError naming file, key, value and, for an unknown key, the nearest valid one.
    """
    where = str(path)
    file = recipe_file(path, notice)
    return parse_recipe(apply_overrides(read_whole(file, notice), overrides, where, notice), where)


def read_whole(file: Path, notice: Notice = silent, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys of a recipe file with those of the files that it extends under them.

    Files of the user's own code are looked for from the folder of the file that names them. `above` are the files that
    extend this one. Raises SodError as `read_yaml` and `files_under`.
    """
    content = placed(read_yaml(str(file)), file.resolve().parent)
    if EXTENDS not in content:
        return content
    files = files_under(content.pop(EXTENDS), file, (*above, file.resolve()))
    whole: dict[str, Any] = {}
    for each in files:
        under = read_whole(each, notice, (*above, file.resolve()))
        whole = laid_over(whole, current_names(under, str(each), notice))
    return laid_over(whole, current_names(content, str(file), notice))


def read_yaml(where: str) -> dict[str, Any]:
    """The mapping in a YAML file. Raises SodError naming the file and the line."""
    try:
        content = read_yaml_file(Path(where))
    except FileNotFoundError:
        raise SodError(f"{where}: no such recipe file; `sod init` lists the recipes that come with sod") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SodError(f"{where}: cannot read the recipe: {error}") from None
    except ValueError as error:
        raise SodError(f"{where}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise SodError(f"{where}: a recipe is a mapping of keys, this file holds {type(content).__name__}")
    return content


def apply_overrides(
    content: Mapping[str, Any], overrides: Sequence[str], where: str, notice: Notice = silent
) -> dict[str, Any]:
    """`content` with each `a.b.c=value` put in its place, all keys under their own names.

    An override replaces what the file gives under any of a key's names; files of the user's own code in it are looked
    for from the working directory. `notice` hears once of every old name.
    Raises SodError for a malformed override, and for a key that the file, or the overrides, give under two names.
    """
    told: dict[str, None] = {}  # a dictionary keeps the order
    merged = current_names(content, where, told.setdefault)
    names: dict[str, str] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name or any(not part for part in name.split(".")):
            raise SodError(f"{where}: override {override!r} is not of the form key=value, e.g. optim.lr=1e-4")
        key = key_of(name)
        if names.setdefault(key, name) != name:
            raise twice(where, names[key], name)
        _put(merged, key, _renamed(name, _value(name, text, where), where, told.setdefault))
    for text in told:
        notice(text)
    return placed(merged, Path.cwd())


def parse_recipe(content: Mapping[str, Any], where: str) -> Recipe:
    """Check a mapping against the recipe's keys and types; old names of keys are understood without a notice.

    Raises SodError (one line, every problem in it).
    """
    try:
        return Recipe.model_validate(current_names(content, where, silent))
    except ValidationError as error:
        raise SodError(explained(error, where, Recipe)) from None


def validated(kind: Any, value: Any, key: str, where: str = "") -> Any:
    """`value` as the type `kind`, with its constraints; `key` is its dotted key, `where` the file if known.

    Raises SodError (one line, every problem in it) as `parse_recipe` does.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise SodError(explained(error, where, section_in(kind), key)) from None


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe with every default filled in, as plain YAML-able values; the method's knobs as they were given."""
    values: dict[str, Any] = recipe.model_dump(mode="json")
    return values


def _value(name: str, text: str, where: str) -> Any:
    """What an override gives: YAML, or else a plain text. Raises SodError for a mapping or list that is no YAML."""
    try:
        return parse_yaml(text)
    except ValueError as error:
        value = text.strip()
        if value.startswith("{") or (value.startswith("[") and value.endswith("]")):  # a glob may begin with [0-9]
            raise SodError(f"{where}: override {name}: not valid YAML: {error}; put its texts in quotes") from None
        return text


def _renamed(name: str, value: Any, where: str, notice: Notice) -> Any:
    """The value of an override as it is called today; `value` may be a whole section."""
    parts = name.split(".")
    content = value
    for part in reversed(parts):
        content = {part: content}
    content = current_names(content, where, notice)
    for part in key_of(name).split("."):
        content = content[part]
    return content


def _put(content: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node = content
    for parent in parents:
        child = node.get(parent)
        if isinstance(child, str) and parent == "method":
            child = {"name": child}
        node[parent] = child if isinstance(child, dict) else {}
        node = node[parent]
    node[last] = value
