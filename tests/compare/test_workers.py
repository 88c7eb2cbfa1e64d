"""Worker processes that outlive failures, and end when asked or left alone. Imports little: so does each worker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sod.compare.workers import Workers
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
def workers() -> Iterator[Workers]:
    made = Workers(2)
    yield made
    made.close()


def test_workers_return_values_and_errors_and_outlive_failures(workers: Workers) -> None:
    workers.submit("a", _twice, 4)
    workers.submit("b", _fail)
    assert workers.idle == 0
    ended = {end.key: end for end in (workers.wait(), workers.wait())}
    assert (ended["a"].value, ended["a"].error, ended["b"].error) == (8, None, "a reason")
    workers.submit("c", _stumble)
    assert "ZeroDivisionError: a bug" in (workers.wait().error or "")
    workers.submit("d", _die)
    assert "-9" in (workers.wait().error or "")
    workers.submit("e", _twice, 5)
    assert workers.wait().value == 10


def test_closing_stops_what_is_under_way_and_lets_it_clean_up(tmp_path: Path) -> None:
    workers, path = Workers(1), tmp_path / "pid"
    workers.submit("a", _sleep, str(path))
    limit = time.monotonic() + 300
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < limit, "the worker did not begin"
        time.sleep(0.01)
    began = time.monotonic()
    workers.close()
    assert time.monotonic() - began < 300
    assert path.with_suffix(".closed").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(path.read_text()), 0)
