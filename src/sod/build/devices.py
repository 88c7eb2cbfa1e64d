"""Where the models of a run are, asked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch

from sod.models.device import find_device, listed, without_bfloat16
from sod.recipe import ModelSpec, Notice, Recipe
from sod.records import SodError


@final
@dataclass(frozen=True)
class Devices:
    """The student's device and the teacher's, which is the student's unless the recipe names another.

    `several` are those of several teachers in this process, by their keys.
    """

    student: torch.device
    teacher: torch.device
    several: Mapping[str, torch.device] = field(default_factory=dict)

    @property
    def kinds(self) -> frozenset[str]:
        """`cpu`, `cuda`, or both."""
        return frozenset(device.type for device in (self.student, self.teacher, *self.several.values()))

    def of(self, key: str) -> torch.device:
        """The device of the teacher in this process under this key."""
        return self.several.get(key, self.teacher)


def find_devices(recipe: Recipe, notice: Notice) -> Devices:
    """The devices that a recipe asks for; `notice` hears of models in a precision that is slow there.

    Raises SodError naming the keys of all that do not exist, with what does.
    """
    asked = {"student.device": recipe.student.device}
    for key, spec in recipe.local_teachers.items():
        if spec.device != "auto":
            asked[f"{key}.device"] = spec.device
    found: dict[str, torch.device] = {}
    refusals: list[str] = []
    for key, name in asked.items():
        try:
            found[key] = find_device(name, key)
        except SodError as error:
            refusals.append(str(error))
    if refusals:
        raise SodError("; ".join(refusals))
    student = found["student.device"]
    placed_at = {key: found.get(f"{key}.device", student) for key in recipe.local_teachers}
    one = placed_at.pop("teacher", student)
    devices = Devices(student, one, placed_at)
    placed: dict[str, tuple[ModelSpec, torch.device]] = {"student": (recipe.student, student)}
    for key, spec in recipe.local_teachers.items():
        placed[key] = (spec, devices.of(key))
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
