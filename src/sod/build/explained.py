"""One key of the recipe, or a knob of the methods, in words: what `sod recipe explain` prints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import final

from sod.build.method import shown_knob_default, shown_knob_type
from sod.objective.presets import PRESETS, knobs
from sod.recipe import CallSpec, ToolsSpec
from sod.recipe.describe import KeyRow, key_rows, rows_of
from sod.recipe.keys.tools import TOOL_NAME
from sod.recipe.names import key_of
from sod.recipe.nearest import nearest_key
from sod.recipe.reach import REACHING
from sod.records import SodError
from sod.runlog.guard import NEUTRAL_KEYS

NUMBER = "N"
FUNCTION = f"reward.call.{NUMBER}"
"""The section of one of several reward functions."""


@final
@dataclass(frozen=True)
class ExplainedKey:
    """A dotted key: `facts` by name, and of a section the keys below it as `(key, type, default, description)`."""

    key: str
    facts: Sequence[tuple[str, str]]
    below: Sequence[tuple[str, str, str, str]] = ()


def explained_key(given: str) -> ExplainedKey:
    """What there is to know of a key, by whatever name it is accepted. Raises SodError with the nearest there is."""
    key = _as_listed(key_of(given.strip()))
    rows = {row.key: row for row in [*key_rows(), *rows_of(CallSpec, f"{FUNCTION}.")]}
    if key in rows:
        below = [row for row in rows.values() if row.key.rpartition(".")[0] in (key, f"{key}.{NUMBER}")]
        return ExplainedKey(key, _facts(rows[key]), [(r.key, r.type, _default(r), r.description) for r in below])
    knob = key.removeprefix("method.")
    if key.startswith("method.") and any(knob in knobs(preset) for preset in PRESETS):
        return ExplainedKey(key, _knob_facts(knob))
    known = [*rows, *(f"method.{knob}" for preset in PRESETS for knob in knobs(preset))]
    near = nearest_key(key, known)
    if near is None and key.startswith("environment."):
        return ExplainedKey(key, [("what", "an argument of what environment.call names, if it takes one of that name")])
    offer = f"did you mean {near}?" if near else "docs/keys.md lists them all"
    raise SodError(f"{given}: no key of a recipe; {offer}")


def _as_listed(key: str) -> str:
    """A key as it is listed: NAME stands for any tool of the user's own, N for the number of a reward function."""
    section, _, rest = key.partition(".")
    name, dot, below = rest.partition(".")
    if section == "tools" and TOOL_NAME.fullmatch(name) and name not in ToolsSpec.model_fields:
        return f"tools.{'' if ToolsSpec.named is None else ToolsSpec.named.name}{dot}{below}"
    return re.sub(r"^reward\.call\.\d+\.", f"{FUNCTION}.", key)


def _facts(row: KeyRow) -> list[tuple[str, str]]:
    facts = [("what", row.description), ("type", row.type)]
    if row.default is None:
        facts.append(("default", "none, it must be given"))
    elif row.default:
        facts.append(("default", row.default))
    if row.bounds:
        facts.append(("bounds", row.bounds))
    if row.other_names:
        facts.append(("also", ", ".join(row.other_names)))
    if row.type.startswith("section"):
        return facts
    why = next((reason for neutral, reason in NEUTRAL_KEYS.items() if _covers(neutral, row.key)), None)
    facts.append(("on resume", "keeps the run's value" if why is None else f"may be set anew ({why})"))
    does = next((reaching.does for reaching in REACHING if fnmatchcase(row.key, reaching.key)), None)
    if does is not None:
        facts.append(("in a run's own recipe", f"needs --allow-code: it {does}"))
    return facts


def _covers(neutral: str, key: str) -> bool:
    return fnmatchcase(key, neutral) or key.startswith(f"{neutral}.")


def _knob_facts(knob: str) -> list[tuple[str, str]]:
    """The knob in each preset that has it; what is the same in all is said once."""
    declared = {preset: knobs(preset)[knob] for preset in PRESETS if knob in knobs(preset)}
    meanings = dict.fromkeys(one.declared.meaning for one in declared.values())
    kinds = dict.fromkeys(shown_knob_type(one) for one in declared.values())
    defaults = [f"{preset} {shown_knob_default(one)}" for preset, one in declared.items()]
    return [
        ("what", "; ".join(meanings)),
        ("type", "; ".join(kinds)),
        ("default", ", ".join(defaults)),
        ("on resume", "keeps the run's value"),
    ]


def _default(row: KeyRow) -> str:
    return "must be given" if row.default is None else row.default
