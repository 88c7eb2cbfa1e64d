"""Files that survive a kill: atomic writes, one appended file, and readers that name what they cannot read."""

from __future__ import annotations

import errno
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from sod.records import SodError

_SCALARS = frozenset((bool, float, int, str, type(None)))


def write_json_atomic(path: Path, obj: Any) -> None:
    """Write `obj` as JSON, indented; NaN and infinities become null. See `write_bytes_atomic`."""
    write_text_atomic(path, json_text(obj, indent=2) + "\n")


def write_lines_atomic(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `rows` as JSON lines without spaces between tokens. See `write_bytes_atomic`."""
    write_text_atomic(path, "".join(json_text(row, compact=True) + "\n" for row in rows))


def write_text_atomic(path: Path, text: str) -> None:
    """Write `text` as UTF-8. See `write_bytes_atomic`."""
    write_bytes_atomic(path, text.encode())


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Create or replace `path`, and its directory: a reader sees the old bytes or the new, never a part.

    Raises SodError if that fails; what was there before still stands.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave the new name with no bytes
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append `row` as one JSON line, and close off a line before it that a kill cut short. Raises SodError."""
    line = json_text(row).encode()
    with writing(path), open(path, "ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line + b"\n")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError into the line that names the file and the fix."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "no space left on device; free some, then start again or --resume"
        else:
            reason = f"cannot be written ({error.strerror or error}); mend that, then start again or --resume"
        raise SodError(f"{path}: {reason}; nothing already written is lost") from error


def read_text(path: Path) -> str:
    """The text of a file. Raises SodError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SodError(f"{path}: cannot be read: {one_line(error)}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises SodError if there is none."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # beside syntax: a number of thousands of digits, deep nesting
        raise SodError(f"{path}: not valid JSON ({error}); restore or delete it") from error
    if not isinstance(value, dict):
        raise SodError(f"{path}: not a JSON object; restore or delete it")
    return value


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of a JSON-lines file; lines cut by a kill are left out with a warning.

    Raises SodError for a line that is JSON but no object.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            warnings.warn(f"{path}:{number}: a cut line is left out", stacklevel=2)
            continue
        if not isinstance(row, dict):
            raise SodError(f"{path}:{number}: not a JSON object; delete the line")
        yield number, row


def json_text(obj: Any, indent: int | None = None, compact: bool = False) -> str:
    """`obj` as JSON; NaN and infinities become null. Raises TypeError for what has no JSON form."""
    separators = (",", ":") if compact else None
    # ASCII only: a line cut inside a character would not even decode.
    return json.dumps(plain(obj, finite=True), allow_nan=False, indent=indent, separators=separators)


def plain(value: Any, *, finite: bool) -> Any:
    """`value` in JSON's own types; with `finite`, NaN and infinities become None.

    Raises TypeError for what has no obvious form (a tensor: take `.item()` where it is made).
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return _or_null(float(value)) if finite else float(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, finite=finite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if _SCALARS.issuperset(map(type, value)):  # nearly all there is: a number for every token
            return [_or_null(item) for item in value] if finite else list(value)
        return [plain(item, finite=finite) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r:.80}")


def _or_null(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def one_line(error: Exception) -> str:
    """The error's message without line breaks."""
    return " ".join(str(error).split())
