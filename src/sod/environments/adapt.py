"""Which way an object of the user's is spoken to: as an environment of ours, or through the adapter of its library."""

from __future__ import annotations

import inspect
from typing import Any

from sod.environments.base import Environment
from sod.environments.gym import GymEnvironment
from sod.environments.openenv import open_environment
from sod.environments.trl import TrlEnvironment
from sod.records import SodError

ADAPTERS = {"trl": TrlEnvironment, "gym": GymEnvironment, "openenv": open_environment}
OPENENV = ("openenv", "openenv_core")
"""Packages whose classes clients of OpenEnv are made of."""


def adapted(made: Any, interface: str, where: str) -> Environment:
    """The object as an environment. Raises SodError, beginning with `where`, for one that is none."""
    kind = interface_of(made, where) if interface == "auto" else interface
    if kind == "own":
        own: Environment = made
        return own
    adapter: Any = ADAPTERS[kind]
    world: Environment = adapter(made, where)
    return world


def interface_of(made: Any, where: str) -> str:
    """What an object is written for, by its class, then by its methods. Raises SodError."""
    if any(base.__module__.partition(".")[0] in OPENENV for base in type(made).__mro__):
        return "openenv"
    reset, step = getattr(made, "reset", None), getattr(made, "step", None)
    if not callable(reset):
        raise SodError(f"{where}: makes a {type(made).__name__}, which has no reset; an environment has reset and step")
    if not callable(step):
        return "trl"
    names = list(inspect.signature(reset).parameters)
    return "own" if names[:2] == ["task", "seed"] else "gym"
