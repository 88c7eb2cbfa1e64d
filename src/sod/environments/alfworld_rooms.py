"""What the package `alfworld` knows of its rooms, read from its files: what stands in each, what fits where, what can
be heated, and how goals are worded.

The files are read, the package is not imported: its import makes a folder in the user's home.
"""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final, final

from sod.records import SodError

INSTALL: Final = "pip install 'sod-distill[envs]'"
BASINS: Final = {"Sink": "SinkBasin", "Bathtub": "BathtubBasin"}
"""What a room's list calls the whole, and what things are put in."""
SEVERAL: Final = {"StoveBurner": 4}
"""How many there are of what is only listed by its kind; one of all else."""
LAMPS: Final = ("DeskLamp", "Lamp")
"""What a room's list calls a lamp that stands on furniture."""


@final
@dataclass(frozen=True)
class Room:
    """`receptacles` counts the furniture of each type; `things` are the types of what can be carried, `lamp` says
    whether there is one to look at things under. In alphabetical order, as all that is drawn from.
    """

    number: int
    kind: str
    receptacles: Mapping[str, int]
    things: tuple[str, ...]
    lamp: bool


@final
@dataclass(frozen=True)
class Lore:
    """Of all rooms: `holds` what fits on or in each type of furniture, `openable` what has a door or lid, `able` what
    can be heated, cooled, cleaned and sliced, `movable` what could hold other things, `goals` in PDDL and `phrases` in
    English by kind of task, `kinds` the kinds of rooms where each can be set, `unseen` the numbers of the test rooms.
    """

    holds: Mapping[str, tuple[str, ...]]
    openable: frozenset[str]
    able: Mapping[str, frozenset[str]]
    movable: frozenset[str]
    goals: Mapping[str, str]
    phrases: Mapping[str, tuple[str, ...]]
    kinds: Mapping[str, tuple[str, ...]]
    scenes: Mapping[str, tuple[int, ...]]
    unseen: frozenset[int]


@cache
def package_folder() -> Path:
    """Where `alfworld` is installed. Raises SodError where it, or TextWorld's part for PDDL, is not."""
    found = [importlib.util.find_spec(name) for name in ("alfworld", "textworld", "fast_downward")]
    if None in found or found[0] is None or not found[0].submodule_search_locations:
        raise SodError(f"sod.environments.alfworld: needs the packages alfworld and textworld[pddl]; `{INSTALL}`")
    return Path(found[0].submodule_search_locations[0])


@cache
def lore() -> Lore:
    """What is said of all rooms. Raises SodError."""
    constants, library = _module("constants"), _module("goal_library")
    fixed = sorted(set(constants.RECEPTACLES) - set(constants.MOVABLE_RECEPTACLES))
    fits = constants.VAL_RECEPTACLE_OBJECTS
    return Lore(
        holds={name: tuple(sorted(thing for thing in fits.get(name, ()) if "Sliced" not in thing)) for name in fixed},
        openable=frozenset(constants.OPENABLE_CLASS_LIST),
        able={name.lower(): frozenset(things) for name, things in constants.VAL_ACTION_OBJECTS.items()},
        movable=frozenset(constants.MOVABLE_RECEPTACLES),
        goals={kind: texts["pddl"].replace("#", "-") for kind, texts in library.gdict.items()},
        phrases={kind: tuple(texts["templates"]) for kind, texts in library.gdict.items()},
        kinds={kind: tuple(sorted(rooms)) for kind, rooms in constants.GOALS_VALID.items()},
        scenes={kind: tuple(numbers) for kind, numbers in constants.SCENE_TYPE.items()},
        unseen=frozenset(constants.TEST_SCENE_NUMBERS),
    )


@cache
def rooms(unseen: bool) -> Mapping[str, tuple[Room, ...]]:
    """The rooms by kind: those to train in, or the others, that are kept to be seen for the first time in a test."""
    every = lore()
    return {
        kind: tuple(_room(number, kind) for number in numbers if (number in every.unseen) == unseen)
        for kind, numbers in sorted(every.scenes.items())
    }


def _room(number: int, kind: str) -> Room:
    folder = package_folder() / "gen" / "layouts"
    listed = json.loads((folder / f"FloorPlan{number}-objects.json").read_text(encoding="utf-8"))
    places = json.loads((folder / f"FloorPlan{number}-openable.json").read_text(encoding="utf-8"))
    holds = lore().holds
    types = [place.partition("|")[0] for place in places]
    counted = Counter(BASINS.get(name, name) for name in types)
    for name in listed:
        if name in holds and name not in counted:
            counted[name] = SEVERAL.get(name, 1)
    carried = {thing for things in holds.values() for thing in things}
    return Room(
        number,
        kind,
        {name: counted[name] for name in sorted(counted) if name in holds},
        tuple(sorted(carried.intersection(listed))),
        any(lamp in listed for lamp in LAMPS),
    )


def _module(name: str) -> ModuleType:
    file = package_folder() / "gen" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"sod_alfworld_{name}", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise SodError(f"sod.environments.alfworld: {file} is missing; `{INSTALL}` (alfworld 0.4.2 has it)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
