"""Every key of the recipe with its type, default, bounds and description, read off the sections themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, final, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sod.recipe.explain import section_in
from sod.recipe.keys.recipe import Recipe
from sod.recipe.keys.section import Section
from sod.recipe.names import accepted_names

WORDS = {str: "text", float: "number", int: "whole number", bool: "true or false", NoneType: "null", Any: "import path"}


@final
@dataclass(frozen=True)
class KeyRow:
    """One key, dotted; `default` is None where the key must be given."""

    key: str
    type: str
    default: str | None
    bounds: str
    description: str
    other_names: Sequence[str] = ()


def key_rows() -> list[KeyRow]:
    """Every key of every section, sections before their keys, in the order of the code."""
    return rows_of(Recipe, "")


def rows_of(section: type[Section], prefix: str) -> list[KeyRow]:
    """The keys at and below a section, each behind `prefix`."""
    return list(_rows(section, None, prefix))


def shown_bounds(metadata: Sequence[Any]) -> str:
    """The constraints of a type in words, e.g. `> 0 and <= 1`; empty where there is none."""
    signs = {Gt: (">", "gt"), Ge: (">=", "ge"), Lt: ("<", "lt"), Le: ("<=", "le")}
    parts = []
    for part in metadata:
        if type(part) in signs:
            sign, attribute = signs[type(part)]
            parts.append(f"{sign} {getattr(part, attribute):g}")
        if isinstance(part, MinLen):
            parts.append(f"{part.min_length} or more")
    return " and ".join(parts)


def shown_type(annotation: Any) -> str:
    """A key's type in words."""
    if section_in(annotation) is not None:
        return " or ".join(["section", *(["null"] if NoneType in get_args(annotation) else [])])
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        *others, last = (str(choice) for choice in inner)
        return f"{', '.join(others)} or {last}" if others else last
    if origin in (Union, UnionType):
        return " or ".join(shown_type(option) for option in inner)
    if origin is list:
        return f"list of: {shown_type(inner[0])}"
    if origin is tuple:
        return f"list of {len(inner)}: {shown_type(inner[0])}"
    if origin is Annotated:
        return f"{shown_type(inner[0])} {shown_bounds(_constraints(inner[1:]))}".strip()
    if origin is dict:
        return "mapping" if inner[1] is Any else f"mapping to {shown_type(inner[1])}"
    return WORDS[annotation]


def shown_default(value: Any) -> str:
    """A default as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown_default(item) for item in value)}]"
    return str(value)


def _rows(section: type[Section], defaults: Section | None, prefix: str) -> Iterator[KeyRow]:
    names = accepted_names()
    for name, field in section.model_fields.items():
        key = prefix + name
        default = _default(name, field, defaults)
        inner = section_in(field.annotation)
        shown = None if default is PydanticUndefined else "" if isinstance(default, Section) else shown_default(default)
        bounds = shown_bounds(field.metadata)
        yield KeyRow(key, shown_type(field.annotation), shown, bounds, field.description or "", names.get(key, ()))
        if inner is not None and issubclass(inner, Section):
            yield from _rows(inner, default if isinstance(default, inner) else None, f"{key}.")
    if section.named is not None:
        key = prefix + section.named.name
        yield KeyRow(key, "section or null", "null", "", section.named.description)
        yield from _rows(section.named.section, None, f"{key}.")


def _default(name: str, field: FieldInfo, defaults: Section | None) -> Any:
    """A key's default within a section whose own default is `defaults`, which may say otherwise than its class."""
    return field.get_default(call_default_factory=True) if defaults is None else getattr(defaults, name)


def _constraints(metadata: Sequence[Any]) -> list[Any]:
    """The constraints themselves, also where they stand in a pydantic Field."""
    return [part for given in metadata for part in getattr(given, "metadata", [given])]
