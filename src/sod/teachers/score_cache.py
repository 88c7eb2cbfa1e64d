"""What served teachers have answered, on disk: one SQLite file that runs on one machine may share.

A run that is resumed asks nothing twice, and one whose answers are all here needs no server. Every answer is a
transaction of its own, so that a process killed at any moment leaves those before it whole. Beyond its size the oldest
answers are dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import final

from sod.records import SodError

FILE = "answers.sqlite"
WAIT_SECONDS = 60.0  # for another process that writes
CHECKED_EVERY = 256  # writes after which the size is looked at
KEPT_SHARE = 0.9  # of the size, after the oldest have been dropped
_TABLE = "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, value BLOB NOT NULL)"


def default_folder() -> Path:
    """`sod/teacher` in the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sod" / "teacher"


def row_key(model: str, ids: Sequence[int], wanted: Sequence[int], k: int) -> bytes:
    """SHA-256 of all that an answer depends on: the model's name, the tokens, the places that are kept of it, and k."""
    canonical = json.dumps([model, list(ids), list(wanted), k], separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).digest()


@final
class ScoreCache:
    """The answers in a folder. Raises SodError, naming `key` of the recipe, where it cannot be read or written."""

    def __init__(self, folder: Path, gigabytes: float, key: str = "teacher.cache") -> None:
        self._folder, self._key = folder, key
        self._bytes = int(gigabytes * 1e9)
        self._writes = 0
        with self._named():
            folder.mkdir(parents=True, exist_ok=True)
            # The one event loop of the process uses it, whichever thread opened it.
            self._file = sqlite3.connect(
                folder / FILE, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._file.execute(_TABLE)

    def get(self, key: bytes) -> bytes | None:
        """What is kept under a key; None where there is nothing."""
        with self._named():
            row = self._file.execute("SELECT value FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def put(self, key: bytes, value: bytes) -> None:
        """Keep a value; one that is there already is replaced."""
        with self._named():
            self._file.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, value))
            self._writes += 1
            if self._writes % CHECKED_EVERY == 0:
                self._bound()

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._file.close()

    def _bound(self) -> None:
        """Drop the oldest answers where there is more than the size allows."""
        page, count, free = (
            self._file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
        )
        used = page * (count - free)
        if used <= self._bytes:
            return
        rows = self._file.execute("SELECT count(*) FROM answers").fetchone()[0]
        dropped = max(1, int(rows * (1.0 - KEPT_SHARE * self._bytes / used)))
        self._file.execute(
            "DELETE FROM answers WHERE rowid IN (SELECT rowid FROM answers ORDER BY rowid LIMIT ?)", (dropped,)
        )

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise SodError(
                f"{self._key}={self._folder}: cannot be used ({error}); free some space, delete {FILE} there, or name "
                "another folder on a local disk"
            ) from error
