"""The worked changes of docs/extending.md: each still applies to `src`, touches little, and does what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=lambda path: path.stem)
def test_a_worked_change_does_what_it_says(change: Path, tmp_path: Path) -> None:
    """Its proof runs on the changed copy, and cannot run on the source as it is."""
    made = applied(change, tmp_path)
    assert made.returncode == 0, made.stderr
    for source, succeeds in ((tmp_path / "src", True), (ROOT / "src", False)):
        environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "SOD_ALLOCATOR": "off"}
        command = [sys.executable, str(proof_of(change))]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (ended.returncode == 0) == succeeds, ended.stdout + ended.stderr
