"""`evaluation`."""

from __future__ import annotations

from pydantic import Field

from sod.recipe.keys.section import Section


class EvaluationSpec(Section):
    """How `sod eval` and the evaluations during training sample."""

    k: int = Field(4, ge=1, description="samples per task, for avg@k, pass@k and maj@k (or `sod eval -k`)")
    tasks: int = Field(64, ge=0, description="size of the seeded subset of tasks; 0: all (or `--tasks` of `sod eval`)")
    temperature: float = Field(1.0, ge=0, description="sampling temperature; 0: greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus sampling: probability mass to keep; 1: all")
    top_k: int = Field(0, ge=0, description="sample among the k most probable tokens; 0: all")
