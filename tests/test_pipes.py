"""Lines out of the pipes of real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from sod.pipes import Replies, end


@pytest.fixture
def shell() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    yield process
    end(process)


def said(shell: subprocess.Popen[bytes], command: str) -> Replies:
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(command.encode())
    shell.stdin.flush()
    return Replies(shell.stdout)


def test_lines_come_one_by_one_however_they_were_written(shell: subprocess.Popen[bytes]) -> None:
    replies = said(shell, "printf 'a\\nb\\n\\nc'; sleep 0.1; printf 'd\\n'\n")
    assert [replies.line(10.0) for _ in range(4)] == [b"a", b"b", b"", b"cd"]


def test_a_line_that_does_not_come_is_waited_for_only_so_long_and_not_lost(shell: subprocess.Popen[bytes]) -> None:
    replies = said(shell, "printf half; sleep 0.4; echo whole\n")
    with pytest.raises(TimeoutError, match=r"no reply within 0\.05 s"):
        replies.line(0.05)
    assert replies.line(10.0) == b"halfwhole"


def test_the_end_of_a_process_is_told_after_its_whole_lines(shell: subprocess.Popen[bytes]) -> None:
    replies = said(shell, "echo last; printf cut; exit\n")
    assert replies.line(10.0) == b"last"
    with pytest.raises(EOFError):
        replies.line(10.0)


def test_an_ended_process_is_gone_and_its_pipes_are_closed() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"x" * 100)  # nobody will read what is left in the buffer
    end(process)
    assert process.returncode == -9
    assert process.stdin.closed
    assert process.stdout.closed
    end(process)
