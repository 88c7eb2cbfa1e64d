"""`world`: the quickstart's generated world."""

from __future__ import annotations

from pydantic import Field

from sod.recipe.keys.section import Section
from sod.recipe.keys.sft import SftSpec


class ScratchSpec(Section):
    """Shape of a Qwen3 model made from nothing."""

    layers: int = Field(4, ge=1)
    hidden: int = Field(128, ge=8)
    heads: int = Field(4, ge=1)
    ffn: int = Field(256, ge=8)


class WorldSpec(Section):
    """The quickstart's generated world: task counts, and how teacher and student come to be.

    Tasks have `shortest` to `longest` operations. In the student's SFT traces each call misreads its operand
    with probability `slips`; the teacher's are clean. A share `privileged` of the student's traces has the ground truth
    or a hint in the prompt, and no misreadings. In all of the student's traces a share `failures` of the calls gets the
    error of an unreliable tool first, and is made again.
    """

    shortest: int = Field(2, ge=1)
    longest: int = Field(5, ge=1)
    slips: float = Field(0.2, ge=0, lt=1)
    privileged: float = Field(0.0, ge=0, le=1)
    failures: float = Field(0.0, ge=0, lt=1)
    sft: int = Field(8_000, ge=1)
    train: int = Field(4_000, ge=1)
    validation: int = Field(128, ge=1)
    test: int = Field(256, ge=1)
    vocab_size: int = Field(1_024, ge=300)
    context: int = Field(2_048, ge=64)
    teacher: ScratchSpec = ScratchSpec()
    student: ScratchSpec = ScratchSpec()
    teacher_sft: SftSpec = SftSpec()
