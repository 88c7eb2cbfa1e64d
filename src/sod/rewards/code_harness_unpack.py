"""Runs inside the sandbox: test cases out of a pickle, for a process that never loads one.

stdin brings JSON: `text` (base64 of zlib of a pickle of JSON text, or of rows), `most` (bytes that it may unpack to),
`start` and `length`: which bytes of the cases, packed again as zlib of JSON, go into `cases.zlib`; `length` 0 is none.
The last line of stdout is JSON: `size` of all of them, or `problem`.

The pickle may name no class and no function: LiveCodeBench's are of plain text, and whoever wants more has something
else in mind. Where that should fail, the sandbox is what holds.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import sys
import zlib
from typing import Any, NoReturn

FILE = "cases.zlib"


class Plain(pickle.Unpickler):
    """Loads text, numbers and containers."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def rows_of(data: bytes) -> list[Any]:
    """The test cases of a pickle. Raises an Exception for anything else."""
    value = Plain(io.BytesIO(data)).load()
    rows = json.loads(value) if isinstance(value, str) else value
    if not isinstance(rows, list) or not all(map(is_case, rows)):
        raise ValueError("it holds no list of test cases with input and output")
    return rows


def is_case(row: Any) -> bool:
    return isinstance(row, dict) and "input" in row and "output" in row


def unpacked(text: str, most: int) -> bytes:
    decompressor = zlib.decompressobj()
    data = decompressor.decompress(base64.b64decode(text), most)
    if not decompressor.eof:
        raise ValueError(f"it unpacks to more than {most >> 20} MiB, or is cut short")
    return data


def main() -> None:
    """Raises nothing that the pickle does."""
    job = json.loads(sys.stdin.buffer.read())
    try:
        packed = zlib.compress(json.dumps(rows_of(unpacked(job["text"], job["most"]))).encode(), 1)
    except BaseException as error:
        print("\n" + json.dumps({"problem": f"{type(error).__name__}: {error}"[:300]}))
        return
    if job["length"]:
        with open(FILE, "wb") as file:
            file.write(packed[job["start"] : job["start"] + job["length"]])
    print("\n" + json.dumps({"size": len(packed)}))


if __name__ == "__main__":
    sys.set_int_max_str_digits(0)
    main()
