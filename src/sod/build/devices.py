"""Where the models of a run are, asked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch

from sod.models.device import find_device, listed, without_bfloat16
from sod.recipe import ModelSpec, Notice, Recipe
from sod.records import SodError


@final
@dataclass(frozen=True)
class Devices:
    """The student's device and the teacher's, which is the student's unless the recipe names another."""

    student: torch.device
    teacher: torch.device

    @property
    def kinds(self) -> frozenset[str]:
        """`cpu`, `cuda`, or both."""
        return frozenset((self.student.type, self.teacher.type))


def find_devices(recipe: Recipe, notice: Notice) -> Devices:
    """The devices that a recipe asks for; `notice` hears of models in a precision that is slow there.

    Raises SodError naming the keys of all that do not exist, with what does.
    """
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
    devices = Devices(found["student.device"], found.get("teacher.device", found["student.device"]))
    placed: dict[str, tuple[ModelSpec, torch.device]] = {"student": (recipe.student, devices.student)}
    if recipe.teacher is not None:
        placed["teacher"] = (recipe.teacher, devices.teacher)
    _tell_slow_bfloat16(placed, notice)
    return devices


def _tell_slow_bfloat16(placed: Mapping[str, tuple[ModelSpec, torch.device]], notice: Notice) -> None:
    lacking: dict[str, list[str]] = {}
    for role, (spec, device) in placed.items():
        lack = without_bfloat16(device) if spec.dtype == "bfloat16" else None
        if lack is not None:
            lacking.setdefault(lack, []).append(role)
    for lack, roles in lacking.items():
        keys = listed([f"{role}.dtype" for role in roles])
        instead = listed([f"{role}.dtype=float32" for role in roles])
        notice(f"{keys} = bfloat16: {lack}, and takes longer than in float32; set {instead}, or another device")
