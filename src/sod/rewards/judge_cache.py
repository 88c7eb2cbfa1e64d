"""Answers of a judge model on disk, by what was asked: a file each, so that runs may share a folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from sod.records import SodError
from sod.runlog.files import write_json_atomic


def default_folder() -> Path:
    """`sod/judge` in the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sod" / "judge"


def content_key(url: str, request: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the whole question: the service, the model, every message and setting."""
    canonical = json.dumps([url, request], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


@final
class AnswerCache:
    """A folder of answers. Raises SodError where it cannot be made or written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._refused(error) from error
        if not os.access(folder, os.W_OK):
            raise SodError(f"reward.judge.cache={folder}: cannot be written to; name another folder")

    def get(self, key: str) -> str | None:
        """The answer to a question, None where there is none that can be read."""
        try:
            kept = json.loads(self._file(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        answer = kept.get("answer") if isinstance(kept, dict) else None
        return answer if isinstance(answer, str) else None

    def put(self, key: str, model: str, answer: str) -> None:
        """Keep an answer."""
        file = self._file(key)
        try:
            file.parent.mkdir(exist_ok=True)
            write_json_atomic(file, {"model": model, "answer": answer})
        except OSError as error:
            raise self._refused(error) from error

    def _file(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"

    def _refused(self, error: OSError) -> SodError:
        reason = error.strerror or error
        return SodError(f"reward.judge.cache={self._folder}: cannot be written ({reason}); name another folder")
