"""Where a run came from: `manifest.json`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from sod.runlog.guard import NEUTRAL_KEYS, guard_hash

FORMAT = 2
"""The format of the run directories that this version writes.

1   no `format` in the manifest; checkpoints carry the hash of the whole recipe.
2   checkpoints carry the hash of the recipe without `neutral_keys` (see `sod.runlog.guard`).
"""
PACKAGES = {"sod": "sod-distill", "torch": "torch", "transformers": "transformers", "numpy": "numpy"}


def new_manifest(recipe: Mapping[str, Any], seed: int, code: Sequence[Mapping[str, str]] = ()) -> dict[str, Any]:
    """The manifest of a run that starts now; `code` is the user's own in it, see `sod.build.own_code`.

    No host name, no user name: it is meant to be shared.
    """
    revision, dirty = git_state(Path.cwd())
    return {
        "format": FORMAT,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": list(sys.argv),
        "seed": seed,
        "recipe_sha256": guard_hash(recipe),
        # Which keys that hash leaves out: a later version may list others and still has to check this run's.
        "neutral_keys": list(NEUTRAL_KEYS),
        "git": {"revision": revision, "dirty": dirty},
        "versions": versions(),
        **({"code": list(code)} if code else {}),
    }


def versions() -> dict[str, str | None]:
    """Python's version and those of the packages that a run's numbers depend on; None for what is not installed."""
    return {"python": sys.version.split()[0]} | {name: _version(package) for name, package in PACKAGES.items()}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        return None


def git_state(directory: Path) -> tuple[str | None, bool | None]:
    """(revision, whether tracked files differ from it) of the repository around `directory`.

    (None, None) outside git, without git, and before the first commit.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(directory), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # Untracked files do not count: the run directory itself is often one.
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None
