"""One re-execution with glibc's tunables, and none where it would be unwelcome."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from sod.cli.allocator import MARK, TUNABLES

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc is not the C library here")

SCRIPT = """
import json, os, sys
with open(sys.argv[1], "a") as log:
    log.write(json.dumps({"pid": os.getpid(), "argv": sys.argv[1:], "flags": sys.flags.dev_mode}) + "\\n")
from sod.cli.allocator import reexecute_with_tunables
reexecute_with_tunables()
print(json.dumps(dict(os.environ)))
"""


def run(tmp_path: Path, flags: tuple[str, ...] = (), **more: str) -> tuple[list[dict[str, object]], dict[str, str]]:
    """Every start of the script that one command caused, and the environment its last process was given."""
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(SCRIPT, encoding="utf-8")
    unwanted = {"GLIBC_TUNABLES", "LD_PRELOAD", "OMP_WAIT_POLICY", MARK}
    env = {name: value for name, value in os.environ.items() if name not in unwanted} | more
    command = [sys.executable, *flags, str(script), str(log), "a b", "--c=d"]
    ended = subprocess.run(command, capture_output=True, text=True, env=env, check=True, timeout=300)
    starts = [json.loads(line) for line in log.read_text().splitlines()]
    return starts, json.loads(ended.stdout)


def test_runs_again_once_with_the_tunables(tmp_path: Path) -> None:
    """The same process starts twice with the same arguments and interpreter flags; the second has the tunables."""
    starts, environ = run(tmp_path, flags=("-X", "dev"))
    assert len(starts) == 2
    assert starts[0] == starts[1]
    assert starts[1]["argv"][1:] == ["a b", "--c=d"]
    assert starts[1]["flags"] is True
    assert environ["GLIBC_TUNABLES"] == TUNABLES


@pytest.mark.parametrize(
    "setting", [{"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}, {MARK: "off"}, {"LD_PRELOAD": ""}], ids=str
)
def test_leaves_the_users_choice_alone(setting: dict[str, str], tmp_path: Path) -> None:
    """No second start where the user has chosen tunables, another allocator, or neither."""
    starts, environ = run(tmp_path, **setting)
    assert len(starts) == 1
    assert environ.get("GLIBC_TUNABLES") == setting.get("GLIBC_TUNABLES")


def test_openmp_threads_sleep_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    assert run(tmp_path)[1]["OMP_WAIT_POLICY"] == "passive"
    (tmp_path / "log").unlink()
    assert run(tmp_path, OMP_WAIT_POLICY="active")[1]["OMP_WAIT_POLICY"] == "active"


def test_glibc_accepts_the_tunables() -> None:
    """The names exist: the loader lists the values they were set to."""
    loader = Path("/lib64/ld-linux-x86-64.so.2")
    if not loader.exists():
        pytest.skip("no x86-64 loader to ask")
    asked = subprocess.run(
        [loader, "--list-tunables"], capture_output=True, text=True, env={"GLIBC_TUNABLES": TUNABLES}, timeout=120
    )
    if asked.returncode:
        pytest.skip("this glibc cannot list its tunables")
    listed = dict(line.split(": ", 1) for line in asked.stdout.splitlines() if ": " in line)
    for setting in TUNABLES.split(":"):
        name, value = setting.split("=")
        if name not in listed:
            pytest.skip(f"this glibc is too old for {name}")
        assert int(listed[name].split()[0], 0) == int(value), name


def test_the_command_does_it() -> None:
    """`python -m sod` shows its help after the re-execution, with the tunables in its environment."""
    env = {n: v for n, v in os.environ.items() if n not in ("GLIBC_TUNABLES", "LD_PRELOAD", MARK)}
    code = (
        "import sys, os, runpy, atexit;"
        "sys.argv = ['sod', '--help'];"
        "atexit.register(lambda: print('TUNABLES', os.environ.get('GLIBC_TUNABLES'), os.environ.get('SOD_ALLOCATOR')));"
        "runpy.run_module('sod', run_name='__main__')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Usage:") == 1
    assert f"TUNABLES {TUNABLES} done" in ended.stdout
