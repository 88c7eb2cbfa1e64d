"""The recipe: all sections of a run in one frozen object."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from sod.recipe.keys.chat import ChatSpec
from sod.recipe.keys.compare import CompareSpec
from sod.recipe.keys.data import DataSpec
from sod.recipe.keys.evaluation import EvaluationSpec
from sod.recipe.keys.method import MethodSpec, method_by_name
from sod.recipe.keys.model import ModelSpec
from sod.recipe.keys.optim import OptimSpec
from sod.recipe.keys.reward import RewardSpec
from sod.recipe.keys.rollout import RolloutSpec
from sod.recipe.keys.section import Section
from sod.recipe.keys.sft import SftSpec
from sod.recipe.keys.tools import ToolsSpec
from sod.recipe.keys.train import TrainSpec
from sod.recipe.keys.world import WorldSpec

Tracker = Literal["wandb", "trackio", "tensorboard"]


class Recipe(Section):
    """A run. `method: sod` is short for `method: {name: sod}`."""

    name: str = "run"
    seed: int = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)
    student: ModelSpec
    teacher: ModelSpec | None = None
    chat: ChatSpec = ChatSpec()
    data: DataSpec = DataSpec()
    tools: ToolsSpec = ToolsSpec()
    rollout: RolloutSpec = RolloutSpec()
    reward: RewardSpec = RewardSpec()
    method: Annotated[MethodSpec, BeforeValidator(method_by_name)] = MethodSpec()
    optim: OptimSpec = OptimSpec()
    train: TrainSpec = TrainSpec()
    sft: SftSpec = SftSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    world: WorldSpec | None = None
    compare: CompareSpec = CompareSpec()
    trackers: list[Tracker] = Field(default_factory=list)

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.rollout.max_turn_tokens > self.rollout.max_response_tokens:
            raise ValueError("rollout.max_turn_tokens is larger than rollout.max_response_tokens")
        return self
