"""Where a run came from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sod.runlog import RunLog

RECIPE = {"lr": 1e-6}


def test_manifest_knows_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    outside = RunLog.create(tmp_path / "outside", RECIPE, 0).manifest()["git"]
    assert outside == {"revision": None, "dirty": None}

    git("init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    git("add", "code.py")
    git("commit", "-q", "-m", "first")
    clean = RunLog.create(tmp_path / "clean", RECIPE, 0).manifest()["git"]
    assert clean == {"revision": git("rev-parse", "HEAD"), "dirty": False}  # run directories do not count

    (tmp_path / "code.py").write_text("x = 2\n")
    assert RunLog.create(tmp_path / "dirty", RECIPE, 0).manifest()["git"]["dirty"] is True

    monkeypatch.setenv("PATH", "")
    assert RunLog.create(tmp_path / "no-git", RECIPE, 0).manifest()["git"]["revision"] is None
