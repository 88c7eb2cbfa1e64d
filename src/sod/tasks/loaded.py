"""What was read of a source: the usable rows, and why the others were skipped. Rows are counted from 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, final

from sod.records import SodError

T = TypeVar("T")

_NAMED_SKIPS = 3  # so many skipped rows are named in a message; all are counted


@final
@dataclass(frozen=True)
class SkippedRow:
    """A row (from 0) that was not used, and why."""

    row: int
    reason: str


@final
@dataclass(frozen=True)
class Loaded(Generic[T]):
    """The usable rows of a source, in order, and those that were skipped; `rows` are the numbers of the usable ones."""

    items: list[T]
    skipped: list[SkippedRow]
    rows: list[int] = field(default_factory=list, compare=False)

    def summary(self) -> str:
        """One line: "7,400 rows, 3 skipped: row 5: no assistant message; ..."."""
        return f"{len(self.items):,} rows" + (f", {skips_line(self.skipped)}" if self.skipped else "")

    def refuse_empty(self, source: str) -> Loaded[T]:
        """Itself. Raises SodError, naming the first skipped rows, where there is no usable one."""
        if not self.items:
            raise SodError(f"{source}: no usable row, {skips_line(self.skipped)}")
        return self


def skips_line(skipped: Sequence[SkippedRow]) -> str:
    """How many rows were skipped, and why the first ones were."""
    named = [f"row {skip.row}: {skip.reason}" for skip in skipped[:_NAMED_SKIPS]]
    more = len(skipped) - len(named)
    return f"{len(skipped):,} skipped: " + "; ".join(named) + (f"; and {more:,} more" if more else "")
