"""The answers of served teachers on disk: whole after a kill at any moment, bounded, and named where they cannot be."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from sod.records import SodError
from sod.teachers.score_cache import CHECKED_EVERY, FILE, ScoreCache, row_key

WRITER = """
import sys
from pathlib import Path
from sod.teachers.score_cache import ScoreCache, row_key
cache = ScoreCache(Path(sys.argv[1]), 1.0)
number = 0
while True:
    cache.put(row_key("m", [number], [0], 0), number.to_bytes(8, "big") * 2000)
    number += 1
    print(number, flush=True)
"""


def test_what_was_written_before_a_kill_is_there(tmp_path: Path) -> None:
    """Twice in a row, the second after what the first has left."""
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for _ in range(50):
                written = int(writer.stdout.readline())
            writer.kill()
        cache = ScoreCache(tmp_path, 1.0)
        for number in range(written):
            assert cache.get(row_key("m", [number], [0], 0)) == number.to_bytes(8, "big") * 2000
        cache.close()


def test_the_oldest_are_dropped(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path, 0.001)
    for number in range(2 * CHECKED_EVERY):
        cache.put(row_key("m", [number], [0], 0), bytes(10_000))
    kept = [number for number in range(2 * CHECKED_EVERY) if cache.get(row_key("m", [number], [0], 0)) is not None]
    assert kept == list(range(2 * CHECKED_EVERY - len(kept), 2 * CHECKED_EVERY))
    assert 50 < len(kept) < 110


def test_an_answer_is_of_its_model_tokens_places_and_k() -> None:
    keys = [row_key("m", [1, 2], [1], 0), row_key("n", [1, 2], [1], 0), row_key("m", [1, 3], [1], 0)]
    keys += [row_key("m", [1, 2], [], 0), row_key("m", [1, 2], [1], 5)]
    assert len(set(keys)) == 5
    assert row_key("m", (1, 2), (1,), 0) == keys[0]


def test_what_is_no_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database, but long enough to look like one " * 100)
    with pytest.raises(SodError, match=rf"teacher\.cache={tmp_path}: cannot be used \(file is not a database\)"):
        ScoreCache(tmp_path, 1.0)


def test_two_may_share_it(tmp_path: Path) -> None:
    one, other = ScoreCache(tmp_path, 1.0), ScoreCache(tmp_path, 1.0)
    one.put(b"k", b"v")
    assert other.get(b"k") == b"v"
    began = time.monotonic()
    other.put(b"k", b"w")
    assert one.get(b"k") == b"w"
    assert time.monotonic() - began < 30.0
