"""One re-execution with glibc's tunables, and none where it would be unwelcome."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from sod.build.allocation import MARK, TUNABLES, forget_tunables, sees_cuda, started_environment

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc is not the C library here")

FIRST_TUNABLE = TUNABLES.split(":")[0]  # glibc cuts the text that /proc shows into pieces
SCRIPT = """
import json, os, sys
with open(sys.argv[1], "a") as log:
    log.write(json.dumps({"pid": os.getpid(), "argv": sys.argv[1:], "flags": sys.flags.dev_mode}) + "\\n")
from sod.cli.allocator import reexecute_with_tunables
reexecute_with_tunables()
started = open("/proc/self/environ").read().rstrip("\\0").split("\\0")
print(json.dumps([dict(line.split("=", 1) for line in started), dict(os.environ)]))
"""


Environment = dict[str, str]


def run(
    tmp_path: Path, flags: tuple[str, ...] = (), **more: str
) -> tuple[list[dict[str, object]], Environment, Environment]:
    """Every start of the script that one command caused; what its last process was given, and what it has then."""
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(SCRIPT, encoding="utf-8")
    unwanted = {"GLIBC_TUNABLES", "LD_PRELOAD", "RANK", MARK}
    env = {name: value for name, value in os.environ.items() if name not in unwanted} | more
    command = [sys.executable, *flags, str(script), str(log), "a b", "--c=d"]
    ended = subprocess.run(command, capture_output=True, text=True, env=env, check=True, timeout=300)
    starts = [json.loads(line) for line in log.read_text().splitlines()]
    given, kept = json.loads(ended.stdout)
    return starts, given, kept


def test_runs_again_once_with_the_tunables(tmp_path: Path) -> None:
    """The same process starts twice with the same arguments and interpreter flags; the second has the tunables.

    They are then in its environment no more: its children have what the user gave.
    """
    starts, given, kept = run(tmp_path, flags=("-X", "dev"))
    assert len(starts) == 2
    assert starts[0] == starts[1]
    assert starts[1]["argv"][1:] == ["a b", "--c=d"]
    assert starts[1]["flags"] is True
    assert given["GLIBC_TUNABLES"] == FIRST_TUNABLE
    assert not {"GLIBC_TUNABLES", MARK} & kept.keys()


@pytest.mark.parametrize(
    "setting",
    [{"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}, {MARK: "off"}, {"LD_PRELOAD": ""}, {"RANK": "0"}],
    ids=str,
)
def test_leaves_the_users_choice_alone(setting: dict[str, str], tmp_path: Path) -> None:
    """No second start where the user has chosen tunables, another allocator, or neither; nor under torchrun."""
    starts, _, kept = run(tmp_path, **setting)
    assert len(starts) == 1
    assert kept.items() >= setting.items()
    assert kept.get("GLIBC_TUNABLES") == setting.get("GLIBC_TUNABLES")


def test_only_what_we_set_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    monkeypatch.setenv(MARK, "off")
    forget_tunables()
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=2"
    for name, value in started_environment().items():
        monkeypatch.setenv(name, value)
    forget_tunables()
    assert not {"GLIBC_TUNABLES", MARK} & os.environ.keys()


@pytest.mark.parametrize(
    ("files", "visible", "expected"),
    [
        (("lib/libtorch_cuda.so", "dev/nvidia0"), None, True),
        (("lib/libtorch_cuda.so", "dev/nvidia1"), "0", True),
        (("lib/libtorch_cuda.so", "dev/nvidia0"), "", False),
        (("lib/libtorch_cuda.so", "dev/nvidia0"), "-1", False),
        (("lib/libtorch_cuda.so", "dev/nvidiactl"), None, False),
        (("lib/libtorch_cpu.so", "dev/nvidia0"), None, False),
    ],
)
def test_no_second_start_where_cuda_computes(
    files: tuple[str, ...], visible: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device, a PyTorch that knows devices, and a user who shows it one."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for name in ("lib", "dev"):
        (tmp_path / name).mkdir()
    for name in files:
        (tmp_path / name).touch()
    assert sees_cuda(tmp_path / "dev", tmp_path / "lib") == expected


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
    """`python -m sod` shows its help after the second start, which had the tunables and has let go of them."""
    env = {n: v for n, v in os.environ.items() if n not in ("GLIBC_TUNABLES", "LD_PRELOAD", MARK)}
    code = (
        "import sys, os, runpy, atexit;"
        "sys.argv = ['sod', '--help'];"
        "started = open('/proc/self/environ').read().split(chr(0));"
        "atexit.register(lambda: print('STARTED', *[x for x in started if x.startswith('GLIBC_TUNABLES')]));"
        "atexit.register(lambda: print('LEFT', os.environ.get('GLIBC_TUNABLES'), os.environ.get('SOD_ALLOCATOR')));"
        "runpy.run_module('sod', run_name='__main__')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Usage:") == 1
    assert f"STARTED GLIBC_TUNABLES={FIRST_TUNABLE}" in ended.stdout
    assert "LEFT None None" in ended.stdout
