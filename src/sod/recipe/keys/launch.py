"""`launch`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sod.recipe.keys.options import HIDING, refuse_options
from sod.recipe.keys.section import Section

OURS = HIDING | {"--gpu-memory-utilization", "--model", "--dtype", "--served-model-name", "--max-model-len"}
OURS |= {"--max-logprobs"}
"""Options of `vllm serve` that a run sets itself, or by keys of its own, and those that hide a server from it."""


class ServersSpec(Section):
    """Where the vLLM servers of one model are that the run starts (docs/servers.md)."""

    gpus: list[Annotated[int, Field(ge=0)]] | None = Field(
        None,
        min_length=1,
        description="CUDA devices of these servers, shared out evenly; null: those that no model of the run is on",
    )
    memory_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the memory of its GPUs (CPU: of the machine) that a server takes; null: .9 (CPU: 1 GiB)",
    )
    port: int | None = Field(
        None, ge=1024, le=65535, description="port of the first server, the others have the next ones; null: free ones"
    )


class TeacherServerSpec(ServersSpec):
    """The vLLM server that the run starts for its teacher."""

    name: str | None = Field(None, description="which of `teachers` it serves, by its path; null: teacher.path")
    options: list[str] = Field(
        default_factory=list, description="further options of `vllm serve`, e.g. [--quantization, fp8]"
    )

    @model_validator(mode="after")
    def _ours_to_say(self) -> TeacherServerSpec:
        refuse_options(self.options, OURS, "launch.teacher.options")
        return self


class LaunchSpec(Section):
    """The servers that a run starts, watches and ends: those of `engine.kind=vllm`, and one for the teacher."""

    start_seconds: float = Field(
        600.0, gt=0, description="how long a server may take to come up, loading its model (seconds)"
    )
    restarts: int = Field(
        3, ge=0, description="how often in a row a server that ended is started again; an ended one is never ignored"
    )
    student: ServersSpec = Field(ServersSpec(), description="where the servers of engine.kind=vllm are")
    teacher: TeacherServerSpec | None = Field(
        None, description="serve teacher.path by vLLM, in place of loading it here; {} does, null does not"
    )
