"""What takes memory in which phase of a step, and where: the parts of an estimate, and their sums. Bytes throughout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

SAMPLING, SCORING, UPDATE = "sampling", "scoring by the teacher", "the update"
PHASES = (SAMPLING, SCORING, UPDATE)


@final
@dataclass(frozen=True)
class Part:
    """Something that takes memory on a device, in some phases of a step."""

    name: str
    device: str
    bytes: int
    phases: tuple[str, ...] = PHASES


@final
@dataclass(frozen=True)
class Peak:
    """The most that is taken on a device, and the phase in which it is."""

    device: str
    phase: str
    bytes: int


@final
@dataclass(frozen=True)
class Estimate:
    """All parts of a run."""

    parts: tuple[Part, ...]

    @property
    def devices(self) -> list[str]:
        """The devices that are used, the student's first."""
        return list(dict.fromkeys(part.device for part in self.parts))

    @property
    def phases(self) -> list[str]:
        """The phases that take anything of their own, in the order of a step."""
        own: set[str] = set()
        for part in self.parts:
            if part.phases != PHASES:
                own.update(part.phases)
        return [phase for phase in PHASES if phase in own]

    def taken(self, device: str, phase: str) -> int:
        """Bytes on a device in a phase."""
        return sum(part.bytes for part in self.parts if part.device == device and phase in part.phases)

    def peak(self, device: str) -> Peak:
        """When most is taken on a device, and how much."""
        phase = max(self.phases, key=lambda phase: self.taken(device, phase))
        return Peak(device, phase, self.taken(device, phase))
