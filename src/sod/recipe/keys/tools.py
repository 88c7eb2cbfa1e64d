"""`tools`."""

from __future__ import annotations

from pydantic import Field, model_validator

from sod.recipe.keys.section import Section


class FusionSpec(Section):
    """A SandboxFusion service (`sod sandbox serve` is one); the keys are those of `sandbox.fusion.FusionOptions`."""

    url: str
    concurrency: int = Field(32, ge=1)
    connect_seconds: float = Field(5.0, gt=0)
    grace_seconds: float = Field(15.0, gt=0)
    attempts: int = Field(4, ge=1)
    backoff_seconds: float = Field(0.5, ge=0)
    backoff_max_seconds: float = Field(8.0, ge=0)
    breaker_failures: int = Field(20, ge=1)
    breaker_seconds: float = Field(10.0, ge=0)


class PythonSpec(Section):
    """The Python tool's limits per call.

    `stateful` keeps one interpreter per episode; else every call stands alone. `fusion` runs the code on a service
    instead of this machine. `preload` is imported once, before any call; where it is empty, programs can import the
    standard library alone. `failure_rate` is the share of calls that the world answers with an error although nothing
    is wrong with them: a world with an unreliable tool, not a fault of ours.
    """

    stateful: bool = False
    fusion: FusionSpec | None = None
    timeout_seconds: float = Field(5.0, gt=0)
    memory_mb: int = Field(512, ge=32)
    processes: int = Field(8, ge=1)
    max_code_chars: int = Field(20_000, ge=1)
    max_output_chars: int = Field(2_000, ge=16)
    workers: int = Field(2, ge=1)
    preload: list[str] = Field(default_factory=lambda: ["numpy", "sympy"])
    unsafe: bool = False
    failure_rate: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _consistent(self) -> PythonSpec:
        if self.stateful and self.fusion is not None:
            raise ValueError("tools.python: a SandboxFusion service keeps no state; set stateful or fusion, not both")
        return self


class ToolsSpec(Section):
    """The tools the model may call; null leaves one out."""

    python: PythonSpec | None = PythonSpec()
