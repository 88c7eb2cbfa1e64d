"""The recipe: all sections of a run in one frozen object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from sod.bounded import refuse_no_component
from sod.recipe.keys.chat import ChatSpec
from sod.recipe.keys.compare import CompareSpec
from sod.recipe.keys.data import DataSpec
from sod.recipe.keys.engine import EngineSpec
from sod.recipe.keys.environment import EnvironmentSpec
from sod.recipe.keys.evaluation import EvaluationSpec
from sod.recipe.keys.launch import LaunchSpec
from sod.recipe.keys.method import MethodSpec, method_by_name
from sod.recipe.keys.model import ModelSpec, StudentSpec
from sod.recipe.keys.optim import OptimSpec
from sod.recipe.keys.parallel import ParallelSpec
from sod.recipe.keys.reward import RewardSpec
from sod.recipe.keys.rollout import RolloutSpec
from sod.recipe.keys.section import Section
from sod.recipe.keys.sft import SftSpec
from sod.recipe.keys.teacher import TeacherSpec, TeachersSpec, refuse_both, teachers_of
from sod.recipe.keys.tools import ToolsSpec
from sod.recipe.keys.train import TrainSpec
from sod.recipe.keys.world import WorldSpec

TrackerName = Literal["wandb", "trackio", "tensorboard"]


class Recipe(Section):
    """A run. `method: sod` is short for `method: {name: sod}`."""

    name: str = Field("run", description="name of the run, in its default directory and in figures")
    seed: int = Field(
        0, ge=0, description="seed of all that is drawn: tasks, sampling noise, tool failures, a world's models"
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="torch's CPU threads; null: torch's choice (`sod compare`: cores / jobs)",
    )
    deterministic: bool = Field(
        True, description="on CUDA: runs repeat bit for bit, and updates take 7 to 11% longer; on a CPU they always do"
    )
    student: StudentSpec = Field(description="the model that acts and is trained")
    teacher: TeacherSpec | None = Field(
        None, description="the model that scores the student's tokens; null where the method needs none"
    )
    teachers: TeachersSpec = Field(TeachersSpec(), description="several teachers in place of one, by source of task")
    chat: ChatSpec = Field(ChatSpec(), description="how messages become tokens")
    data: DataSpec = Field(DataSpec(), description="where tasks and conversations come from")
    tools: ToolsSpec = Field(ToolsSpec(), description="the tools that the model may call")
    environment: EnvironmentSpec | None = Field(
        None, description="the world that episodes are played in; null: a conversation with tools alone"
    )
    rollout: RolloutSpec = Field(RolloutSpec(), description="the episodes that the student plays in a step")
    engine: EngineSpec = Field(EngineSpec(), description="what samples the student's turns")
    launch: LaunchSpec = Field(LaunchSpec(), description="the servers that the run starts, watches and ends")
    reward: RewardSpec = Field(RewardSpec(), description="what an episode earns, and who decides")
    method: Annotated[MethodSpec, BeforeValidator(method_by_name)] = Field(
        MethodSpec(), description="the objective: a preset's name, or a section with its knobs"
    )
    optim: OptimSpec = Field(OptimSpec(), description="the optimizer of `sod train`")
    parallel: ParallelSpec = Field(ParallelSpec(), description="the processes that train together")
    train: TrainSpec = Field(TrainSpec(), description="the length of the run and what it leaves behind")
    sft: SftSpec = Field(SftSpec(), description="supervised fine-tuning (`sod sft`)")
    evaluation: EvaluationSpec = Field(EvaluationSpec(), description="how evaluations sample")
    world: WorldSpec | None = Field(
        None, description="a generated world for `sod quickstart` and `sod compare`; null: no such world"
    )
    compare: CompareSpec = Field(
        CompareSpec(), description="how `sod compare` finds learning rates, and what it judges on"
    )
    trackers: list[TrackerName] = Field(default_factory=list, description="where metrics are copied to besides the run")

    @model_validator(mode="before")
    @classmethod
    def _no_tools_but_its_own(cls, content: Any) -> Any:
        """An environment brings its tools: ours are shown beside them only where `tools` is written out."""
        if isinstance(content, dict) and content.get("environment") is not None and "tools" not in content:
            return {**content, "tools": {"python": None}}
        return content

    @field_validator("name")
    @classmethod
    def _component(cls, name: str) -> str:
        refuse_no_component(name, "name")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.rollout.max_turn_tokens > self.rollout.max_response_tokens:
            raise ValueError("rollout.max_turn_tokens is larger than rollout.max_response_tokens")
        refuse_both(self.teacher, self.teachers)
        return self

    @property
    def teaching(self) -> Mapping[str, TeacherSpec]:
        """Every teacher by its key: `teacher`, or `teachers.NAME` where there are several."""
        return teachers_of(self.teacher, self.teachers)

    @property
    def local_teachers(self) -> dict[str, ModelSpec]:
        """Those of them that are models in this process, by their keys."""
        found = {key: spec.local for key, spec in self.teaching.items() if spec.local is not None}
        if self.launched_teacher is not None:
            found.pop(self.launched_teacher, None)
        return found

    @property
    def launched_teacher(self) -> str | None:
        """The key of the teacher that the run is to serve; None where it serves none."""
        if self.launch.teacher is None:
            return None
        name = self.launch.teacher.name
        return "teacher" if name is None else f"teachers.{name}"

    def without_teachers(self) -> Recipe:
        """A copy that has none."""
        return self.with_teachers({})

    def with_teachers(self, specs: Mapping[str, TeacherSpec]) -> Recipe:
        """A copy that has these, by their keys, and no others."""
        several = {key.removeprefix("teachers."): spec for key, spec in specs.items() if key != "teacher"}
        return self.model_copy(update={"teacher": specs.get("teacher"), "teachers": TeachersSpec(**several)})

    def with_paths(self, student: str, teachers: Mapping[str, str]) -> Recipe:
        """A copy with these paths of the student, and of teachers by their keys."""
        return self.model_copy(
            update={
                "student": self.student.model_copy(update={"path": student}),
                "teacher": _at(self.teacher, teachers.get("teacher")),
                "teachers": self.teachers.at({key.removeprefix("teachers."): path for key, path in teachers.items()}),
            }
        )


def _at(spec: TeacherSpec | None, path: str | None) -> TeacherSpec | None:
    return spec if spec is None or path is None else spec.model_copy(update={"path": path})
