"""Where the models of a run are, asked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from sod.models.device import find_device
from sod.recipe import Recipe
from sod.records import SodError


@final
@dataclass(frozen=True)
class Devices:
    """The student's device and the teacher's, which is the student's unless the recipe names another."""

    student: torch.device
    teacher: torch.device


def find_devices(recipe: Recipe) -> Devices:
    """The devices that a recipe asks for. Raises SodError naming the keys of all that do not exist, with what does."""
    asked = {"student.device": recipe.student.device}
    if recipe.teacher is not None and recipe.teacher.device != "auto":
        asked["teacher.device"] = recipe.teacher.device
    found: dict[str, torch.device] = {}
    refusals: list[str] = []
    for key, name in asked.items():
        try:
            found[key] = find_device(name, key)
        except SodError as error:
            refusals.append(str(error))
    if refusals:
        raise SodError("; ".join(refusals))
    return Devices(found["student.device"], found.get("teacher.device", found["student.device"]))
