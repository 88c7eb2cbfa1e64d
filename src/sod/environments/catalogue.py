"""The worlds that come with sod, by name. None of them is imported before it is used."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, final


@final
@dataclass(frozen=True)
class NamedWorld:
    """A world by a short name: its import path, what it is in one line, and the modules it needs beside sod's own."""

    name: str
    path: str
    what: str
    needs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """The modules it needs that are not installed."""
        return [module for module in self.needs if find_spec(module) is None]


INSTALL = "pip install 'sod-distill[envs]'"
"""What brings all that worlds of the catalogue need."""

CATALOGUE = (
    NamedWorld(
        "searchqa",
        "sod.environments.search_qa:SearchQA",
        "questions over several hops, a search tool over passages, an exact answer",
        ("bm25s",),
    ),
    NamedWorld(
        "webshop",
        "sod.environments.webshop:WebShop",
        "a shop to search, click and buy in, a reward by attributes",
        ("bm25s",),
    ),
    NamedWorld(
        "alfworld",
        "sod.environments.alfworld:AlfWorld",
        "rooms with things to find, clean, heat, cool and put away",
        ("alfworld", "textworld", "fast_downward"),
    ),
)


def named_world(name: Any) -> NamedWorld | None:
    """The world of a name; None for what is no name of the catalogue."""
    return next((world for world in CATALOGUE if world.name == name), None)


def world_names() -> list[str]:
    """Every name of the catalogue."""
    return [world.name for world in CATALOGUE]
