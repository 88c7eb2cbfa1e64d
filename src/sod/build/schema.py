"""The JSON schema of a recipe, for editors: keys and knobs with their types, bounds and descriptions."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from sod.build.method import knob_type
from sod.objective.knobs import PresetKnob
from sod.objective.presets import PRESETS, knobs
from sod.recipe import CoefficientSpec, Recipe, TeachersSpec, ToolsSpec
from sod.recipe.extends import EXTENDS, MEANING
from sod.recipe.keys.section import Section
from sod.recipe.names import accepted_names

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFERENCE = "#/$defs/{model}"


def recipe_schema() -> dict[str, Any]:
    """What a recipe may be, short forms (`method: sod`) and other names of keys included."""
    schema = Recipe.model_json_schema(ref_template=REFERENCE)
    parts = schema["$defs"]
    names = {"enum": list(PRESETS)}
    parts |= TypeAdapter(CoefficientSpec).json_schema(ref_template=REFERENCE).get("$defs", {})
    parts["ScheduleSpec"] = _schedule()
    method = parts["MethodSpec"]
    method["properties"] |= {"name": method["properties"]["name"] | names} | _knobs()
    method["additionalProperties"] = False
    _also(schema["properties"], "method", names)
    _also(method["properties"], "divergence", _kinds_of(parts["DivergenceSpec"]))
    _also(method["properties"], "alignment", _kinds_of(parts["AlignmentSpec"]))
    _also(parts["RewardSpec"]["properties"], "call", *_function_forms())
    for section in (ToolsSpec, TeachersSpec):
        parts[section.__name__]["additionalProperties"] |= {"description": _of_named(section)}
    for key, others in accepted_names().items():
        _name_also(schema, key, others)
    _extending(schema)
    return {"$schema": DIALECT, **schema, "title": "sod recipe"}


def _extending(schema: dict[str, Any]) -> None:
    """Let a file name those that it extends, which then give what it lacks."""
    one = {"type": "string", "minLength": 1}
    forms = [one, {"type": "array", "items": one, "minItems": 1}]
    schema["properties"] = {EXTENDS: {"anyOf": forms, "description": MEANING}, **schema["properties"]}
    student = {"required": schema["$defs"]["StudentSpec"].pop("required")}
    alone = {"required": schema.pop("required"), "properties": {"student": student}}
    schema["anyOf"] = [alone, {"required": [EXTENDS]}]


def _kinds_of(section: dict[str, Any]) -> dict[str, Any]:
    """The values of a section's `kind`, which may stand for the section."""
    kind = section["properties"]["kind"]
    named = next(one for one in kind.get("anyOf", [kind]) if one.get("type") != "null")
    return {"enum": named["enum"] if "enum" in named else [named["const"]]}


def _function_forms() -> list[dict[str, Any]]:
    """A function alone by its path or its section, several of either, or none."""
    one: list[dict[str, Any]] = [{"type": "string"}, {"$ref": REFERENCE.format(model="CallSpec")}]
    return [*one, {"type": "array", "items": {"anyOf": one}}, {"type": "null"}]


def _of_named(section: type[Section]) -> str:
    return "" if section.named is None else section.named.description


def _schedule() -> dict[str, Any]:
    schema: dict[str, Any] = TypeAdapter(CoefficientSpec).json_schema(ref_template=REFERENCE)
    # A constant may leave its end out.
    return schema | {"required": [name for name in schema["required"] if name != "end"]}


def _knobs() -> dict[str, Any]:
    """Every knob of any preset; one that presets declare differently may be what any of them takes."""
    properties: dict[str, Any] = {}
    for preset in PRESETS:
        for name, knob in knobs(preset).items():
            kinds = properties.setdefault(name, {"description": knob.declared.meaning, "anyOf": [{"type": "null"}]})
            for kind in _kinds(knob):
                if kind not in kinds["anyOf"]:
                    kinds["anyOf"].append(kind)
    return properties


def _kinds(knob: PresetKnob) -> list[dict[str, Any]]:
    if knob.kind == "coefficient":
        return [{"type": "number"}, {"$ref": REFERENCE.format(model="ScheduleSpec")}]
    return [TypeAdapter(knob_type(knob)).json_schema(ref_template=REFERENCE)]


def _also(properties: dict[str, Any], key: str, *short: dict[str, Any]) -> None:
    """Let a key be one of its short forms, too."""
    held = properties[key]
    told = {name: held.pop(name) for name in ("description", "default", "title") if name in held}
    properties[key] = {**told, "anyOf": [*short, *held.get("anyOf", [held])]}


def _name_also(schema: dict[str, Any], key: str, others: list[str]) -> None:
    """Let `section.key` go by other names, which are in the same section."""
    section, _, last = key.rpartition(".")
    properties = schema["$defs"][_model_of(schema, section)]["properties"]
    for other in others:
        properties[other.rpartition(".")[2]] = properties[last] | {"description": f"as {last}"}


def _model_of(schema: dict[str, Any], section: str) -> str:
    reference: str = schema["properties"][section]["$ref"]
    return reference.rpartition("/")[2]
