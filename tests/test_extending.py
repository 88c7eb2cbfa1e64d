"""The worked changes of docs/extending.md: each still applies to `src`, touches little, and does what it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import made_once

ROOT = Path(__file__).parents[1]
WORKED = ROOT / "docs" / "extending"
CHANGES = sorted(WORKED.glob("*.diff"))
MOST_FILES = 4

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git")


def applied(change: Path, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The change tried on a copy of `src` in `directory`, or made there."""
    shutil.copytree(ROOT / "src", directory / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    # Below a checkout git would look at that, and leave files out silently.
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(directory.parent)}
    command = ["git", "apply", *options, str(change)]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)


def proof_of(change: Path) -> Path:
    """`a_method.py` for `a-method.diff`."""
    return change.with_name(f"{change.stem.replace('-', '_')}.py")


def test_there_is_one_of_each_kind_and_the_page_tells_of_it() -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    assert [change.stem for change in CHANGES] == ["a-method", "b-tool", "c-teacher", "d-metric"]
    for change in CHANGES:
        assert proof_of(change).is_file()
        assert f"extending/{change.name}" in page
        assert f"extending/{proof_of(change).name}" in page


@pytest.mark.parametrize("change", CHANGES, ids=lambda path: path.stem)
def test_a_worked_change_applies_and_touches_few_files(change: Path, tmp_path: Path) -> None:
    touched = re.findall(r"^\+\+\+ b/(\S+)", change.read_text(encoding="utf-8"), re.MULTILINE)
    assert 1 <= len(touched) <= MOST_FILES
    assert all(name.startswith("src/sod/") for name in touched)
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    assert [name for name in touched if f"`{name.removeprefix('src/sod/')}`" not in page] == []
    tried = applied(change, tmp_path, "--check")
    assert tried.returncode == 0, f"{change.name} no longer applies; mend it: {tried.stderr}"


# Runs each proof with each source in a fork of its own, so that what is slow to import is imported once for all.
RUN_EACH = """
import json, os, runpy, sys
import pyarrow.parquet, torch, transformers.modeling_layers, transformers.models.qwen3.modeling_qwen3
ended = []
for proof, source, said in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        for stream in (1, 2):
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        os.environ["PYTHONPATH"] = source
        sys.path[:0] = [os.path.dirname(proof), source]
        sys.argv[:] = [proof]
        runpy.run_path(proof, run_name="__main__")
        sys.exit()
    ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(ended))
"""


def run_proofs(directory: Path) -> None:
    """Run every proof on its changed copy and on the source as it is; `ended.json` keeps how each of them ended."""
    jobs = []
    for change in CHANGES:
        (directory / change.stem).mkdir()
        made = applied(change, directory / change.stem)
        assert made.returncode == 0, made.stderr
        for name, source in (("changed", directory / change.stem / "src"), ("as-it-is", ROOT / "src")):
            jobs.append([str(proof_of(change)), str(source), str(directory / change.stem / name)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SOD_ALLOCATOR": "off"}
    command = [sys.executable, "-c", RUN_EACH, json.dumps(jobs)]
    ended = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    (directory / "ended.json").write_text(ended.stdout, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=lambda path: path.stem)
def test_a_worked_change_does_what_it_says(change: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its proof runs on the changed copy, and cannot run on the source as it is."""
    directory = made_once(tmp_path_factory, "proofs", run_proofs)
    codes = json.loads((directory / "ended.json").read_text(encoding="utf-8"))
    changed, as_it_is = codes[2 * CHANGES.index(change) :][:2]
    said = {name: (directory / change.stem / name).read_text(encoding="utf-8") for name in ("changed", "as-it-is")}
    assert changed == 0, said["changed"]
    assert as_it_is == 1, said["as-it-is"]
    assert "Error" in said["as-it-is"].splitlines()[-1]
