"""`reward`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sod.recipe.keys.section import Section

VerifierName = Literal["math", "choice", "code"]


class RewardSpec(Section):
    """What an episode earns, and who decides.

    `by_source` names the verifier of a `data_source` where that is not `verifier`. `tool_bonus` and
    `overlong_buffer` (tokens; 0: off) are the paper's shaping. Limits of the verifiers: `math_seconds` of CPU time
    per answer, `code_seconds` per test, `code_memory_mb` per program.
    """

    correct: float = 1.0
    wrong: float = -1.0
    verifier: VerifierName = "math"
    by_source: dict[str, VerifierName] = Field(default_factory=dict)
    tool_bonus: bool = False
    overlong_buffer: int = Field(0, ge=0)
    math_seconds: int = Field(3, ge=1)
    code_seconds: float = Field(6.0, gt=0)
    code_memory_mb: int = Field(1024, ge=32)
    workers: int = Field(2, ge=1)

    @property
    def verifiers(self) -> set[VerifierName]:
        """Every verifier that a task may need."""
        return {self.verifier, *self.by_source.values()}
