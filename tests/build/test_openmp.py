"""How OpenMP's threads wait, as the runtime itself reports it; and what children of a process are given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sod.build.allocation import MARK, TUNABLES
from sod.build.openmp import POLICY, crowded

FIRST_TUNABLE = TUNABLES.split(":")[0]  # glibc cuts the text that /proc shows into pieces
OURS = {"GLIBC_TUNABLES", MARK, *POLICY}
pytestmark = pytest.mark.skipif(
    not list((Path(torch.__file__).parent / "lib").glob("libgomp*")), reason="PyTorch has another OpenMP here"
)


def run(code: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A program in an environment without any of our settings, but with these. OpenMP tells its own to stderr."""
    env = {name: value for name, value in os.environ.items() if name not in OURS} | {"OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env | more, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def told(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What the OpenMP runtime says that its settings are."""
    pairs = [line.split("=", 1) for line in done.stderr.splitlines() if " = " in line]
    return {name.split()[-1]: value.strip(" '") for name, value in pairs}


CALM = "import sod.build.openmp\nsod.build.openmp.crowded = lambda: False"
CROWDED = "import sod.build.openmp\nsod.build.openmp.crowded = lambda: True"
LEFT = "import os, json; print(json.dumps(dict(os.environ)))"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "spins"), [(CALM, "10000"), (CROWDED, "0"), ("from sod.records import SodError", "")]
)
def test_the_policy_holds_from_an_import_on(first: str, spins: str) -> None:
    """OpenMP is loaded with it before torch's own code runs, and nothing of it stays in the environment."""
    done = run(f"{first}\nimport torch\n{LEFT}")
    assert told(done)["OMP_WAIT_POLICY"] == "PASSIVE"
    assert told(done)["GOMP_SPINCOUNT"] in ([spins] if spins else ["10000", "0"])  # as busy as the machine is
    assert not OURS & json.loads(done.stdout).keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"OMP_WAIT_POLICY": "passive"}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}),
        ({"GOMP_SPINCOUNT": "77"}, {"GOMP_SPINCOUNT": "77"}),
    ],
    ids=str,
)
def test_the_users_own_policy_wins(setting: dict[str, str], expected: dict[str, str]) -> None:
    """And his children have it, as he set it."""
    done = run(f"import sod\nimport torch\n{LEFT}", **setting)
    assert told(done).items() >= expected.items()
    kept = json.loads(done.stdout)
    assert {name: kept[name] for name in OURS & kept.keys()} == setting


@pytest.mark.slow
def test_settings_between_the_imports_count() -> None:
    """`import sod` loads nothing: what a program says about OpenMP before it imports torch is heard."""
    code = "import sod, os\nos.environ['OMP_NUM_THREADS'] = '1'\nimport torch\nprint(torch.get_num_threads())"
    assert run(code).stdout.split() == ["1"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("9.00 9.00 9.00 {cores}/300 17", False), ("0.00 0.00 0.00 {one_more}/300 17", True), ("no numbers", False)],
)
def test_crowded_is_what_runs_now(text: str, expected: bool, tmp_path: Path) -> None:
    """This process aside, as many as there are cores; what ran a minute ago does not count."""
    cores = os.cpu_count() or 1
    (tmp_path / "loadavg").write_text(text.format(cores=cores, one_more=cores + 1))
    assert crowded(tmp_path / "loadavg") == expected
    assert not crowded(tmp_path / "missing")


def test_an_import_is_light() -> None:
    """Neither torch nor OpenMP comes with `import sod`."""
    code = "import sys, sod\nprint('torch' in sys.modules, 'libgomp' in open('/proc/self/maps').read())"
    done = run(code)
    assert done.stdout.split() == ["False", "False"]
    assert told(done) == {}


# The settings are those of a fork each: whoever warns looks at the environment of that moment.
WARNED = """
import os, warnings
{first}
from sod.build.allocation import warn_of_slow_allocation
for setting in {settings}:
    if os.fork():
        assert os.wait()[1] == 0
        continue
    os.environ.update(setting)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        warn_of_slow_allocation()
        warn_of_slow_allocation()
    print(sum("import sod first" in str(one.message) for one in seen), flush=True)
    os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "settings", "warned"),
    [
        ("import torch", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "10000"}], ["1", "0", "0"]),
        ("import sod, torch", [{}], ["0"]),
    ],
    ids=["torch first", "sod first"],
)
def test_torch_before_us_is_told_once(first: str, settings: list[dict[str, str]], warned: list[str]) -> None:
    """The policy cannot be changed then; the line says what would have to be."""
    assert run(WARNED.format(first=first, settings=settings)).stdout.split() == warned


# What a run does: the command's second start, torch, then a sandbox, a tool server (`sod` again) and a child.
PARENT = """
import json, os, re, subprocess, sys
from contextlib import closing
from sod.cli.allocator import reexecute_with_tunables
reexecute_with_tunables()
import torch
torch.ones(64, 64) @ torch.ones(64, 64)
from sod.cli.sandbox import open_local, open_remote
from sod.tools.sandbox.base import Program, ProgramLimits
show = "import os, json; print(json.dumps(dict(os.environ)))"
limits = ProgramLimits(seconds=60.0)

def printed(sandbox):
    with closing(sandbox):
        (ran,) = sandbox.execute([Program(show)])
    return json.loads(ran.stdout)

command = [sys.executable, "-m", "sod", "sandbox", "serve", "--port", "0", "--workers", "1", "--timeout", "60"]
server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
try:
    url = re.search("http://[0-9.:]+", server.stdout.readline())[0]
    served = printed(open_remote(url, limits))
    given = dict(line.split("=", 1) for line in open(f"/proc/{server.pid}/environ").read().split(chr(0)) if line)
finally:
    server.terminate()
    server.wait()
child = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True).stdout
started = open("/proc/self/environ").read().split(chr(0))
print(json.dumps({
    "started": dict(line.split("=", 1) for line in started if line),
    "program": printed(open_local(limits, 1, [], False)),
    "program of a server": served,
    "server": given,
    "child": json.loads(child),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("setting", [{}, {"OMP_WAIT_POLICY": "active", "GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}])
def test_children_inherit_what_the_user_set_alone(setting: dict[str, str], tmp_path: Path) -> None:
    """Programs in a sandbox get nothing at all; processes of ours and others what the user has, and no more."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    env = {name: value for name, value in os.environ.items() if name not in {*OURS, "LD_PRELOAD", "RANK"}} | setting
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    had = {who: {name: env[name] for name in OURS & env.keys()} for who, env in found.items()}
    # A server of ours has started itself again with the tunables, as this process did: its own choice.
    ours = {} if setting else {"GLIBC_TUNABLES": FIRST_TUNABLE, MARK: "done"}
    assert had["started"] == had["server"] == setting | ours
    assert had["program"] == had["program of a server"] == {}
    assert had["child"] == setting


@pytest.mark.slow
def test_workers_of_a_comparison_have_the_tunables(tmp_path: Path) -> None:
    """They compute: the processes that the command starts for it get what it was started with, and let go of it."""
    script = tmp_path / "parent.py"
    script.write_text(COMPARISON)
    (tmp_path / "worker_part.py").write_text(WORKER)
    env = {name: value for name, value in os.environ.items() if name not in {*OURS, "LD_PRELOAD", "RANK"}}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    started, left, parents = json.loads(done.stdout)
    assert f"GLIBC_TUNABLES={FIRST_TUNABLE}" in started
    assert not OURS & set(left)
    assert not OURS & set(parents)


COMPARISON = """
import json, os
from sod.cli.allocator import reexecute_with_tunables
if __name__ == "__main__":
    reexecute_with_tunables()
    from contextlib import closing
    from sod.build.workers import WorkerPool
    from worker_part import environments
    with closing(WorkerPool(1)) as workers:
        workers.submit("a", environments)
        ended = workers.wait()
    print(json.dumps([*ended.value, list(os.environ)]))
"""
WORKER = """
import os

def environments():
    return open("/proc/self/environ").read().split(chr(0)), list(os.environ)
"""
