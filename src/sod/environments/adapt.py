"""Which way an object of the user's is spoken to: as an environment of ours, or through the adapter of its library."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from sod.environments.base import Environment
from sod.environments.gym import GymEnvironment
from sod.environments.openenv import open_environment
from sod.environments.trl import TrlEnvironment
from sod.records import SodError

ADAPTERS = {"trl": TrlEnvironment, "gym": GymEnvironment, "openenv": open_environment}
OPENENV = ("openenv", "openenv_core")
"""Packages whose classes clients of OpenEnv are made of."""
VERIFIERS = ("verifiers",)
"""The package whose classes are made of a config, not of arguments."""
MADE_OF_VERIFIERS = "sod.environments.verifiers"


def maker(named: Any, interface: str, where: str) -> Callable[..., Any]:
    """What to call with a recipe's arguments: what it names, or for a class of verifiers what makes a config of them.

    Raises SodError, beginning with `where`.
    """
    of_verifiers = inspect.isclass(named) and _is_of(named, VERIFIERS)
    if interface in ("auto", "verifiers") and of_verifiers:
        from sod.environments import verifiers  # installed where its class is

        return verifiers.maker(named, where)
    if not callable(named):
        raise SodError(f"{where}: is no class or function; name what makes an environment")
    factory: Callable[..., Any] = named
    return factory


def adapted(made: Any, interface: str, where: str) -> Environment:
    """The object as an environment. Raises SodError, beginning with `where`, for one that is none."""
    kind = interface_of(made, where) if interface == "auto" else interface
    if kind == "verifiers" and type(made).__module__ != MADE_OF_VERIFIERS:
        raise SodError(
            f"{where}: makes a {type(made).__name__}, which is not of verifiers; name a Taskset or an Env of it, or "
            "leave environment.interface out"
        )
    if kind in ("own", "verifiers"):  # what the maker of verifiers makes is one of ours
        own: Environment = made
        return own
    adapter: Any = ADAPTERS[kind]
    world: Environment = adapter(made, where)
    return world


def interface_of(made: Any, where: str) -> str:
    """What an object is written for, by its class, then by its methods. Raises SodError."""
    if _is_of(type(made), OPENENV):
        return "openenv"
    reset, step = getattr(made, "reset", None), getattr(made, "step", None)
    if not callable(reset):
        raise SodError(f"{where}: makes a {type(made).__name__}, which has no reset; an environment has reset and step")
    if not callable(step):
        return "trl"
    names = list(inspect.signature(reset).parameters)
    return "own" if names[:2] == ["task", "seed"] else "gym"


def _is_of(kind: type, packages: tuple[str, ...]) -> bool:
    return any(base.__module__.partition(".")[0] in packages for base in kind.__mro__)
