"""The processes of a run before any of them is started: what each is, where, with how much memory, and its command."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from sod.build.devices import find_devices
from sod.build.idle import idle_keys, refuse_idle
from sod.build.method import make_method
from sod.build.servers import find_servers
from sod.launch.placement import Placed
from sod.launch.server import ServerPlan
from sod.preflight.estimate import Estimate, estimated, readable
from sod.preflight.servers import names_of, sizes_of
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
    estimate = estimated(found)
    trainer = Process("trainer", *_of_trainer(estimate, servers.places), command=shlex.join(command))
    started = []
    for plan, place in zip(plans, servers.places, strict=True):
        memory = " + ".join(
            f"{name.partition(': ')[2]} {size_text(size)}" for name, _, size in sizes_of(place, found, method)
        )
        address = plan.url if place.is_named else f"{plan.url}, or another free port"
        started.append(Process(plan.name, ", ".join(plan.devices), memory, address, shown_command(plan)))
    return [trainer, *started, *_running(recipe)]


def shown_command(plan: ServerPlan) -> str:
    """The command of a server with its variables, as it could be typed."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in plan.environment.items()]
    return " ".join([*variables, shlex.join(plan.command)])


def _of_trainer(estimate: Estimate, places: Sequence[Placed]) -> tuple[str, str]:
    """Its devices, and what it takes of them at the peak of each."""
    of_servers = {name for place in places for name in names_of(place)}
    alone = Estimate(tuple(part for part in estimate.parts if part.name not in of_servers))
    peaks = [alone.peak(device) for device in alone.devices]
    return ", ".join(alone.devices), "; ".join(
        f"{size_text(peak.bytes)} at its peak, in {peak.phase}" for peak in peaks
    )


def _running(recipe: Recipe) -> list[Process]:
    """Servers that the recipe names."""
    students = recipe.engine.urls or () if recipe.engine.kind == "vllm" else ()
    found = [Process("student", ELSEWHERE, "", url) for url in students]
    teachers = {key: spec.url for key, spec in recipe.teaching.items() if spec.url is not None}
    return [*found, *(Process(key, ELSEWHERE, "", url) for key, url in teachers.items())]
