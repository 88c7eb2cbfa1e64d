"""`world`: the quickstart's generated world."""

from __future__ import annotations

from pydantic import Field

from sod.recipe.keys.section import Section
from sod.recipe.keys.sft import SftSpec


class ScratchSpec(Section):
    """Shape of a Qwen3 model made from nothing."""

    layers: int = Field(4, ge=1, description="decoder layers")
    hidden: int = Field(128, ge=8, description="hidden size")
    heads: int = Field(4, ge=1, description="attention heads; each has hidden / heads dimensions")
    ffn: int = Field(256, ge=8, description="intermediate size of the MLP")


class WorldSpec(Section):
    """A generated world of arithmetic tasks: their number, and how teacher and student come to be."""

    shortest: int = Field(2, ge=1, description="operations of the shortest task")
    longest: int = Field(5, ge=1, description="operations of the longest task")
    slips: float = Field(
        0.2, ge=0, lt=1, description="probability that a call in the student's SFT traces misreads its operand"
    )
    privileged: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the student's traces with the truth or a hint in the prompt and no slips",
    )
    failures: float = Field(
        0.0, ge=0, lt=1, description="probability that a call in the student's traces fails first and is made again"
    )
    sft: int = Field(8_000, ge=1, description="SFT traces")
    train: int = Field(4_000, ge=1, description="training tasks")
    validation: int = Field(128, ge=1, description="validation tasks")
    test: int = Field(256, ge=1, description="test tasks")
    vocab_size: int = Field(1_024, ge=300, description="vocabulary of the tokenizer learned from the traces")
    context: int = Field(2_048, ge=64, description="longest context of both models (tokens)")
    teacher: ScratchSpec = Field(ScratchSpec(), description="shape of the teacher")
    student: ScratchSpec = Field(ScratchSpec(), description="shape of the student")
    teacher_sft: SftSpec = Field(SftSpec(), description="the teacher's SFT on clean traces; the student's is `sft`")
