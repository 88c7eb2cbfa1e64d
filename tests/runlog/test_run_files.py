"""Writing and reading files whole."""

from __future__ import annotations

import json
import math
from pathlib import Path

from sod.runlog import write_bytes_atomic, write_json_atomic, write_text_atomic


def test_atomic_writes_make_their_directory_and_replace(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_json_atomic(path, {"x": math.nan, "ü": 1})
    assert json.loads(path.read_text()) == {"x": None, "ü": 1}
    write_text_atomic(path, "ü\n")
    assert path.read_bytes() == "ü\n".encode()
    write_bytes_atomic(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]
