"""Columns of tests, as data sets pack them: JSON text, JSON in JSON, Python's way of writing a dict, zlib in base64.

LiveCodeBench packs the JSON text once more, into a pickle. Loading a pickle runs whatever its author wrote, so this
process never does: `pickled` tells one by its first byte, and the sandbox unpacks it (`code_unpacking`).
"""

from __future__ import annotations

import ast
import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from typing import Any

from sod.records import SodError

LARGEST_UNPACKED = 256 << 20  # bytes of test cases
NESTINGS = 3  # of JSON text in JSON text
PICKLE = b"\x80"
_HEAD = 4096  # characters of base64 among which a pickle shows


def value_of(value: Any, name: str) -> Any:
    """The value of a column, which may be JSON text, or that as JSON text again. Raises SodError for other text."""
    for _ in range(NESTINGS):
        if not isinstance(value, str):
            break
        value = _from_text(value, name)
    return value


def _from_text(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = error
    if text.lstrip()[:1] in ("{", "[", "("):
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            pass
    raise SodError(f"code: {name} is not JSON: {problem}") from problem


def object_of(value: Any, name: str) -> dict[str, Any]:
    """The value of a column that must be an object. Raises SodError."""
    loaded = value_of(value, name)
    if not isinstance(loaded, Mapping):
        raise SodError(f"code: {name} must be an object, not {type(loaded).__name__}")
    return dict(loaded)


def cases_of(value: Any, name: str) -> Any:
    """The value of a column of test cases, which may be packed. Raises SodError for what is neither."""
    packed = isinstance(value, str) and value.lstrip()[:1] not in ("[", "{", '"')
    return value_of(_unpacked(value, name) if packed else value, name)


def pickled(value: Any) -> bool:
    """Whether a column is a pickle in zlib and base64."""
    if not isinstance(value, str) or value.lstrip()[:1] in ("[", "{", '"', ""):
        return False
    try:
        return zlib.decompressobj().decompress(base64.b64decode(value[:_HEAD], validate=True), 1) == PICKLE
    except (binascii.Error, zlib.error, ValueError):
        return False


def _unpacked(text: str, name: str) -> str:
    """Base64 of zlib of JSON. Raises SodError for anything else, a pickle among it."""
    try:
        decompressor = zlib.decompressobj()
        data = decompressor.decompress(base64.b64decode(text, validate=True), LARGEST_UNPACKED)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise SodError(f"code: {name} is neither JSON nor zlib in base64: {error}") from error
    if not decompressor.eof:
        raise SodError(f"code: {name} unpacks to more than {LARGEST_UNPACKED >> 20} MiB, or is cut short")
    if data[:1] == PICKLE:
        raise SodError(f"code: {name} is a pickle, which only the sandbox unpacks")
    return data.decode("utf-8", "replace")
