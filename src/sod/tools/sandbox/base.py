"""What a sandbox is: programs in, one execution or fault each, in order; with sessions where it keeps state."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, final

from sod.records import Execution, Fault, Program


@final
@dataclass(frozen=True)
class ProgramLimits:
    """What one program may use before it is stopped. Raises ValueError for limits that are not positive.

    `memory_mb` bounds (MiB) what all its processes hold together, its files in memory included; and
    besides, the address space of each, beyond what the warm fork server maps already. `processes`
    counts processes and threads, the program's first one included. `output_chars` bounds stdout
    (characters, more ends the program); of stderr only the last `output_chars` characters are kept.
    """

    seconds: float = 5.0  # wall clock
    cpu_seconds: float | None = None  # per process; None: `seconds` rounded up, plus one
    memory_mb: int = 512
    processes: int = 8
    output_chars: int = 4096

    def __post_init__(self) -> None:
        if min(self.seconds, self.memory_mb, self.processes, self.output_chars) <= 0:
            raise ValueError(f"every limit must be positive: {self}")
        if self.cpu_seconds is not None and self.cpu_seconds <= 0:
            raise ValueError(f"every limit must be positive: {self}")

    @property
    def whole_cpu_seconds(self) -> int:
        """The CPU limit as the kernel takes it (seconds)."""
        return math.ceil(self.seconds) + 1 if self.cpu_seconds is None else math.ceil(self.cpu_seconds)


@final
@dataclass(frozen=True)
class Cell:
    """Source to be run in a session: names that earlier cells of the session defined are there."""

    session: str
    source: str


@final
class Recall:
    """By which another thread calls off what it was handed in with: whether it waits still, or runs already."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: list[Callable[[], None]] = []
        self.called = False

    def call_off(self) -> None:
        """Stop what runs, and let nothing of it begin any more. May be called again."""
        with self._lock:
            self.called = True
            for stop in self._stops:
                stop()

    @contextmanager
    def running(self, stop: Callable[[], None]) -> Iterator[None]:
        """Within the block `stop` ends what runs; it is called in another thread, and never after the block."""
        with self._lock:
            self._stops.append(stop)
            if self.called:
                stop()
        try:
            yield
        finally:
            with self._lock:
                self._stops.remove(stop)


class Sandbox(Protocol):
    """A place where the model's programs run without harm."""

    @property
    def isolation(self) -> Mapping[str, bool]:
        """What is really kept from the programs, by name (`network`, `filesystem`, ...)."""
        ...

    def execute(self, programs: Sequence[Program]) -> list[Execution | Fault]:
        """Run every program, concurrently; one entry each, in the order given.

        Never raises for what a program does, nor for a failure of ours (that is a `Fault`).
        """
        ...

    def close(self) -> None:
        """End its processes and remove their files. Safe to call twice."""
        ...


class SessionSandbox(Sandbox, Protocol):
    """A sandbox that can also keep state: one interpreter per session. What runs in it can be called off."""

    def execute(self, programs: Sequence[Program], recall: Recall | None = None) -> list[Execution | Fault]:
        """As `Sandbox.execute`; once `recall` is called, programs are stopped, and what is returned means nothing."""
        ...

    def run_cells(self, cells: Sequence[Cell], seconds: float | None = None) -> list[Execution | Fault]:
        """Run every cell; one entry each, in the order given. A session begins with its first cell.

        `seconds` is the time limit of each cell in the sessions that begin now, for as long as they
        live; None: the sandbox's own.

        Cells of one session run in the order given, different sessions concurrently. A cell that is
        stopped (`timeout`, `memory`, `output_limit`) or ends the interpreter ends its session: the
        last line of its `stderr` says that the state is lost, and the next cell begins anew. A
        session lost by *our* doing answers every later cell with a `Fault` until it is ended.
        """
        ...

    def end_sessions(self, sessions: Sequence[str]) -> None:
        """Kill the interpreters and forget the state; unknown names are ignored."""
        ...
