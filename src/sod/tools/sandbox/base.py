"""What a sandbox is: programs in, one execution or fault each, in order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sod.records import Fault

Status = Literal["ok", "error", "timeout", "memory", "output_limit"]


@dataclass(frozen=True)
class Limits:
    """What one program may use before it is stopped.

    `memory_mb` bounds the address space of each of its processes, beyond what the warm worker maps
    already, and all the files it writes together (MiB). `processes` counts processes and threads,
    the program's first one included. `output_chars` bounds stdout (characters, more ends the
    program); of stderr only the last `output_chars` characters are kept.
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


@dataclass(frozen=True)
class Execution:
    """How one program ended. All of it is the program's own doing.

    Where the status is not `ok`, the last line of `stderr` says why in words fit for the model: the
    end of the traceback, `process killed by signal 11`, `stopped after 5 s`, ...
    `seconds` (wall clock) is informative only.
    """

    status: Status
    stdout: str
    stderr: str
    seconds: float


class Sandbox(Protocol):
    """A place where the model's programs run without harm."""

    @property
    def isolation(self) -> Mapping[str, bool]:
        """What is really kept from the programs, by name (`network`, `filesystem`, ...)."""
        ...

    def execute(self, programs: Sequence[str]) -> list[Execution | Fault]:
        """Run every program as `__main__` of a fresh interpreter; one entry each, in the order given.

        Never raises for what a program does, nor for a failure of ours (that is a `Fault`).
        """
        ...

    def close(self) -> None:
        """End the workers and remove their files. Safe to call twice."""
        ...
