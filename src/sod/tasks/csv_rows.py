"""The rows of CSV and TSV files, all cells as text: a truth of `007` stays one."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from sod.bounded import bounded_memory
from sod.tasks.formats.base import Row
from sod.tasks.tables import LINE_CHARS, SPARE, most_bytes, text_of


def csv_rows(path: Path, delimiter: str) -> list[Row | None]:
    """A row for each line under the header, without its empty cells; None for one with more cells than columns.

    Raises ValueError, MemoryError or OSError for what cannot be read.
    """
    with bounded_memory(most_bytes(path) + SPARE):
        text = text_of(path)
        csv.field_size_limit(LINE_CHARS)  # Python's own limit is below the length of a program with its tests
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            names = next(reader, [])
            return [_row(names, cells) for cells in reader if cells]
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num}: {error}") from error


def _row(names: Sequence[str], cells: Sequence[str]) -> Row | None:
    # A line may have far fewer cells than there are columns, so that only its cells are looked at.
    return None if len(cells) > len(names) else {name: cell for name, cell in zip(names, cells, strict=False) if cell}
