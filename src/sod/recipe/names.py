"""Other names of recipe keys: some are accepted for good, old ones work for one version with a notice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from sod.records import SodError

Notice = Callable[[str], None]
"""Tells the user something that is not an error: skipped rows, an old name of a key."""


@final
@dataclass(frozen=True)
class OtherName:
    """`name` in a recipe is read as `key`, both `section.key`; `values` are read as what they map to.

    An `old` name is told to the user each time and is gone with the next version.
    """

    name: str
    key: str
    values: Mapping[str, str] = field(default_factory=dict)
    old: bool = False


AGGREGATIONS = {"token": "token-mean", "sequence": "seq-mean-token-mean", "turn": "turn-mean"}
OTHER_NAMES = (
    OtherName("rollout.batch_size", "rollout.prompts"),
    OtherName("rollout.group_size", "rollout.samples"),
    OtherName("rollout.round_tokens", "rollout.decode_chunk", old=True),
    OtherName("rollout.by_the_clock", "rollout.asynchronous", old=True),
    OtherName("method.normaliser", "method.loss_aggregation", AGGREGATIONS, old=True),
)


def silent(text: str) -> None:
    """A notice that nobody needs to read: where a run recorded its own recipe."""


def key_of(name: str) -> str:
    """The dotted name with a key's own name in place of another; the name itself where there is none in it."""
    for other in OTHER_NAMES:
        if name == other.name or name.startswith(f"{other.name}."):
            return other.key + name.removeprefix(other.name)
    return name


def accepted_names() -> dict[str, list[str]]:
    """Key to the other names that stay."""
    names: dict[str, list[str]] = {}
    for other in OTHER_NAMES:
        if not other.old:
            names.setdefault(other.key, []).append(other.name)
    return names


def current_names(content: Mapping[str, Any], where: str, notice: Notice) -> dict[str, Any]:
    """A copy of `content` under its keys' own names; `notice` hears of every old one.

    Raises SodError where a key stands there under two names.
    """
    current = copied(content)
    for other in OTHER_NAMES:
        section_name, _, name = other.name.partition(".")
        section = current.get(section_name)
        if not isinstance(section, dict) or name not in section:
            continue
        key = other.key.removeprefix(f"{section_name}.")
        if key in section:
            raise twice(where, other.name, other.key)
        given = section.pop(name)
        section[key] = other.values.get(given, given) if isinstance(given, str) else given
        if other.old:
            changed = f", and its value {given} {section[key]}" if section[key] != given else ""
            notice(f"{where}: {other.name} is now called {other.key}{changed}; the old name goes in the next version")
    return current


def twice(where: str, one: str, other: str) -> SodError:
    """One key under two names."""
    return SodError(f"{where}: {one} and {other} are the same key; give one of them")


def copied(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` with mappings of its own, all the way down."""
    return {key: copied(value) if isinstance(value, Mapping) else value for key, value in content.items()}
