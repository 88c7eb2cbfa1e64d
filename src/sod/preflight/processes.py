"""The processes of a run before any of them is started: what each is, where, with how much memory, and its command."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from sod.build.devices import find_devices
from sod.build.idle import idle_keys, refuse_idle
from sod.build.method import make_method
from sod.build.servers import find_servers
from sod.launch.server import ServerPlan
from sod.preflight.devices import CPU
from sod.preflight.estimate import rank_parts, readable
from sod.preflight.parts import Estimate, Part
from sod.preflight.pieces import spread_of
from sod.preflight.servers import sizes_of
from sod.preflight.words import size_text
from sod.recipe import Notice, Recipe

ELSEWHERE = "not started here"


@final
@dataclass(frozen=True)
class Process:
    """A process of a run. `command` is empty for one that runs already, which is used and never ended."""

    name: str
    devices: str
    memory: str
    address: str = ""
    command: str = ""


def processes(recipe: Recipe, command: Sequence[str], notice: Notice) -> list[Process]:
    """The trainer, which is started by `command`, and its servers, those that run already too.

    Nothing is started. Raises SodError for what would keep the run from starting: a model, a GPU or vLLM that is not
    there, and a port in use.
    """
    method = make_method(recipe.method)
    refuse_idle(idle_keys(recipe, method), recipe, False, notice)
    found = readable(recipe, False, notice)
    servers = find_servers(found, method, find_devices(found, notice), notice)
    plans = servers.plans(found)
    for plan in plans:
        plan.refuse_used_port()
    started = []
    for plan, place in zip(plans, servers.places, strict=True):
        memory = " + ".join(
            f"{name.partition(': ')[2]} {size_text(size)}" for name, _, size in sizes_of(place, found, method)
        )
        address = plan.url if place.is_named else f"{plan.url}, or another free port"
        started.append(Process(plan.name, ", ".join(plan.devices), memory, address, shown_command(plan)))
    return [*_trainers(found, shlex.join(command)), *started, *_running(recipe)]


def shown_command(plan: ServerPlan) -> str:
    """The command of a server with its variables, as it could be typed."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in plan.environment.items()]
    return " ".join([*variables, shlex.join(plan.command)])


def _trainers(recipe: Recipe, command: str) -> list[Process]:
    """The process that trains, or its ranks on this machine, the first of which the command starts."""
    spread = spread_of(recipe)
    if spread.ranks == 1:
        return [Process("trainer", *_taken(rank_parts(recipe, False)), command=command)]
    first = Process("trainer, rank 0", *_taken(rank_parts(recipe, False, spread)), command=command)
    several = spread.ranks - 1
    name = "trainer, rank 1" if several == 1 else f"trainer, ranks 1 to {several}"
    device, memory = _taken(rank_parts(recipe, False, replace(spread, first=False)))
    devices = device if device == CPU else ", ".join(spread.devices)
    return [first, Process(name, devices, memory if several == 1 else f"{memory}, each", "by rank 0's command")]


def _taken(parts: Sequence[Part]) -> tuple[str, str]:
    """The devices of a process, and what it takes of each at its peak."""
    estimate = Estimate(tuple(parts))
    peaks = [estimate.peak(device) for device in estimate.devices]
    return ", ".join(estimate.devices), "; ".join(
        f"{size_text(peak.bytes)} at its peak, in {peak.phase}" for peak in peaks
    )


def _running(recipe: Recipe) -> list[Process]:
    """Servers that the recipe names."""
    students = recipe.engine.urls or () if recipe.engine.kind == "vllm" else ()
    found = [Process("student", ELSEWHERE, "", url) for url in students]
    teachers = {key: spec.url for key, spec in recipe.teaching.items() if spec.url is not None}
    return [*found, *(Process(key, ELSEWHERE, "", url) for key, url in teachers.items())]
