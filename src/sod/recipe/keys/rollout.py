"""`rollout`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sod.recipe.keys.section import Section


class RolloutSpec(Section):
    """The episodes that the student plays in one step."""

    prompts: int = Field(16, ge=1, description="tasks per step, the batch size in groups")
    samples: int = Field(8, ge=1, description="episodes per task, the size of a group")
    max_turns: int = Field(8, ge=1, description="assistant turns per episode at most")
    max_prompt_tokens: int = Field(2560, ge=1, description="longest prompt (tokens); see data.overlong_prompts")
    max_turn_tokens: int = Field(1024, ge=1, description="longest assistant turn (tokens)")
    max_response_tokens: int = Field(
        4096, ge=1, description="longest response (tokens): everything after the prompt, tool results included"
    )
    temperature: float = Field(
        1.0, gt=0, description="sampling temperature, at which student and teacher are scored too"
    )
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus sampling: probability mass to keep; 1: all")
    top_k: int = Field(0, ge=0, description="sample among the k most probable tokens; 0: all")
    max_rows: int = Field(128, ge=1, description="episodes decoded together at most; bounds memory")
    cache_share: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="share of a CUDA device's memory for keys and values; fewer rows decode where they do not fit",
    )
    decode_chunk: int = Field(
        16, ge=1, description="tokens decoded per turn before finished turns and tools are looked at"
    )
    asynchronous: bool = Field(
        False, description="never wait for tools while there is something to decode: faster, but not repeatable exactly"
    )
    max_staleness: Literal[0, 1] = Field(
        0, description="1: the next step's episodes are played while this one learns, by the weights of the step before"
    )
    importance: Literal["token", "sequence", "off"] | None = Field(
        None, description="weights min(pi_old / pi_sampled, 2); null: token with max_staleness=1, else off"
    )
    fault_retries: int = Field(2, ge=0, description="retries of a turn, tool call or verification that faulted")
    max_fault_rate: float = Field(
        0.1, ge=0, le=1, description="stop the run when more than this share of the latest episodes faulted"
    )
    fault_window: int = Field(64, ge=1, description="how many of the latest episodes max_fault_rate is about")
    distill_before_fault: bool = Field(
        False, description="keep the turns before a fault for the teacher's signal (never for rewards)"
    )
