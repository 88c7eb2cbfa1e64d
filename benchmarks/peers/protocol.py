"""What a worker of `side_by_side` says and hears: one JSON line when it is ready, then one for every `go`.

Standard library only, as it runs inside the virtual environments of others.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any


class Line:
    """The worker's end. Whatever else the process prints goes to stderr from here on."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def ready(self, *packages: str) -> None:
        """Loading is over; the versions of these packages are reported."""
        self.answer({"python": sys.version.split()[0]} | {name: version(name) for name in packages})

    def wait(self) -> None:
        """Block until the next `go`. Ends the process when no other will come."""
        if sys.stdin.readline().strip() != "go":
            sys.exit(0)

    def answer(self, row: dict[str, Any]) -> None:
        """One repetition is done: `seconds`, `tokens` and whatever else was measured."""
        self._answers.write(json.dumps(row) + "\n")
        self._answers.flush()

    def serve(self, repetition: Callable[[], dict[str, Any]]) -> None:
        """One repetition for every `go`, for ever."""
        while True:
            self.wait()
            self.answer(repetition())
