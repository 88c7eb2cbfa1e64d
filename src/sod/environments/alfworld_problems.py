"""Household problems in the style of ALFWorld, made by a seed: a room of the package's, things put where they fit, and
one of its six kinds of goals.

Every problem can be solved: what has to be found is somewhere, fits where it has to go, and the appliance that it takes
is in the room. None is solved before it begins: the target holds nothing of the kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Final, final

from sod.environments.alfworld_rooms import Lore, Room, lore, rooms
from sod.seeds import derive

KINDS: Final = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
APPLIANCES: Final = {
    "pick_clean_then_place_in_recep": ("cleanable", "SinkBasin"),
    "pick_heat_then_place_in_recep": ("heatable", "Microwave"),
    "pick_cool_then_place_in_recep": ("coolable", "Fridge"),
}
"""What a thing must be to be treated so, and where that is done."""
LOOK: Final = "look_at_obj_in_light"
TWO: Final = "pick_two_obj_and_place"
LAMP: Final = "DeskLamp"
UNDER_LAMPS: Final = ("Desk", "SideTable", "Dresser", "CoffeeTable", "DiningTable", "Shelf", "CounterTop")
"""Where a lamp stands: on the first of these that the room has."""
OFTEN: Final = 0.6
"""How likely there is one of a type that the task does not ask for."""
MOST: Final = 8
"""So many of one type of furniture there are in a room at most: some of the package's kitchens have 30 cabinets."""


@final
@dataclass(frozen=True)
class Problem:
    """`thing` has to be put in or on `target`, or looked at under it; `text` says so. `pddl` is the whole problem."""

    kind: str
    room: int
    thing: str
    target: str
    text: str
    pddl: str


@final
@dataclass(frozen=True)
class _Goal:
    kind: str
    room: Room
    thing: str
    target: str


@lru_cache(maxsize=256)  # the episodes of a group play one problem
def problem(seed: int, split: str, number: int, kinds: tuple[str, ...] = KINDS) -> Problem:
    """The problem of this number: always the same one. Kinds follow each other in turn; `train` and other splits are
    set in different rooms. Raises SodError where the package is missing.
    """
    random = Random(derive(seed, "alfworld", split, number))
    goal = _goal(kinds[number % len(kinds)], split != "train", random)
    known = lore()
    furniture = [
        (f"{name} {count + 1}", name)
        for name, many in goal.room.receptacles.items()
        for count in range(min(many, MOST))
    ]
    placed = list(_things(goal, furniture, known, random))
    phrase = random.choice(known.phrases[goal.kind])
    words = {"obj": goal.thing.lower(), "recep": goal.target.lower(), "toggle": goal.target.lower()}
    pddl = _pddl(goal, furniture, placed, known)
    return Problem(goal.kind, goal.room.number, goal.thing, goal.target, phrase.format(**words), pddl)


def _goal(kind: str, unseen: bool, random: Random) -> _Goal:
    """A goal that a room can have: rooms are drawn until one has any."""
    known = lore()
    fitting = [room for name in known.kinds[kind] for room in rooms(unseen)[name]]
    while True:
        room = random.choice(fitting)
        pairs = sorted(_pairs(kind, room, known))
        if pairs:
            thing, target = random.choice(pairs)
            return _Goal(kind, room, thing, target)


def _pairs(kind: str, room: Room, known: Lore) -> Iterator[tuple[str, str]]:
    """Things and where they may have to go; a thing needs another place to be found in."""
    if kind == LOOK:
        if room.lamp and any(name in room.receptacles for name in UNDER_LAMPS):
            yield from ((thing, LAMP) for thing in room.things if _places(thing, room, known))
        return
    quality, appliance = APPLIANCES.get(kind, ("", ""))
    if appliance and appliance not in room.receptacles:
        return
    for thing in room.things:
        if quality and thing not in known.able[quality]:
            continue
        places = _places(thing, room, known)
        if len(places) > 1:
            yield from ((thing, target) for target in places if target != appliance)


def _places(thing: str, room: Room, known: Lore) -> list[str]:
    return [name for name in room.receptacles if thing in known.holds[name]]


def _things(
    goal: _Goal, furniture: Sequence[tuple[str, str]], known: Lore, random: Random
) -> Iterator[tuple[str, str, str]]:
    """Every thing in the room: its name, its type, and the furniture that it is in or on."""
    for kind in goal.room.things:
        wanted = kind == goal.thing
        if not wanted and random.random() > OFTEN:
            continue
        apart = goal.target if wanted else ""
        places = [place for place, name in furniture if kind in known.holds[name] and name != apart]
        least = 2 if wanted and goal.kind == TWO else 1
        for count in range(random.randint(least, least + 1) if places else 0):
            yield f"{kind} {count + 1}", kind, random.choice(places)
    if goal.kind == LOOK:
        surface = next(name for name in UNDER_LAMPS if name in goal.room.receptacles)
        yield f"{LAMP} 1", LAMP, random.choice([place for place, name in furniture if name == surface])


def _pddl(
    goal: _Goal, furniture: Sequence[tuple[str, str]], placed: Sequence[tuple[str, str, str]], known: Lore
) -> str:
    """The problem in the terms of the package's domain."""
    identity = {name: _identity(name, kind) for name, kind, *_ in (*furniture, *placed)}
    at = {place: f"loc_bar_{number + 1}" for number, (place, _) in enumerate(furniture)}
    things = sorted({kind for _, kind, _ in placed})
    types = sorted({*(name for _, name in furniture), "SinkBasin", "Microwave", "Fridge"})  # the domain names these
    objects = [
        "agent1 - agent",
        *(f"{kind}Type - otype" for kind in sorted({*things, "Knife", "ButterKnife"})),
        *(f"{name}Type - rtype" for name in types),
        *(f"{identity[name]} - object" for name, _, _ in placed),
        *(f"{identity[place]} - receptacle" for place, _ in furniture),
        *(f"{spot} - location" for spot in ("loc_bar_0", *at.values())),
    ]
    facts = [
        "(atLocation agent1 loc_bar_0)",
        *(f"(receptacleType {identity[place]} {name}Type)" for place, name in furniture),
        *(f"(receptacleAtLocation {identity[place]} {at[place]})" for place, _ in furniture),
        *(f"(openable {identity[place]})" for place, name in furniture if name in known.openable),
        *(f"(canContain {name}Type {kind}Type)" for name in types for kind in things if kind in known.holds[name]),
        *(fact for name, kind, place in placed for fact in _told(identity, name, kind, place, at, known)),
    ]
    words = {"obj": goal.thing, "recep": goal.target, "toggle": goal.target}
    return "\n".join(
        [
            "(define (problem household)",
            "(:domain alfred)",
            "(:objects",
            *objects,
            ")",
            "(:init",
            *facts,
            ")",
            known.goals[goal.kind].format(**words),  # closes what `define` opened
        ]
    )


def _told(
    identity: Mapping[str, str], name: str, kind: str, place: str, at: Mapping[str, str], known: Lore
) -> Iterator[str]:
    own = identity[name]
    yield f"(objectType {own} {kind}Type)"
    yield f"(inReceptacle {own} {identity[place]})"
    yield f"(objectAtLocation {own} {at[place]})"
    if kind != LAMP:
        yield f"(pickupable {own})"
    if kind in known.movable:
        yield f"(isReceptacleObject {own})"
    for quality, able in known.able.items():
        if kind in able:
            yield f"({quality} {own})"


def _identity(name: str, kind: str) -> str:
    """As the package names things, so that it can find the words for them: a basin is a part of what it is in."""
    whole = kind.removesuffix("Basin")
    number = int(name.rpartition(" ")[2])
    return f"{whole}_bar_{number:02}" + (f"_bar_{kind}" if whole != kind else "")
