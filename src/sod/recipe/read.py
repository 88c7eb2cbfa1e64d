"""The recipe: one YAML file that fixes a run, checked before anything else happens."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sod.recipe.keys.recipe import Recipe
from sod.records import SodError


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file with `key=value` overrides (dots reach into sections, values are YAML).

    Raises SodError naming file, key, value and, for an unknown key, the nearest valid one.
    """
    where = str(path)
    return parse_recipe(apply_overrides(read_yaml(where), overrides, where), where)


class _UniqueKeys(yaml.SafeLoader):
    """YAML's own loader keeps the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # A scalar tagged as a mapping has no pairs; YAML's own loader says so below.
        keys = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key}", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(where: str) -> dict[str, Any]:
    """The mapping in a YAML file. Raises SodError naming the file and the line."""
    try:
        content = yaml.load(Path(where).read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError:
        raise SodError(f"{where}: no such recipe file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SodError(f"{where}: cannot read the recipe: {error}") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise SodError(f"{where}: not valid YAML: {reason}") from None
    if not isinstance(content, dict):
        raise SodError(f"{where}: a recipe is a mapping of keys, this file holds {type(content).__name__}")
    return content


def apply_overrides(content: Mapping[str, Any], overrides: Sequence[str], where: str) -> dict[str, Any]:
    """`content` with each `a.b.c=value` put in its place. Raises SodError for a malformed override."""
    merged = _copied(content)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key or any(not part for part in key.split(".")):
            raise SodError(f"{where}: override {override!r} is not of the form key=value, e.g. optim.lr=1e-4")
        try:
            value = yaml.load(text, _UniqueKeys)
        except yaml.YAMLError:
            value = text
        *parents, last = key.split(".")
        node = merged
        for parent in parents:
            child = node.get(parent)
            if isinstance(child, str) and parent == "method":
                child = {"name": child}
            node[parent] = child if isinstance(child, dict) else {}
            node = node[parent]
        node[last] = value
    return merged


def parse_recipe(content: Mapping[str, Any], where: str) -> Recipe:
    """Check a mapping against the recipe's keys and types. Raises SodError (one line, every problem in it)."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise SodError("; ".join(_explain(problem, where) for problem in error.errors())) from None


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe with every default filled in, as plain YAML-able values."""
    values: dict[str, Any] = recipe.model_dump(mode="json")
    return values


def _copied(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in content.items()}


def _explain(problem: Any, where: str) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "recipe"
    shown = repr(problem["input"])
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _all_keys(Recipe), n=1, cutoff=0.0)
        last = difflib.get_close_matches(key.rsplit(".", 1)[-1], _keys_of(problem["loc"][:-1]), n=1, cutoff=0.6)
        prefix = key.rpartition(".")[0]
        offer = f"{prefix}.{last[0]}".lstrip(".") if last else near[0]
        return f"{where}: unknown key {key} (value {shown}); did you mean {offer}?"
    if problem["type"] == "missing":
        return f"{where}: key {key} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: {key}={shown}: {message[0].lower()}{message[1:]}"


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    field = model.model_fields.get(name)
    if field is None:
        return None
    options = [field.annotation, *getattr(field.annotation, "__args__", ())]
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _keys_of(path: Sequence[Any]) -> list[str]:
    model: type[BaseModel] | None = Recipe
    for part in path:
        model = _section(model, str(part)) if model else None
    return list(model.model_fields) if model else []


def _all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name in model.model_fields:
        keys.append(prefix + name)
        section = _section(model, name)
        if section:
            keys += _all_keys(section, f"{prefix}{name}.")
    return keys
