"""What was read of a source: the usable rows, and why the others were skipped. Rows are counted from 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, final

from sod.records import SodError

T = TypeVar("T")

_NAMED_SKIPS = 3  # so many skipped rows are named in a message; all are counted
_NAMED_FIELDS = 12


@final
class RowNumber(int):
    """A row's place (from 0) among the rows of several files; in words its number in its own file: `5 of b.jsonl`."""

    number: int
    file: str

    @classmethod
    def of(cls, place: int, number: int, file: str) -> RowNumber:
        """The row `number` of `file`, at `place` among all."""
        made = cls(place)
        made.number, made.file = number, file
        return made

    def __str__(self) -> str:
        return f"{self.number} of {self.file}"

    def __format__(self, spec: str) -> str:
        return f"{format(self.number, spec)} of {self.file}"


def number_in_file(row: int) -> int:
    """A row's number (from 0) in its own file."""
    return row.number if isinstance(row, RowNumber) else row


@final
@dataclass(frozen=True)
class SkippedRow:
    """A row (from 0) that was not used, and why."""

    row: int
    reason: str


@final
@dataclass(frozen=True)
class Loaded(Generic[T]):
    """The usable rows of a source, in order, and those that were skipped; `rows` are the numbers of the usable ones.

    Of the usable rows, `shapes` says how many were read as which shape, `unused` how many have something in a field
    (dotted) that nobody used, and `remarks` of how many rows there is what to tell.
    """

    items: list[T]
    skipped: list[SkippedRow]
    rows: list[int] = field(default_factory=list, compare=False)
    unused: Mapping[str, int] = field(default_factory=dict, compare=False)
    shapes: Mapping[str, int] = field(default_factory=dict, compare=False)
    remarks: Mapping[str, int] = field(default_factory=dict, compare=False)

    def summary(self) -> str:
        """One line: "7,400 rows, 3 skipped: row 5: no assistant message; ..."."""
        return f"{len(self.items):,} rows" + (f", {skips_line(self.skipped)}" if self.skipped else "")

    def unused_line(self) -> str:
        """One line of the fields that nobody used: "level (7,400 rows), type (12 rows)"; empty where there is none."""
        most = sorted(self.unused.items(), key=lambda item: -item[1])
        named = [f"{name} ({count:,} row{'' if count == 1 else 's'})" for name, count in most[:_NAMED_FIELDS]]
        more = len(most) - len(named)
        return ", ".join(named) + (f", and {more:,} more" if more else "")

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
