"""A run over several processes, beside what it is in one: who reads, who plays, and where whole weights are.

Rank 0 reads and checks everything, as one process does; the others get what it found, and make a model of it. An error
of rank 0's is raised on all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from sod.chat.render import Chat
from sod.engines.gathered import GatheredEngine
from sod.models.lora import has_adapter, shared_copy
from sod.models.ranks import Ranks
from sod.recipe import Notice, Recipe, TeacherSpec, TeachersSpec
from sod.recipe.keys.parallel import refuse_uneven_teams
from sod.records import Episode, SodError, Trajectory
from sod.rollout.collect import Collector
from sod.rollout.episode import EpisodeLimits
from sod.training.checkpoint import ResumePoint
from sod.training.checkpoint import load as load_checkpoint


@final
@dataclass(frozen=True)
class Brief:
    """What rank 0 tells the others of a run: where it is, whose checkpoint it goes on from, and its `located` recipe.

    `world_tools` are those that a world brought, for the prompts of a teacher that reads others than the student.
    """

    directory: Path
    recipe_hash: str
    resumed: Path | None
    recipe: Recipe
    world_tools: Sequence[Mapping[str, Any]] = ()

    def resume(self) -> ResumePoint | None:
        """The checkpoint that rank 0 has chosen, read here."""
        return None if self.resumed is None else load_checkpoint(self.resumed, self.recipe_hash)


def refuse_one_process(recipe: Recipe, ranks: Ranks) -> None:
    """Raises SodError where a recipe asks for several processes and nobody has started them, or not as it says."""
    wanted = recipe.parallel.shards
    if wanted > 1 and ranks.count == 1:
        raise SodError(
            f"parallel.shards={wanted}: only the commands `sod train` and `sod sft` start several processes; use them, "
            "or set parallel.shards=1"
        )
    refuse_uneven_teams(recipe.parallel, ranks.count)


def unheard(text: str) -> None:
    """A notice of another rank than 0, which says the same."""


def heard(notice: Notice, ranks: Ranks) -> Notice:
    """Where notices of this rank go."""
    return notice if ranks.first else unheard


def own_card(recipe: Recipe, ranks: Ranks) -> Recipe:
    """The recipe with this rank's CUDA device, where it leaves that to the machine and there are any.

    Raises SodError where all ranks would be put on one device.
    """
    if ranks.count == 1 or not torch.cuda.is_available():
        return recipe
    wanted = {"student": recipe.student.device} | {key: spec.device for key, spec in recipe.teaching.items()}
    for role, device in wanted.items():
        if device.startswith("cuda:"):
            raise SodError(f"{role}.device={device}: {ranks.count} ranks have a device each; leave it auto")
    card = {"device": f"cuda:{ranks.local % torch.cuda.device_count()}"}

    def moved(spec: TeacherSpec) -> TeacherSpec:  # a teacher's `auto` is where the student is
        return spec.model_copy(update=card) if spec.device == "cuda" else spec

    student = recipe.student
    changed = {
        "student": student.model_copy(update=card) if student.device in ("auto", "cuda") else student,
        "teacher": None if recipe.teacher is None else moved(recipe.teacher),
        "teachers": TeachersSpec(**{name: moved(spec) for name, spec in recipe.teachers.by_name.items()}),
    }
    return recipe.model_copy(update=changed)


def whole_copy(model: Any, ranks: Ranks, device: torch.device) -> Any | None:
    """The model once more, frozen, for rank 0 to sample with and to save; None on the others.

    With an adapter, and on the model's own device, it is over the same weights, and the adapter alone takes memory.
    """
    if not ranks.first:
        return None
    if has_adapter(model) and model.device == device:
        return shared_copy(model)
    return copy.deepcopy(model).requires_grad_(False).eval().to(device)


def gatherer(whole: Any | None) -> Callable[[Any], Any]:
    """What fills rank 0's `whole` copy from a sharded model, and returns it."""

    def gather(model: Any) -> Any:
        from sod.models.parallel import gather_into

        gather_into(whole, model)
        return whole

    return gather


def over_ranks(collector: Collector | None, chat: Chat, recipe: Recipe, whole: Any | None, ranks: Ranks) -> Collector:
    """The rollout of rank 0, or what stands for it on another, around an engine that all ranks `sync` together."""
    exact = ranks.shared(lambda: collector is not None and collector.engine.exact)
    engine = GatheredEngine(None if collector is None else collector.engine, exact, gatherer(whole))
    if collector is None:
        spec = recipe.rollout
        limits = EpisodeLimits(spec.max_turns, spec.max_turn_tokens, spec.max_response_tokens)
        return Collector(engine, chat, {}, limits, _Unasked(), recipe.seed)
    collector.engine = engine
    return collector


@final
class _Unasked:
    """The reward function of a rank where nothing is played."""

    def __call__(self, episodes: Sequence[Episode]) -> list[Trajectory]:
        raise ValueError("rank 0 alone plays")

    def votes(self, groups: Sequence[Sequence[Episode]]) -> list[list[str | None]]:
        raise ValueError("rank 0 alone plays")
