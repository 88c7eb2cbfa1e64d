"""How a program's end is seen from outside and put into words; real pipes, real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from processes import PATIENT

from sod.tools.sandbox.watch import End, Output, status_of, watch, with_note

LIMITS = {"seconds": 2.0, "cpu_seconds": 3, "memory_mb": 64, "output_chars": 10}


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for descriptor in ends:
        with suppress(OSError):  # closed by the test
            os.close(descriptor)


def test_an_end_is_seen_and_what_was_written_before_is_read(pipe: tuple[int, int]) -> None:
    read, write = pipe
    program = subprocess.Popen([sys.executable, "-c", "print('said')"], stdout=write)
    handle = os.pidfd_open(program.pid)
    out = Output(read, 10, tail=False)
    assert watch([handle], [out], PATIENT) is End.DONE
    while out.read():
        pass
    assert (out.data, out.over, program.wait()) == (b"said\n", False, 0)
    os.close(handle)


def test_the_wall_clock_ends_a_silent_program(pipe: tuple[int, int]) -> None:
    begun = time.monotonic()
    assert watch([pipe[0]], [], 0.2) is End.TIMEOUT
    assert 0.2 <= time.monotonic() - begun < PATIENT


def test_an_output_that_its_writers_closed_does_not_end_the_watch(pipe: tuple[int, int]) -> None:
    os.close(pipe[1])
    other_read, other_write = os.pipe()
    assert watch([other_read], [Output(pipe[0], 10, tail=False)], 0.2) is End.TIMEOUT
    os.close(other_read)
    os.close(other_write)


def test_cpu_time_is_asked_for_anew_until_none_is_left(pipe: tuple[int, int]) -> None:
    left = [0.02, 0.01, 0.0]
    assert watch([pipe[0]], [], PATIENT, lambda: left.pop(0)) is End.CPU
    assert left == []


def test_too_much_output_ends_the_watch_in_characters(pipe: tuple[int, int]) -> None:
    read, write = pipe
    out = Output(read, 10, tail=False)
    os.write(write, ("é" * 10).encode())
    assert watch([read], [out], PATIENT) is End.DONE  # ten are not too many
    os.write(write, "é".encode())
    assert watch([], [out], PATIENT) is End.OUTPUT_LIMIT


@pytest.mark.parametrize("end", [End.DONE, End.DIED])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0, ("ok", 0, "")),
        (1, ("error", 1, "")),
        (3, ("error", 3, "process exited with status 3")),
        (-11, ("error", -11, "process killed by signal 11")),
        (86, ("memory", None, "more than 64 MiB")),
    ],
)
def test_who_ended_itself_is_told_by_its_exit_code(end: End, code: int, expected: tuple[str, int | None, str]) -> None:
    assert status_of(end, code, LIMITS) == expected


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (End.TIMEOUT, ("timeout", None, "stopped after 2 s")),
        (End.CPU, ("timeout", None, "stopped after 3 s of CPU time")),
        (End.OUTPUT_LIMIT, ("output_limit", None, "more than 10 characters of output")),
        (End.CROWD, ("error", 1, "")),
        (End.NO_ANSWER, ("error", 1, "")),
    ],
)
def test_who_was_ended_by_us_is_told_by_the_end_whatever_the_code(
    end: End, expected: tuple[str, int | None, str]
) -> None:
    for code in (0, 1, 86, -9):
        assert status_of(end, code, LIMITS) == expected


def test_a_note_is_a_line_of_its_own() -> None:
    assert [with_note(text, "why") for text in (b"", b"a", b"a\n")] == [b"why\n", b"a\nwhy\n", b"a\nwhy\n"]
    assert with_note(b"a", "") == b"a"
