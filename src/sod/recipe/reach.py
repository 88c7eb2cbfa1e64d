"""Keys that make code run, or send something away: what a recipe that came with a run may not set by itself.

A recipe file that the user names, and an override, are the user's own word. The recipe inside a run directory may be
anybody's: resuming or evaluating a run that was downloaded must not do what its recipe says here. A new key of this
kind needs a line in `REACHING`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from sod.recipe.keys.code import is_imported, written
from sod.recipe.keys.environment import EnvironmentSpec
from sod.recipe.keys.recipe import Recipe
from sod.recipe.keys.reward import CallSpec
from sod.recipe.keys.teacher import KEY_VARIABLE
from sod.recipe.keys.tools import PythonSpec
from sod.recipe.names import key_of
from sod.records import SodError
from sod.usercode import PASSED_IN

_PRELOADED = frozenset(PythonSpec().preload)


@final
@dataclass(frozen=True)
class Reaching:
    """A dotted key, `*` in it any name: `beyond` says whether a value (never None) goes beyond what every recipe may
    ask for, and `shown` how it is written in a message.
    """

    key: str
    does: str
    beyond: Callable[[Any], bool]
    shown: Callable[[Any], str] = repr


def _other_modules(names: Sequence[str]) -> bool:
    return not _PRELOADED.issuperset(names)


def _other_variable(name: str) -> bool:
    return name != KEY_VARIABLE


def _paths(calls: Sequence[CallSpec]) -> str:
    return ", ".join(written(call.call) for call in calls)


def _imports_any(calls: Sequence[CallSpec]) -> bool:
    return any(is_imported(call.call) for call in calls)


def _opens_files(world: EnvironmentSpec) -> bool:
    """Whether a world that comes with sod, which needs no import path, gets text: that may name a file, even code."""
    named = isinstance(world.call, str) and not is_imported(world.call) and not world.call.startswith(PASSED_IN)
    return named and _has_text(world.arguments)


def _has_text(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_text(below) for below in value.values())
    if isinstance(value, list | tuple):
        return any(_has_text(below) for below in value)
    return isinstance(value, str)


def _arguments(world: EnvironmentSpec) -> str:
    return str({"call": world.call, **world.arguments})


REACHING = (
    Reaching("tools.python.unsafe", "runs the model's programs without isolation", bool),
    Reaching("tools.python.preload", "imports these modules", _other_modules),
    Reaching("environment.call", "imports and runs this code", is_imported),
    Reaching("environment", "may open these files, or run what is in them", _opens_files, _arguments),
    Reaching("tools.python.fusion.url", "sends every program to this address", bool),
    Reaching("engine.urls", "sends every episode to these addresses", bool),
    Reaching("engine.environment", "starts vLLM out of this folder", bool),
    Reaching("engine.options", "starts vLLM with these options", bool),
    Reaching("launch.teacher.options", "starts vLLM with these options", bool),
    Reaching("engine.push_dir", "writes into this folder", bool),
    Reaching("reward.call", "imports and runs this code", _imports_any, _paths),
    Reaching("reward.judge.url", "sends every episode to this address", bool),
    Reaching("teacher.url", "sends every episode to this address", bool),
    Reaching("teacher.api_key_env", "sends what this environment variable holds to teacher.url", _other_variable),
    Reaching("teacher.cache", "writes into this folder", bool),
    Reaching("teachers.*.url", "sends every episode to this address", bool),
    Reaching("teachers.*.api_key_env", "sends what this environment variable holds to an address", _other_variable),
    Reaching("teachers.*.cache", "writes into this folder", bool),
    Reaching("reward.judge.cache", "writes into this folder", bool),
    Reaching("tools.*.call", "imports and runs this code", is_imported),
    Reaching("tools.*.mcp", "starts this program", bool),
)


def refuse_reaching(recipe: Recipe, where: str, overrides: Sequence[str], unread: Collection[str] = ()) -> None:
    """Refuse a recipe out of a run directory, read with `overrides`, that sets a key of `REACHING` by itself.

    Sections in `unread` are of no use to the command.

    Raises SodError naming file, key, value and what to do.
    """
    own = {key_of(override.partition("=")[0]) for override in overrides}
    for reaching in REACHING:
        if reaching.key.partition(".")[0] in unread:
            continue
        for name, value in _values(recipe, reaching.key):
            if not reaching.beyond(value):
                continue
            if not any(name == key or name.startswith(f"{key}.") for key in own):
                raise SodError(
                    f"{where}: {name}={reaching.shown(value)} {reaching.does}, and this recipe came with the run; if "
                    f"you trust it, add --allow-code, else set {name} yourself"
                )


def _values(recipe: Recipe, key: str) -> list[tuple[str, Any]]:
    """Every key that a dotted one with `*` names, with its value; what is null, or lies below null, is left out."""
    found: list[tuple[str, Any]] = [("", recipe)]
    for part in key.split("."):
        below: list[tuple[str, Any]] = []
        for name, section in found:
            parts = list(section.model_extra or {}) if part == "*" else [part]
            below += [(f"{name}.{one}".lstrip("."), getattr(section, one)) for one in parts]
        found = [(name, value) for name, value in below if value is not None]
    return found
