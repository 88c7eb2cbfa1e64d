"""Rows of parquet, JSONL, or the Hub as plain Python.

A row that is no JSON object is skipped and counted; a source that cannot be used stops the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from sod.hub import is_cached_dataset, is_hub_id, unreachable, why_unreachable
from sod.records import SodError
from sod.tasks.formats.base import Row
from sod.tasks.loaded import SkippedRow, skips_line
from sod.tasks.tables import json_values, read_table

FILE_SUFFIXES = {".parquet", ".jsonl", ".json", ".csv", ".tsv", ".txt", ".arrow", ".gz", ".zst"}


def is_file_source(source: str) -> bool:
    """Whether a data key names a file, there or not, and no data set of the Hub."""
    path = Path(source)
    return path.is_file() or path.suffix in FILE_SUFFIXES or not is_hub_id(source)


def read_rows(source: str, split: str = "train") -> tuple[list[tuple[int, Row]], list[SkippedRow]]:
    """(row number, row) for each row as plain Python, and the rows that are not JSON objects.

    Raises SodError when the source does not exist, is empty or unreadable.
    """
    path = Path(source)
    skipped: list[SkippedRow] = []
    if path.is_file():
        if path.suffix == ".parquet":
            rows = _read_parquet(path)
        elif path.suffix in (".jsonl", ".json"):
            rows, skipped = _read_json(path)
        else:
            raise SodError(f"{source}: unknown suffix '{path.suffix}', expected .parquet, .jsonl or .json")
    elif not is_file_source(source):
        rows = _read_hub(source, split)
    else:
        raise SodError(f"{source}: no such data file")
    if not rows:
        raise SodError(f"{source}: " + (f"no usable row, {skips_line(skipped)}" if skipped else "no rows"))
    return rows, skipped


def refuse_missing(source: str, rows: Sequence[tuple[int, Row]], needed: Sequence[str]) -> None:
    """Raises SodError where no row has a column that is needed."""
    columns = dict.fromkeys(name for _, row in rows for name in row)
    if missing := [column for column in needed if column not in columns]:
        raise SodError(f"{source}: no column '{missing[0]}' (columns found: {', '.join(columns) or 'none'})")


def _read_parquet(path: Path) -> list[tuple[int, Row]]:
    try:
        rows = read_table(path)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise SodError(f"{path}: not a readable parquet file ({_one_line(error)})") from error
    return [(n, _without_nones(row)) for n, row in enumerate(rows)]


def _read_json(path: Path) -> tuple[list[tuple[int, Row]], list[SkippedRow]]:
    try:
        values = json_values(path)
    except (ValueError, RecursionError, OSError, MemoryError) as error:
        raise SodError(f"{path}: not readable as JSON ({_one_line(error)})") from error
    rows = [(n, value) for n, (_, value) in enumerate(values) if isinstance(value, dict)]
    bad = [(n, where) for n, (where, value) in enumerate(values) if not isinstance(value, dict)]
    return rows, [SkippedRow(n, f"{where} a JSON object") for n, where in bad]


def _read_hub(source: str, split: str) -> list[tuple[int, Row]]:
    try:
        import datasets  # optional: only this branch needs it
    except ImportError as error:
        raise SodError(f"{source}: no such file; for the Hub, pip install 'sod-distill[hub]'") from error
    reason = why_unreachable()
    if reason is not None and not is_cached_dataset(source):
        raise unreachable(source, "data file", reason)
    try:
        table = datasets.load_dataset(source, split=split, trust_remote_code=False)
    except Exception as error:  # the client raises many unrelated types (network, hub, arrow, scripts)
        raise SodError(f"{source}: cannot load split '{split}' from the Hub ({_one_line(error)})") from error
    return [(n, _without_nones(row)) for n, row in enumerate(table)]


def _without_nones(value: Any) -> Any:
    """Drop None-valued keys: arrow gives every struct the keys of all rows."""
    if isinstance(value, dict):
        return {key: _without_nones(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nones(item) for item in value]
    return value


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
