"""Rows of parquet, JSONL, or the Hub as plain Python.

A row that is no JSON object is skipped and counted; a source that cannot be used stops the run.
"""

from __future__ import annotations

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


def read_rows(
    source: str, needed: tuple[str, ...], optional: tuple[str, ...] = (), split: str = "train"
) -> tuple[list[tuple[int, Row]], list[SkippedRow]]:
    """(row number, row) for each row as plain Python, and the rows that are not JSON objects.

    Of parquet and Hub tables only the columns in `needed` and `optional` are read. Raises SodError
    when the source does not exist, is empty or unreadable, or lacks a needed column.
    """
    path = Path(source)
    skipped: list[SkippedRow] = []
    if path.is_file():
        if path.suffix == ".parquet":
            columns, rows = _read_parquet(path, needed + optional)
        elif path.suffix in (".jsonl", ".json"):
            columns, rows, skipped = _read_json(path)
        else:
            raise SodError(f"{source}: unknown suffix '{path.suffix}', expected .parquet, .jsonl or .json")
    elif not is_file_source(source):
        columns, rows = _read_hub(source, split, needed + optional)
    else:
        raise SodError(f"{source}: no such data file")
    if not rows:
        raise SodError(f"{source}: " + (f"no usable row, {skips_line(skipped)}" if skipped else "no rows"))
    if missing := [column for column in needed if column not in columns]:
        raise SodError(f"{source}: no column '{missing[0]}' (columns found: {', '.join(columns) or 'none'})")
    return rows, skipped


def _read_parquet(path: Path, wanted: tuple[str, ...]) -> tuple[list[str], list[tuple[int, Row]]]:
    try:
        columns, rows = read_table(path, wanted)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise SodError(f"{path}: not a readable parquet file ({_one_line(error)})") from error
    if rows is None:  # none of our columns; the caller names the missing one
        return columns, [(0, {})]
    return columns, [(n, _without_nones(row)) for n, row in enumerate(rows)]


def _read_json(path: Path) -> tuple[list[str], list[tuple[int, Row]], list[SkippedRow]]:
    try:
        values = json_values(path)
    except (ValueError, RecursionError, OSError, MemoryError) as error:
        raise SodError(f"{path}: not readable as JSON ({_one_line(error)})") from error
    rows = [(n, value) for n, (_, value) in enumerate(values) if isinstance(value, dict)]
    bad = [(n, where) for n, (where, value) in enumerate(values) if not isinstance(value, dict)]
    columns = list(dict.fromkeys(key for _, row in rows for key in row))
    return columns, rows, [SkippedRow(n, f"{where} a JSON object") for n, where in bad]


def _read_hub(source: str, split: str, wanted: tuple[str, ...]) -> tuple[list[str], list[tuple[int, Row]]]:
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
    columns = list(table.column_names)
    kept = table.select_columns([name for name in wanted if name in columns])
    return columns, [(n, _without_nones(row)) for n, row in enumerate(kept)]


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
