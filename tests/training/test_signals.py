"""A run that is asked to stop by its terminal's end."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

PROGRAM = """
import sys, time
from pathlib import Path
from sod.training.signals import on_stop_request
asked = []
with on_stop_request(asked.append):
    Path(sys.argv[1], "begun").touch()
    until = time.monotonic() + float(sys.argv[2])
    while not asked and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)  # the shell's own signal comes after the terminal's
    print("the step's line", flush=True)
    Path(sys.argv[1], "kept").write_text(str(asked))
"""


def begun(folder: Path, seconds: float, stream: int, ignored: bool = False) -> subprocess.Popen[bytes]:
    """The program in a session of its own, whose terminal is `stream` where that is one."""

    def prepare() -> None:
        if os.isatty(stream):
            fcntl.ioctl(stream, termios.TIOCSCTTY, 0)
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    command = [sys.executable, "-c", PROGRAM, str(folder), str(seconds)]
    process = subprocess.Popen(
        command, stdin=stream, stdout=stream, stderr=stream, start_new_session=True, preexec_fn=prepare
    )
    limit = time.monotonic() + 60
    while not (folder / "begun").exists():
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.01)
    return process


def test_a_closed_terminal_is_a_request_to_stop_in_good_order(tmp_path: Path) -> None:
    terminal, stream = os.openpty()
    process = begun(tmp_path, 30.0, stream)
    os.close(stream)
    os.close(terminal)
    process.send_signal(signal.SIGHUP)  # the shell's
    assert process.wait(60) == 0
    assert (tmp_path / "kept").read_text() == str([int(signal.SIGHUP)])


@pytest.mark.parametrize("ignored", [True, False])
def test_under_nohup_a_hangup_is_none_and_a_file_is_still_written(tmp_path: Path, ignored: bool) -> None:
    with (tmp_path / "nohup.out").open("w+") as out:
        process = begun(tmp_path, 0.5, out.fileno(), ignored)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0
    assert (tmp_path / "kept").read_text() == ("[]" if ignored else str([int(signal.SIGHUP)]))
    assert (tmp_path / "nohup.out").read_text() == "the step's line\n"
