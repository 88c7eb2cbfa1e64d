"""A player of ALFWorld that searches: it looks where it has not looked, in likely places first, remembers what it saw,
and does what the goal takes. It knows the rules, and of the house only what the episode has shown it, so that a student
can learn to do as it does; the planner, which knows where everything is, shows nothing to imitate in a search.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

from sod.records import ToolFault

TREATMENTS: Final = {
    "isclean": ("clean", "sinkbasin"),
    "ishot": ("heat", "microwave"),
    "iscool": ("cool", "fridge"),
}
"""What makes a thing so, and where."""
SHOWN: Final = re.compile(r"(?:On|In) (?:the )?(\w+ \d+), you see|[Tt]he (\w+ \d+) is open\. In it, you see")
"""How a text tells what is in or on something; without `the` in older games."""


@final
@dataclass(frozen=True)
class Goal:
    """`count` things of type `thing`, made so by a treatment (`quality`, one of TREATMENTS or ""), in one piece of
    furniture of type `target`; or, where there is a `lamp`, one held under a lamp that was turned on.
    """

    thing: str
    target: str
    quality: str
    lamp: str
    count: int


def goal_of(problem: str) -> Goal:
    """The goal of a problem in PDDL, of one of ALFWorld's six kinds. Raises ValueError for another."""
    text = problem.lower().partition("(:goal")[2]
    types = dict(re.findall(r"\(objecttype (\?\w+) (\w+)type\)", text))
    targets = re.findall(r"\(receptacletype \?\w+ (\w+)type\)", text)
    toggled = re.search(r"\(istoggled (\?\w+)\)", text)
    lamp = types.pop(toggled[1], "") if toggled else ""
    if len(set(types.values())) != 1 or not (lamp or targets) or "receptacleobject" in text or "sliced" in text:
        raise ValueError("the goal is of none of ALFWorld's six kinds")
    quality = next((name for name in TREATMENTS if f"({name} " in text), "")
    return Goal(next(iter(types.values())), targets[0] if targets else "", quality, lamp, len(types))


@final
@dataclass(frozen=True)
class House:
    """Where everything is: `here` the furniture that the player stands at, `inside` the furniture that a thing is in or
    on, `kinds` the type of each name, `fits` types of furniture with what they can hold, `so` the things and furniture
    by what is said of them.
    """

    here: frozenset[str]
    holding: str | None
    inside: Mapping[str, str]
    kinds: Mapping[str, str]
    fits: frozenset[tuple[str, str]]
    furniture: tuple[str, ...]
    so: Mapping[str, frozenset[str]]

    def closed(self, place: str) -> bool:
        """Whether it has a door or lid that is shut."""
        return place in self.so["openable"] and place not in self.so["opened"]

    def holds(self, place: str, kind: str) -> bool:
        """Whether things of a type can be in or on a piece of furniture."""
        return (self.kinds[place], kind) in self.fits


def house_of(facts: Sequence[Sequence[str]]) -> House:
    """The house that facts tell of."""

    def told(predicate: str) -> list[tuple[str, ...]]:
        return [tuple(fact[1:]) for fact in facts if fact[0] == predicate]

    at = {location for _, location in told("atlocation")}
    places = {name: kind.removesuffix("type") for name, kind in told("receptacletype")}
    things = {name: kind.removesuffix("type") for name, kind in told("objecttype")}
    return House(
        here=frozenset(place for place, location in told("receptacleatlocation") if location in at),
        holding=next((thing for _, thing in told("holds")), None),
        inside={fact[0]: fact[1] for fact in told("inreceptacle")},
        kinds={**things, **places},
        fits=frozenset((place.removesuffix("type"), kind.removesuffix("type")) for place, kind in told("cancontain")),
        furniture=tuple(sorted(places, key=_in_order)),
        so={name: frozenset(fact[0] for fact in told(name)) for name in (*TREATMENTS, "openable", "opened")},
    )


def shown_in(text: str) -> set[str]:
    """The furniture whose contents a text tells."""
    return {on or within for on, within in SHOWN.findall(text)}


def next_command(goal: Goal, house: House, seen: frozenset[str]) -> str:
    """What to do next, where the contents of the furniture `seen` have been shown. Raises ToolFault for a house where
    the goal cannot be reached.
    """
    known = {thing: place for thing, place in house.inside.items() if place in seen}
    held = house.holding
    if held is None:
        return _fetch(goal, house, known, seen)
    if house.kinds[held] != goal.thing:
        return _put(held, _nearest(house, lambda place: house.holds(place, house.kinds[held])), house)
    if goal.quality and held not in house.so[goal.quality]:
        verb, appliance = TREATMENTS[goal.quality]
        place = _nearest(house, lambda place: house.kinds[place] == appliance)
        return f"{verb} {held} with {place}" if place in house.here else f"go to {place}"
    if goal.lamp:
        return _light(goal, house, known, seen)
    return _put(held, _target(goal, house, known), house)


def _fetch(goal: Goal, house: House, known: Mapping[str, str], seen: frozenset[str]) -> str:
    done = _target(goal, house, known) if goal.count > 1 else ""
    wanted = [thing for thing, place in known.items() if house.kinds[thing] == goal.thing and place != done]
    if not wanted:
        return _search(goal.thing, house, seen)
    ready = house.so[goal.quality] if goal.quality else frozenset()
    thing = min(wanted, key=lambda name: (name not in ready, known[name] not in house.here, _in_order(name)))
    place = known[thing]
    if place not in house.here:
        return f"go to {place}"
    return f"open {place}" if house.closed(place) else f"take {thing} from {place}"


def _light(goal: Goal, house: House, known: Mapping[str, str], seen: frozenset[str]) -> str:
    lamps = [thing for thing in known if house.kinds[thing] == goal.lamp]
    if not lamps:
        return _search(goal.lamp, house, seen)
    lamp = min(lamps, key=lambda name: (known[name] not in house.here, _in_order(name)))
    return f"use {lamp}" if known[lamp] in house.here else f"go to {known[lamp]}"


def _target(goal: Goal, house: House, known: Mapping[str, str]) -> str:
    """Where things have to go: to where one of them is already, else to what is nearest."""
    begun = [place for thing, place in known.items() if house.kinds[thing] == goal.thing]
    fitting = [place for place in begun if house.kinds[place] == goal.target]
    if goal.count > 1 and fitting:
        return min(fitting, key=_in_order)
    return _nearest(house, lambda place: house.kinds[place] == goal.target)


def _put(thing: str, place: str, house: House) -> str:
    if place not in house.here:
        return f"go to {place}"
    return f"open {place}" if house.closed(place) else f"move {thing} to {place}"


def _nearest(house: House, fit: Callable[[str], bool]) -> str:
    """The furniture that fits: what the player stands at before all else, and what is open before what is shut."""
    fitting = [place for place in house.furniture if fit(place)]
    if not fitting:
        raise ToolFault("there is nothing in the house that this task takes; its expert is at a loss", False)
    return min(fitting, key=lambda place: (place not in house.here, house.closed(place)))


def _search(kind: str, house: House, seen: frozenset[str]) -> str:
    """Look into what has not been seen: what is here, then where such things can be, what needs no opening first."""
    unseen = [place for place in house.furniture if place not in seen]
    if not unseen:
        return "look"

    def order(place: str) -> tuple[bool, bool, bool]:
        return place not in house.here, not house.holds(place, kind), house.closed(place)

    place = min(unseen, key=order)
    if place not in house.here:
        return f"go to {place}"
    return f"open {place}" if house.closed(place) else f"examine {place}"


def _in_order(name: str) -> tuple[str, int]:
    kind, _, number = name.rpartition(" ")
    return kind, int(number) if number.isdigit() else 0
