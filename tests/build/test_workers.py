"""Worker processes that outlive failures, and end when asked or left alone. Imports little: so does each worker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sod.build.workers import WorkerPool
from sod.records import SodError


def _twice(value: int) -> int:
    return 2 * value


def _fail() -> None:
    raise SodError("a reason")


def _stumble() -> None:
    raise ZeroDivisionError("a bug")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _sleep(path: str) -> None:
    try:
        Path(path).write_text(str(os.getpid()))
        time.sleep(600)
    finally:
        Path(path).with_suffix(".closed").touch()


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    made = WorkerPool(2)
    yield made
    made.close()


def test_workers_return_values_and_errors_and_outlive_failures(pool: WorkerPool) -> None:
    pool.submit("a", _twice, 4)
    pool.submit("b", _fail)
    assert pool.idle == 0
    ended = {end.key: end for end in (pool.wait(), pool.wait())}
    assert (ended["a"].value, ended["a"].error, ended["b"].error) == (8, None, "a reason")
    pool.submit("c", _stumble)
    assert "ZeroDivisionError: a bug" in (pool.wait().error or "")
    pool.submit("d", _die)
    assert "-9" in (pool.wait().error or "")
    pool.submit("e", _twice, 5)
    assert pool.wait().value == 10


def test_closing_stops_what_is_under_way_and_lets_it_clean_up(tmp_path: Path) -> None:
    pool, path = WorkerPool(1), tmp_path / "pid"
    pool.submit("a", _sleep, str(path))
    limit = time.monotonic() + 300
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < limit, "the worker did not begin"
        time.sleep(0.01)
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 300
    assert path.with_suffix(".closed").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(path.read_text()), 0)
