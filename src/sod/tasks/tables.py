"""Parquet and JSON files of strangers, read within bounds: a few kilobytes of parquet can stand for terabytes.

Neither the footer nor a page's header need tell the truth about sizes, so rows are read a few at a time under a limit
of memory, and what they will take as Python objects is counted as they come.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sod.bounded import bounded_memory, read_bounded

FLOOR = 256 * 1024 * 1024
TIMES = 100
"""A file may take `FLOOR` bytes, and `TIMES` its own size beside them."""
SPARE = 2 * 1024 * 1024 * 1024
"""What reading may map beyond that for a while: threads' stacks, allocators' reserves, a copy."""
DEPTH = 32
PLAIN_FOOTER = 64 * 1024
"""A footer up to here cannot nest deep enough to overflow the stack of the code that reads it."""
JSON_BYTES = 4 * 1024**3
LINE_CHARS = 64 * 1024**2
"""The longest line that is read: its lists and mappings take up to thirty times as much."""
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
"""How a file is compressed, by the end of its name."""
OBJECT = 64
"""Bytes of a Python object, about."""
ROWS = 64
"""Rows that are read before what they take is counted."""
_BLOCK = 1024 * 1024


def most_bytes(path: Path) -> int:
    """What the content of a data file may take in memory (bytes)."""
    return FLOOR + TIMES * path.stat().st_size


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a parquet file, all columns.

    Raises ValueError for a file beyond the bounds, MemoryError, OSError or pyarrow's errors for what cannot be read.
    """
    _refuse_deep_footer(path)
    most = most_bytes(path)
    with bounded_memory(most + SPARE), pq.ParquetFile(path, memory_map=False, pre_buffer=False) as file:
        for field in file.schema_arrow:
            _refuse_deep(field.type)
        return _rows(file, most)


def _rows(file: Any, most: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    taken = 0
    for batch in file.iter_batches(batch_size=ROWS, use_threads=False):
        taken += sum(_bytes(column) for column in batch.columns)
        if taken > most:
            raise ValueError(
                f"its rows take more than {most >> 20:,} MiB of memory; split it, or write it uncompressed"
            )
        rows += batch.to_pylist()
    return rows


def _bytes(array: Any) -> int:
    """What an array takes here and again as Python objects, the values below it counted."""
    below: list[Any] = []
    if pa.types.is_struct(array.type):
        below = array.flatten()
    elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_map(array.type):
        below = [array.flatten()] if not pa.types.is_map(array.type) else [array.keys, array.items]
    return int(OBJECT * len(array) + 2 * array.nbytes + sum(_bytes(part) for part in below))


def _refuse_deep(kind: Any, depth: int = 1) -> None:
    """Raises ValueError for types within types within types."""
    if depth > DEPTH:
        raise ValueError(f"a column is nested deeper than {DEPTH} levels")
    for number in range(kind.num_fields):
        _refuse_deep(kind.field(number).type, depth + 1)


def _refuse_deep_footer(path: Path) -> None:
    """Raises ValueError where reading the footer would end this process: the code that reads it calls itself."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 8))
        length = int.from_bytes(file.read(8)[:4], "little")
    if PLAIN_FOOTER < length < path.stat().st_size:
        program = "import sys, pyarrow.parquet as pq; pq.read_schema(sys.argv[1])"
        done = subprocess.run(
            [sys.executable, "-I", "-c", program, str(path.resolve())],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if done.returncode < 0:
            raise ValueError("its footer cannot be read; it nests too deep")


def text_of(path: Path) -> str:
    """The text of a file, unpacked where its name says that it is compressed.

    Raises ValueError for one beyond the bounds or not in UTF-8, OSError for what cannot be read or unpacked.
    """
    codec = COMPRESSED.get(path.suffix)
    data = read_bounded(path, JSON_BYTES) if codec is None else _unpacked(path, codec)
    return data.decode("utf-8-sig")


def _unpacked(path: Path, codec: str) -> bytes:
    """A few kilobytes may unpack to terabytes, so the bytes are counted as they come."""
    most = min(JSON_BYTES, most_bytes(path))
    data = bytearray()
    with pa.input_stream(str(path), compression=codec) as stream:
        while block := stream.read(_BLOCK):
            data += block
            if len(data) > most:
                raise ValueError(f"unpacks to more than {most >> 20:,} MiB; unpack it, or split it")
    return bytes(data)


def json_or_none(text: str) -> Any:
    """The value of a JSON text; None for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
