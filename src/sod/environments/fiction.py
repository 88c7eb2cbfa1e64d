"""A small world that no model knows: people, towns and companies with invented names, told in passages, and questions
whose answers take several of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import final

from sod.seeds import derive

_BEGINNINGS = ("Bal", "Cor", "Dren", "El", "Fal", "Gor", "Hel", "Ist", "Jor", "Kel", "Lum", "Mar", "Nor", "Ost", "Pel")
_MIDDLES = ("a", "e", "i", "o", "u", "an", "er", "il", "on", "ur")
_PERSON = ("dra", "lin", "mos", "nia", "rik", "sa", "tus", "vek")
_TOWN = ("burg", "ford", "haven", "mere", "stad", "wick")
_COMPANY = ("Foundry", "Mills", "Optics", "Shipyard", "Textiles", "Works")
_REGION = ("Reach", "March", "Vale", "Coast")

PHRASES = {
    "birthplace": ("the town where {} was born", "town", "{} was born in {}."),
    "spouse": ("the person whom {} married", "person", "{} is married to {}."),
    "employer": ("the company that {} works for", "company", "{} works for {}."),
    "mayor": ("the mayor of {}", "person", "The mayor of {} is {}."),
    "region": ("the region that {} lies in", "region", "{} lies in the {}."),
    "river": ("the river that flows through {}", "river", "The river that flows through {} is the {}."),
    "founder": ("the founder of {}", "person", "{} was founded by {}."),
    "headquarters": ("the town where {} has its headquarters", "town", "{} has its headquarters in {}."),
}
"""For each relation how a question names it, what kind of thing it leads to, and how a passage tells it."""
RELATIONS = {
    "person": ("birthplace", "spouse", "employer"),
    "town": ("mayor", "region", "river"),
    "company": ("founder", "headquarters"),
}
"""What is told of each kind of thing."""


@final
@dataclass(frozen=True)
class Passage:
    """What the world tells of one of its things."""

    title: str
    text: str


@final
@dataclass(frozen=True)
class Question:
    """`lookups` are the titles of the passages that lead to the answer, in order."""

    text: str
    answer: str
    lookups: tuple[str, ...]


@final
@dataclass(frozen=True)
class Fiction:
    """The kind of every thing by its name, and its relations."""

    kinds: Mapping[str, str]
    facts: Mapping[str, Mapping[str, str]]

    def passages(self) -> list[Passage]:
        """A passage for each person, town and company."""
        return [Passage(name, self._told(name)) for name in self.facts]

    def _told(self, name: str) -> str:
        return " ".join(PHRASES[relation][2].format(name, value) for relation, value in self.facts[name].items())

    def questions(self, count: int, hops: int, seed: int) -> list[Question]:
        """Different questions over `hops` relations, drawn by `seed`. Raises ValueError where there are fewer."""
        random = Random(seed)
        people = [name for name, kind in self.kinds.items() if kind == "person"]
        found: dict[str, Question] = {}
        for _ in range(50 * count):
            question = self._walk(random.choice(people), hops, random)
            if question is not None:
                found.setdefault(question.text, question)
            if len(found) == count:
                return list(found.values())
        raise ValueError(f"this world has no {count:,} questions over {hops} relations; ask for fewer, or add people")

    def _walk(self, start: str, hops: int, random: Random) -> Question | None:
        """A question that begins at a person; None where the way comes to an end, or back to where it was."""
        phrase, at, lookups = start, start, [start]
        for hop in range(hops):
            if at not in self.facts:
                return None
            relation = random.choice(list(self.facts[at]))
            phrase, at = PHRASES[relation][0].format(phrase), self.facts[at][relation]
            if at in lookups:
                return None
            if hop < hops - 1:
                lookups.append(at)
        return Question(f"Name {phrase}.", at, tuple(lookups))


def fiction(people: int, seed: int) -> Fiction:
    """A world with so many people (2 or more), a quarter as many towns and a tenth as many companies."""
    if people < 2:
        raise ValueError(f"a world needs 2 people or more, not {people}")
    random = Random(derive(seed, "fiction"))
    taken: set[str] = set()
    kinds = {_named(random, taken, _PERSON): "person" for _ in range(people)}
    kinds |= {_named(random, taken, _TOWN): "town" for _ in range(max(2, people // 4))}
    kinds |= {f"{_named(random, taken, _PERSON)} {random.choice(_COMPANY)}": "company" for _ in range(people // 10 + 1)}
    kinds |= {f"{_named(random, taken, _TOWN)} {random.choice(_REGION)}": "region" for _ in range(people // 20 + 2)}
    kinds |= {_named(random, taken, _PERSON): "river" for _ in range(people // 10 + 2)}
    of_kind = {kind: [name for name, own in kinds.items() if own == kind] for kind in sorted(set(kinds.values()))}
    facts = {name: _related(name, kind, of_kind, random) for name, kind in kinds.items() if kind in RELATIONS}
    return Fiction(kinds, facts)


def _related(name: str, kind: str, of_kind: Mapping[str, Sequence[str]], random: Random) -> dict[str, str]:
    related = {}
    for relation in RELATIONS[kind]:
        others = [other for other in of_kind[PHRASES[relation][1]] if other != name]
        related[relation] = random.choice(others)
    return related


def _named(random: Random, taken: set[str], endings: Sequence[str]) -> str:
    """A name that nothing has yet; it grows where the short ones are taken."""
    name = random.choice(_BEGINNINGS) + random.choice(_MIDDLES) + random.choice(endings)
    while name in taken:
        name = random.choice(_BEGINNINGS) + random.choice(_MIDDLES) + name.lower()
    taken.add(name)
    return name
