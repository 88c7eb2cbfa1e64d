"""Studies in stages: what is there is not made again, and the time between stages can be bounded."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Stages:
    """The stages done so far, and what they gave, kept in a JSON file. They may run in several threads."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._ends, self._lock = path, time.monotonic() + seconds, threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.figures: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def command(self, name: str, *words: str | Path) -> None:
        """Run a `sod` command once; its seconds are kept. Ends the program where the time is over or it fails."""
        self.python(name, "-m", "sod", *words)

    def python(self, name: str, *words: str | Path) -> None:
        """Run Python with these words once, in the same way."""
        if not self._begins(name, " ".join(map(str, words)).removeprefix("-m ")):
            return
        began = time.monotonic()
        done = subprocess.run([sys.executable, *map(str, words)])
        if done.returncode:
            sys.exit(f"{name} failed; the same command goes on from here")
        self._ended(name, began)

    def step(self, name: str, do: Callable[[], None]) -> None:
        """Do something else once, in the same way."""
        if self._begins(name, "here"):
            began = time.monotonic()
            do()
            self._ended(name, began)

    def tell(self, name: str, value: Any) -> None:
        """Keep a figure."""
        with self._lock:
            self.figures[name] = value
            self._path.write_text(json.dumps(self.figures, indent=1) + "\n")
        print(f"{name}: {value}", flush=True)

    def _begins(self, name: str, shown: str) -> bool:
        if f"{name}, seconds" in self.figures:
            return False
        if time.monotonic() > self._ends:
            sys.exit(f"the time is over before: {name}; the same command goes on from here")
        print(f"== {name}: {shown}", flush=True)
        return True

    def _ended(self, name: str, began: float) -> None:
        self.tell(f"{name}, seconds", round(time.monotonic() - began, 1))


def assigned(keys: Mapping[str, Any]) -> list[str]:
    """KEY=VALUE for each."""
    return [f"{key}={value}" for key, value in keys.items()]


def goes_on(command: str, run: Path, recipe: Path, *overrides: str) -> list[str | Path]:
    """The words of `sod train` or `sod sft` that begin a run, or go on with what is there of it."""
    begun = (run / "recipe.yaml").exists()
    return [command, "--resume", run] if begun else [command, recipe, *overrides, "--run", run]
