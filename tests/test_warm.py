"""Processes of `warm.py` are what `python ARGUMENTS` is, but for what they need not import any more."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from warm import run_warm, start_warm

pytestmark = pytest.mark.slow

TELL = """
import json, os, sys
early = [name for name in ("torch", "transformers", "sod.recipe", "sod.records") if name in sys.modules]
from sod.build.openmp import spins_on
told = [sys.argv, os.getcwd(), os.environ["TOLD"], os.getsid(0) == os.getpid(), early, spins_on(), __name__]
print(json.dumps(told))
print("to the other stream", file=sys.stderr)
sys.exit(3)
"""


@pytest.mark.parametrize("how", ["-", "file"])
def test_a_process_is_one_of_its_own(how: str, tmp_path: Path) -> None:
    """Session, directory, environment, streams and exit code; of what tests are about nothing is imported."""
    (tmp_path / "file").write_text(TELL, encoding="utf-8")
    done = run_warm([how, "a", 1], tmp_path, os.environ | {"TOLD": "so"}, program=TELL)
    assert done.returncode == 3, done.stderr
    expected = [[how, "a", "1"], str(tmp_path), "so", True, ["torch", "transformers"], False, "__main__"]
    assert json.loads(done.stdout) == expected
    assert done.stderr == "to the other stream\n"
    assert run_warm(["-"], program="import os; print(os.environ.get('TOLD'))").stdout == "None\n"


def test_a_module_is_run_where_it_is_found(tmp_path: Path) -> None:
    """As `python -m` does: in the working directory first. An error is a traceback and 1."""
    (tmp_path / "mine.py").write_text("raise KeyError(__name__)", encoding="utf-8")
    done = run_warm(["-m", "mine"], tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("KeyError: '__main__'\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_ends_it(number: signal.Signals) -> None:
    read, write = os.pipe()
    process = start_warm(["-"], stdin=read)  # waits for its program
    os.close(read)
    assert process.poll() is None
    process.send_signal(number)
    os.close(write)
    assert process.wait(60) == -number
    assert process.communicate() == ("", "")
