"""The units of a comparison: what each of them is, what all of them share, and where their results stand.

    WORK/world-HASH-sSEED/          data, models and cold starts, shared by every recipe with the same world
    WORK/METHOD-sSEED-HASH/         a run directory, of a cell or of a trial
    OUT/worlds/sSEED.json  OUT/trials/METHOD-lrX.json  OUT/cells/METHOD-sSEED.json

A recipe without a world is compared on its own student, teacher and data, which are the same for every seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from sod.recipe import MethodSpec, OptimSpec, Recipe, SftSpec, TeacherSpec, TrainSpec, resolved
from sod.recipe.placed import unplaced
from sod.runlog import recipe_hash

UNTRAINED = {"vanilla": "student-init", "start": "student-sft", "teacher": "teacher-sft"}
"""Methods that train nothing, and the model of the world that each of them is."""


@final
@dataclass(frozen=True)
class Unit:
    """A piece of work: the world of a seed, a learning rate tried with a method, or a cell of the comparison."""

    kind: Literal["world", "trial", "cell"]
    seed: int
    method: str = ""
    lr: float | None = None

    @property
    def label(self) -> str:
        """Its name in messages to the user."""
        if self.kind == "world":
            return f"world s{self.seed}"
        return f"{self.method} s{self.seed}" if self.kind == "cell" else f"{self.method} lr {self.lr:g}"


@final
@dataclass(frozen=True)
class Comparison:
    """What all cells share. Of the recipe, seed, method, learning rate and paths are each cell's own."""

    recipe: Recipe
    out: Path
    work: Path
    threads: int
    git: Mapping[str, Any]
    sources: Mapping[str, str] = field(default_factory=dict)
    """By its key, the hash of what stands outside the recipe: code of the user's own, and without a world the files."""

    @property
    def in_worlds(self) -> bool:
        """Whether every seed has a world of its own."""
        return self.recipe.world is not None

    @property
    def lrs(self) -> Sequence[float]:
        """The learning rates to choose among."""
        return self.recipe.compare.lrs or [self.recipe.optim.lr]

    @property
    def recipe_sha256(self) -> str:
        """sha256 of what the recipe says, without what is each cell's own and what changes no result.

        Only what differs from the defaults counts: a key that a later version adds makes no result stale.
        """
        return recipe_hash(unplaced(_neutral(self.recipe).model_dump(mode="json", exclude_defaults=True)))

    @property
    def world_hash(self) -> str:
        """What the world of a seed is made from: recipes that agree in it share their worlds."""
        sections = _neutral(self.recipe).model_dump(
            mode="json",
            include={"world", "sft", "chat", "student", "teacher"},
            exclude={"student": {"lora"}},  # all weights of a world's models are trained
            exclude_defaults=True,
        )
        python = self.recipe.tools.python
        return recipe_hash(sections | {"stateful": None if python is None else python.stateful})[:12]

    def world(self, seed: int) -> Path:
        """Where the world of a seed stands."""
        return self.work / f"world-{self.world_hash}-s{seed}"

    def run(self, unit: Unit, recipe: Recipe) -> Path:
        """The run directory of a unit that trains with this recipe: another one where what it reads has changed."""
        read = {key: value for key, value in self.sources.items() if key not in ("data.validation", "compare.test")}
        asked = resolved(recipe) | ({"sources": read} if read else {})
        return self.work / f"{unit.method}-s{unit.seed}-{recipe_hash(asked)[:12]}"

    def result(self, unit: Unit) -> Path:
        """Where the result of a unit stands."""
        if unit.kind == "world":
            return self.out / "worlds" / f"s{unit.seed}.json"
        if unit.kind == "trial":
            return self.out / "trials" / f"{unit.method}-lr{unit.lr:g}.json"
        return self.out / "cells" / f"{unit.method}-s{unit.seed}.json"


def _neutral(recipe: Recipe) -> Recipe:
    """The recipe with everything at its default that is a cell's own or changes no result."""
    train = {key: getattr(TrainSpec(), key) for key in ("checkpoint_every", "keep_checkpoints", "trajectories_every")}
    theirs = _unread_without_world(recipe) if recipe.world is None else _made_by_world(recipe)
    chosen = recipe.optim.lr if recipe.compare.lrs is None else OptimSpec().lr
    return recipe.model_copy(
        update={
            "name": "run",
            "seed": 0,
            "threads": None,
            "trackers": [],
            **theirs,
            "method": recipe.method.model_copy(update={"name": MethodSpec().name}),
            "optim": recipe.optim.model_copy(update={"lr": chosen}),
            "train": recipe.train.model_copy(update={**train, "profile": False}),
        }
    )


def _made_by_world(recipe: Recipe) -> dict[str, Any]:
    """Sections with nothing in them that every seed's world makes anew."""
    teacher = recipe.local_teachers.get("teacher") or recipe.student.whole
    return {
        "student": recipe.student.model_copy(update={"path": ""}),
        "teacher": TeacherSpec(path="", dtype=teacher.dtype, device=teacher.device),
        "data": recipe.data.model_copy(update=dict.fromkeys(("train", "validation", "sft"))),
    }


def _unread_without_world(recipe: Recipe) -> dict[str, Any]:
    """Sections with nothing in them that only makes a world's cold starts."""
    return {"sft": SftSpec(max_tokens=recipe.sft.max_tokens)}
