"""What a sandbox is: programs in, one execution or fault each, in order; with sessions where it keeps state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    """A sandbox that can also keep state: one interpreter per session."""

    def run_cells(self, cells: Sequence[Cell]) -> list[Execution | Fault]:
        """Run every cell; one entry each, in the order given. A session begins with its first cell.

        Cells of one session run in the order given, different sessions concurrently. A cell that is
        stopped (`timeout`, `memory`, `output_limit`) or ends the interpreter ends its session: the
        last line of its `stderr` says that the state is lost, and the next cell begins anew. A
        session lost by *our* doing answers every later cell with a `Fault` until it is ended.
        """
        ...

    def end_sessions(self, sessions: Sequence[str]) -> None:
        """Kill the interpreters and forget the state; unknown names are ignored."""
        ...
