"""What a verifier is: answers in, one verdict or fault each, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sod.records import Fault, Verdict


@dataclass(frozen=True)
class Answer:
    """The text of the final assistant turn, and what the task brings to judge it."""

    text: str
    ground_truth: str
    extra: Mapping[str, Any] = field(default_factory=dict)


class Verifier(Protocol):
    """Judges answers. Called from one thread at a time or from several."""

    def verify(self, answers: Sequence[Answer]) -> list[Verdict | Fault]:
        """One entry per answer, in the order given.

        Whatever the model wrote gives a `Verdict`; a failure of the verifier itself is a `Fault`.
        Raises SodError for a task that cannot be judged (its tests are not readable).
        """
        ...

    def close(self) -> None:
        """End what was started. Safe to call twice."""
        ...
