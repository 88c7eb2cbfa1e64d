"""`rollout`."""

from __future__ import annotations

from pydantic import Field

from sod.recipe.keys.section import Section


class RolloutSpec(Section):
    """What the student does in one step.

    `max_rows` episodes decode together; finished turns and tools are looked at every `decode_chunk` tokens.
    `asynchronous` never waits for a tool while there is something to sample: faster with slow tools, but then a run
    cannot be repeated exactly. The run stops when more than `max_fault_rate` of the last `fault_window` episodes
    faulted.
    `distill_before_fault` keeps the turns before a fault for the teacher's signal (never for rewards).
    """

    prompts: int = Field(16, ge=1)
    samples: int = Field(8, ge=1)
    max_turns: int = Field(8, ge=1)
    max_prompt_tokens: int = Field(2560, ge=1)
    max_turn_tokens: int = Field(1024, ge=1)
    max_response_tokens: int = Field(4096, ge=1)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    max_rows: int = Field(128, ge=1)
    decode_chunk: int = Field(16, ge=1)
    asynchronous: bool = False
    fault_retries: int = Field(2, ge=0)
    max_fault_rate: float = Field(0.1, ge=0, le=1)
    fault_window: int = Field(64, ge=1)
    distill_before_fault: bool = False
