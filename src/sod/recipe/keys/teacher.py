"""`teacher`, and each of `teachers`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

from pydantic import ConfigDict, Field, field_validator, model_validator

from sod.recipe.keys.address import bare_address
from sod.recipe.keys.model import ModelSpec
from sod.recipe.keys.section import Named, Section

KEY_VARIABLE = "SOD_TEACHER_API_KEY"
"""The environment variable that holds the key of a teacher's service unless the recipe names another."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
OF_A_MODEL = ("dtype", "device")
OF_ALL = ("weight", "sources")
"""Keys of every kind of teacher."""
Kind = Literal["path", "url", "scores"]


class TeacherSpec(Section):
    """Who scores the student's tokens: a model in this process (`path`), one that is served (`url`), or one that has
    scored stored episodes already (`scores`).
    """

    path: str | None = Field(
        None, description="model directory, run directory (its newest checkpoint) or hub id, loaded here; or give url"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="precision of a model that is loaded here")
    device: str = Field("auto", description="cpu, cuda or cuda:N of a model that is loaded here; auto: the student's")
    url: str | None = Field(
        None, description="OpenAI-compatible server up to /v1, e.g. http://127.0.0.1:8000/v1: vLLM, SGLang and others"
    )
    scores: str | None = Field(
        None, description="file of `sod teacher score`: its episodes are learned from, and none are played"
    )
    model: str | None = Field(None, description="the model's name at url")
    tokenizer: str | None = Field(
        None, description="directory or hub id of the tokenizer of the model at url; null: it is the student's"
    )
    api_key_env: str = Field(KEY_VARIABLE, description="the environment variable that holds the key for url, if any")
    concurrency: int = Field(16, ge=1, description="requests to url under way at a time")
    tokens_in_flight: int = Field(
        131_072, ge=1, description="tokens of all requests under way; a longer trajectory goes alone"
    )
    max_request_tokens: int | None = Field(
        None, ge=1, description="longest trajectory that is sent (tokens); null: what the server says that it takes"
    )
    seconds: float = Field(300.0, gt=0, description="time limit of a request (seconds)")
    attempts: int = Field(8, ge=1, description="tries of a request before it is a fault")
    backoff_seconds: float = Field(1.0, ge=0, description="pause after the first failure, doubled after each (seconds)")
    backoff_max_seconds: float = Field(30.0, ge=0, description="longest pause between tries (seconds)")
    breaker_failures: int = Field(20, ge=1, description="failures in a row after which no request is sent for a while")
    breaker_seconds: float = Field(10.0, ge=0, description="how long that while is (seconds)")
    cache: str | None = Field(
        None, description="folder of answers, so that nothing is asked twice; null: ~/.cache/sod/teacher"
    )
    cache_gb: float = Field(20.0, gt=0, description="size of the cache in GB; beyond, the oldest answers are dropped")
    weight: float = Field(1.0, description="factor on this teacher's signal")
    sources: list[str] | None = Field(
        None, min_length=1, description="sources of tasks that it teaches, among several teachers; null: all others"
    )

    @property
    def local(self) -> ModelSpec | None:
        """The model that is loaded here; None for another kind of teacher."""
        return None if self.path is None else ModelSpec(path=self.path, dtype=self.dtype, device=self.device)

    @property
    def shown(self) -> str:
        """It in a few words: a path, or a name at an address."""
        return self.path or self.scores or f"{self.model} at {self.url}"

    @property
    def kind(self) -> Kind:
        """By what it is given; `problem` comes before."""
        return "path" if self.path is not None else "url" if self.url is not None else "scores"

    @field_validator("url")
    @classmethod
    def _an_address(cls, url: str | None) -> str | None:
        return None if url is None else bare_address(url, "teacher.url", "the environment variable of api_key_env")

    @field_validator("api_key_env")
    @classmethod
    def _a_variable(cls, name: str) -> str:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(
                "teacher.api_key_env: is the name of an environment variable, e.g. SOD_TEACHER_API_KEY; what was given "
                "is none and is not shown, as it may be a key"
            )
        return name

    @field_validator("weight")
    @classmethod
    def _a_factor(cls, weight: float) -> float:
        if not math.isfinite(weight) or weight <= 0.0:
            raise ValueError(f"teacher.weight: {weight:g} is no factor; take a number above 0")
        return weight

    def problem(self) -> str | None:
        """What is wrong with the keys together; None where nothing is."""
        given = [kind for kind in get_args(Kind) if getattr(self, kind) is not None]
        if len(given) > 1:
            return f"{' and '.join(given)} are both set; leave one of them out (=null)"
        if not given:
            return "give path (a model that is loaded here), url (a server that scores) or scores (a file)"
        if self.url is not None and self.model is None:
            return f"model is missing: name it as the server does ({self.url}/models lists its names)"
        idle = self._idle()
        return None if idle is None else f"{idle} says nothing about a teacher by {self.kind}; leave it out"

    def _idle(self) -> str | None:
        """A key of another kind of teacher that is set."""
        of_a_server = {*TeacherSpec.model_fields} - {*OF_A_MODEL, *OF_ALL}
        read = {"path": {*OF_A_MODEL}, "url": of_a_server, "scores": set[str]()}[self.kind] | {self.kind, *OF_ALL}
        for name, field in TeacherSpec.model_fields.items():
            if name not in read and getattr(self, name) != field.default:
                return name
        return None


class TeachersSpec(Section):
    """Several teachers by names of one's own, each for the tasks of its sources."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, TeacherSpec | None]

    named: ClassVar[Named | None] = Named(
        "NAME", TeacherSpec, "one of several teachers, for the tasks of its sources; null: no such teacher"
    )

    @property
    def by_name(self) -> dict[str, TeacherSpec]:
        """The teachers in the order of the recipe; those that are null are left out."""
        return {name: spec for name, spec in self.__pydantic_extra__.items() if spec is not None}

    def at(self, paths: Mapping[str, str]) -> TeachersSpec:
        """A copy whose teachers of these names are loaded from other paths."""
        moved = dict(self.by_name)
        for name, path in paths.items():
            if name in moved:
                moved[name] = moved[name].model_copy(update={"path": path})
        return TeachersSpec(**moved)

    @model_validator(mode="after")
    def _consistent(self) -> TeachersSpec:
        taken: dict[str | None, str] = {}
        for name, spec in self.by_name.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"teachers.{name}: a name has letters, digits, '_', '-' and '.', 64 at most")
            problem = spec.problem()
            if problem is None and spec.kind == "scores":
                problem = "scores is for the one teacher of a run; set teacher.scores, or path or url here"
            if problem is not None:
                raise ValueError(f"teachers.{name}: {problem}")
            for source in spec.sources or (None,):
                if source in taken:
                    whose = "all other sources (sources: null)" if source is None else f"source {source}"
                    raise ValueError(f"teachers.{name}: {whose} have teachers.{taken[source]} already; give each one")
                taken[source] = name
        return self


def teachers_of(teacher: TeacherSpec | None, teachers: TeachersSpec) -> Mapping[str, TeacherSpec]:
    """Every teacher of a recipe by its key."""
    several = {f"teachers.{name}": spec for name, spec in teachers.by_name.items()}
    return several if teacher is None else {"teacher": teacher, **several}


def refuse_both(teacher: TeacherSpec | None, teachers: TeachersSpec) -> None:
    """Raises ValueError for a recipe with one teacher and several, and for one whose keys do not go together."""
    if teacher is None:
        return
    problem = teacher.problem()
    if problem is not None:
        raise ValueError(f"teacher: {problem}")
    if teacher.sources is not None:
        raise ValueError("teacher.sources: the one teacher has all tasks; leave it out, or name several in teachers")
    if teachers.by_name:
        raise ValueError("teacher and teachers are both set; move teacher under a name of its own in teachers")
