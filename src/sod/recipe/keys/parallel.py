"""`parallel`."""

from __future__ import annotations

from pydantic import Field

from sod.recipe.keys.section import Section
from sod.records import SodError


class ParallelSpec(Section):
    """The processes that train together."""

    shards: int = Field(
        1, ge=1, description="processes, one for each GPU, that the student's weights and moments are spread over"
    )
    sequence: int = Field(
        1, ge=1, description="of them so many share each row, for long ones; must divide shards and attention heads"
    )


def refuse_uneven_teams(spec: ParallelSpec, count: int) -> None:
    """Raises SodError where so many processes cannot be grouped as `parallel.sequence` says."""
    if count % spec.sequence:
        several = -(-count // spec.sequence) * spec.sequence
        fit = ", ".join(str(size) for size in range(1, count + 1) if count % size == 0)
        raise SodError(
            f"parallel.sequence={spec.sequence} does not divide the number of processes, {count}; set parallel.shards="
            f"{several}, or parallel.sequence to {fit if count == 1 else f'one of {fit}'}"
        )
