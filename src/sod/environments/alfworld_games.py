"""Games of ALFWorld as played from here: each lives in one of a few processes (`alfworld_worker`), which are started
when the first game begins, watched, and replaced when lost. A game that was in a lost one is a fault.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Final, final
from zlib import crc32

from sod.environments.alfworld_rooms import package_folder
from sod.pipes import Replies, end
from sod.records import ToolFault

REPLY_SECONDS: Final = 45.0
"""How long a process may take for one thing before it counts as lost; a start on a busy machine included."""
SCRIPT: Final = Path(__file__).with_name("alfworld_worker.py")
TASK: Final = "Your task is to: "
UNKNOWN: Final = "UNKNOWN GOAL"
"""What the package's grammar says in place of a task. One grammar for all games is parsed only once."""


@final
@dataclass(frozen=True)
class Source:
    """What a game is made of: `task` is what the grammar is to say where it says UNKNOWN GOAL."""

    domain: str
    grammar: str
    problem: str
    task: str


@final
@dataclass(frozen=True)
class Seen:
    """What a player reads, what could be done next, and whether the goal is reached."""

    text: str
    commands: tuple[str, ...]
    won: bool


@final
class GameProcess:
    """One process with any number of games; may be asked from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: Replies | None = None
        self._started = 0

    def ask(self, request: Mapping[str, Any], life: int | None = None) -> tuple[dict[str, Any], int]:
        """The reply, and which life of the process gave it. With `life`, only that one is asked.

        Raises ToolFault where the process is lost, or a new one already.
        """
        with self._lock:
            if life is not None and (self._process is None or life != self._started):
                raise ToolFault("the process of this game of ALFWorld is gone; its episode cannot go on", False)
            if self._process is None:
                self._start()
            try:
                reply = self._exchange(request)
            except BaseException as error:
                self._drop()
                if isinstance(error, OSError | ValueError):
                    raise ToolFault(f"the process of ALFWorld's games is lost: {error}") from None
                raise
            if "error" in reply:
                raise ToolFault(f"TextWorld: {reply['error']}", False)
            return reply, self._started

    def end(self) -> None:
        """End the process, and with it every game in it."""
        with self._lock:
            self._drop()

    def _start(self) -> None:
        folder = str(package_folder() / "data")  # else the package makes a folder in the user's home
        self._started += 1
        atexit.register(self.end)
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(SCRIPT)],
            env={**os.environ, "PYTHONHASHSEED": "0", "ALFWORLD_DATA": folder},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._replies = Replies(self._process.stdout)

    def _exchange(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._replies is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        try:
            reply: dict[str, Any] = json.loads(self._replies.line(REPLY_SECONDS))
        except EOFError:
            raise OSError(f"it ended; to see why, run {sys.executable} -P {SCRIPT}") from None
        return reply

    def _drop(self) -> None:
        process, self._process, self._replies = self._process, None, None
        if process is not None:
            end(process)


PROCESSES: Final = tuple(GameProcess() for _ in range(min(4, os.cpu_count() or 1)))
"""Of this program: one for each core, four at most. None runs before a game begins in it."""
_numbers = count()


@final
class Game:
    """One game after another. Those of one problem are played in one process, which keeps its translation."""

    def __init__(self) -> None:
        self._number = next(_numbers)
        self._process: GameProcess | None = None
        self._life = 0

    def begin(self, source: Source) -> Seen:
        """Begin anew. Raises ToolFault."""
        own = PROCESSES[crc32(source.problem.encode()) % len(PROCESSES)]
        if self._process is not own:
            self.end()
        parts = {"domain": source.domain, "grammar": source.grammar, "problem": source.problem}
        reply, self._life = own.ask({"do": "begin", "game": self._number, **parts})
        self._process = own
        return Seen(reply["text"].replace(UNKNOWN, source.task), tuple(reply["commands"]), reply["won"])

    def act(self, command: str) -> Seen:
        """Take a command. Raises ToolFault."""
        reply = self._asked("act", command=command)
        return Seen(reply["text"], tuple(reply["commands"]), reply["won"])

    def facts(self) -> list[list[str]]:
        """What is so: a predicate and what it is said of, as the player reads it. Raises ToolFault."""
        facts: list[list[str]] = self._asked("facts")["facts"]
        return facts

    def plan(self) -> list[str]:
        """The planner's way to the goal: none where it is reached, or cannot be. Raises ToolFault."""
        plan: list[str] = self._asked("plan")["plan"]
        return plan

    def end(self) -> None:
        """Leave the process. Safe to call twice."""
        if self._process is not None:
            with contextlib.suppress(ToolFault):
                self._asked("end")
            self._process = None

    def _asked(self, do: str, **what: str) -> dict[str, Any]:
        if self._process is None:
            raise ToolFault("no game of ALFWorld was begun", False)
        return self._process.ask({"do": do, "game": self._number, **what}, self._life)[0]


def original(file: Path) -> Source:
    """A game file of ALFWorld. Raises OSError, and ValueError or KeyError where it is none."""
    data = json.loads(file.read_text(encoding="utf-8"))
    grammar = str(data["grammar"])
    said = re.search(rf'"{TASK}((?:[^"\\]|\\.)*?)\.?"', grammar)
    task = json.loads(f'"{said[1]}"') if said else UNKNOWN
    if said:
        grammar = grammar.replace(said[0], f'"{TASK}{UNKNOWN}."')
    return Source(str(data["pddl_domain"]), grammar, str(data["pddl_problem"]), task)


@cache
def package_source() -> tuple[str, str]:
    """The package's own domain and grammar."""
    folder = package_folder() / "data"
    return (folder / "alfred.pddl").read_text(encoding="utf-8"), (folder / "alfred.twl2").read_text(encoding="utf-8")
