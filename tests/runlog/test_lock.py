"""One writer at a time: between processes, between threads, and however the writer ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sod.records import SodError
from sod.runlog import locked
from sod.runlog.lock import LOCK

HOLD = """
import sys, time
from pathlib import Path
from sod.runlog import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(directory: Path) -> subprocess.Popen[str]:
    """Another process that holds the directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(directory)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_who_holds_it_until_that_one_is_killed(tmp_path: Path) -> None:
    """One line with directory, process and host; kill -9 of the holder frees it."""
    with holder(tmp_path) as process:
        try:
            with pytest.raises(SodError) as caught, locked(tmp_path):
                pytest.fail("two processes hold one directory")
            for part in (f"{tmp_path}: ", f"process {process.pid}", f"on {socket.gethostname()}"):
                assert part in str(caught.value)
            assert "\n" not in str(caught.value)
        finally:
            process.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_threads_exclude_each_other(tmp_path: Path) -> None:
    """Of many threads that try again and again, never two are inside, and each gets in in the end."""
    directory = tmp_path / "run"
    inside: list[int] = []
    entered: list[int] = []
    crowded: list[int] = []
    refusals: list[str] = []

    def work(number: int) -> None:
        while number not in entered:
            try:
                with locked(directory):
                    inside.append(number)
                    crowded.extend(inside[1:])
                    entered.append(number)
                    inside.remove(number)
            except SodError as error:
                refusals.append(str(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(entered) == [0, 1, 2, 3]
    assert crowded == []
    named = (f"{directory}: process {os.getpid()} on", f"{directory}: another process")
    assert all(line.startswith(named) for line in refusals)


def test_it_leaves_nothing_where_nothing_was_written(tmp_path: Path) -> None:
    """The directories that it made are gone; those that were there, or hold something, stay."""
    with locked(tmp_path / "runs" / "a"):
        assert (tmp_path / "runs" / "a" / LOCK).exists()
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "runs" / "a"):
        (tmp_path / "runs" / "a" / "recipe.yaml").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "recipe.yaml", "runs"]


def test_an_error_inside_releases_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SodError, match=r"file/run/\.lock: cannot be written"), locked(tmp_path / "file" / "run"):
        pytest.fail("there is no such directory")
